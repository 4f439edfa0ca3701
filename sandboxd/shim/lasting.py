"""Calls that finish once begun: their caller may go away in the middle, and the sandbox must not be left half-way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from google.protobuf.message import Message

from sandboxd.aio.ttrpc import Handler

_log = logging.getLogger(__name__)
Q = TypeVar("Q", bound=Message)


class Lasting:
    """Runs calls apart from the connection that asked for them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Message]] = set()

    def handler(self, request_type: type[Q], call: Callable[[Q], Coroutine[Any, Any, Message]]) -> Handler[Any]:
        """`call` as a method of a service that outlives its connection."""

        def begin(request: Q) -> Awaitable[Message]:
            task = asyncio.get_running_loop().create_task(call(request))
            self._tasks.add(task)
            task.add_done_callback(self._done)
            return asyncio.shield(task)

        return Handler(request_type, begin)

    def _done(self, task: asyncio.Task[Message]) -> None:
        self._tasks.discard(task)
        # Retrieved here too: the caller that would have been told may be gone.
        if not task.cancelled() and (error := task.exception()):
            _log.debug("a call failed: %s", error)

    async def finish(self, timeout_s: float) -> None:
        """Waits for the calls that run now, then cancels them."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in tuple(self._tasks):
            task.cancel()
