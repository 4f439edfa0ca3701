"""Runs the asynchronous client for synchronous callers: one event loop in one background thread per process."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")
Item = TypeVar("Item")

_current: Bridge | None = None
_starting = threading.Lock()


class Bridge:
    """A running loop. Any thread may call."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sandboxd-client", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Runs `work` to its end; an interrupt of the caller (Ctrl-C) cancels it."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("the synchronous client was called from its own callback")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncIterator[Item]) -> Iterator[Item]:
        """An asynchronous iterator as a plain one. Leaving it early closes the other."""
        sentinel = object()

        async def following() -> Item | object:
            return await anext(items, sentinel)

        try:
            while (item := self.call(following())) is not sentinel:
                yield item  # type: ignore[misc]
        finally:
            if isinstance(items, AsyncGenerator):
                self.call(items.aclose())

    def close(self) -> None:
        """Idempotent."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def bridge() -> Bridge:
    """This process's own; started at the first use."""
    global _current
    with _starting:
        if _current is None:
            _current = Bridge()
            atexit.register(_current.close)
        return _current


def _forget() -> None:
    """A forked child has the loop's memory and not its thread."""
    global _current, _starting
    if _current is not None:
        atexit.unregister(_current.close)
    _current, _starting = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
