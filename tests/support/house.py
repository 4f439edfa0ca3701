"""A sandboxd of a test's own: its configuration, its directories, its command line, and its end.

Everything goes through `sandboxctl` as a user has it, which starts the daemon by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support.leaks import Inventory

GUEST_DIR = Path(os.environ.get("DATA_DIR", "/var/lib/sandboxd")) / "guest"
SANDBOXCTL = Path(sys.executable).parent / "sandboxctl"
START_TIMEOUT_S = 120


@dataclass(frozen=True)
class House:
    """`ctl` runs sandboxctl against this daemon."""

    root: Path
    config: Path
    run_dir: Path
    data_dir: Path
    environ: Mapping[str, str]
    network: str = ""
    """First letters of its taps; its bridge is "sbr-" and this."""
    prefix: tuple[str, ...] = ()
    """Put before every command: `nsenter --net=...` for a house in a network of its own."""

    def ctl(
        self, *arguments: str | Path, stdin: bytes = b"", timeout_s: float = START_TIMEOUT_S, check: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [*self.prefix, SANDBOXCTL, *arguments],
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            env=self.environ,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"sandboxctl {arguments}: {done.returncode}\n{done.stdout!r}\n{done.stderr.decode()}")
        return done

    def ok(self, *arguments: str | Path, stdin: bytes = b"", timeout_s: float = START_TIMEOUT_S) -> str:
        """Standard output of a command that must succeed, stripped."""
        return self.ctl(*arguments, stdin=stdin, timeout_s=timeout_s, check=True).stdout.decode().strip()

    def spawn(self, *arguments: str | Path, **kwargs: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self.prefix, SANDBOXCTL, *arguments], env=self.environ, **kwargs)

    def refused(self, *arguments: str | Path, code: str, exit_status: int = 125) -> dict[str, Any]:
        """The error of a command that must fail with this catalogue code; nothing half-made stays."""
        before = self.ok("ps", "-aq")
        done = self.ctl("--error-format", "json", *arguments)
        assert done.returncode == exit_status, (done.returncode, done.stderr)
        error: dict[str, Any] = json.loads(done.stderr.strip().splitlines()[-1])
        assert error["code"] == code, error
        assert error["cause"] and error["remedy"]
        assert self.ok("ps", "-aq") == before
        return error

    def inspect(self, sandbox: str) -> dict[str, Any]:
        document: Any = json.loads(self.ok("inspect", sandbox, "--format", "json"))
        found: dict[str, Any] = document[0] if isinstance(document, list) else document
        return found

    @property
    def daemon_pid(self) -> int:
        return int((self.run_dir / "sandboxd.pid").read_text().split()[0])

    @property
    def cgroup(self) -> str:
        """Name of the directory that holds its sandboxes' cgroups, in each hierarchy."""
        return "sandboxd-" + hashlib.sha256(os.fsencode(self.run_dir)).hexdigest()[:8]

    def inventory(self) -> Inventory:
        """What this daemon holds of the host; the daemon itself and its pooled taps left out."""
        taken = Inventory.take([self.run_dir, self.data_dir / "sandboxes"])
        return replace(
            taken,
            processes=frozenset(line for line in taken.processes if self.cgroup in line),
            cgroups=frozenset(path for path in taken.cgroups if self.cgroup in path),
            mounts=frozenset(path for path in taken.mounts if str(self.root) in path or str(self.run_dir) in path),
            files=frozenset(path for path in taken.files if "/sandboxd." not in path),
            links=frozenset(),
            tables=frozenset(),
            namespaces=frozenset(),
        )

    def kill_daemon(self) -> None:
        """kill -9; returns when it is dead."""
        _end(self.daemon_pid, signal.SIGKILL)


@contextlib.contextmanager
def running_house(root: Path, *, name: str = "t", extra: str = "", prefix: tuple[str, ...] = ()) -> Iterator[House]:
    """A house below `root` whose bridge and taps carry `name` (2 letters) and our pid. All of it is gone afterwards."""
    name += _letters(os.getpid())
    data_dir, run_dir = root / "data", Path("/run") / f"sandboxd-{name}"
    data_dir.mkdir(parents=True)
    shutil.copytree(GUEST_DIR, data_dir / "guest", copy_function=os.link)
    config = root / "config.toml"
    network = f'[network]\nbridge = "sbr-{name}"\ntap_prefix = "{name}"\n'
    config.write_text(f'data_dir = "{data_dir}"\nrun_dir = "{run_dir}"\n{network}{extra}')
    environ = {**os.environ, "SANDBOXD_CONFIG": str(config), "NO_COLOR": "1"}
    house = House(root, config, run_dir, data_dir, environ, name, prefix)
    try:
        yield house
    finally:
        _shut(house)


def _letters(number: int) -> str:
    """As digits would, but without making one prefix the beginning of another."""
    return "".join(chr(ord("a") + int(digit)) for digit in f"{number:05d}"[-5:])


def _shut(house: House) -> None:
    """Removes every sandbox, ends the daemon as an init system would, and the directories."""
    if (house.run_dir / "sandboxd.pid").exists():
        ids = house.ctl("ps", "-aq").stdout.decode().split()
        if ids:
            house.ctl("rm", "-f", *ids)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            _end(house.daemon_pid, signal.SIGTERM)
    shutil.rmtree(house.run_dir, ignore_errors=True)
    shutil.rmtree(house.data_dir, ignore_errors=True)


def _end(pid: int, number: int, timeout_s: float = 30) -> None:
    """Sends a signal and waits, by pidfd, until the process is gone."""
    import select

    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, number)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            raise AssertionError(f"process {pid} did not end within {timeout_s} s of signal {number}")
    finally:
        os.close(descriptor)


def eventually(what: Any, timeout_s: float = 10) -> float:
    """Waits until `what()` is true; seconds it took. For facts of the host that no event announces to a test."""
    begin = time.monotonic()
    while not what():
        if time.monotonic() - begin > timeout_s:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - begin
