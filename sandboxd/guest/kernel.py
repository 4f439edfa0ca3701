"""The guest's kernel: Debian's cloud flavour, as its package ships it, unpacked and never installed.

    python3 -m sandboxd.guest.kernel fetch --data-dir DIR

apt finds the package, checks its signature chain and downloads it; dpkg-deb unpacks it. Any other kernel comes in by
configuration and its own path; `find_modules` says where its modules are looked for.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sandboxd.base.errors import GUEST_NOT_PREPARED, KERNEL_FETCH_FAILED, SandboxdError
from sandboxd.guest.store import GuestStore

META_PACKAGE = "linux-image-cloud-amd64"
"""Depends on the one package of the newest kernel of that flavour."""
APT_TIMEOUT_S = 600.0
_APT = ("-o", "APT::Sandbox::User=root", "-o", "Dpkg::Use-Pty=0", "-q")
_DEPENDS = re.compile(r"^Depends: .*?(linux-image-[0-9][a-z0-9.+-]*)", re.MULTILINE)
_VERSION = re.compile(r"^Version: (\S+)", re.MULTILINE)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class KernelSource:
    """A kernel file and where its modules are."""

    kernel: Path
    release: str
    """Empty when only the file's content tells."""
    modules: Path | None
    """lib/modules/RELEASE; None: everything that the machine needs is built in."""


def fetch_kernel(data_dir: Path, say: Say = lambda line: None) -> KernelSource:
    """Fetches and unpacks the distribution's newest kernel, unless it is there. Blocking: seconds, a 27 MB download.

    What was there before stays, for the sandboxes that may boot from it. Raises kernel_fetch_failed.
    """
    store = GuestStore(data_dir)
    try:
        with store.locked():
            package, version = _newest(say)
            target = store.kernels / f"{package}_{version.replace(':', '%3a')}"
            if target.is_dir():
                say(f"kernel: {package} {version} is already there")
            else:
                _download(store, package, target, say)
            _point(store.current, target)
            return current_kernel(data_dir)
    except OSError as error:
        raise SandboxdError(
            KERNEL_FETCH_FAILED, reason=f"{error.strerror}: {error.filename}.", data_dir=data_dir
        ) from error
    except _AptError as error:
        raise SandboxdError(KERNEL_FETCH_FAILED, reason=str(error), data_dir=data_dir) from error


def current_kernel(data_dir: Path) -> KernelSource:
    """The kernel that was fetched. A few stats. Raises guest_not_prepared."""
    package = GuestStore(data_dir).current
    try:
        releases = [
            entry.name.removeprefix("vmlinuz-")
            for entry in os.scandir(package / "boot")
            if entry.name.startswith("vmlinuz-")
        ]
    except OSError:
        releases = []
    if len(releases) != 1:
        raise SandboxdError(
            GUEST_NOT_PREPARED,
            what="the guest's kernel",
            command=f"python3 -m sandboxd.guest.kernel fetch --data-dir {data_dir}",
        )
    return KernelSource(
        package / "boot" / f"vmlinuz-{releases[0]}", releases[0], package / "lib" / "modules" / releases[0]
    )


def find_modules(kernel: Path, release: str, store: GuestStore) -> Path | None:
    """Where the modules of a kernel given by path are: beside it as in a package (boot/, lib/), in a
    fetched package, or the host's own. None: nowhere, so all must be built in.
    """
    fetched = list(store.kernels.iterdir()) if store.kernels.is_dir() else []
    for root in (kernel.parent.parent, kernel.parent, *fetched, Path("/")):
        for directory in (root / "lib" / "modules" / release, root / "usr" / "lib" / "modules" / release):
            if release and directory.is_dir():
                return directory
    return None


class _AptError(Exception):
    """A step of apt's or dpkg's failed; the message is a sentence."""


def _newest(say: Say) -> tuple[str, str]:
    """(package, version) that the meta package depends on; refreshes apt's lists once when they know nothing of it."""
    for attempt in (1, 2):
        record = _run("apt-cache", "show", "--no-all-versions", META_PACKAGE, check=attempt == 2)
        match = _DEPENDS.search(record)
        if match:
            version = _VERSION.search(_run("apt-cache", "show", "--no-all-versions", match[1]))
            if version:
                return match[1], version[1]
        if attempt == 1:
            say("kernel: apt knows no " + META_PACKAGE + " yet; refreshing its lists")
            _run("apt-get", *_APT, "update")
    raise _AptError(f"apt knows no package {META_PACKAGE}: the guest's kernel comes from Debian's archive.")


def _download(store: GuestStore, package: str, target: Path, say: Say) -> None:
    with tempfile.TemporaryDirectory(dir=store.kernels, prefix=".fetch-") as name:
        directory = Path(name)
        say(f"kernel: downloading {package}")
        _run("apt-get", *_APT, "download", package, cwd=directory)
        archives = list(directory.glob("*.deb"))
        if len(archives) != 1:
            raise _AptError(f"apt downloaded {len(archives)} files for {package}, not one.")
        say(f"kernel: unpacking {archives[0].name} ({archives[0].stat().st_size / 1e6:.1f} MB)")
        root = directory / "root"
        _run("dpkg-deb", "--extract", str(archives[0]), str(root))
        release = next((entry.name for entry in (root / "lib" / "modules").iterdir()), None)
        if not release:
            raise _AptError(f"{archives[0].name} holds no modules.")
        # dpkg-deb runs no maintainer script, so the dependency file is made here.
        _run(_depmod(), "-b", str(root), release)
        shutil.rmtree(root / "usr", ignore_errors=True)
        root.chmod(0o755)
        root.rename(target)


def _depmod() -> str:
    """kmod's depmod; in sbin, which not everybody has in PATH."""
    return shutil.which("depmod") or shutil.which("depmod", path="/usr/sbin:/sbin") or "depmod"


def _point(link: Path, target: Path) -> None:
    fresh = link.with_name(".kernel-new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target.relative_to(link.parent))
    fresh.rename(link)


def _run(*command: str, cwd: Path | None = None, check: bool = True) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=APT_TIMEOUT_S,
        )
    except FileNotFoundError as error:
        raise _AptError(f"{command[0]} is not installed.") from error
    except subprocess.TimeoutExpired as error:
        raise _AptError(f"{command[0]} did not end within {APT_TIMEOUT_S:g} s.") from error
    if check and done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise _AptError(f"`{' '.join(command[:1] + command[-2:])}` says: {last[:300]}")
    return done.stdout


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m sandboxd.guest.kernel", description="The guest's kernel.")
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="fetch Debian's cloud kernel and unpack it; nothing is installed")
    fetch.add_argument("--data-dir", type=Path, default=Path("/var/lib/sandboxd"))
    options = parser.parse_args(arguments)
    try:
        found = fetch_kernel(options.data_dir, lambda line: print(line, flush=True))
    except SandboxdError as error:
        print(f"error: {error.message}\n{error.cause}\n{error.remedy}", file=sys.stderr)
        return 1
    print(f"kernel: {found.release} at {found.kernel}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
