"""FIFOs on the event loop: opened without blocking, read and written as they allow. Source: fifo(7), pipe(7)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path

from sandboxd.aio.descriptors import wait_readable, wait_writable

PIPE_BYTES = 1 << 20
"""Asked for; the kernel may give less to those without CAP_SYS_RESOURCE (pipe-max-size is 1 MiB by default)."""
READ_MAX_BYTES = 256 << 10


class FifoSink:
    """Writes into a FIFO.

    With `patient`, a reader may come late and go in between (containerd restarts): a reading end of our own keeps the
    FIFO alive until `last_call`. Otherwise a reader must be there already, and the sink closes when it goes.
    """

    def __init__(self, path: Path, *, patient: bool) -> None:
        """Raises OSError: ENXIO when nobody reads, ENOENT, or EINVAL if it is no FIFO."""
        self._keeper = _open_fifo(path, os.O_RDONLY) if patient else -1
        try:
            self._fd = _open_fifo(path, os.O_WRONLY)
        except BaseException:
            _close(self._keeper)
            raise
        _enlarge(self._fd)
        self._ended = asyncio.Event()
        if not patient:
            # A writing end is never readable: this wakes when the last reader goes (EPOLLERR), also when the process
            # says nothing for years, and readers that come and go would pile up.
            asyncio.get_running_loop().add_reader(self._fd, self.close)

    async def write(self, data: bytes) -> bool:
        view = memoryview(data)
        while view:
            if self._fd < 0:
                return False
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await self._wait_writable()
            except BrokenPipeError:
                return False
        return True

    async def _wait_writable(self) -> None:
        waiter = asyncio.ensure_future(wait_writable(self._fd))
        closed = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((waiter, closed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
            closed.cancel()
            await asyncio.gather(waiter, closed, return_exceptions=True)

    def last_call(self) -> None:
        # Without our own reading end, a FIFO that nobody reads reports EPIPE, and a write that waits is woken for it.
        self._keeper = _close(self._keeper)

    def close(self) -> None:
        self._ended.set()
        if self._fd >= 0:
            asyncio.get_running_loop().remove_writer(self._fd)
            asyncio.get_running_loop().remove_reader(self._fd)
        self._keeper = _close(self._keeper)
        self._fd = _close(self._fd)


class FifoSource:
    """Reads from a FIFO. Its end is when the last writer has closed it, and not before one has come."""

    def __init__(self, path: Path, *, ends_input: bool) -> None:
        """Raises OSError: ENOENT, or EINVAL if it is no FIFO."""
        self.ends_input = ends_input
        self._fd = _open_fifo(path, os.O_RDONLY)
        self._draining = asyncio.Event()

    async def read(self) -> bytes:
        # Reading before the first writer has come would look like the end: epoll reports neither data nor hang-up then.
        while self._fd >= 0:
            if not self._draining.is_set():
                await self._wait_readable()
            if self._fd < 0:
                return b""
            try:
                return os.read(self._fd, READ_MAX_BYTES)
            except BlockingIOError:
                if self._draining.is_set():
                    return b""
        return b""

    async def _wait_readable(self) -> None:
        waiter = asyncio.ensure_future(wait_readable(self._fd))
        drained = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait((waiter, drained), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
            drained.cancel()
            await asyncio.gather(waiter, drained, return_exceptions=True)

    def drain(self) -> None:
        self._draining.set()

    def close(self) -> None:
        self._draining.set()
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
        self._fd = _close(self._fd)


def _open_fifo(path: Path, access: int) -> int:
    # O_NONBLOCK: opening for reading never waits, opening for writing without a reader is ENXIO.
    fd = os.open(path, access | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a FIFO", str(path))
    return fd


def _enlarge(fd: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _close(fd: int) -> int:
    if fd >= 0:
        os.close(fd)
    return -1
