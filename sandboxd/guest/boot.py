"""What a guest boots from: a kernel ready to load and the initrd made for it. Cheap when nothing changed: a few stats.

python3 -m sandboxd.guest.boot --data-dir DIR      makes both ahead of the first start
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from sandboxd.base.errors import GUEST_NOT_PREPARED, KERNEL_UNUSABLE, SandboxdError
from sandboxd.guest.initrd import MODULES, build_initrd, collect_modules
from sandboxd.guest.kernel import KernelSource, current_kernel, find_modules
from sandboxd.guest.store import GuestStore, content_hash, identity
from sandboxd.guest.unpack import read_kernel

AGENT = Path(__file__).parent / "data" / "agent"
"""Built from images/agent; shipped in the wheel."""
RECIPE = 1
"""Raised when the same sources would make other images."""


@dataclass(frozen=True, slots=True)
class GuestImage:
    """Files that a VMM boots, world-readable and never changed once they are there."""

    kernel: Path
    """An uncompressed vmlinux where possible, else the bzImage itself."""
    initrd: Path
    release: str


def prepare_guest(data_dir: Path, kernel: Path | None = None, agent: Path = AGENT) -> GuestImage:
    """Makes, or finds made, what a guest boots from. Blocking: 0.1 ms when it is there, under a second when not.

    `kernel`: a bzImage or vmlinux instead of the fetched one. Raises guest_not_prepared (no kernel fetched, no agent
    built), kernel_unusable, modules_unusable.
    """
    source = KernelSource(kernel, "", None) if kernel else current_kernel(data_dir)
    store = GuestStore(data_dir)
    record = store.prepared / f"{_key(source, agent)}.json"
    found = _read_record(record)
    if found:
        return found
    try:
        with store.locked():
            return _read_record(record) or _make(store, source, agent, record)
    except OSError as error:
        raise SandboxdError(
            GUEST_NOT_PREPARED,
            what=f"{error.filename} ({error.strerror})",
            command=f"python3 -m sandboxd.guest.boot --data-dir {data_dir}",
        ) from error


def _key(source: KernelSource, agent: Path) -> str:
    """Of the sources' identity, so that finding what is made takes a few stats."""
    try:
        parts = [str(RECIPE), " ".join(MODULES), identity(source.kernel)]
    except OSError as error:
        raise SandboxdError(KERNEL_UNUSABLE, path=source.kernel, reason=f"It says: {error.strerror}.") from error
    try:
        parts.append(identity(agent))
        if source.modules:
            parts.append(identity(source.modules / "modules.dep"))
    except OSError as error:
        command = "make agent" if str(agent) == error.filename else "python3 -m sandboxd.guest.kernel fetch"
        raise SandboxdError(GUEST_NOT_PREPARED, what=error.filename, command=command) from error
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _read_record(path: Path) -> GuestImage | None:
    """None when it is not there, damaged, or names what is gone."""
    try:
        kept = json.loads(path.read_bytes())
        image = GuestImage(Path(kept["kernel"]), Path(kept["initrd"]), str(kept["release"]))
        return image if image.kernel.is_file() and image.initrd.is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make(store: GuestStore, source: KernelSource, agent: Path, record: Path) -> GuestImage:
    unpacked = read_kernel(source.kernel)
    release = source.release or unpacked.release
    modules_dir = source.modules or find_modules(source.kernel, release, store)
    modules = collect_modules(modules_dir, store.data_dir) if modules_dir else []
    content = build_initrd(agent.read_bytes(), modules)
    initrd = store.images / f"initrd-{content_hash(content)}.cpio"
    if not initrd.exists():
        store.keep(initrd, content)
    kernel = source.kernel.resolve()
    if unpacked.vmlinux is not None:
        kernel = store.images / f"vmlinux-{content_hash(unpacked.vmlinux)}"
        if not kernel.exists():
            store.keep(kernel, unpacked.vmlinux)
    image = GuestImage(kernel.absolute(), initrd.absolute(), release)
    kept = {"kernel": str(image.kernel), "initrd": str(image.initrd), "release": release}
    store.keep(record, json.dumps(kept).encode())
    return image


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m sandboxd.guest.boot", description="Makes what guests boot from.")
    parser.add_argument("--data-dir", type=Path, default=Path("/var/lib/sandboxd"))
    parser.add_argument("--kernel", type=Path, help="a bzImage or vmlinux instead of the fetched one")
    options = parser.parse_args(arguments)
    try:
        image = prepare_guest(options.data_dir, options.kernel)
    except SandboxdError as error:
        print(f"error: {error.message}\n{error.cause}\n{error.remedy}", file=sys.stderr)
        return 1
    print(f"guest: kernel {image.release} at {image.kernel}, initrd at {image.initrd}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
