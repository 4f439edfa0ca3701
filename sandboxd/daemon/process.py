"""The daemon as a process: only one per run_dir, found by its pid file, announced to whoever started it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

from sandboxd import __version__
from sandboxd.base.errors import DAEMON_ALREADY_RUNNING, DAEMON_DIRECTORY_UNUSABLE, SandboxdError
from sandboxd.core.files import write_atomically
from sandboxd.daemon.paths import Paths

ENDING_TIMEOUT_S = 10.0
"""For a daemon that holds the lock and has no pid file: it is ending, or beginning."""

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def only_one(paths: Paths) -> Iterator[None]:
    """Holds the lock of run_dir, which the kernel lets go of when its holder dies. Raises daemon_already_running."""
    try:
        fd = os.open(paths.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SandboxdError(DAEMON_DIRECTORY_UNUSABLE, path=paths.lock_file, reason=f"{error.strerror}.") from None
    try:
        if not _lock(fd, ENDING_TIMEOUT_S if not paths.pid_file.exists() else 0):
            raise SandboxdError(DAEMON_ALREADY_RUNNING, pid=_holder(paths.pid_file), lock=paths.lock_file) from None
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def pid_file(paths: Paths) -> Iterator[None]:
    """RUN_DIR/sandboxd.pid: this process's pid and a newline. There while the API answers.

    Its version lies beside it, so that `sandboxctl version` need not load gRPC to ask.
    """
    write_atomically(paths.version_file, f"{__version__}\n".encode(), 0o644)
    write_atomically(paths.pid_file, f"{os.getpid()}\n".encode(), 0o644)
    try:
        yield
    finally:
        paths.pid_file.unlink(missing_ok=True)
        paths.version_file.unlink(missing_ok=True)


def raise_descriptor_limit() -> None:
    """To what may be had: a sandbox takes three descriptors, and the usual soft limit of 1024 is select(2)'s."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def notify(state: str) -> None:
    """Tells the service manager, or the client that started us: sd_notify(3). Nobody asked: nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    name = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(name)
            sender.send(state.encode())
    except OSError as error:
        _log.warning("%s could not be told to %s: %s", state, address, error)


def _lock(fd: int, timeout_s: float) -> bool:
    """Takes the lock, or waits so long for it. From the main thread: flock(2) has no time limit but a signal's."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        if not timeout_s:
            return False

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        return True
    except TimeoutError:
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _holder(path: Path) -> str:
    try:
        return path.read_text().split()[0]
    except (OSError, IndexError):
        return "unknown"
