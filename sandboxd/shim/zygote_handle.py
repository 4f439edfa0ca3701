"""The daemon's zygote: one process in the background that makes shims quickly, replaced when it dies.

Nobody depends on it. Whoever asks while there is none starts a shim in the slow way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from sandboxd.aio.child import Child
from sandboxd.aio.descriptors import wait_readable
from sandboxd.base.clock import monotonic_ns
from sandboxd.shim.names import GO, READY, REQUEST_MAX_BYTES

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
"""A shim's, whoever starts it."""
WARM_TIMEOUT_S = 60.0
FORK_TIMEOUT_S = 5.0
AHEAD_S = 0.5
"""How long a start waits for one that is getting warm: it is ahead of a shim that would begin to load the same now."""
_COMMAND_LINE_ROOM = "-" * 256
_STDERR = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Forked:
    """A shim made by the zygote. Its two descriptors are the receiver's."""

    pid: int
    pidfd: int
    word: socket.socket
    """Its stdout, on which it says READY. Non-blocking."""


class Zygote:
    """Made on the event loop that it is used on. `begin` starts it; `close` ends it, not the shims it made."""

    def __init__(self) -> None:
        self._child: Child | None = None
        self._control: socket.socket | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._decided = asyncio.Event()  # it is warm, or will not be
        self._was_warm = False
        self._closed = False

    @property
    def pid(self) -> int:
        """0 when there is none."""
        return self._child.pid if self._child else 0

    async def wait_warm(self, timeout_s: float) -> bool:
        """Until the one that was begun is warm: True. False when it was not begun, ends, or takes longer."""
        if self._keeping and not self._keeping.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._decided.wait()
        return self._control is not None

    def begin(self) -> None:
        """Starts one in the background unless there is one. Returns at once."""
        if not self._closed and (self._keeping is None or self._keeping.done()):
            self._decided.clear()
            self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Idempotent."""
        self._closed = True
        if self._keeping:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    async def fork(self, run_dir: Path, log_fd: int) -> Forked | None:
        """A shim for `run_dir`, its stderr `log_fd`. None when there is no zygote, nor one nearly warm, or it fails:
        then no shim of it will ever run.
        """
        if not self._control and not await self.wait_warm(AHEAD_S):
            self.begin()
            return None
        control, child = self._control, self._child
        assert control and child
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            ours.setblocking(False)
            with theirs:
                message = f"{monotonic_ns()} {run_dir}".encode(errors="surrogateescape")
                socket.send_fds(control, [message], [log_fd, theirs.fileno()])
            return await _answer(ours)
        except OSError as error:
            ours.close()
            _log.warning("the zygote made no shim of %s: %s", run_dir, error or "it does not answer")
            if isinstance(error, TimeoutError):
                child.send_signal(signal.SIGKILL)
            return None
        except BaseException:
            ours.close()
            raise

    async def _keep(self) -> None:
        """One after the other. One that does not get warm is replaced only when a shim is asked for."""
        self._was_warm = True
        try:
            while self._was_warm:
                self._was_warm = False
                _log.warning("the zygote ended with status %d", await self._live())
        except OSError as error:
            _log.warning("there is no zygote, starts take longer: %s", error or "it did not get warm")
        finally:
            self._decided.set()

    async def _live(self) -> int:
        """One zygote's life; its return code."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            ours.setblocking(False)
            with theirs:
                child = _spawn(theirs.fileno())
            async with child:
                self._child = child
                try:
                    async with asyncio.timeout(WARM_TIMEOUT_S):
                        await wait_readable(ours.fileno())
                    if ours.recv(len(READY)) == READY:
                        self._control, self._was_warm = ours, True
                        self._decided.set()
                    return await child.wait()
                finally:
                    self._child = self._control = None
                    self._decided.clear()


def _spawn(control_fd: int) -> Child:
    argv = [sys.executable, "-I", "-m", "sandboxd.shim", "zygote", _COMMAND_LINE_ROOM]
    return Child.spawn(argv, stdin=control_fd, stderr=_STDERR, env=ENVIRONMENT, cwd=Path("/"), new_session=True)


async def _answer(word: socket.socket) -> Forked:
    """Raises OSError when there is no shim; then the other end of `word` closes with this one, and it ends unborn."""
    async with asyncio.timeout(FORK_TIMEOUT_S):
        await wait_readable(word.fileno())
    answer, fds, _, _ = socket.recv_fds(word, REQUEST_MAX_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
    with contextlib.ExitStack() as undo:
        for fd in fds:
            undo.callback(os.close, fd)
        if len(fds) != 1:
            raise OSError("it could not fork")
        word.send(GO)
        undo.pop_all()
    return Forked(int(answer), fds[0], word)
