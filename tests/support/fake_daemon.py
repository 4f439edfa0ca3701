"""A daemon for tests of the client and the command line: the real API over a real socket, processes of this host
instead of machines. It has no disk, no image and no isolation, and is as hostile as a test asks it to be.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import struct
import termios
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from sandboxd import __version__
from sandboxd.api import sandboxd_pb2 as api
from sandboxd.api import sandboxd_pb2_grpc as api_grpc
from sandboxd.api import shim_pb2
from sandboxd.base.clock import monotonic_ns, unix_ns
from sandboxd.base.errors import CATALOGUE, NAME_IN_USE, SANDBOX_NOT_FOUND, SandboxdError
from sandboxd.daemon.status import ErrorInterceptor

NOT_FOUND = 127


@dataclass
class Box:
    """One pretended sandbox."""

    id: str
    config: api.SandboxConfig
    process: asyncio.subprocess.Process | None = None
    master: int = -1
    state: int = api.STATE_CREATING
    exit: shim_pb2.Exit | None = None
    background: asyncio.Task[None] | None = None
    log: list[api.LogEntry] = field(default_factory=list)
    transports: list[Any] = field(default_factory=list)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def message(self) -> api.Sandbox:
        sandbox = api.Sandbox(
            id=self.id,
            config=self.config,
            state=self.state,
            command=self.config.command,
            image_id="sha256:" + "ab" * 32,
            created_unix_ns=unix_ns() - 5_000_000_000,
            started_unix_ns=unix_ns() - 4_000_000_000,
            address="10.0.0.2",
            ports=[
                api.PortMapping(bind=p.bind, host_port=p.host_port or 32768, guest_port=p.guest_port, protocol="tcp")
                for p in self.config.ports
            ],
        )
        if self.exit:
            sandbox.exit.CopyFrom(self.exit)
        if self.state == api.STATE_RUNNING:
            sandbox.machine.CopyFrom(shim_pb2.DescribeResponse(shim_pid=11, vmm_pid=12, vmm_driver="qemu"))
        return sandbox


class FakeSandboxes(api_grpc.SandboxesServicer):
    def __init__(self, root: Path) -> None:
        self.root = root
        self.boxes: dict[str, Box] = {}
        self.every: list[Box] = []
        self.runs: list[api.RunConfig] = []
        self.execs: list[api.ExecConfig] = []
        self.signals: list[int] = []
        self.cancelled_pulls = 0
        self.uploads: list[tuple[api.CopyTarget, bytes]] = []
        self.downloads: dict[str, bytes] = {}
        self.paths: dict[str, api.StatPathResponse] = {}
        self.events: list[api.Event] = []

    # --- lives ---

    def add(self, config: api.SandboxConfig) -> Box:
        if any(box.config.name == config.name and config.name for box in self.boxes.values()):
            raise SandboxdError(NAME_IN_USE, name=config.name, id="0" * 12)
        box = Box(f"{len(self.boxes) + 1:012x}", config)
        self.boxes[box.id] = box
        return box

    def find(self, name: str) -> Box:
        for box in self.boxes.values():
            if name and (box.config.name == name or box.id.startswith(name)):
                return box
        raise SandboxdError(SANDBOX_NOT_FOUND, id=name)

    async def Run(self, requests: AsyncIterator[api.RunRequest], context: Any) -> None:
        messages = aiter(requests)
        run = (await anext(messages)).run
        self.runs.append(run)
        config = run.config
        if config.image.startswith("error/"):
            raise _error(config.image.removeprefix("error/"))
        if config.image == "slow":
            await self._pull_for_ever(context)
        if config.image == "pulled":
            for done in (0, 500, 1000):
                progress = api.ImageProgress(stage="fetch", item="abc123", done_bytes=done, total_bytes=1000)
                await context.write(api.ProcessOutput(progress=progress))
        box = self.add(config)
        await context.write(api.ProcessOutput(sandbox=box.message()))
        await self._talk(box, list(config.command), config.terminal, config.stdin, messages, context, run.detach)

    async def _pull_for_ever(self, context: Any) -> None:
        progress = api.ImageProgress(stage="fetch", item="abc123", done_bytes=1, total_bytes=1000)
        await context.write(api.ProcessOutput(progress=progress))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled_pulls += 1
            raise

    async def Exec(self, requests: AsyncIterator[api.RunRequest], context: Any) -> None:
        messages = aiter(requests)
        wanted = getattr(await anext(messages), "exec")  # noqa: B009
        self.execs.append(wanted)
        self.find(wanted.sandbox)
        box = Box("exec", api.SandboxConfig())
        await self._talk(box, list(wanted.command), wanted.terminal, wanted.stdin, messages, context, wanted.detach)

    async def _talk(
        self,
        box: Box,
        command: list[str],
        terminal: bool,
        stdin: bool,
        messages: AsyncIterator[api.RunRequest],
        context: Any,
        detach: bool,
    ) -> None:
        self.every.append(box)
        streams = await self._spawn(box, command, terminal, stdin)
        await context.write(api.ProcessOutput(started=True))
        stage = shim_pb2.Stage(name="kernel", process="guest", begin_ns=monotonic_ns() - 10**6, end_ns=monotonic_ns())
        if detach:
            await context.write(api.ProcessOutput(stages=api.Stages(stages=[stage])))
            box.background = asyncio.create_task(self._drain(box, streams))
            return
        feeding = asyncio.create_task(self._feed(box, messages))
        try:
            await asyncio.gather(*(self._forward(box, name, reader, context) for name, reader in streams))
        finally:
            feeding.cancel()
        assert box.process
        await self._ended(box)
        await context.write(api.ProcessOutput(stages=api.Stages(stages=[stage])))
        await context.write(api.ProcessOutput(exit=box.exit))
        if box.config.remove:
            self.boxes.pop(box.id, None)

    async def _spawn(
        self, box: Box, command: list[str], terminal: bool, stdin: bool
    ) -> list[tuple[str, asyncio.StreamReader]]:
        if box.config.command[:1] == ["nosuch"]:
            raise _error("command_not_found") if "command_not_found" in CATALOGUE else _error("internal")
        slave = -1
        if terminal:
            box.master, slave = pty.openpty()
            width, height = box.config.terminal_width or 80, box.config.terminal_height or 24
            fcntl.ioctl(box.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        handle: Any = slave if terminal else asyncio.subprocess.PIPE
        box.process = await asyncio.create_subprocess_exec(
            *(["setsid", "-c"] if terminal else []),
            *command,
            stdin=handle if terminal or stdin else asyncio.subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            limit=1 << 16,
        )
        box.transports.append(box.process._transport)  # type: ignore[attr-defined]
        box.state = api.STATE_RUNNING
        if terminal:
            os.close(slave)
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader)
            pipe = os.fdopen(os.dup(box.master), "rb", 0)
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
            box.transports.append(transport)
            return [("stdout", reader)]
        assert box.process.stdout and box.process.stderr
        return [("stdout", box.process.stdout), ("stderr", box.process.stderr)]

    async def _drain(self, box: Box, streams: list[tuple[str, asyncio.StreamReader]]) -> None:
        await asyncio.gather(*(reader.read() for _, reader in streams))
        await self._ended(box)

    async def _forward(self, box: Box, name: str, reader: asyncio.StreamReader, context: Any) -> None:
        while True:
            try:
                data = await reader.read(1 << 15)
            except OSError:  # EIO: the terminal's other side is closed
                return
            if not data:
                return
            box.log.append(api.LogEntry(unix_ns=unix_ns(), stderr=name == "stderr", data=data))
            async with box.writing:  # gRPC takes one message at a time
                await context.write(
                    api.ProcessOutput(stdout=data) if name == "stdout" else api.ProcessOutput(stderr=data)
                )

    async def _feed(self, box: Box, messages: AsyncIterator[api.RunRequest]) -> None:
        assert box.process
        async for message in messages:
            kind = message.WhichOneof("kind")
            if kind == "stdin" and box.master >= 0:
                os.write(box.master, message.stdin)
            elif kind == "stdin" and box.process.stdin:
                box.process.stdin.write(message.stdin)
                with contextlib.suppress(ConnectionError):
                    await box.process.stdin.drain()
            elif kind == "close_stdin" and box.process.stdin:
                box.process.stdin.close()
            elif kind == "resize" and box.master >= 0:
                size = struct.pack("HHHH", message.resize.height, message.resize.width, 0, 0)
                fcntl.ioctl(box.master, termios.TIOCSWINSZ, size)
            elif kind == "signal":
                self._signal(box, message.signal)

    def _signal(self, box: Box, number: int) -> None:
        self.signals.append(number)
        if box.process and box.process.returncode is None:
            box.process.send_signal(number)

    async def _ended(self, box: Box) -> None:
        assert box.process
        code = await box.process.wait()
        if box.process.stdin:
            box.process.stdin.close()
        if box.master >= 0:
            os.close(box.master)
            box.master = -1
        status = code if code >= 0 else 128 - code
        reason = box.config.labels.get("reason", "exited" if code >= 0 else "signaled")
        box.exit = shim_pb2.Exit(exit_status=status, reason=reason, exited_at_unix_ns=unix_ns())
        box.state = api.STATE_STOPPED

    # --- questions ---

    async def Create(self, request: api.CreateRequest, context: Any) -> api.Sandbox:
        box = self.add(request.config)
        box.state = api.STATE_CREATED
        return box.message()

    async def Start(self, request: api.StartRequest, context: Any) -> api.Sandbox:
        box = self.find(request.id)
        box.state = api.STATE_RUNNING
        return box.message()

    async def Get(self, request: api.GetRequest, context: Any) -> api.Sandbox:
        return self.find(request.id).message()

    async def List(self, request: api.ListRequest, context: Any) -> api.ListResponse:
        shown = [box for box in self.boxes.values() if request.all or box.state == api.STATE_RUNNING]
        return api.ListResponse(sandboxes=[box.message() for box in shown])

    async def Kill(self, request: api.KillRequest, context: Any) -> api.KillResponse:
        self._signal(self.find(request.id), request.signal or signal.SIGKILL)
        return api.KillResponse()

    async def Stop(self, request: api.StopRequest, context: Any) -> api.Sandbox:
        box = self.find(request.id)
        self._signal(box, signal.SIGTERM)
        return box.message()

    async def Wait(self, request: api.WaitRequest, context: Any) -> shim_pb2.Exit:
        box = self.find(request.id)
        if box.background:
            await box.background
        return box.exit or shim_pb2.Exit()

    async def Remove(self, request: api.RemoveRequest, context: Any) -> api.RemoveResponse:
        box = self.find(request.id)
        if request.force:
            self._signal(box, signal.SIGKILL)
        del self.boxes[box.id]
        return api.RemoveResponse()

    async def Logs(self, request: api.LogsRequest, context: Any) -> AsyncIterator[api.LogEntry]:
        for entry in self.find(request.id).log:
            yield entry

    async def Stats(self, request: api.StatsRequest, context: Any) -> AsyncIterator[api.SandboxStats]:
        for box in self.boxes.values():
            yield api.SandboxStats(id=box.id, name=box.config.name, memory_bytes=5 << 20, cpu_percent=1.5, pids=2)

    async def Events(self, request: api.EventsRequest, context: Any) -> AsyncIterator[api.Event]:
        for event in self.events:
            yield event

    async def Processes(self, request: api.GetRequest, context: Any) -> api.ProcessesResponse:
        self.find(request.id)
        return api.ProcessesResponse(pids=[1, 7])

    # --- files ---

    async def StatPath(self, request: api.StatPathRequest, context: Any) -> api.StatPathResponse:
        return self.paths.get(request.path, api.StatPathResponse())

    async def CopyIn(self, requests: AsyncIterator[api.CopyInRequest], context: Any) -> api.CopyInResponse:
        messages = aiter(requests)
        target = (await anext(messages)).target
        data = b"".join([message.data async for message in messages])
        self.uploads.append((target, data))
        return api.CopyInResponse(files=1)

    async def CopyOut(self, request: api.CopyOutRequest, context: Any) -> AsyncIterator[api.CopyChunk]:
        data = self.downloads[request.path]
        for begin in range(0, len(data), 1000):
            yield api.CopyChunk(data=data[begin : begin + 1000])


class FakeImages(api_grpc.ImagesServicer):
    def __init__(self) -> None:
        self.images = [
            api.Image(
                id="sha256:" + "cd" * 32,
                references=["busybox:latest", "127.0.0.1:5000/box/busy:1"],
                architecture="amd64",
                size_bytes=4 << 20,
                config_json='{"architecture": "amd64"}',
            )
        ]
        self.pulls: list[api.PullRequest] = []

    async def Pull(self, request: api.PullRequest, context: Any) -> AsyncIterator[api.ImageProgress]:
        self.pulls.append(request)
        if request.reference.startswith("error/"):
            raise _error(request.reference.removeprefix("error/"))
        yield api.ImageProgress(stage="resolve")
        yield api.ImageProgress(stage="fetch", item="abc123", done_bytes=0, total_bytes=4 << 20)
        yield api.ImageProgress(stage="fetch", item="abc123", done_bytes=4 << 20, total_bytes=4 << 20)
        yield api.ImageProgress(image=self.images[0])

    async def Load(self, request: api.LoadRequest, context: Any) -> AsyncIterator[api.ImageProgress]:
        yield api.ImageProgress(stage="pack")
        yield api.ImageProgress(image=self.images[0])

    async def List(self, request: api.ListImagesRequest, context: Any) -> api.ListImagesResponse:
        return api.ListImagesResponse(images=self.images)

    async def Get(self, request: api.GetImageRequest, context: Any) -> api.Image:
        if request.reference != "busybox":
            raise _error("image_not_found")
        return self.images[0]

    async def Remove(self, request: api.RemoveImageRequest, context: Any) -> api.RemoveImageResponse:
        return api.RemoveImageResponse(removed=["busybox:latest"], freed_bytes=4 << 20)


class FakeSystem(api_grpc.SystemServicer):
    async def Version(self, request: api.VersionRequest, context: Any) -> api.VersionResponse:
        return api.VersionResponse(version=__version__, api_version="1", pid=os.getpid())

    async def Info(self, request: api.InfoRequest, context: Any) -> api.InfoResponse:
        return api.InfoResponse(version=__version__, pid=os.getpid(), vmm_driver="qemu", acceleration="tcg")


def _error(code: str) -> SandboxdError:
    kind = CATALOGUE[code]
    return SandboxdError(kind, **dict.fromkeys(kind.fields(), "something"))


@dataclass(frozen=True)
class FakeDaemon:
    socket: str
    sandboxes: FakeSandboxes
    images: FakeImages
    loop: asyncio.AbstractEventLoop
    server: grpc.aio.Server

    def stop(self) -> None:
        """As if it were killed: every call breaks."""
        asyncio.run_coroutine_threadsafe(self.server.stop(None), self.loop).result(10)


@contextlib.contextmanager
def fake_daemon(root: Path) -> Iterator[FakeDaemon]:
    """Serves at ROOT/sandboxd.sock from a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def ready() -> None: ...

    async def start() -> FakeDaemon:
        server = grpc.aio.server(interceptors=[ErrorInterceptor(ready)])
        sandboxes, images = FakeSandboxes(root), FakeImages()
        api_grpc.add_SandboxesServicer_to_server(sandboxes, server)
        api_grpc.add_ImagesServicer_to_server(images, server)
        api_grpc.add_SystemServicer_to_server(FakeSystem(), server)
        socket = str(root / "sandboxd.sock")
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        return FakeDaemon(socket, sandboxes, images, loop, server)

    daemon = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield daemon
    finally:
        asyncio.run_coroutine_threadsafe(_end(daemon), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(daemon: FakeDaemon) -> None:
    await daemon.server.stop(0)
    for box in daemon.sandboxes.every:
        if box.process and box.process.returncode is None:
            box.process.kill()
        for transport in box.transports:
            transport.close()
        if box.process:
            await box.process.wait()
    await asyncio.sleep(0)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
