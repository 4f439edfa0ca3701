"""A live process: the command of a sandbox, or one more command in it, with its input and output."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

from sandboxd.api import sandboxd_pb2 as pb
from sandboxd.base.errors import DAEMON_LOST, SandboxdError
from sandboxd.client.channel import Duplex
from sandboxd.client.later import later

if TYPE_CHECKING:
    from sandboxd.client import convert, model
else:
    convert, model = later("sandboxd.client.convert"), later("sandboxd.client.model")

STDIN_CHUNK_BYTES = 64 << 10

OnProgress: TypeAlias = "Callable[[model.ImageProgress], None]"


class AsyncProcess:
    """Iterate over it for its output; `wait` reads on to its end. Leaving `async with` detaches, and ends nothing.

    `sandbox`, `started`, `stages` and `exit` fill as the daemon reports them, which it does between pieces of output.
    """

    def __init__(self, call: Duplex[pb.RunRequest, pb.ProcessOutput], on_progress: OnProgress | None = None) -> None:
        self._call = call
        self._on_progress = on_progress
        self.sandbox: model.SandboxInfo | None = None
        self.started = False
        self.on_started: Callable[[], None] | None = None
        """Called once, before the first output after the start."""
        self.stages: tuple[model.Stage, ...] = ()
        self.exit: model.Exit | None = None

    async def receive(self) -> model.Output | None:
        """The next piece of output; None when there is none to come. Errors: whatever ended the process's start."""
        while (message := await self._call.read()) is not None:
            kind = message.WhichOneof("kind")
            if kind == "stdout":
                return model.Output("stdout", message.stdout)
            if kind == "stderr":
                return model.Output("stderr", message.stderr)
            self._note(kind, message)
        return None

    def _note(self, kind: str | None, message: pb.ProcessOutput) -> None:
        if kind == "sandbox":
            self.sandbox = convert.sandbox(message.sandbox)
        elif kind == "started":
            self.started = True
            if self.on_started:
                self.on_started()
        elif kind == "stages":
            self.stages = convert.stages(message.stages.stages)
        elif kind == "exit":
            self.exit = convert.exit_status(message.exit)
        elif kind == "progress" and self._on_progress:
            self._on_progress(convert.progress(message.progress))

    async def __aiter__(self) -> AsyncIterator[model.Output]:
        while (output := await self.receive()) is not None:
            yield output

    async def wait(self) -> model.Exit:
        """Drops what output is left and returns how the process ended."""
        while await self.receive() is not None:
            pass
        if self.exit is None:
            raise SandboxdError(DAEMON_LOST, socket=self._call.socket, reason="the output ended without an exit status")
        return self.exit

    async def write(self, data: bytes) -> bool:
        """Sends standard input; returns when it was taken. False when nobody takes any more."""
        for begin in range(0, len(data), STDIN_CHUNK_BYTES):
            chunk = data[begin : begin + STDIN_CHUNK_BYTES]
            if not await self._call.write(pb.RunRequest(stdin=chunk)):
                return False
        return True

    async def close_stdin(self) -> None:
        await self._call.write(pb.RunRequest(close_stdin=True))

    async def resize(self, columns: int, rows: int) -> None:
        await self._call.write(pb.RunRequest(resize=pb.Window(width=columns, height=rows)))

    async def signal(self, number: int) -> None:
        await self._call.write(pb.RunRequest(signal=number))

    def detach(self) -> None:
        """Leaves it running. The iterator ends."""
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()
