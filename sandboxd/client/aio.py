"""The asynchronous client. `sandboxd.client.sync` has the same words without `await`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from sandboxd.api import sandboxd_pb2 as pb
from sandboxd.base.errors import SandboxdError
from sandboxd.client.channel import Connection
from sandboxd.client.images import AsyncImages
from sandboxd.client.later import later
from sandboxd.client.locate import locate
from sandboxd.client.options import RunOptions, build_config
from sandboxd.client.process import AsyncProcess, OnProgress

if TYPE_CHECKING:
    from sandboxd.client import convert, model
    from sandboxd.client.sandbox import AsyncSandbox
else:
    convert, model = later("sandboxd.client.convert"), later("sandboxd.client.model")


class AsyncClient:
    """A daemon's client: `async with AsyncClient() as client`. Belongs to one event loop.

    `socket` and `config` name a daemon other than the default one; `autostart` starts one where none runs (root only).
    """

    def __init__(
        self,
        socket: str | os.PathLike[str] = "",
        *,
        config: str | os.PathLike[str] = "",
        autostart: bool = False,
    ) -> None:
        self._connection = Connection(locate(os.fspath(socket), os.fspath(config)), start_daemon=autostart)
        self.images = AsyncImages(self._connection)

    @property
    def socket(self) -> str:
        """The path that this client speaks to."""
        return self._connection.location.socket

    async def open(self) -> None:
        """Connects, and starts a daemon if that was allowed. Any call does so by itself."""
        await self._connection.open()

    async def close(self) -> None:
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def run(
        self,
        image: str,
        command: Sequence[str] = (),
        *,
        on_progress: OnProgress | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncSandbox:
        """Starts a sandbox in the background. Standard input stays open unless stdin=False, so that a shell waits.

        `async with await client.run(...) as sandbox` removes it at the end.
        """
        options.setdefault("stdin", True)
        process = await self.run_attached(image, command, on_progress=on_progress, detach=True, **options)
        async with process:
            while await process.receive() is not None:
                pass
            if process.sandbox is None:
                raise self._connection.broken("the daemon did not say which sandbox it started")
            sandbox = self._handle(process.sandbox)
        with contextlib.suppress(SandboxdError):  # one that is removed at its end may be gone already
            await sandbox.refresh()
        return sandbox

    async def run_attached(
        self,
        image: str,
        command: Sequence[str] = (),
        *,
        on_progress: OnProgress | None = None,
        detach: bool = False,
        client_begin_ns: int = 0,
        **options: Unpack[RunOptions],
    ) -> AsyncProcess:
        """Starts a sandbox and streams its input and output from the first byte.

        `client_begin_ns` is CLOCK_MONOTONIC when the caller began to work on it, for the stages of the start.
        """
        config = build_config(image, command, options)
        call = await self._connection.duplex("Sandboxes/Run", pb.RunRequest, pb.ProcessOutput)
        await call.write(pb.RunRequest(run=pb.RunConfig(config=config, detach=detach, client_begin_ns=client_begin_ns)))
        if detach:
            await call.done_writing()
        return AsyncProcess(call, on_progress)

    async def create(self, image: str, command: Sequence[str] = (), **options: Unpack[RunOptions]) -> AsyncSandbox:
        """Makes a sandbox whose command waits for `start`."""
        request = pb.CreateRequest(config=build_config(image, command, options))
        created = await self._connection.unary("Sandboxes/Create", request, pb.Sandbox, limit_s=None)
        return self._handle(convert.sandbox(created))

    async def get(self, sandbox: str) -> AsyncSandbox:
        """By id, unambiguous start of an id, or name."""
        answer = await self._connection.unary("Sandboxes/Get", pb.GetRequest(id=sandbox), pb.Sandbox)
        return self._handle(convert.sandbox(answer))

    async def list(
        self, *, all: bool = False, labels: Mapping[str, str] | None = None, filters: Sequence[str] = ()
    ) -> list[AsyncSandbox]:
        """Running sandboxes, or all; filters read name=, status=, label=, id=."""
        request = pb.ListRequest(all=all, labels=labels or {}, filters=filters)
        answer = await self._connection.unary("Sandboxes/List", request, pb.ListResponse)
        return [self._handle(convert.sandbox(item)) for item in answer.sandboxes]

    async def stats(self, sandboxes: Sequence[str] = (), *, stream: bool = False) -> AsyncIterator[model.Stats]:
        """One sample of each sandbox (default: all that run), or samples without end."""
        request = pb.StatsRequest(ids=sandboxes, stream=stream)
        async for sample in self._connection.stream("Sandboxes/Stats", request, pb.SandboxStats):
            yield convert.stats(sample)

    async def events(
        self, *, follow: bool = True, since_unix_ns: int = 0, filters: Sequence[str] = ()
    ) -> AsyncIterator[model.Event]:
        """What happened since then, and with `follow` what happens."""
        request = pb.EventsRequest(follow=follow, since_unix_ns=since_unix_ns, filters=filters)
        async for event in self._connection.stream("Sandboxes/Events", request, pb.Event):
            yield convert.event(event)

    def _handle(self, info: model.SandboxInfo) -> AsyncSandbox:
        from sandboxd.client.sandbox import AsyncSandbox

        return AsyncSandbox(self._connection, info)

    async def version(self) -> model.Version:
        answer = await self._connection.unary("System/Version", pb.VersionRequest(), pb.VersionResponse)
        return model.Version(answer.version, answer.api_version, answer.pid)

    async def info(self) -> model.Info:
        return convert.info(await self._connection.unary("System/Info", pb.InfoRequest(), pb.InfoResponse))

    async def shutdown(self) -> None:
        """Ends the daemon; sandboxes run on."""
        await self._connection.unary("System/Shutdown", pb.ShutdownRequest(), pb.ShutdownResponse)
