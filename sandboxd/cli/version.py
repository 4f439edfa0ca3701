"""The client's version, and the daemon's if one runs, without starting one and within a few milliseconds.

The daemon is found by its pid file and the lock that it holds; what it says of itself is beside it in a small file, so
that no gRPC has to be loaded to read eight bytes.
"""

from __future__ import annotations

import os
import sys

from sandboxd import __version__
from sandboxd.client.locate import Location, locate

VERSION_FILE = "/sandboxd.version"


def show(client_only: bool) -> int:
    """Prints both; exit status 0 whether or not a daemon runs."""
    if client_only:
        sys.stdout.write(f"sandboxctl {__version__}\n")
        return 0
    pid, version = daemon(locate())
    sys.stdout.write(describe(pid, version) + "\n")
    return 0


def describe(pid: int, version: str) -> str:
    """For people."""
    client = f"sandboxctl {__version__}"
    if not pid:
        return f"{client}\nsandboxd   not running"
    return f"{client}\nsandboxd   {version or 'of unknown version'} (process {pid})"


def daemon(location: Location) -> tuple[int, str]:
    """(pid, version) of the running daemon; (0, "") when none runs. The version is "" when it does not say."""
    pid = _pid(location)
    return (pid, _read(location.run_dir + VERSION_FILE)) if pid else (0, "")


def _pid(location: Location) -> int:
    text = _read(location.pid_file)
    if not text.isdigit():
        return 0
    try:
        # A pid file of a daemon that was killed may name a process of somebody else by now.
        with open(f"/proc/{text}/cmdline", "rb") as file:  # noqa: PTH123
            return int(text) if b"sandboxd" in file.read(4096) else 0
    except OSError:
        return 0


def _read(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return ""
    try:
        words = os.read(descriptor, 128).decode(errors="replace").split()
    finally:
        os.close(descriptor)
    return words[0] if words else ""
