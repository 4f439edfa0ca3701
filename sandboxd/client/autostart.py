"""Makes sure that a daemon answers, and starts one where none does.

Started daemons are their own session, log to RUN_DIR/sandboxd.log and outlive the client. Two clients that come at the
same time start one daemon: the second waits for the lock that the first holds while it starts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from sandboxd.base.errors import DAEMON_START_FAILED, SandboxdError
from sandboxd.client.locate import SOCKET_PATH_MAX_BYTES, Location

START_LIMIT_S = 15.0
LOG_MAX_BYTES = 1 << 20
LOG_TAIL_BYTES = 2048
CONNECT_LIMIT_S = 2.0


def answers(path: str) -> bool:
    """True when something listens on the unix socket. Errors: daemon_unreachable, when it may not be asked."""
    return _why_not(path) is None


def ensure(location: Location, *, autostart: bool, limit_s: float = START_LIMIT_S) -> None:
    """Returns when a daemon listens at `location`. Blocks for at most about `limit_s`.

    Errors: daemon_unreachable (none there and `autostart` is off), daemon_start_failed (with the end of its log).
    """
    reason = _why_not(location.socket)
    if reason is None:
        return
    if not autostart:
        from sandboxd.client.translate import unreachable

        raise unreachable(location.socket, reason)
    deadline = time.monotonic() + limit_s
    _check_config(location, reason)
    _make_run_dir(location)
    with _start_lock(location, deadline):
        if _why_not(location.socket) is not None:
            _start(location, deadline)


def _why_not(path: str) -> str | None:
    """None when somebody listens there, else a sentence."""
    if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
        return f"The path of a unix socket has at most {SOCKET_PATH_MAX_BYTES} bytes."
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_LIMIT_S)
        try:
            probe.connect(path)
        except FileNotFoundError:
            return "There is no such socket: no daemon runs."
        except ConnectionRefusedError:
            return "The socket is left over from a daemon that has ended."
        except PermissionError:
            return f"User {os.getuid()} may not open the socket: sandboxd serves root."
        except TimeoutError:
            return f"The socket exists, but nobody took the connection within {CONNECT_LIMIT_S:g} s."
        except OSError as error:
            return f"{error.strerror}."
    return None


def _check_config(location: Location, reason: str) -> None:
    """What the daemon would say into its log, the caller says to the person. Errors: those of `load_config`, and
    daemon_unreachable when a daemon of this configuration would listen somewhere else."""
    from sandboxd.core.config import load_config

    listens = str(load_config(Path(location.config) if location.config else None).socket_path)
    if listens != location.socket:
        from sandboxd.client.translate import unreachable

        raise unreachable(location.socket, f"{reason} None was started, as it would listen at {listens}.")


def _make_run_dir(location: Location) -> None:
    try:
        Path(location.run_dir).mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise _failed(location, f"{location.run_dir} cannot be made: {error.strerror}.", 0) from None


@contextlib.contextmanager
def _start_lock(location: Location, deadline: float) -> Iterator[None]:
    """Holds RUN_DIR/autostart.lock. The kernel lets go of it when its holder dies."""
    path = Path(location.run_dir, "autostart.lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        hint = " Starting sandboxd needs root." if error.errno in (errno.EACCES, errno.EPERM) else ""
        raise _failed(location, f"{path} cannot be opened: {error.strerror}.{hint}", 0) from None
    # flock(2) has no timeout: a thread waits for it, so that the caller need not wait for ever. Closing the descriptor
    # drops the lock even when the thread gets it later: the system call then held the last reference.
    taken = threading.Event()

    def take() -> None:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            taken.set()

    threading.Thread(target=take, name="sandboxd-autostart", daemon=True).start()
    try:
        if not taken.wait(max(0.0, deadline - time.monotonic())):
            raise _failed(location, "Another process has been starting it all this time.", 0)
        yield
    finally:
        os.close(descriptor)


def _start(location: Location, deadline: float) -> None:
    """Spawns the daemon and waits until it says that it is ready, or is gone. sd_notify(3) is the protocol."""
    log = _open_log(location)
    begin = os.lseek(log, 0, os.SEEK_END)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        notify.bind("")  # Linux chooses an abstract address
        try:
            pid = _spawn(location, log, "@" + notify.getsockname()[1:].decode())
        finally:
            os.close(log)
        handle = os.pidfd_open(pid)
        try:
            status = _wait_ready(notify, pid, handle, deadline)
        finally:
            os.close(handle)
    if status is None:
        # A zombie of ours would stay if the daemon ended before a long-lived caller.
        threading.Thread(target=_reap, args=(pid,), name="sandboxd-reap", daemon=True).start()
    reason = _why_not(location.socket)
    if reason is None:
        return
    if status is not None:
        raise _failed(location, f"It ended with status {status} before it listened.", begin)
    raise _failed(location, f"It runs as process {pid} but does not answer at {location.socket} yet: {reason}", begin)


def program() -> list[str]:
    """The daemon's command line. -P: what lies where the caller happens to stand is not run as root."""
    return [sys.executable, "-P", "-m", "sandboxd.daemon"]


def _spawn(location: Location, log: int, notify: str) -> int:
    argv = program()
    environment = {**os.environ, "NOTIFY_SOCKET": notify}
    if location.config:
        argv += ["--config", location.config]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, log, 1),
        (os.POSIX_SPAWN_DUP2, log, 2),
    ]
    return os.posix_spawn(argv[0], argv, environment, file_actions=actions, setsid=True)


def _wait_ready(notify: socket.socket, pid: int, handle: int, deadline: float) -> int | None:
    """Exit status when the daemon ended; None when it is ready or the time is over."""
    poll = select.poll()
    poll.register(notify, select.POLLIN)
    poll.register(handle, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left * 1000):
            if descriptor == handle:
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if b"READY=1" in notify.recv(4096).split(b"\n"):
                return None
    return None


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _open_log(location: Location) -> int:
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(location.log_file, flags, 0o600)
        if os.fstat(descriptor).st_size > LOG_MAX_BYTES:
            os.ftruncate(descriptor, 0)
        return descriptor
    except OSError as error:
        raise _failed(location, f"{location.log_file} cannot be written: {error.strerror}.", 0) from None


def _failed(location: Location, reason: str, log_begin: int) -> SandboxdError:
    return SandboxdError(
        DAEMON_START_FAILED, reason=reason, log_tail=_log_tail(location, log_begin), log=location.log_file
    )


def _log_tail(location: Location, begin: int) -> str:
    try:
        with Path(location.log_file).open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(min(begin, end), end - LOG_TAIL_BYTES))
            text = file.read(LOG_TAIL_BYTES).decode(errors="replace").strip()
    except OSError:
        text = ""
    return text or "(it is empty)"
