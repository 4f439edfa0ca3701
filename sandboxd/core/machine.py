"""One running machine: its VMM process and the agent in it, from boot to whatever end it takes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sandboxd.api import agent_pb2
from sandboxd.base.clock import monotonic_ns
from sandboxd.base.errors import AGENT_LOST, BOOT_TIMEOUT, MACHINE_DIED, SandboxdError
from sandboxd.guest.client import AgentClient
from sandboxd.telemetry.stages import StageRecorder
from sandboxd.vmm.driver import Vmm, VmmExit

AGENT_GRACE_S = 1.0
"""How long a VMM may outlive its agent's connection before it is killed: a machine without its agent is of no use."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MachineEnd:
    """How a machine ended."""

    reason: str
    """vmm_died, agent_lost, or released (we ended it because nothing runs in it any more)."""
    detail: str


class Machine:
    """A microVM and the connection to its agent. Boots once."""

    def __init__(
        self,
        sandbox_id: str,
        vmm: Vmm,
        connect_agent: Callable[[Vmm], Awaitable[AgentClient]],
        stages: StageRecorder,
        host_evidence: Callable[[], str],
    ) -> None:
        """`host_evidence` answers what the host knows of the VMM's death beside the driver: a sentence, or ""."""
        self._id = sandbox_id
        self.vmm = vmm
        self._connect_agent = connect_agent
        self._stages = stages
        self._host_evidence = host_evidence
        self._stage = "starting the VMM"
        self._agent: AgentClient | None = None
        self._released = False
        self._watcher: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[MachineEnd] = asyncio.get_running_loop().create_future()
        self.hello = agent_pb2.HelloResponse()

    @property
    def agent(self) -> AgentClient:
        """There after `boot` connected it."""
        if self._agent is None:
            raise SandboxdError(MACHINE_DIED, id=self._id, operation="reach its agent", detail="It was never up.")
        return self._agent

    @property
    def is_alive(self) -> bool:
        return self._agent is not None and not self._ended.done()

    async def ended(self) -> MachineEnd:
        """When the machine has ended, by whatever. Any number of callers."""
        return await asyncio.shield(self._ended)

    async def boot(
        self,
        activate: agent_pb2.ActivateRequest,
        first: Callable[[AgentClient], Awaitable[T]],
        timeout_s: float,
        spawned: Callable[[], None],
    ) -> T:
        """Boots, makes the guest itself (`activate`) and calls `first`, all sent before the guest is up.

        `spawned` is called when the VMM's process is there. Answers what `first` answers. Raises boot_timeout with what
        was seen, machine_died, or the agent's refusal; then nothing runs any more.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._boot(activate, first, spawned)
        except TimeoutError:
            console = self.vmm.console_tail(1024).strip() or "(nothing)"
            raise SandboxdError(
                BOOT_TIMEOUT, id=self._id, limit_s=f"{timeout_s:g}", stage=self._stage, console=console
            ) from None
        finally:
            if self._stage:
                await self.release()

    async def _boot(
        self,
        activate: agent_pb2.ActivateRequest,
        first: Callable[[AgentClient], Awaitable[T]],
        spawned: Callable[[], None],
    ) -> T:
        with self._stages.stage("vmm spawn"):
            await self.vmm.boot()
        spawned()
        booted_ns = monotonic_ns()
        self._stage = "waiting for the kernel and the agent"
        self._agent = agent = await self._connect_agent(self.vmm)
        self._watcher = asyncio.get_running_loop().create_task(self._watch(agent))
        # Written in this order before the guest reads any of it: no round trip lies between them.
        tasks = (
            asyncio.ensure_future(agent.hello(agent_pb2.HelloRequest())),
            asyncio.ensure_future(agent.activate(activate)),
            asyncio.ensure_future(first(agent)),
        )
        try:
            return await self.guard(self._answers(booted_ns, *tasks), "boot")
        finally:
            await _cancel(*tasks)

    async def _answers(
        self,
        booted_ns: int,
        hello: asyncio.Future[agent_pb2.HelloResponse],
        activate: asyncio.Future[agent_pb2.ActivateResponse],
        first: asyncio.Future[T],
    ) -> T:
        self.hello = await hello
        hello_ns = monotonic_ns()
        self._record_guest(booted_ns, hello_ns)
        self._stage = "giving the guest its clock, entropy and network"
        await activate
        activated_ns = monotonic_ns()
        self._stages.record("activate", hello_ns, activated_ns)
        self._stage = "making the container"
        answer = await first
        self._stages.record("create", activated_ns, monotonic_ns())
        self._stage = ""
        return answer

    def _record_guest(self, booted_ns: int, hello_ns: int) -> None:
        """The guest's own times, moved to the host's clock: its boot time was `now` when it answered."""
        zero_ns = hello_ns - self.hello.now_boottime_ns
        agent_ns = max(booted_ns, min(zero_ns + self.hello.started_boottime_ns, hello_ns))
        modules_ns = max(agent_ns, min(zero_ns + self.hello.modules_boottime_ns, hello_ns))
        self._stages.record("kernel", booted_ns, agent_ns, "guest")
        self._stages.record("modules", agent_ns, modules_ns, "guest")
        self._stages.record("agent", modules_ns, hello_ns, "guest")

    async def guard(self, call: Awaitable[T], operation: str) -> T:
        """Awaits a call to the agent; if the machine goes away meanwhile, raises machine_died with its last words."""
        try:
            return await call
        except SandboxdError as error:
            if error.kind is not AGENT_LOST or self._watcher is None:
                raise
            end = await self.ended()
            raise SandboxdError(MACHINE_DIED, id=self._id, operation=operation, detail=end.detail) from error

    async def _watch(self, agent: AgentClient) -> None:
        """Ends when the VMM has: by itself, by us, or killed because its agent is not reached any more."""
        died = asyncio.ensure_future(self.vmm.wait())
        lost = asyncio.ensure_future(agent.closed())
        try:
            await asyncio.wait((died, lost), return_when=asyncio.FIRST_COMPLETED)
            if not died.done():
                await asyncio.wait((died,), timeout=AGENT_GRACE_S)
            agent_lost = not died.done() and not self._released
            vmm_exit = await self.vmm.kill()
        finally:
            await _cancel(died, lost)
        self._ended.set_result(self._end(vmm_exit, agent_lost))

    def _end(self, vmm_exit: VmmExit, agent_lost: bool) -> MachineEnd:
        if self._released:
            return MachineEnd("released", "")
        evidence = self._host_evidence()
        if agent_lost:
            return MachineEnd("agent_lost", f"The guest's agent is not reached any more. {vmm_exit.detail}".strip())
        detail = vmm_exit.detail or f"The VMM ended with {vmm_exit.returncode}."
        return MachineEnd("vmm_died", f"{evidence} {detail}".strip())

    async def release(self) -> None:
        """Kills the VMM: nothing in it is needed any more. Idempotent."""
        self._released = self._released or not self._ended.done()
        if self.vmm.pid:
            await self.vmm.kill()
        if self._watcher:
            await self.ended()
        elif not self._ended.done():
            self._ended.set_result(MachineEnd("released", ""))
        if self._agent:
            await self._agent.close()


async def _cancel(*futures: asyncio.Future[Any]) -> None:
    for future in futures:
        future.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*futures, return_exceptions=True)
