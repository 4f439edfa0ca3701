"""Waiting for a descriptor, without a thread and without polling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def wait_readable(fd: int) -> None:
    """Until a read would not block: data, end of file, or for a pidfd the process's end. One waiter per descriptor."""
    loop = asyncio.get_running_loop()
    await _wait(fd, loop.add_reader, loop.remove_reader)


async def wait_writable(fd: int) -> None:
    """Until a write would not block, or would fail. One waiter per descriptor."""
    loop = asyncio.get_running_loop()
    await _wait(fd, loop.add_writer, loop.remove_writer)


async def _wait(fd: int, add: Callable[[int, Callable[[], None]], None], remove: Callable[[int], object]) -> None:
    ready = asyncio.get_running_loop().create_future()

    def wake() -> None:
        # Level-triggered: once is enough, or the loop would spin until the waiter runs.
        remove(fd)
        if not ready.done():
            ready.set_result(None)

    add(fd, wake)
    try:
        await ready
    finally:
        remove(fd)
