"""One job for many who want the same: two pulls of one image fetch it once, and both see its progress."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sandboxd.image.record import Progress

Listener = Callable[[Progress], None]
_Key = TypeVar("_Key")
_Result = TypeVar("_Result")


@dataclass(slots=True, eq=False)
class _Job(Generic[_Result]):
    task: asyncio.Task[_Result]
    listeners: list[Listener] = field(default_factory=list)


class SharedJobs(Generic[_Key, _Result]):
    """Runs at most one job per key at a time. Everyone who asks gets its result or its error."""

    def __init__(self) -> None:
        self._jobs: dict[_Key, _Job[_Result]] = {}

    async def run(self, key: _Key, work: Callable[[Listener], Awaitable[_Result]], listener: Listener) -> _Result:
        """Joins the job of this key, or starts `work(progress)`. Cancelled by all who wait, it is cancelled itself."""
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = self._start(key, work)
        job.listeners.append(listener)
        try:
            return await asyncio.shield(job.task)
        finally:
            job.listeners.remove(listener)
            if not job.listeners and not job.task.done():
                await self._cancel(key, job)

    def _start(self, key: _Key, work: Callable[[Listener], Awaitable[_Result]]) -> _Job[_Result]:
        async def begin() -> _Result:
            try:
                return await work(tell)
            finally:
                if self._jobs.get(key) is job:
                    del self._jobs[key]

        def tell(progress: Progress) -> None:
            for listener in tuple(job.listeners):
                listener(progress)

        job: _Job[_Result] = _Job(asyncio.create_task(begin()))
        return job

    async def _cancel(self, key: _Key, job: _Job[_Result]) -> None:
        # Nobody may join a job that is going away.
        if self._jobs.get(key) is job:
            del self._jobs[key]
        job.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await job.task

    async def close(self) -> None:
        """Cancels every job and waits for its end."""
        jobs = list(self._jobs.items())
        for key, job in jobs:
            await self._cancel(key, job)
