"""Standard input and output of this process, for an event loop, without changing how others see them.

O_NONBLOCK would be set on the open file that a shell shares with us, so input is waited for and then read, and output
is written by a thread.
"""

from __future__ import annotations

import asyncio
import errno
import os
from concurrent.futures import ThreadPoolExecutor

READ_BYTES = 64 << 10


class StandardInput:
    """Descriptor 0. `read` returns b"" at the end, for a closed descriptor and for a terminal that hung up."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._waitable = True

    async def read(self) -> bytes:
        if self._waitable:
            await self._readable()
        try:
            return os.read(self._descriptor, READ_BYTES)
        except OSError as error:
            if error.errno in (errno.EIO, errno.EBADF):
                return b""
            raise

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        try:
            loop.add_reader(self._descriptor, wake)
        except OSError:
            # epoll(7) refuses regular files and /dev/null (EPERM), which never make a reader wait.
            self._waitable = False
            return
        try:
            await ready
        finally:
            loop.remove_reader(self._descriptor)


class StandardOutput:
    """Descriptors 1 and 2. `write` returns when the kernel has everything. Raises BrokenPipeError."""

    def __init__(self) -> None:
        # One thread keeps what is written to both in the order in which it came.
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandboxctl-output")

    async def write(self, stream: str, data: bytes) -> None:
        descriptor = 2 if stream == "stderr" else 1
        await asyncio.get_running_loop().run_in_executor(self._pool, write_all, descriptor, data)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def write_all(descriptor: int, data: bytes) -> None:
    """Also to a descriptor that somebody else made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            _wait_writable(descriptor)


def _wait_writable(descriptor: int) -> None:
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()
