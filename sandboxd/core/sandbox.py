"""A sandbox as its shim runs it: one machine, the containers in it, and how it all ends."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from sandboxd.api import agent_pb2, shim_pb2
from sandboxd.base.clock import monotonic_ns, unix_ns
from sandboxd.base.errors import (
    CONTAINER_EXISTS,
    CONTAINER_NOT_FOUND,
    GUEST_WRONG_STATE,
    MACHINE_DIED,
    MACHINE_FIXED,
    PROCESS_ENDED,
    SandboxdError,
)
from sandboxd.base.ids import parse_id
from sandboxd.core.assemble import activation, connect_agent, make_vmm
from sandboxd.core.container import Container, ContainerRequest, StdioNames, fit_stdio, load_bundle
from sandboxd.core.lifecycle import State
from sandboxd.core.machine import Machine
from sandboxd.core.oci.compile import compile_exec, compile_resources
from sandboxd.core.oci.spec import parse_process, parse_resources
from sandboxd.core.process import EXIT_SIGNAL_BASE, Process, ProcessIo
from sandboxd.core.records import ExitRecord, read_shim_record, write_exit_record, write_shim_record
from sandboxd.core.spec import SandboxSpec
from sandboxd.linux.cgroup import Cgroup
from sandboxd.linux.process import identify
from sandboxd.telemetry.stages import StageRecorder

_log = logging.getLogger(__name__)
CONTAINERS_MAX = 64
EXEC_OUTPUT_GRACE_S = 1.0
"""How long the machine stays after its last container for the output of execs that ended with it."""
ALIVE = (State.CREATING, State.CREATED, State.RUNNING, State.PAUSED)


class Sandbox:
    """Calls may come in any order and at any time; those that the state does not allow raise sandbox_wrong_state.

    Ids are checked here; paths and stdio were checked by the caller.
    """

    def __init__(self, spec: SandboxSpec, stages: StageRecorder) -> None:
        self.spec = spec
        self.stages = stages
        self.cgroup = Cgroup(spec.cgroup)
        self._machine: Machine | None = None
        self._containers: dict[str, Container] = {}
        self._creating: set[str] = set()
        self._exec_numbers = itertools.count(1)
        self._create_turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what is there ---

    @property
    def is_empty(self) -> bool:
        return not self._containers and not self._creating

    @property
    def vmm_pid(self) -> int:
        return self._machine.vmm.pid if self._machine else 0

    @property
    def machine(self) -> Machine:
        if self._machine is None:
            raise SandboxdError(CONTAINER_NOT_FOUND, id=self.spec.id)
        return self._machine

    def container(self, container_id: str) -> Container:
        """Raises container_not_found."""
        if container_id not in self._containers:
            raise SandboxdError(CONTAINER_NOT_FOUND, id=container_id[:80])
        return self._containers[container_id]

    def process(self, container_id: str, exec_id: str) -> Process:
        """The exec, or with "" the container's first process. Raises container_not_found."""
        return self.container(container_id).process(exec_id)

    # --- making containers ---

    async def create(self, request: ContainerRequest) -> Process:
        """Makes a container; for the first one, boots the machine. On failure nothing of it is left, its io closed."""
        container_id = parse_id(request.id)
        try:
            if container_id in self._containers or container_id in self._creating:
                raise SandboxdError(CONTAINER_EXISTS, id=container_id)
            self._creating.add(container_id)
            async with self._create_turn:
                container = await self._create(request)
        except BaseException:
            request.io.close()
            raise
        finally:
            self._creating.discard(container_id)
        return container.init

    async def _create(self, request: ContainerRequest) -> Container:
        if len(self._containers) >= CONTAINERS_MAX:
            raise SandboxdError(CONTAINER_EXISTS, id=f"{request.id} (the limit of {CONTAINERS_MAX} is reached)")
        with self.stages.stage("compile"):
            spec, compiled = load_bundle(request)
        first = self._machine is None
        machine = self._machine or Machine(
            self.spec.id, make_vmm(self.spec, compiled.drives), connect_agent, self.stages, self._host_evidence
        )
        make = agent_pb2.CreateContainerRequest(container_id=request.id, plan=compiled.plan)
        if first:
            await machine.boot(
                activation(self.spec),
                lambda agent: agent.create_container(make),
                self.spec.boot_timeout_s,
                lambda: self._record_vmm(machine),
            )
            self._machine = machine
            self._spawn_task(self._follow_machine(machine))
        else:
            if compiled.drives:
                raise SandboxdError(MACHINE_FIXED, id=self.spec.id, count=len(compiled.drives))
            await machine.guard(machine.agent.create_container(make), "make a container")
        launch = agent_pb2.StartContainerRequest(container_id=request.id)

        async def start() -> int:
            answer = await machine.agent.start_container(launch)
            return answer.exec_errno

        command = compiled.plan.process.args[0] if compiled.plan.process.args else ""
        init = Process(machine, request.id, "", "", request.io, command, start, self._on_ended, self._on_finished)
        init.made()
        container = self._containers[request.id] = Container(request, spec, compiled, init)
        return container

    def _record_vmm(self, machine: Machine) -> None:
        """What reclaim finds the VMM by, if this process is killed."""
        record, identity = read_shim_record(self.spec.run_dir), identify(machine.vmm.pid)
        if record and identity:
            vmm = replace(record, vmm_pid=identity.pid, vmm_start_time_ticks=identity.start_time_ticks)
            write_shim_record(self.spec.run_dir, vmm)

    def exec(self, container_id: str, exec_id: str, process: bytes, io: ProcessIo, names: StdioNames) -> Process:
        """Adds a process, not started, from the JSON of the OCI spec's `process`. On failure its io is closed."""
        try:
            container = self.container(container_id)
            container.init.lifecycle.require(State.RUNNING, operation="add a process to")
            container.check_new_exec(parse_id(exec_id))
            compiled = compile_exec(parse_process(process), container.spec)
        except BaseException:
            io.close()
            raise
        fit_stdio(compiled, io)
        guest_exec_id = f"exec-{next(self._exec_numbers)}"
        request = agent_pb2.ExecRequest(container_id=container_id, exec_id=guest_exec_id, process=compiled)

        async def start() -> int:
            answer = await self.machine.agent.exec(request)
            return answer.exec_errno

        command = compiled.args[0] if compiled.args else ""
        new = Process(
            self.machine,
            container_id,
            exec_id,
            guest_exec_id,
            io,
            command,
            start,
            self._on_ended,
            self._on_finished,
        )
        new.made()
        container.execs[exec_id] = new
        container.exec_names[exec_id] = names
        return new

    # --- calls on living containers ---

    async def start(self, container_id: str, exec_id: str) -> Process:
        """Raises command_not_found, command_not_executable; then the process has ended with 127 or 126."""
        process = self.process(container_id, exec_id)
        begin_ns = monotonic_ns()
        try:
            await process.start()
        finally:
            if not exec_id:
                self.stages.record("start", begin_ns, monotonic_ns())
        return process

    async def kill(self, container_id: str, exec_id: str, number: int, *, all_processes: bool) -> None:
        """Sends a signal; raises process_ended. A process that was not started yet ends by it, whatever the signal."""
        process = self.process(container_id, exec_id)
        if process.lifecycle.state is State.CREATED:
            await self._discard(process, number)
            return
        try:
            if process.lifecycle.state is not State.STOPPED:
                await process.signal(number, all_processes=all_processes)
                return
        except SandboxdError as error:
            # It ended in the guest, which is still being told here; or its machine did, which is the same to a killer.
            if error.kind not in (GUEST_WRONG_STATE, MACHINE_DIED):
                raise
        raise SandboxdError(PROCESS_ENDED, id=process.id)

    async def _discard(self, process: Process, number: int) -> None:
        """Ends a process that never ran."""
        if process.is_init:
            await self._forget_in_guest(process.container_id)
        detail = "It was ended before it started."
        record = ExitRecord(process.id, EXIT_SIGNAL_BASE + number, unix_ns(), "signaled", detail)
        await process.end_unstarted(record)

    async def resize(self, container_id: str, exec_id: str, width: int, height: int) -> None:
        """The size of a process's terminal in characters."""
        process = self.process(container_id, exec_id)
        process.lifecycle.require(State.CREATED, State.RUNNING, State.PAUSED, operation="resize the terminal of")
        await process.resize(width, height)

    async def pause(self, container_id: str) -> None:
        """Freezes all processes of a container."""
        init = self.container(container_id).init
        init.lifecycle.require(State.RUNNING, operation="pause")
        await self._freeze(container_id, frozen=True)
        init.lifecycle.move(State.PAUSED, "pause")

    async def resume(self, container_id: str) -> None:
        init = self.container(container_id).init
        init.lifecycle.require(State.PAUSED, operation="resume")
        await self._freeze(container_id, frozen=False)
        init.lifecycle.move(State.RUNNING, "resume")

    async def _freeze(self, container_id: str, *, frozen: bool) -> None:
        request = agent_pb2.FreezeRequest(container_id=container_id, frozen=frozen)
        await self.machine.guard(self.machine.agent.freeze(request), "freeze" if frozen else "thaw")

    async def update(self, container_id: str, resources: bytes) -> None:
        """New limits, from the JSON of the OCI spec's `linux.resources`."""
        container = self.container(container_id)
        container.init.lifecycle.require(State.CREATED, State.RUNNING, State.PAUSED, operation="update")
        steps = compile_resources(parse_resources(resources), container.plan.cgroup)
        request = agent_pb2.UpdateRequest(container_id=container_id, steps=steps)
        await self.machine.guard(self.machine.agent.update(request), "change its limits")

    async def pids(self, container_id: str) -> list[int]:
        """The container's processes, by their pids in the guest."""
        self.container(container_id).init.lifecycle.require(*ALIVE, operation="list the processes of")
        request = agent_pb2.ListProcessesRequest(container_id=container_id)
        answer = await self.machine.guard(self.machine.agent.list_processes(request), "list processes")
        return list(answer.pids)

    async def file(self, request: agent_pb2.FileRequest) -> agent_pb2.FileResponse:
        """One file operation in a container."""
        self.container(request.container_id).init.lifecycle.require(*ALIVE, operation="reach the files of")
        return await self.machine.guard(self.machine.agent.file(request), "reach its files")

    async def statistics(self, container_id: str) -> shim_pb2.StatisticsResponse:
        """The guest's numbers of a container, and the host's of the whole sandbox."""
        self.container(container_id).init.lifecycle.require(*ALIVE, operation="measure")
        request = agent_pb2.StatsRequest(container_id=container_id)
        guest = await self.machine.guard(self.machine.agent.stats(request), "measure")
        usage = self.cgroup.usage()
        return shim_pb2.StatisticsResponse(guest=guest, host_memory_bytes=usage.memory_bytes, host_cpu_ns=usage.cpu_ns)

    async def delete(self, container_id: str, exec_id: str) -> ExitRecord:
        """Forgets a process that has ended, or was never started. Raises sandbox_wrong_state while it runs."""
        container = self.container(container_id)
        process = container.process(exec_id)
        if process.lifecycle.state is State.CREATED:
            await self._discard(process, 9)
        process.lifecycle.require(State.STOPPED, operation="delete")
        if exec_id:
            del container.execs[exec_id], container.exec_names[exec_id]
        else:
            await self._forget_in_guest(container_id)
            self._containers.pop(container_id, None)
        return await process.wait()

    async def _forget_in_guest(self, container_id: str) -> None:
        if self._machine and self._machine.is_alive:
            request = agent_pb2.DeleteContainerRequest(container_id=container_id)
            await self._machine.guard(self._machine.agent.delete_container(request), "delete a container")

    # --- ends ---

    async def _on_ended(self, process: Process, record: ExitRecord) -> None:
        """Nothing of it is in the guest any more. When that was the last container, the machine goes at once."""
        if not process.is_init:
            return
        begin_ns = monotonic_ns()
        others = [other for id_, other in self._containers.items() if id_ != process.container_id]
        if any(other.init.lifecycle.state in ALIVE for other in others) or self._creating:
            return
        execs = self.container(process.container_id).execs.values()
        readers = [asyncio.ensure_future(each.read_out.wait()) for each in execs if each.is_following]
        if readers:
            await asyncio.wait(readers, timeout=EXEC_OUTPUT_GRACE_S)
        for reader in readers:
            reader.cancel()
        await self.machine.release()
        self.stages.record("exit", begin_ns, monotonic_ns())

    def _on_finished(self, process: Process, record: ExitRecord) -> None:
        """Its output is where it belongs; its waiters are told next."""
        if not process.is_init:
            return
        others = [other for id_, other in self._containers.items() if id_ != process.container_id]
        if any(other.init.lifecycle.state in ALIVE for other in others):
            return
        try:
            write_exit_record(self.spec.run_dir, record)
        except OSError:  # whoever waits is told all the same; only a daemon that is not there now will not know
            _log.exception("how the sandbox ended could not be written down")

    async def _follow_machine(self, machine: Machine) -> None:
        """What waits for its start can wait no longer when the machine has ended."""
        end = await machine.ended()
        if end.reason != "released":
            _log.warning("the machine ended: %s: %s", end.reason, end.detail)
        for process in self._all_processes():
            if process.lifecycle.state is State.CREATED:
                await process.end_unstarted(process.record_of_machine(end))

    def _all_processes(self) -> list[Process]:
        containers = list(self._containers.values())
        return [process for each in containers for process in (each.init, *each.execs.values())]

    def _host_evidence(self) -> str:
        if not self.cgroup.usage().oom_kills:
            return ""
        return "The host's out-of-memory killer ended it: the sandbox reached the limit of its control group."

    async def stop(self) -> None:
        """Ends everything now: the machine is killed, every waiter is told. Idempotent."""
        if self._machine:
            await self._machine.release()
        for process in self._all_processes():
            if process.is_following:
                await process.wait()

    def describe(self) -> shim_pb2.DescribeResponse:
        """What is known of the machine and its start."""
        hello = self._machine.hello if self._machine else agent_pb2.HelloResponse()
        return shim_pb2.DescribeResponse(
            shim_pid=os.getpid(),
            vmm_pid=self.vmm_pid,
            vmm_driver=self.spec.driver,
            acceleration=self.spec.acceleration,
            kernel_release=hello.kernel_release,
            agent_version=hello.agent_version,
            guest_memory_bytes=hello.memory_bytes,
            stages=self.stages.stages(),
        )

    def _spawn_task(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
