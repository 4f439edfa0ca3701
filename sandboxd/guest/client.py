"""The guest's agent, typed: one method for each call of proto/sandboxd/api/agent.proto.

The door where a guest's failures become ours: nothing but SandboxdError leaves it. Whatever a guest answers is quoted,
never believed: it runs what its user brought.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

from sandboxd.aio.ttrpc import CallTimeout, ClientConnection, ConnectionLost, RemoteError, StatusCode
from sandboxd.api import agent_pb2 as pb
from sandboxd.base.errors import (
    AGENT_LOST,
    GUEST_FAILED,
    GUEST_PATH_NOT_FOUND,
    GUEST_PATH_UNUSABLE,
    GUEST_TIMEOUT,
    GUEST_WRONG_STATE,
    ErrorKind,
    SandboxdError,
)

SERVICE = "sandboxd.agent.v1.Agent"
OUTPUT_MAX_BYTES = 256 << 10
"""Most that one ReadOutput, or one file read, may ask for."""
FILE_ENTRIES_MAX = 1024
"""Most that one page of a directory holds."""
CALL_TIMEOUT_S = 90.0
"""Of calls that are not long polls; above every bound that the agent itself sets (60 s), so its reason comes first."""

_REASON_MAX_CHARS = 1024
_KINDS: dict[int, ErrorKind] = {
    StatusCode.FAILED_PRECONDITION: GUEST_WRONG_STATE,
    StatusCode.DEADLINE_EXCEEDED: GUEST_TIMEOUT,
}
_FILE_STEPS = {
    "stat": "look at",
    "list": "list",
    "read": "read",
    "write": "write",
    "make": "make",
    "set_attributes": "change",
    "remove": "remove",
}
M = TypeVar("M", bound=Message)


class AgentClient:
    """Calls to one guest's agent. Any number at once; the agent starts them in the order in which they were made.

    Every method raises `agent_lost` when the connection ends first, and for what the agent answers `guest_failed`,
    `guest_wrong_state` or `guest_timeout` with the agent's own sentence.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def closed(self) -> str:
        """Waits until the connection has ended; answers why."""
        return await self._connection.closed()

    async def close(self) -> None:
        """Ends the connection; what is in flight raises `agent_lost`. Idempotent."""
        await self._connection.close()

    # --- the guest ---

    async def hello(self, request: pb.HelloRequest) -> pb.HelloResponse:
        """First call of a session: what booted. Unbounded: whoever boots a guest bounds the whole boot."""
        return await self._call("Hello", "say who it is", request, pb.HelloResponse, None)

    async def activate(self, request: pb.ActivateRequest) -> pb.ActivateResponse:
        """Entropy, clock, names, network. Unbounded, as `hello`."""
        return await self._call("Activate", "take its identity and network", request, pb.ActivateResponse, None)

    async def shutdown(self, request: pb.ShutdownRequest) -> pb.ShutdownResponse:
        """Sync and power off. The answer may be lost with the machine: `agent_lost` is success then."""
        return await self._call("Shutdown", "shut down", request, pb.ShutdownResponse)

    # --- containers ---

    async def create_container(self, request: pb.CreateContainerRequest) -> pb.CreateContainerResponse:
        """Executes a plan up to the point where the first process waits. On failure nothing of it is left."""
        return await self._call("CreateContainer", "make the container", request, pb.CreateContainerResponse, None)

    async def start_container(self, request: pb.StartContainerRequest) -> pb.StartContainerResponse:
        """Executes the first process. `exec_errno` not 0: it could not be executed, and Wait answers 127 or 126."""
        return await self._call("StartContainer", "start the container", request, pb.StartContainerResponse)

    async def delete_container(self, request: pb.DeleteContainerRequest) -> pb.DeleteContainerResponse:
        """Forgets a stopped or created container and undoes its mounts and cgroup."""
        return await self._call("DeleteContainer", "delete the container", request, pb.DeleteContainerResponse)

    async def exec(self, request: pb.ExecRequest) -> pb.ExecResponse:
        """Starts one more process in a running container. `exec_errno` as in `start_container`."""
        return await self._call("Exec", "execute a command", request, pb.ExecResponse)

    async def freeze(self, request: pb.FreezeRequest) -> pb.FreezeResponse:
        """Freezes or thaws a container; when it took effect."""
        return await self._call("Freeze", "freeze the container", request, pb.FreezeResponse)

    async def update(self, request: pb.UpdateRequest) -> pb.UpdateResponse:
        """Executes steps against a living container: new limits."""
        return await self._call("Update", "change the container's limits", request, pb.UpdateResponse)

    async def stats(self, request: pb.StatsRequest) -> pb.StatsResponse:
        """The kernel's own files about a container, raw."""
        return await self._call("Stats", "measure the container", request, pb.StatsResponse)

    async def list_processes(self, request: pb.ListProcessesRequest) -> pb.ListProcessesResponse:
        """Pids of a container, in the guest's numbering."""
        return await self._call("ListProcesses", "list the container's processes", request, pb.ListProcessesResponse)

    async def watch_oom(self, request: pb.WatchOomRequest) -> pb.WatchOomResponse:
        """Long poll: when the container counted more OOM kills than `seen`, or has ended."""
        return await self._call("WatchOom", "watch for lack of memory", request, pb.WatchOomResponse, None)

    # --- processes ---

    async def wait(self, request: pb.WaitRequest) -> pb.WaitResponse:
        """Long poll: when the process has ended and its output has been read."""
        return await self._call("Wait", "wait for the process", request, pb.WaitResponse, None)

    async def signal(self, request: pb.SignalRequest) -> pb.SignalResponse:
        """Sends a signal; `guest_wrong_state` when the process has ended."""
        return await self._call("Signal", "send a signal", request, pb.SignalResponse)

    async def read_output(self, request: pb.ReadOutputRequest) -> pb.ReadOutputResponse:
        """Long poll: 1 to max_bytes bytes (at most OUTPUT_MAX_BYTES), or eof. One at a time for each stream."""
        answer = await self._call("ReadOutput", "read the process's output", request, pb.ReadOutputResponse, None)
        if len(answer.data) > request.max_bytes:
            reason = f"It answered {len(answer.data)} bytes where at most {request.max_bytes} were asked for."
            raise SandboxdError(GUEST_FAILED, step="read the process's output", reason=reason)
        return answer

    async def write_input(self, request: pb.WriteInputRequest) -> pb.WriteInputResponse:
        """When the process's input took all of data; that may be never. `closed`: nobody reads any more."""
        return await self._call("WriteInput", "write the process's input", request, pb.WriteInputResponse, None)

    async def resize_terminal(self, request: pb.ResizeTerminalRequest) -> pb.ResizeTerminalResponse:
        """Sets the size of a process's terminal, in characters."""
        return await self._call("ResizeTerminal", "resize the terminal", request, pb.ResizeTerminalResponse)

    # --- files ---

    async def file(self, request: pb.FileRequest) -> pb.FileResponse:
        """One operation on a file of a running container.

        Raises `guest_path_not_found`, or `guest_path_unusable` with the kernel's reason.
        """
        operation = request.WhichOneof("operation") or ""
        try:
            return await self._raw("File", request, pb.FileResponse, CALL_TIMEOUT_S)
        except RemoteError as error:
            raise _file_error(error, operation, request.path) from error

    # --- the door ---

    async def _call(
        self,
        method: str,
        step: str,
        request: Message,
        response_type: type[M],
        timeout_s: float | None = CALL_TIMEOUT_S,
    ) -> M:
        try:
            return await self._raw(method, request, response_type, timeout_s)
        except RemoteError as error:
            raise _error(error, step) from error

    async def _raw(self, method: str, request: Message, response_type: type[M], timeout_s: float | None) -> M:
        try:
            return await self._connection.call(SERVICE, method, request, response_type, timeout_s)
        except ConnectionLost as error:
            raise SandboxdError(AGENT_LOST, reason=f"{error}.") from error


def _error(error: RemoteError, step: str) -> SandboxdError:
    return SandboxdError(_kind(error), step=step, reason=_reason(error))


def _kind(error: RemoteError) -> ErrorKind:
    return GUEST_TIMEOUT if isinstance(error, CallTimeout) else _KINDS.get(error.code, GUEST_FAILED)


def _file_error(error: RemoteError, operation: str, path: bytes) -> SandboxdError:
    reason, name = _reason(error), path.decode(errors="backslashreplace")
    step = _FILE_STEPS.get(operation, "use")
    kind = _kind(error)
    if kind is not GUEST_FAILED:
        return SandboxdError(kind, step=f"{step} {name}", reason=reason)
    if error.code == StatusCode.INTERNAL and ": ENOENT " in reason:
        return SandboxdError(GUEST_PATH_NOT_FOUND, path=name, reason=reason)
    return SandboxdError(GUEST_PATH_UNUSABLE, step=step, path=name, reason=reason)


def _reason(error: RemoteError) -> str:
    """The agent's sentence as one line of bounded length: a guest may answer anything."""
    text = "".join(char if char.isprintable() else "?" for char in error.message[:_REASON_MAX_CHARS])
    return text or f"status {error.code}"
