"""containerd's Task API over a sandbox: translation only, one short method per call.

Source: containerd's api/runtime/task/v2/shim.proto. Status codes as its errdefs map them: sandboxd.aio.ttrpc.errors.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

import sandboxd
from sandboxd.aio.ttrpc import Handler, RemoteError, StatusCode
from sandboxd.api.containerd import task_pb2 as pb
from sandboxd.api.containerd import task_types_pb2 as types
from sandboxd.base.errors import INVALID_ARGUMENT, SandboxdError
from sandboxd.core.container import ContainerRequest, StdioNames
from sandboxd.core.lifecycle import State
from sandboxd.core.oci.rootfs import RootfsMount
from sandboxd.core.records import ExitRecord
from sandboxd.core.sandbox import Sandbox
from sandboxd.shim.lasting import Lasting
from sandboxd.shim.names import PROCESS_TYPE_URL, RESOURCES_TYPE_URL
from sandboxd.shim.stdio import StdioRequest, open_stdio

SIGNAL_MAX = 64
TERMINAL_MAX = 65535
_STATES = {
    State.CREATING: types.UNKNOWN,
    State.CREATED: types.CREATED,
    State.RUNNING: types.RUNNING,
    State.PAUSED: types.PAUSED,
    State.STOPPED: types.STOPPED,
}


class TaskService:
    """The 17 calls. `lasting` runs those that must finish once begun; `shutdown` ends this process."""

    def __init__(self, sandbox: Sandbox, lasting: Lasting, shutdown: asyncio.Event) -> None:
        self._sandbox = sandbox
        self._lasting = lasting
        self._shutdown = shutdown

    def handlers(self) -> dict[str, Handler[Message]]:
        """By method name, for the ttrpc server; the same for both versions of the service."""
        lasting = self._lasting.handler
        return {
            "Create": lasting(pb.CreateTaskRequest, self.create),
            "Start": lasting(pb.StartRequest, self.start),
            "Exec": lasting(pb.ExecProcessRequest, self.exec),
            "Kill": lasting(pb.KillRequest, self.kill),
            "Delete": lasting(pb.DeleteRequest, self.delete),
            "Pause": lasting(pb.PauseRequest, self.pause),
            "Resume": lasting(pb.ResumeRequest, self.resume),
            "Update": lasting(pb.UpdateTaskRequest, self.update),
            "CloseIO": lasting(pb.CloseIORequest, self.close_io),
            "ResizePty": lasting(pb.ResizePtyRequest, self.resize_pty),
            "Shutdown": lasting(pb.ShutdownRequest, self.shutdown),
            "State": Handler(pb.StateRequest, self.state),
            "Pids": Handler(pb.PidsRequest, self.pids),
            "Wait": Handler(pb.WaitRequest, self.wait),
            "Stats": Handler(pb.StatsRequest, self.stats),
            "Connect": Handler(pb.ConnectRequest, self.connect),
            "Checkpoint": Handler(pb.CheckpointTaskRequest, self.checkpoint),
        }

    async def create(self, request: pb.CreateTaskRequest) -> pb.CreateTaskResponse:
        if request.checkpoint:
            raise RemoteError(StatusCode.UNIMPLEMENTED, "restoring a checkpoint is not implemented")
        bundle = Path(request.bundle)
        if not bundle.is_absolute():
            raise _invalid("bundle", request.bundle, "It has to be an absolute path.")
        stdio = StdioRequest(request.stdin, request.stdout, request.stderr, request.terminal)
        rootfs = tuple(
            RootfsMount(mount.type, mount.source, mount.target, tuple(mount.options)) for mount in request.rootfs
        )
        io = open_stdio(stdio, self._sandbox.spec.log_max_bytes)
        names = StdioNames(request.stdin, request.stdout, request.stderr)
        await self._sandbox.create(ContainerRequest(request.id, bundle, rootfs, io, names))
        return pb.CreateTaskResponse(pid=self._sandbox.vmm_pid)

    async def start(self, request: pb.StartRequest) -> pb.StartResponse:
        await self._sandbox.start(request.id, request.exec_id)
        return pb.StartResponse(pid=self._sandbox.vmm_pid)

    async def exec(self, request: pb.ExecProcessRequest) -> Empty:
        process = _json(request.spec, PROCESS_TYPE_URL)
        stdio = StdioRequest(request.stdin, request.stdout, request.stderr, request.terminal)
        io = open_stdio(stdio, self._sandbox.spec.log_max_bytes)
        names = StdioNames(request.stdin, request.stdout, request.stderr)
        self._sandbox.exec(request.id, request.exec_id, process, io, names)
        return Empty()

    async def kill(self, request: pb.KillRequest) -> Empty:
        if not 1 <= request.signal <= SIGNAL_MAX:
            raise _invalid("signal", str(request.signal), f"Signals are 1 to {SIGNAL_MAX}.")
        await self._sandbox.kill(request.id, request.exec_id, request.signal, all_processes=request.all)
        return Empty()

    async def delete(self, request: pb.DeleteRequest) -> pb.DeleteResponse:
        pid = self._sandbox.vmm_pid
        record = await self._sandbox.delete(request.id, request.exec_id)
        return pb.DeleteResponse(pid=pid, exit_status=record.exit_status, exited_at=_timestamp(record))

    async def pause(self, request: pb.PauseRequest) -> Empty:
        await self._sandbox.pause(request.id)
        return Empty()

    async def resume(self, request: pb.ResumeRequest) -> Empty:
        await self._sandbox.resume(request.id)
        return Empty()

    async def update(self, request: pb.UpdateTaskRequest) -> Empty:
        await self._sandbox.update(request.id, _json(request.resources, RESOURCES_TYPE_URL))
        return Empty()

    async def close_io(self, request: pb.CloseIORequest) -> Empty:
        process = self._sandbox.process(request.id, request.exec_id)
        if request.stdin:
            process.close_stdin()
        return Empty()

    async def resize_pty(self, request: pb.ResizePtyRequest) -> Empty:
        if max(request.width, request.height) > TERMINAL_MAX:
            raise _invalid("size", f"{request.width}x{request.height}", f"A side is at most {TERMINAL_MAX}.")
        await self._sandbox.resize(request.id, request.exec_id, request.width, request.height)
        return Empty()

    async def shutdown(self, request: pb.ShutdownRequest) -> Empty:
        if request.now or self._sandbox.is_empty:
            self._shutdown.set()
        return Empty()

    async def state(self, request: pb.StateRequest) -> pb.StateResponse:
        container = self._sandbox.container(request.id)
        process = container.process(request.exec_id)
        names = container.exec_names[request.exec_id] if request.exec_id else container.request.names
        response = pb.StateResponse(
            id=request.id,
            exec_id=request.exec_id,
            bundle=str(container.request.bundle),
            pid=self._sandbox.vmm_pid,
            status=_STATES[process.lifecycle.state],
            stdin=names.stdin,
            stdout=names.stdout,
            stderr=names.stderr,
            terminal=process.terminal,
        )
        if process.exit:
            response.exit_status = process.exit.exit_status
            response.exited_at.CopyFrom(_timestamp(process.exit))
        return response

    async def pids(self, request: pb.PidsRequest) -> pb.PidsResponse:
        pids = await self._sandbox.pids(request.id)
        return pb.PidsResponse(processes=[types.ProcessInfo(pid=pid) for pid in pids])

    async def wait(self, request: pb.WaitRequest) -> pb.WaitResponse:
        record = await self._sandbox.process(request.id, request.exec_id).wait()
        return pb.WaitResponse(exit_status=record.exit_status, exited_at=_timestamp(record))

    async def stats(self, request: pb.StatsRequest) -> pb.StatsResponse:
        from sandboxd.shim.metrics import pack_metrics  # asked by containerd only

        statistics = await self._sandbox.statistics(request.id)
        return pb.StatsResponse(stats=pack_metrics(statistics.guest.files))

    async def connect(self, request: pb.ConnectRequest) -> pb.ConnectResponse:
        return pb.ConnectResponse(shim_pid=os.getpid(), task_pid=self._sandbox.vmm_pid, version=sandboxd.__version__)

    async def checkpoint(self, request: pb.CheckpointTaskRequest) -> Empty:
        raise RemoteError(StatusCode.UNIMPLEMENTED, "Checkpoint is not implemented")


def _json(packed: AnyMessage, type_url: str) -> bytes:
    """The JSON text in an Any of a runtime-spec type. Raises invalid_argument if it is another type, or no JSON."""
    if packed.type_url.removeprefix("type.googleapis.com/") != type_url:
        raise _invalid("the message's type", packed.type_url[:120], f"{type_url} is expected.")
    try:
        json.loads(packed.value)
    except ValueError as error:
        raise _invalid("the message", type_url, f"It is not JSON: {error}.") from None
    return packed.value


def _timestamp(record: ExitRecord) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromNanoseconds(record.exited_at_unix_ns)
    return timestamp


def _invalid(what: str, value: str, reason: str) -> SandboxdError:
    return SandboxdError(INVALID_ARGUMENT, what=what, value=value[:120], reason=reason, command="run")
