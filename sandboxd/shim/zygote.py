"""The zygote: a process that has loaded all that a shim needs, and becomes one by fork(2) in a few milliseconds.

Its standard input is a SOCK_SEQPACKET socket to the daemon. It says READY there when it is warm; then every message
asks for one shim, and its end is the end: a zygote does not outlive its daemon, the shims do. A message is
"SPAWN_NS RUN_DIR" with two descriptors, the shim's log and a SOCK_SEQPACKET socket that becomes its stdout. Over that
one the zygote answers the pid, with the pidfd, and the shim waits there for the launcher's GO: it does nothing before
somebody holds it, and ends when nobody does (end of file).

One thread, always: a fork copies only the thread that calls it, and would leave the locks of others taken for ever.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sandboxd.linux.process import set_command_line
from sandboxd.shim.names import GO, READY, REQUEST_MAX_BYTES, SPAWN_TIME_VARIABLE
from sandboxd.shim.serve import serve
from sandboxd.shim.warm import warm_up

COMMAND_LINE = (sys.executable, "-I", "-m", "sandboxd.shim")
_FDS = 2
_STDIN, _STDOUT, _STDERR = range(3)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """One shim to be. The descriptors are the zygote's copies."""

    run_dir: str
    spawn_ns: int
    log_fd: int
    word_fd: int


def serve_zygote() -> int:
    """Until the daemon's end of standard input is closed; the exit status. In a shim that it became, never returns."""
    set_command_line((*COMMAND_LINE, "zygote"))
    control = socket.socket(fileno=_STDIN)
    signal.signal(signal.SIGCHLD, _reap)
    warm_up()
    # What is there now is never looked at again by the collector: its pages stay shared with every shim.
    gc.collect()
    gc.freeze()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the daemon has ended
        control.send(READY)
        while _serve_one(control):
            pass
    return 0


def _serve_one(control: socket.socket) -> bool:
    """Waits for a request and makes its shim; False at the end of file."""
    message, fds, flags, _ = socket.recv_fds(control, REQUEST_MAX_BYTES, _FDS, socket.MSG_CMSG_CLOEXEC)
    try:
        if message and (request := _parse(message, fds, flags)):
            _fork(request)
    finally:
        for fd in fds:
            os.close(fd)
    return bool(message)


def _parse(message: bytes, fds: Sequence[int], flags: int) -> Request | None:
    """None for what is no request: its sender sees the socket closed."""
    spawn_ns, _, run_dir = os.fsdecode(message).partition(" ")
    cut = flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
    if cut or len(fds) != _FDS or not spawn_ns.isdecimal() or not run_dir.startswith("/"):
        _log.error("the zygote was asked for something that is no shim: %r", message[:80])
        return None
    return Request(run_dir, int(spawn_ns), *fds)


def _fork(request: Request) -> None:
    # Until its pidfd is open the child is not reaped, so that its pid is nobody else's.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        pid = os.fork()
        if not pid:
            _become_shim(request)
        pidfd = os.pidfd_open(pid)
    except OSError as error:  # the launcher sees its socket closed
        _log.error("the zygote cannot fork: %s", error)
        return
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    try:
        with socket.socket(fileno=os.dup(request.word_fd)) as word:
            socket.send_fds(word, [str(pid).encode()], [pidfd])
    except OSError as error:  # gone: the child sees that too, and ends
        _log.info("nobody waits for the shim of %s: %s", request.run_dir, error)
    finally:
        os.close(pidfd)


def _become_shim(request: Request) -> None:
    """From here on what an exec would have made: a session, signals and descriptors of its own. Does not return."""
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.dup2(_STDOUT, _STDIN)  # the zygote's is /dev/null
        os.dup2(request.word_fd, _STDOUT)
        os.dup2(request.log_fd, _STDERR)
        os.closerange(_STDERR + 1, os.sysconf("SC_OPEN_MAX"))
        if os.read(_STDOUT, len(GO)) == GO:
            set_command_line((*COMMAND_LINE, "serve", request.run_dir))
            Path("/proc/self/comm").write_text("sandboxd-shim")
            os.environ[SPAWN_TIME_VARIABLE] = str(request.spawn_ns)
            status = serve(request.run_dir)
    except Exception:  # the last door of the process: its log is where the launcher looks
        _log.exception("the shim failed")
    finally:
        sys.stderr.flush()
        os._exit(status)  # not back into the zygote's frames, whatever was raised


def _reap(_number: int, _frame: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
