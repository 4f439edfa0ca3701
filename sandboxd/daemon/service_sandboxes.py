"""The gRPC service Sandboxes: messages in and out, and nothing else. What it means is in the rooms it calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import grpc.aio

from sandboxd.api import sandboxd_pb2 as api
from sandboxd.api import sandboxd_pb2_grpc as api_grpc
from sandboxd.api import shim_pb2
from sandboxd.base.errors import INVALID_ARGUMENT, SandboxdError
from sandboxd.daemon import copy_in, copy_out
from sandboxd.daemon.events import EventBus, event_matches, parse_event_filters
from sandboxd.daemon.execution import Executions
from sandboxd.daemon.images import Images
from sandboxd.daemon.listing import matches, parse_filters
from sandboxd.daemon.live import Live
from sandboxd.daemon.logs import LogFollower, LogQuery
from sandboxd.daemon.paths import Paths
from sandboxd.daemon.records import SandboxRecord
from sandboxd.daemon.request import Request, check_request
from sandboxd.daemon.sandboxes import STOP_TIMEOUT_S, Sandboxes
from sandboxd.daemon.session import Session
from sandboxd.daemon.signals import SIGNAL_MAX
from sandboxd.daemon.statistics import Statistics
from sandboxd.shim.client import ShimClient

DESCRIBE_TIMEOUT_S = 5.0
STOP_TIMEOUT_MAX_S = 86400.0
PROGRESS_BACKLOG_MAX = 256
"""Steps of a pull that a client may be behind; more are not told."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class SandboxesService(api_grpc.SandboxesServicer):
    """One method per RPC of sandboxd.proto."""

    def __init__(
        self, sandboxes: Sandboxes, images: Images, events: EventBus, paths: Paths, executions: Executions
    ) -> None:
        self._sandboxes = sandboxes
        self._images = images
        self._events = events
        self._paths = paths
        self._executions = executions
        self._statistics = Statistics(sandboxes)

    # --- making ---

    async def Create(self, request: api.CreateRequest, context: Context) -> api.Sandbox:
        checked = check_request(request.config, self._sandboxes.config)
        live = await self._make(checked, None, lambda live: None)
        return self._sandboxes.registry.resolve(live.id).to_api()

    async def Start(self, request: api.StartRequest, context: Context) -> api.Sandbox:
        record = self._resolve(request.id)
        return (await self._sandboxes.start(record.id)).to_api()

    async def Run(self, requests: AsyncIterator[api.RunRequest], context: Context) -> None:
        """The machine is made while the client reads how far it is; then the client is attached, then it starts."""
        messages = aiter(requests)
        first = await _first(messages, "run")
        request = check_request(first.run.config, self._sandboxes.config)
        live = await self._make_telling(request, context)
        shim = live.require_shim("attach")
        config = request.config
        if first.run.detach:
            await self._start_or_discard(live)
            await context.write(api.ProcessOutput(started=True))
            described = await shim_or_nothing(live)
            stages = [*live.stages.stages(), *described.stages]
            await context.write(api.ProcessOutput(stages=api.Stages(stages=stages)))
            return
        session = await self._attach_or_discard(live, shim, config)
        try:
            await self._start_or_discard(live)
            await context.write(api.ProcessOutput(started=True))
            await session.run(messages, context)
        finally:
            await session.close()
        exit_ = await live.exit()
        await context.write(api.ProcessOutput(stages=api.Stages(stages=live.stages.stages())))
        await context.write(api.ProcessOutput(exit=exit_.to_api()))

    async def _make_telling(self, request: Request, context: Context) -> Live:
        """Makes it; the client is told of a pull's progress, and of the sandbox as soon as it has an id."""
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[api.ProcessOutput] = asyncio.Queue()

        def claimed(live: Live) -> None:
            told.put_nowait(api.ProcessOutput(sandbox=self._sandboxes.registry.resolve(live.id).to_api()))

        def progressed(progress: api.ImageProgress) -> None:
            loop.call_soon_threadsafe(tell, api.ProcessOutput(progress=progress))

        def tell(message: api.ProcessOutput) -> None:
            if told.qsize() < PROGRESS_BACKLOG_MAX:
                told.put_nowait(message)

        making = asyncio.create_task(self._make(request, progressed, claimed))
        try:
            while not making.done() or not told.empty():
                getting = asyncio.ensure_future(told.get())
                await asyncio.wait({making, getting}, return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    await context.write(getting.result())
                else:
                    getting.cancel()
        except BaseException:
            making.cancel()
            await asyncio.wait({making})
            if not making.cancelled() and not making.exception():
                await self._sandboxes.discard(making.result())
            raise
        return making.result()

    async def _make(
        self,
        request: Request,
        progress: Callable[[api.ImageProgress], None] | None,
        on_claimed: Callable[[Live], None],
    ) -> Live:
        name = request.config.name
        if not request.config.replace:
            self._sandboxes.registry.check_name(name)
        image = await self._images.for_run(request.config, progress)
        if request.config.replace and name:
            await self._sandboxes.remove_by_name(name)
        return await self._sandboxes.create(request, image, on_claimed)

    async def _attach_or_discard(self, live: Live, shim: ShimClient, config: api.SandboxConfig) -> Session:
        """Nobody else knows of a sandbox whose client could not be attached: it goes."""
        session: Session | None = None
        try:
            session = Session(live, shim, self._paths, stdin=config.stdin, terminal=config.terminal)
            await session.attach()
        except BaseException:
            await asyncio.shield(self._sandboxes.discard(live))
            if session:
                await session.close()
            raise
        return session

    async def _start_or_discard(self, live: Live) -> None:
        """What cannot be started leaves nothing: its error is all that there is to say of it."""
        try:
            await self._sandboxes.start(live.id)
        except BaseException:
            await asyncio.shield(self._sandboxes.discard(live))
            raise

    # --- attaching and executing ---

    async def Attach(self, requests: AsyncIterator[api.RunRequest], context: Context) -> None:
        messages = aiter(requests)
        wanted = (await _first(messages, "attach")).attach
        record = self._resolve(wanted.sandbox)
        live, shim = self._sandboxes.require_alive(record, "attach to")
        config = record.parsed_config()
        session = Session(live, shim, self._paths, stdin=wanted.stdin and config.stdin, terminal=config.terminal)
        try:
            await session.attach()
            await context.write(api.ProcessOutput(sandbox=record.to_api()))
            await session.run(messages, context)
        finally:
            await session.close()
        exit_ = await live.exit()
        await context.write(api.ProcessOutput(exit=exit_.to_api()))

    async def Exec(self, requests: AsyncIterator[api.RunRequest], context: Context) -> None:
        messages = aiter(requests)
        wanted = getattr(await _first(messages, "exec"), "exec")  # noqa: B009 (a field with a keyword-like name)
        await self._executions.run(self._resolve(wanted.sandbox), wanted, messages, context)

    # --- asking ---

    async def Get(self, request: api.GetRequest, context: Context) -> api.Sandbox:
        record = self._resolve(request.id)
        sandbox = record.to_api()
        live = self._sandboxes.live(record.id)
        if live:
            sandbox.machine.CopyFrom(await shim_or_nothing(live))
        return sandbox

    async def List(self, request: api.ListRequest, context: Context) -> api.ListResponse:
        filters = parse_filters(request.filters, dict(request.labels))
        every = request.all or "status" in filters
        records = [record for record in self._sandboxes.registry if every or record.alive]
        return api.ListResponse(sandboxes=[record.to_api() for record in records if matches(record, filters)])

    async def Wait(self, request: api.WaitRequest, context: Context) -> shim_pb2.Exit:
        return (await self._sandboxes.wait(self._resolve(request.id).id)).to_api()

    async def Logs(self, request: api.LogsRequest, context: Context) -> AsyncIterator[api.LogEntry]:
        record = self._resolve(request.id)
        query = LogQuery(
            tail=request.tail if request.HasField("tail") else None,
            since_unix_ns=request.since_unix_ns,
            until_unix_ns=request.until_unix_ns,
        )
        live = self._sandboxes.live(record.id)
        follower = LogFollower(self._paths.log_of(record.id), query)
        try:
            found = follower.follow(live.ended) if request.follow and live else follower.read_available()
            async for entry in found:
                yield api.LogEntry(unix_ns=entry.unix_ns, stderr=entry.stream == "stderr", data=entry.data)
        finally:
            follower.close()

    async def Stats(self, request: api.StatsRequest, context: Context) -> AsyncIterator[api.SandboxStats]:
        ids = [self._resolve(reference).id for reference in request.ids]
        async for sample in self._statistics.samples(ids, stream=request.stream):
            yield sample

    async def Events(self, request: api.EventsRequest, context: Context) -> AsyncIterator[api.Event]:
        filters = parse_event_filters(request.filters)
        history = request.since_unix_ns > 0 or not request.follow
        async for event in self._events.stream(request.since_unix_ns, history=history, follow=request.follow):
            if event_matches(event, filters):
                yield event.to_api()

    async def Processes(self, request: api.GetRequest, context: Context) -> api.ProcessesResponse:
        _, shim = self._sandboxes.require_running(self._resolve(request.id), "list the processes of")
        return api.ProcessesResponse(pids=await shim.pids())

    # --- ending ---

    async def Stop(self, request: api.StopRequest, context: Context) -> api.Sandbox:
        record = self._resolve(request.id)
        timeout_s = request.timeout_s if request.HasField("timeout_s") else STOP_TIMEOUT_S
        if not 0 <= timeout_s <= STOP_TIMEOUT_MAX_S:
            reason = f"It is 0 to {STOP_TIMEOUT_MAX_S:g} seconds."
            raise SandboxdError(INVALID_ARGUMENT, what="timeout", value=timeout_s, reason=reason, command="stop")
        live = self._sandboxes.live(record.id)
        await self._sandboxes.stop(record.id, timeout_s)
        stopped = self._sandboxes.registry.get(record.id)
        if stopped is None:  # it was to be removed at its end
            answer = record.to_api()
            answer.state = api.STATE_STOPPED
            if live and live.ended.done():
                answer.exit.CopyFrom(live.ended.result().to_api())
            return answer
        return stopped.to_api()

    async def Kill(self, request: api.KillRequest, context: Context) -> api.KillResponse:
        if request.signal > SIGNAL_MAX:
            reason = f"Signals are 1 to {SIGNAL_MAX}."
            raise SandboxdError(INVALID_ARGUMENT, what="signal", value=request.signal, reason=reason, command="kill")
        await self._sandboxes.kill(self._resolve(request.id).id, request.signal or 9)
        return api.KillResponse()

    async def Remove(self, request: api.RemoveRequest, context: Context) -> api.RemoveResponse:
        await self._sandboxes.remove(self._resolve(request.id).id, force=request.force)
        return api.RemoveResponse()

    # --- files ---

    async def CopyIn(self, requests: AsyncIterator[api.CopyInRequest], context: Context) -> api.CopyInResponse:
        messages = aiter(requests)
        first = await anext(messages, None)
        if first is None or first.WhichOneof("kind") != "target":
            raise _first_message("target")
        _, shim = self._sandboxes.require_running(self._resolve(first.target.id), "copy into")
        return api.CopyInResponse(files=await copy_in.extract(shim, first.target, messages))

    async def CopyOut(self, request: api.CopyOutRequest, context: Context) -> AsyncIterator[api.CopyChunk]:
        _, shim = self._sandboxes.require_running(self._resolve(request.id), "copy out of")
        async for chunk in copy_out.archive(shim, request.path, follow=request.follow):
            yield api.CopyChunk(data=chunk)

    async def StatPath(self, request: api.StatPathRequest, context: Context) -> api.StatPathResponse:
        _, shim = self._sandboxes.require_running(self._resolve(request.id), "look into")
        return await copy_out.stat_path(shim, request.path, follow=request.follow)

    def _resolve(self, reference: str) -> SandboxRecord:
        return self._sandboxes.registry.resolve(reference)


async def shim_or_nothing(live: Live) -> shim_pb2.DescribeResponse:
    """What the shim says of its machine; empty when it is too early or too late to ask."""
    if live.shim is None:
        return shim_pb2.DescribeResponse()
    try:
        async with asyncio.timeout(DESCRIBE_TIMEOUT_S):
            return await live.shim.describe()
    except (TimeoutError, SandboxdError):
        return shim_pb2.DescribeResponse()


async def _first(messages: AsyncIterator[api.RunRequest], kind: str) -> api.RunRequest:
    first = await anext(messages, None)
    if first is None or first.WhichOneof("kind") != kind:
        raise _first_message(kind)
    return first


def _first_message(kind: str) -> SandboxdError:
    reason = f"The first message of this call is `{kind}`."
    return SandboxdError(INVALID_ARGUMENT, what="message", value="", reason=reason, command="run")
