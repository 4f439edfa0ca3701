"""A shim as its callers see it: typed methods over its socket, errors of the catalogue, and its death as an event."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from sandboxd.aio.child import Child
from sandboxd.aio.ttrpc import (
    CallTimeout,
    ClientConnection,
    ConnectionLost,
    RemoteError,
    StatusCode,
    sandboxd_error,
)
from sandboxd.api import agent_pb2, shim_pb2
from sandboxd.api.containerd import task_pb2, types_pb2
from sandboxd.base.errors import (
    CONTAINER_NOT_FOUND,
    INTERNAL,
    INVALID_ARGUMENT,
    SHIM_LOST,
    SHIM_TIMEOUT,
    ErrorKind,
    SandboxdError,
)
from sandboxd.shim.names import PROCESS_TYPE_URL, RESOURCES_TYPE_URL, SANDBOX_SERVICE, TASK_SERVICE

CALL_TIMEOUT_S = 60.0
"""For calls that a guest answers; a guest under load is slow, a dead one ends the connection."""
CREATE_TIMEOUT_S = 600.0
"""Only a last bound: the shim itself bounds the boot by the spec's boot_timeout_s, and says what it saw."""

M = TypeVar("M", bound=Message)


class MountLike(Protocol):
    """One entry of a container's root file system, as containerd.types.Mount has it."""

    @property
    def type(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def options(self) -> Sequence[str]: ...


class ShimClient:
    """One sandbox's shim. `exec_id` empty means the container itself, everywhere.

    All calls raise SandboxdError: the shim's own, or shim_lost when it is gone, or shim_timeout.
    """

    def __init__(
        self, sandbox_id: str, run_dir: Path, pid: int, pidfd: int, connection: ClientConnection, child: Child | None
    ) -> None:
        self.id = sandbox_id
        self.run_dir = run_dir
        self.pid = pid
        self.pidfd = pidfd
        self._connection = connection
        self._child = child
        self._died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(pidfd, self._note_death)

    async def died(self) -> None:
        """Until the shim's process has ended, by whatever. Any number of callers."""
        await asyncio.shield(self._died)

    def _note_death(self) -> None:
        asyncio.get_running_loop().remove_reader(self.pidfd)
        if not self._died.done():
            self._died.set_result(None)

    async def close(self) -> None:
        """Forgets the shim, which lives on. Idempotent."""
        await self._connection.close()
        if self.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = -1
        if self._child:
            self._child.abandon()

    # --- containers and processes ---

    async def create(
        self,
        bundle: Path,
        rootfs: Sequence[MountLike],
        *,
        terminal: bool = False,
        stdin: str = "",
        stdout: str = "",
        stderr: str = "",
        container_id: str = "",
    ) -> int:
        """Boots the machine (first container) and makes the container, not started. Answers its pid on the host.

        `bundle` holds config.json. stdin: "", a FIFO, or ATTACH_ONLY; stdout, stderr: "", a FIFO, file://PATH or
        log://PATH. After a failure nothing runs any more, and the shim is of no use: `shutdown(now=True)`, reclaim.
        """
        mounts = [
            types_pb2.Mount(type=mount.type, source=mount.source, target=mount.target, options=mount.options)
            for mount in rootfs
        ]
        request = task_pb2.CreateTaskRequest(
            id=container_id or self.id,
            bundle=str(bundle),
            rootfs=mounts,
            terminal=terminal,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
        return (await self._task("Create", request, task_pb2.CreateTaskResponse, CREATE_TIMEOUT_S)).pid

    async def start(self, exec_id: str = "") -> int:
        """Starts the container's process, or an added exec. Raises command_not_found, command_not_executable."""
        request = task_pb2.StartRequest(id=self.id, exec_id=exec_id)
        return (await self._task("Start", request, task_pb2.StartResponse)).pid

    async def exec(
        self,
        exec_id: str,
        process: Mapping[str, Any],
        *,
        terminal: bool = False,
        stdin: str = "",
        stdout: str = "",
        stderr: str = "",
    ) -> None:
        """Adds a process (the OCI spec's `process` object) to the running container; `start(exec_id)` starts it."""
        spec = AnyMessage(type_url=PROCESS_TYPE_URL, value=json.dumps(process).encode())
        request = task_pb2.ExecProcessRequest(
            id=self.id, exec_id=exec_id, terminal=terminal, stdin=stdin, stdout=stdout, stderr=stderr, spec=spec
        )
        await self._task("Exec", request, Empty)

    async def kill(self, signal: int, exec_id: str = "", *, all: bool = False) -> None:
        """Sends a signal to the process; `all`: to every process of the container."""
        await self._task("Kill", task_pb2.KillRequest(id=self.id, exec_id=exec_id, signal=signal, all=all), Empty)

    async def resize(self, width: int, height: int, exec_id: str = "") -> None:
        """The terminal's size in characters."""
        request = task_pb2.ResizePtyRequest(id=self.id, exec_id=exec_id, width=width, height=height)
        await self._task("ResizePty", request, Empty)

    async def close_stdin(self, exec_id: str = "") -> None:
        """Ends the process's input after all that is in its FIFOs now."""
        await self._task("CloseIO", task_pb2.CloseIORequest(id=self.id, exec_id=exec_id, stdin=True), Empty)

    async def pause(self) -> None:
        await self._task("Pause", task_pb2.PauseRequest(id=self.id), Empty)

    async def resume(self) -> None:
        await self._task("Resume", task_pb2.ResumeRequest(id=self.id), Empty)

    async def update(self, resources: Mapping[str, Any]) -> None:
        """New limits of the container: the OCI spec's `linux.resources` object."""
        packed = AnyMessage(type_url=RESOURCES_TYPE_URL, value=json.dumps(resources).encode())
        await self._task("Update", task_pb2.UpdateTaskRequest(id=self.id, resources=packed), Empty)

    async def state(self, exec_id: str = "") -> task_pb2.StateResponse:
        return await self._task("State", task_pb2.StateRequest(id=self.id, exec_id=exec_id), task_pb2.StateResponse)

    async def pids(self) -> list[int]:
        """The container's processes, by their pids in the guest."""
        answer = await self._task("Pids", task_pb2.PidsRequest(id=self.id), task_pb2.PidsResponse)
        return [process.pid for process in answer.processes]

    async def delete(self, exec_id: str = "") -> task_pb2.DeleteResponse:
        """Forgets a process that has ended; of a container that was never started, kills it first."""
        request = task_pb2.DeleteRequest(id=self.id, exec_id=exec_id)
        return await self._task("Delete", request, task_pb2.DeleteResponse)

    async def shutdown(self, *, now: bool = False) -> None:
        """Ends the shim if it has no container any more, or in any case with `now`."""
        try:
            await self._task("Shutdown", task_pb2.ShutdownRequest(id=self.id, now=now), Empty)
        except SandboxdError as error:
            if error.kind is not SHIM_LOST:
                raise

    # --- what containerd has no word for ---

    async def attach(self, exec_id: str = "", *, stdin: str = "", stdout: str = "", stderr: str = "") -> None:
        """Adds live FIFOs: the caller has the reading ends of stdout and stderr open already, or this is refused."""
        request = shim_pb2.AttachRequest(id=self.id, exec_id=exec_id, stdin=stdin, stdout=stdout, stderr=stderr)
        await self._sandbox("Attach", request, shim_pb2.AttachResponse)

    async def wait_exit(self, exec_id: str = "") -> shim_pb2.Exit:
        """Until the process has ended and its output is in its sinks; without a bound."""
        request = shim_pb2.WaitExitRequest(id=self.id, exec_id=exec_id)
        return await self._sandbox("WaitExit", request, shim_pb2.Exit, None)

    async def describe(self) -> shim_pb2.DescribeResponse:
        return await self._sandbox("Describe", shim_pb2.DescribeRequest(), shim_pb2.DescribeResponse)

    async def statistics(self) -> shim_pb2.StatisticsResponse:
        return await self._sandbox("Statistics", shim_pb2.StatisticsRequest(id=self.id), shim_pb2.StatisticsResponse)

    async def file(self, request: agent_pb2.FileRequest) -> agent_pb2.FileResponse:
        """One file operation in the container; `request.container_id` is filled in if empty."""
        if not request.container_id:
            request.container_id = self.id
        return await self._sandbox("File", request, agent_pb2.FileResponse)

    async def _task(
        self, method: str, request: Message, response_type: type[M], timeout_s: float | None = CALL_TIMEOUT_S
    ) -> M:
        return await self._call(TASK_SERVICE, method, request, response_type, timeout_s)

    async def _sandbox(
        self, method: str, request: Message, response_type: type[M], timeout_s: float | None = CALL_TIMEOUT_S
    ) -> M:
        return await self._call(SANDBOX_SERVICE, method, request, response_type, timeout_s)

    async def _call(
        self, service: str, method: str, request: Message, response_type: type[M], timeout_s: float | None
    ) -> M:
        try:
            return await self._connection.call(service, method, request, response_type, timeout_s)
        except CallTimeout:
            limit_s = f"{timeout_s:g}"
            raise SandboxdError(SHIM_TIMEOUT, id=self.id, operation=method, limit_s=limit_s) from None
        except RemoteError as error:
            raise sandboxd_error(error) or self._translate(error) from error
        except ConnectionLost as error:
            raise SandboxdError(SHIM_LOST, id=self.id, reason=f"Its connection broke: {error}.") from error

    def _translate(self, error: RemoteError) -> SandboxdError:
        """For failures that are not of the catalogue: the guest's agent answers with a code and a sentence."""
        kinds: dict[int, ErrorKind] = {StatusCode.NOT_FOUND: CONTAINER_NOT_FOUND}
        if error.code in kinds:
            return SandboxdError(kinds[error.code], id=self.id)
        if error.code == StatusCode.INVALID_ARGUMENT:
            return SandboxdError(INVALID_ARGUMENT, what="the request", value="", reason=error.message, command="run")
        return SandboxdError(INTERNAL, reason=f"sandbox {self.id}: {error.message} (status {error.code}).")
