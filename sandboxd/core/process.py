"""One process in the guest: a container's first, or an exec. Its stdio, its signals, and how it ended."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from sandboxd.api import agent_pb2
from sandboxd.base.clock import unix_ns
from sandboxd.base.errors import AGENT_LOST, COMMAND_NOT_EXECUTABLE, COMMAND_NOT_FOUND, SandboxdError
from sandboxd.core.lifecycle import Lifecycle, State
from sandboxd.core.machine import Machine, MachineEnd
from sandboxd.core.records import ExitRecord
from sandboxd.core.streams import InputPump, OutputPump, Sink, Source

_log = logging.getLogger(__name__)
READ_MAX_BYTES = 256 << 10
"""agent.proto, ReadOutputRequest."""
ERRNO_NAMES = {2: "no such file or directory", 8: "exec format error", 13: "permission denied", 20: "not a directory"}
_ENOENT = 2
EXIT_SIGNAL_BASE = 128
KILLED_STATUS = EXIT_SIGNAL_BASE + signal.SIGKILL
KILLED_DRAIN_S = 5.0
"""A process that was killed on purpose is not kept from ending for longer by a reader that does not read."""
DEAD_DRAIN_S = 1.0
"""The same when its machine died."""


@dataclass(slots=True)
class ProcessIo:
    """The open ends of a process's stdio, as its creator gave them."""

    has_stdin: bool = False
    """Otherwise it reads /dev/null."""
    terminal: bool = False
    stdin: list[Source] = field(default_factory=list)
    stdout: list[Sink] = field(default_factory=list)
    stderr: list[Sink] = field(default_factory=list)

    def close(self) -> None:
        for source in self.stdin:
            source.close()
        for sink in (*self.stdout, *self.stderr):
            sink.close()


class Process:
    """A process from its making to its end.

    `guest_exec_id` is its name for the agent, which remembers names for longer than callers do. `launch` asks the agent
    to start it and answers execve's errno (0: it runs). `on_ended` is awaited when it has ended and its output is read,
    before its sinks have taken all of it; `on_finished` is called when they have, before any waiter is told.
    """

    def __init__(
        self,
        machine: Machine,
        container_id: str,
        exec_id: str,
        guest_exec_id: str,
        io: ProcessIo,
        command: str,
        launch: Callable[[], Awaitable[int]],
        on_ended: Callable[[Process, ExitRecord], Awaitable[None]],
        on_finished: Callable[[Process, ExitRecord], None],
    ) -> None:
        self.container_id = container_id
        self.exec_id = exec_id
        self._guest_exec_id = guest_exec_id
        self.terminal = io.terminal
        self.command = command
        self.lifecycle = Lifecycle(exec_id or container_id)
        self.exit: ExitRecord | None = None
        self._machine = machine
        self._io = io
        self._launch = launch
        self._on_ended = on_ended
        self._on_finished = on_finished
        self.read_out = asyncio.Event()
        """Set when it has ended in the guest and all its output was read from there."""
        self._give_up: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[ExitRecord] = asyncio.get_running_loop().create_future()
        self._input = InputPump(self._write_input)
        self._outputs = self._make_outputs()
        for source in io.stdin:
            self._input.add(source)

    def _make_outputs(self) -> dict[int, OutputPump]:
        outputs: dict[int, OutputPump] = {
            agent_pb2.STREAM_STDOUT: OutputPump(self._reader(agent_pb2.STREAM_STDOUT), self._io.stdout)
        }
        if not self._io.terminal:
            outputs[agent_pb2.STREAM_STDERR] = OutputPump(self._reader(agent_pb2.STREAM_STDERR), self._io.stderr)
        return outputs

    @property
    def id(self) -> str:
        return self.exec_id or self.container_id

    @property
    def is_init(self) -> bool:
        return not self.exec_id

    @property
    def is_following(self) -> bool:
        """Whether it was started and its end is still awaited."""
        return self._task is not None and not self._task.done()

    # --- life ---

    def made(self) -> None:
        """The agent (or for an exec, the caller) has it; it may be started."""
        self.lifecycle.move(State.CREATED, "create")

    async def start(self) -> None:
        """Starts it. Raises command_not_found or command_not_executable; then it has ended with 127 or 126."""
        self.lifecycle.require(State.CREATED, operation="start")
        self.lifecycle.move(State.RUNNING, "start")
        # All of these are written at once, in this order: the agent starts them as they come.
        launched: asyncio.Future[int] = asyncio.ensure_future(self._launch())
        pumps: list[asyncio.Future[None]] = [asyncio.ensure_future(pump.run()) for pump in self._outputs.values()]
        waited: asyncio.Future[agent_pb2.WaitResponse] = asyncio.ensure_future(
            self._machine.agent.wait(self._wait_request())
        )
        self._task = asyncio.get_running_loop().create_task(self._follow(launched, pumps, waited))
        number = await self._machine.guard(asyncio.shield(launched), "start its process")
        if number:
            kind = COMMAND_NOT_FOUND if number == _ENOENT else COMMAND_NOT_EXECUTABLE
            reason = ERRNO_NAMES.get(number, f"error {number}")
            raise SandboxdError(kind, command=self.command, id=self.container_id, errno=reason)
        self._input.start()

    async def _follow(
        self,
        launched: asyncio.Future[int],
        pumps: list[asyncio.Future[None]],
        waited: asyncio.Future[agent_pb2.WaitResponse],
    ) -> None:
        """Whatever happens here, the process ends and its waiters are told: nobody else would tell them."""
        try:
            record = await self._await_end(launched, waited)
            await self._see_out(record, pumps)
        except Exception as error:
            _log.exception("following process %s failed", self.id)
            record = ExitRecord(self.id, KILLED_STATUS, unix_ns(), "agent_lost", f"The shim failed: {error!r}.")
        self._finish(record)

    async def _see_out(self, record: ExitRecord, pumps: list[asyncio.Future[None]]) -> None:
        """Its output from the guest to its sinks; then nothing of it is left to do."""
        await self._input.stop()
        for pump in self._outputs.values():
            pump.last_call()
        for pump in self._outputs.values():
            await pump.exhausted.wait()
        if not self._machine.is_alive:
            self._give_up_on_readers(DEAD_DRAIN_S)
        self.read_out.set()
        await self._on_ended(self, record)
        await asyncio.gather(*pumps)

    async def _await_end(
        self, launched: asyncio.Future[int], waited: asyncio.Future[agent_pb2.WaitResponse]
    ) -> ExitRecord:
        try:
            await launched
            answer = await waited
        except SandboxdError as error:
            waited.cancel()
            await asyncio.gather(waited, return_exceptions=True)
            if error.kind is AGENT_LOST:
                return self.record_of_machine(await self._machine.ended())
            # The guest refused to start it.
            return ExitRecord(self.id, 126, unix_ns(), "exited", f"{error.message}: {error.cause}")
        return _record(self.id, answer)

    def _give_up_on_readers(self, after_s: float) -> None:
        """Readers that do not read keep a process from ending as long as they are there; not one that was killed."""
        if self._give_up is None:
            loop = asyncio.get_running_loop()
            self._give_up = loop.call_later(after_s, self._drop_blocked)

    def _drop_blocked(self) -> None:
        for pump in self._outputs.values():
            pump.drop_blocked()

    def record_of_machine(self, end: MachineEnd) -> ExitRecord:
        """Its end when its machine went away under it."""
        reason = "signaled" if end.reason == "released" else end.reason
        return ExitRecord(self.id, KILLED_STATUS, unix_ns(), reason, end.detail)

    async def end_unstarted(self, record: ExitRecord) -> None:
        """It never ran and never will."""
        await self._input.stop()
        self._finish(record)
        for pump in self._outputs.values():
            pump.close()

    def _finish(self, record: ExitRecord) -> None:
        if self._ended.done():
            return  # a kill and a start of one that was never started, at once
        if self._give_up:
            self._give_up.cancel()
        self.exit = record
        self.lifecycle.move(State.STOPPED, "end")
        self._on_finished(self, record)
        self._ended.set_result(record)

    async def wait(self) -> ExitRecord:
        """When it has ended and its output is in its sinks. Any number of callers."""
        return await asyncio.shield(self._ended)

    async def signal(self, number: int, *, all_processes: bool) -> None:
        """Sends a signal; `all_processes`: to everything in the container."""
        request = agent_pb2.SignalRequest(
            container_id=self.container_id, exec_id=self._guest_exec_id, signal=number, all=all_processes
        )
        if number == signal.SIGKILL:
            self._give_up_on_readers(KILLED_DRAIN_S)
        await self._machine.guard(self._machine.agent.signal(request), "send a signal")

    # --- stdio ---

    def require_attachable(self) -> None:
        """Raises sandbox_wrong_state if it has ended."""
        self.lifecycle.require(State.CREATED, State.RUNNING, State.PAUSED, operation="attach to")

    def attach(self, source: Source | None, stdout: Sink | None, stderr: Sink | None) -> None:
        """Adds live ends. Before `start`, nothing is missed."""
        if source:
            self._input.add(source)
        for stream, sink in ((agent_pb2.STREAM_STDOUT, stdout), (agent_pb2.STREAM_STDERR, stderr)):
            if sink and stream in self._outputs:
                self._outputs[stream].add(sink)
            elif sink:
                sink.close()

    def close_stdin(self) -> None:
        """Ends its input after all that its sources hold now."""
        self._input.close_after_data()

    async def resize(self, width: int, height: int) -> None:
        request = agent_pb2.ResizeTerminalRequest(
            container_id=self.container_id, exec_id=self._guest_exec_id, width=width, height=height
        )
        await self._machine.guard(self._machine.agent.resize_terminal(request), "resize its terminal")

    def _reader(self, stream: agent_pb2.Stream) -> Callable[[], Awaitable[tuple[bytes, bool]]]:
        request = agent_pb2.ReadOutputRequest(
            container_id=self.container_id, exec_id=self._guest_exec_id, stream=stream, max_bytes=READ_MAX_BYTES
        )

        async def read() -> tuple[bytes, bool]:
            answer = await self._machine.agent.read_output(request)
            return answer.data, answer.eof

        return read

    async def _write_input(self, data: bytes, close: bool) -> bool:
        request = agent_pb2.WriteInputRequest(
            container_id=self.container_id, exec_id=self._guest_exec_id, data=data, close=close
        )
        return not (await self._machine.agent.write_input(request)).closed

    def _wait_request(self) -> agent_pb2.WaitRequest:
        return agent_pb2.WaitRequest(container_id=self.container_id, exec_id=self._guest_exec_id)


def _record(process_id: str, answer: agent_pb2.WaitResponse) -> ExitRecord:
    # The guest is not believed blindly: a status is 0..255, and "now" is the host's.
    status = answer.exit_status & 0xFF
    if answer.oom_killed and answer.signal == signal.SIGKILL:
        return ExitRecord(process_id, status, unix_ns(), "oom_killed", "The container reached its memory limit.")
    if answer.signal:
        name = _signal_name(answer.signal)
        return ExitRecord(process_id, status, unix_ns(), "signaled", f"It was ended by {name}.")
    return ExitRecord(process_id, status, unix_ns(), "exited", "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
