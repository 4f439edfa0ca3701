"""One client that is attached to one process: its messages become input, signals and window sizes; output goes to it.

Output waits for the client and input for the process. A client that goes away takes its pipes with it and nothing else:
the process runs on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import grpc.aio

from sandboxd.api import sandboxd_pb2 as api
from sandboxd.base.errors import INVALID_ARGUMENT, SANDBOX_WRONG_STATE, STDIO_UNUSABLE, SandboxdError
from sandboxd.daemon.fifo import OutputPipe, PipeSet
from sandboxd.daemon.live import Live
from sandboxd.daemon.paths import Paths
from sandboxd.daemon.signals import SIGNAL_MAX
from sandboxd.shim.launch import ShimClient

INPUT_QUEUE_CHUNKS = 16
"""Input that is taken from a client before the process has: signals and sizes behind it are not held up by it."""
WINDOW_MAX = 65535

_log = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Session:
    """Made, attached with `attach` before the process starts, then run with `run`; `close` in any case.

    Raises sandbox_wrong_state when the sandbox has just ended, stdio_unusable when the host has no room for pipes.
    """

    def __init__(
        self, live: Live, shim: ShimClient, paths: Paths, *, exec_id: str = "", stdin: bool, terminal: bool
    ) -> None:
        self._shim = shim
        self._exec_id = exec_id
        self._terminal = terminal
        self._pipes = _pipes(live, paths.run_of(live.id) / "io", stdin=stdin, stderr=not terminal)
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(INPUT_QUEUE_CHUNKS)
        self._writing = asyncio.Lock()
        self._stdin_ended = not stdin

    async def attach(self) -> None:
        """Both sides of every pipe are open afterwards."""
        pipes = self._pipes
        await self._shim.attach(
            self._exec_id,
            stdin=pipes.path_of(pipes.stdin),
            stdout=pipes.path_of(pipes.stdout),
            stderr=pipes.path_of(pipes.stderr),
        )
        if pipes.stdin:
            pipes.stdin.become_writer()
        pipes.unlink()

    async def run(self, requests: AsyncIterator[api.RunRequest], context: Context) -> None:
        """Until the process has closed its output. Raises invalid_argument for a message that does not belong here."""
        outputs = [
            asyncio.ensure_future(self._forward(pipe, name, context))
            for pipe, name in ((self._pipes.stdout, "stdout"), (self._pipes.stderr, "stderr"))
            if pipe
        ]
        feeding = asyncio.ensure_future(self._feed_input())
        reading = asyncio.ensure_future(self._read(requests))
        whole = asyncio.ensure_future(_all(outputs))
        try:
            await asyncio.wait({whole, reading}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
            await whole
        finally:
            await _end(whole, *outputs, feeding, reading)

    async def close(self) -> None:
        """Takes the pipes away. Input without a terminal ends with its client, as nobody else can end it."""
        self._pipes.close()
        if not self._stdin_ended and not self._terminal:
            await self._end_input()

    async def _forward(self, pipe: OutputPipe, name: str, context: Context) -> None:
        async for chunk in pipe.chunks():
            message = api.ProcessOutput(stdout=chunk) if name == "stdout" else api.ProcessOutput(stderr=chunk)
            async with self._writing:
                await context.write(message)

    async def _read(self, requests: AsyncIterator[api.RunRequest]) -> None:
        async for request in requests:
            kind = request.WhichOneof("kind")
            if kind == "stdin":
                await self._queue.put(request.stdin)
            elif kind == "close_stdin":
                await self._queue.put(None)
            elif kind == "resize":
                await self._resize(request.resize)
            elif kind == "signal":
                await self._signal(request.signal)
            else:
                raise _unexpected(kind)
        # A client that detached ends its messages too, and a terminal is there for the next one.
        if not self._terminal:
            await self._queue.put(None)

    async def _feed_input(self) -> None:
        while (data := await self._queue.get()) is not None:
            # What nobody reads is still taken, so that a signal behind it arrives.
            if self._pipes.stdin and not self._stdin_ended:
                self._stdin_ended = not await self._pipes.stdin.write(data)
        if not self._stdin_ended:
            self._stdin_ended = True
            await self._end_input()
            if self._pipes.stdin:
                self._pipes.stdin.close()
        await self._discard_rest()

    async def _discard_rest(self) -> None:
        while True:
            await self._queue.get()

    async def _end_input(self) -> None:
        """After all that is in the pipe now."""
        try:
            await self._shim.close_stdin(self._exec_id)
        except SandboxdError as error:
            _log.debug("sandbox %s: end of input: %s", self._shim.id, error)

    async def _resize(self, window: api.Window) -> None:
        if not (0 < window.width <= WINDOW_MAX and 0 < window.height <= WINDOW_MAX):
            return
        try:
            await self._shim.resize(window.width, window.height, self._exec_id)
        except SandboxdError as error:
            _log.debug("sandbox %s: window size: %s", self._shim.id, error)

    async def _signal(self, number: int) -> None:
        if not 1 <= number <= SIGNAL_MAX:
            raise _unexpected(f"signal {number}")
        try:
            await self._shim.kill(number, self._exec_id)
        except SandboxdError as error:  # the process may have ended at the same moment
            _log.info("sandbox %s: signal %d: %s", self._shim.id, number, error)


def _pipes(live: Live, parent: Path, *, stdin: bool, stderr: bool) -> PipeSet:
    try:
        return PipeSet(parent, live.next_number(), stdin=stdin, stderr=stderr)
    except FileNotFoundError:
        raise SandboxdError(
            SANDBOX_WRONG_STATE, operation="attach to", id=live.id, state="stopped", needed="created or running"
        ) from None
    except OSError as error:
        raise SandboxdError(STDIO_UNUSABLE, path=parent, stream="stdio", reason=f"{error.strerror}.") from error


async def _all(tasks: Sequence[asyncio.Future[None]]) -> None:
    await asyncio.gather(*tasks)


async def _end(*tasks: asyncio.Future[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _unexpected(kind: str | None) -> SandboxdError:
    reason = "After the first message come stdin, close_stdin, resize and signal."
    return SandboxdError(INVALID_ARGUMENT, what="message", value=str(kind), reason=reason, command="run")
