"""Moving a process's bytes: from the guest to any number of sinks, from any number of sources to the guest.

Both directions are back-pressured: nothing is read from one side before the other has taken what was read before it,
but for one piece that is fetched ahead while the sinks still write.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from sandboxd.base.errors import SandboxdError

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Where output goes: a FIFO, a file, a log."""

    async def write(self, data: bytes) -> bool:
        """Takes all of `data`, in its own time. False: nobody reads any more, forget this sink."""

    def last_call(self) -> None:
        """The process has ended: from now on a sink without a reader must not wait for one."""

    def close(self) -> None:
        """Idempotent; a write that waits ends."""


class Source(Protocol):
    """Where input comes from: a FIFO."""

    ends_input: bool
    """Whether its end is the end of the process's input (containerd's stdin), or only of this source (attach)."""

    async def read(self) -> bytes:
        """The next bytes, as soon as there are any; empty at its end."""

    def drain(self) -> None:
        """End after what is there now."""

    def close(self) -> None:
        """Idempotent; a read that waits ends."""


class OutputPump:
    """One output stream of a process. `read` answers its next bytes and whether these are the last."""

    def __init__(self, read: Callable[[], Awaitable[tuple[bytes, bool]]], sinks: list[Sink]) -> None:
        self._read = read
        self._sinks = sinks
        self._blocked: set[Sink] = set()
        self._closed = False
        self.exhausted = asyncio.Event()
        """Set when the guest has nothing more of it, though sinks may still write."""

    def add(self, sink: Sink) -> None:
        """It gets everything from the next piece on; everything, if the pump does not run yet."""
        if self._closed:
            sink.close()
        else:
            self._sinks.append(sink)

    async def run(self) -> None:
        """Until the stream has ended and every sink has everything, or nobody is there to answer `read`."""
        ahead: asyncio.Future[tuple[bytes, bool]] | None = asyncio.ensure_future(self._read())
        try:
            while ahead:
                try:
                    data, ended = await ahead
                except SandboxdError:
                    return  # the machine is gone, which others report; or the process never was
                ahead = None if ended else asyncio.ensure_future(self._read())
                if ended:
                    self.exhausted.set()
                if data:
                    await self._deliver(data)
        finally:
            self.exhausted.set()
            if ahead:
                ahead.cancel()
                with contextlib.suppress(asyncio.CancelledError, SandboxdError):
                    await ahead
            self.close()

    async def _deliver(self, data: bytes) -> None:
        sinks = tuple(self._sinks)
        if len(sinks) == 1:
            taken = [await self._write(sinks[0], data)]
        else:
            taken = await asyncio.gather(*(self._write(sink, data) for sink in sinks))
        for sink, alive in zip(sinks, taken, strict=True):
            if not alive:
                self._sinks.remove(sink)
                sink.close()

    async def _write(self, sink: Sink, data: bytes) -> bool:
        self._blocked.add(sink)
        try:
            return await sink.write(data)
        except OSError as error:
            # A full disk or a vanished file costs this sink, never the process or the other sinks.
            _log.warning("an output sink failed and is dropped: %s", error)
            return False
        finally:
            self._blocked.discard(sink)

    def last_call(self) -> None:
        for sink in self._sinks:
            sink.last_call()

    def drop_blocked(self) -> None:
        """Gives up the sinks that a write waits for at this moment: what they did not take is lost."""
        for sink in tuple(self._blocked):
            sink.close()

    def close(self) -> None:
        """Closes every sink, and those to come; a write that waits ends."""
        self._closed = True
        while self._sinks:
            self._sinks.pop().close()


class InputPump:
    """The input of a process. `write` hands bytes to the guest and answers False when nobody reads there any more."""

    def __init__(self, write: Callable[[bytes, bool], Awaitable[bool]]) -> None:
        self._write = write
        self._feeds: dict[asyncio.Task[None], Source] = {}
        self._waiting: list[Source] = []
        self._turn = asyncio.Lock()
        self._running = False
        self._close_wanted = False
        self._closing: asyncio.Task[None] | None = None

    def add(self, source: Source) -> None:
        """Bytes of several sources mix piece by piece. One that comes after the input's end is closed at once."""
        if self._close_wanted:
            source.close()
        elif self._running:
            task = asyncio.get_running_loop().create_task(self._feed(source))
            self._feeds[task] = source
            task.add_done_callback(lambda done: self._feeds.pop(done, None))
        else:
            self._waiting.append(source)

    def start(self) -> None:
        """The process runs: begin to feed it."""
        self._running = True
        wanted, self._close_wanted = self._close_wanted, False
        while self._waiting:
            self.add(self._waiting.pop(0))
        if wanted:
            self.close_after_data()

    async def _feed(self, source: Source) -> None:
        try:
            while data := await source.read():
                async with self._turn:
                    if not await self._write(data, False):
                        break
        except (SandboxdError, OSError):
            return  # the machine or the FIFO is gone; input has no one to tell
        finally:
            source.close()
        if source.ends_input:
            self.close_after_data()

    def close_after_data(self) -> None:
        """Ends the process's input after all bytes that its sources hold now. Returns at once: a process may be slow to
        read them, or never do it. Idempotent."""
        self._close_wanted = True
        if self._running and not self._closing:
            self._closing = asyncio.get_running_loop().create_task(self._close_in_order())

    async def _close_in_order(self) -> None:
        feeds = dict(self._feeds)
        for source in feeds.values():
            source.drain()
        await asyncio.gather(*feeds, return_exceptions=True)
        with contextlib.suppress(SandboxdError):
            async with self._turn:
                await self._write(b"", True)

    async def stop(self) -> None:
        """The process has ended: nothing more is fed. Idempotent."""
        tasks = [*self._feeds, *([self._closing] if self._closing else [])]
        for source in (*self._waiting, *self._feeds.values()):
            source.close()
        self._waiting.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
