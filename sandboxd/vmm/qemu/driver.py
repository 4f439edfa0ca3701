"""The QEMU driver: one `microvm` machine in a QEMU process of its own, on TCG or KVM.

The process gets descriptors, no paths; it runs as a user of its own without capabilities, network or the right to gain
anything, behind QEMU's seccomp filter, and dies with the process that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sandboxd.aio.child import Child
from sandboxd.base.errors import (
    INVALID_ARGUMENT,
    KERNEL_UNUSABLE,
    VMM_FILE_UNUSABLE,
    VMM_START_FAILED,
    VMM_UNRESPONSIVE,
    SandboxdError,
)
from sandboxd.linux.tsc import baseline_missing_s, host_tsc_khz
from sandboxd.vmm.bounded_log import BoundedLog
from sandboxd.vmm.confine import ENVIRONMENT, confined, find_program
from sandboxd.vmm.driver import VmmExit, VmmStatistics
from sandboxd.vmm.lifecycle import State, require
from sandboxd.vmm.limits import check_memory
from sandboxd.vmm.qemu import devices
from sandboxd.vmm.qemu.descriptors import Descriptors
from sandboxd.vmm.qemu.errors import ControlError
from sandboxd.vmm.spec import Confinement, MachineSpec
from sandboxd.vmm.statistics import process_statistics
from sandboxd.wire.kernel_image import HEAD_BYTES, NotAKernelError, check_kernel

if TYPE_CHECKING:
    from sandboxd.vmm.qemu.control import Control

PROGRAM = "qemu-system-x86_64"
CONSOLE_FILE = "console.log"
LOG_FILE = "vmm.log"
START_TIMEOUT_S = 20.0
"""From spawn to QMP's greeting: 35 ms on an idle machine."""
LAST_WORDS_TIMEOUT_S = 1.0
DETAIL_MAX_BYTES = 4096
CMDLINE_MAX_BYTES = 2047
"""COMMAND_LINE_SIZE of x86, less its end."""
_PANIC = b"Kernel panic - not syncing"


@dataclass(frozen=True, slots=True)
class _Process:
    """A QEMU process and our ends of what connects us to it."""

    child: Child
    agent: socket.socket
    console: BoundedLog
    log: BoundedLog
    control: Control
    ended: asyncio.Task[VmmExit]


class QemuVmm:
    """Implements `sandboxd.vmm.driver.Vmm`. Made and used on one event loop, on the main thread: the process gets
    SIGKILL when the thread that spawned it ends.
    """

    def __init__(self, spec: MachineSpec, confinement: Confinement) -> None:
        self._spec = spec
        self._confinement = confinement
        self._state = State.NEW
        self._process: _Process | None = None
        self._we_ended_it = False
        self._agent_taken = False

    @property
    def state(self) -> State:
        return self._state

    @property
    def pid(self) -> int:
        return self._process.child.pid if self._process else 0

    @property
    def agent(self) -> socket.socket:
        agent = self._running("reach").agent
        self._agent_taken = True
        return agent

    async def boot(self) -> None:
        """Raises memory_too_small, kernel_unusable, vmm_file_unusable, tap_unusable, vmm_missing, vmm_not_permitted,
        kvm_not_permitted, vmm_start_failed, vmm_unresponsive. On any of these the process is gone, the state `ended`.
        """
        require("boot", self._state)
        self._state = State.BOOTING
        try:
            check_memory(self._spec.memory_mib, self._spec.vcpus)
            await asyncio.sleep(baseline_missing_s())
            with Descriptors() as descriptors:
                ours = self._spawn(descriptors)
            # The vCPUs run already; QEMU's greeting tells that it accepted its whole command line.
            await self._greet(ours)
        except BaseException:
            await self._abandon()
            raise
        if self._state is State.BOOTING:
            self._state = State.RUNNING

    async def pause(self) -> None:
        await self._switch("pause", "stop", State.PAUSED)

    async def resume(self) -> None:
        await self._switch("resume", "cont", State.RUNNING)

    async def kill(self) -> VmmExit:
        process = self._running("kill")
        self._we_ended_it = self._we_ended_it or self._state is not State.ENDED
        process.child.send_signal(signal.SIGKILL)
        return await self.wait()

    async def stop(self, timeout_s: float) -> VmmExit:
        process = self._running("stop")
        if self._state is not State.ENDED:
            self._we_ended_it = True
            quitting = asyncio.create_task(process.control.quit_nowait())
            await asyncio.wait([process.ended], timeout=timeout_s)
            quitting.cancel()
            if not process.ended.done():
                await process.child.stop()
        return await self.wait()

    async def wait(self) -> VmmExit:
        return await asyncio.shield(self._running("wait").ended)

    def console_tail(self, max_bytes: int = 4096) -> str:
        if not self._process:
            return ""
        return self._process.console.tail[-max_bytes:].decode(errors="replace") if max_bytes > 0 else ""

    def statistics(self) -> VmmStatistics:
        return process_statistics(self._running("reach").child.pid)

    def _running(self, operation: str) -> _Process:
        require(operation, self._state)
        if not self._process:
            # Ended before there was a process: as good as never booted.
            require(operation, State.NEW)
        assert self._process
        return self._process

    async def _switch(self, operation: str, command: str, target: State) -> None:
        process = self._running(operation)
        try:
            await process.control.execute(command, operation)
        except ControlError as error:
            await asyncio.wait([process.ended], timeout=LAST_WORDS_TIMEOUT_S)
            require(operation, self._state)
            raise SandboxdError(
                VMM_UNRESPONSIVE, operation=operation, limit_s="0", detail=str(error)[:DETAIL_MAX_BYTES]
            ) from error
        if self._state is not State.ENDED:
            self._state = target

    def _spawn(self, descriptors: Descriptors) -> socket.socket:
        """Starts the process; our end of QMP. Nothing is left behind when it raises."""
        with contextlib.ExitStack() as undo:
            agent, agent_fd = _pair(descriptors, undo)
            control, control_fd = _pair(descriptors, undo)
            console, console_fd = descriptors.socket_pair()
            console_log = self._log(CONSOLE_FILE, console.detach(), undo)
            errors, errors_fd = descriptors.pipe()
            log = self._log(LOG_FILE, errors, undo)
            parts = list(self._parts(descriptors, agent_fd, control_fd, console_fd))
            argv = devices.command_line(find_program(PROGRAM, "qemu-system-x86"), parts)
            argv = confined(argv, self._confinement, with_kvm=self._spec.acceleration == "kvm")
            child = Child.spawn(
                argv, stdout=errors_fd, stderr=errors_fd, pass_fds=descriptors.passed, env=ENVIRONMENT, cwd=Path("/")
            )
            undo.pop_all()
        # QEMU's client takes 20 ms and more to load, which pass while the guest boots already.
        from sandboxd.vmm.qemu.control import Control

        qmp = Control()
        ended = asyncio.create_task(self._watch(child, agent, console_log, log, qmp))
        self._process = _Process(child, agent, console_log, log, qmp, ended)
        return control

    def _log(self, name: str, fd: int, undo: contextlib.ExitStack) -> BoundedLog:
        """Takes `fd` over. Raises vmm_file_unusable."""
        path = self._confinement.work_dir / name
        log = BoundedLog(path)
        try:
            log.attach(fd)
        except OSError as error:
            reason = f"Making it says: {error.strerror}."
            raise SandboxdError(VMM_FILE_UNUSABLE, what="log", path=path, reason=reason) from error
        undo.callback(log.close)
        return log

    def _parts(self, descriptors: Descriptors, agent: int, control: int, console: int) -> Iterator[devices.Part]:
        spec = self._spec
        kernel = descriptors.boot_file("kernel", spec.kernel, self._confinement.uid)
        _check_kernel(spec.kernel, kernel)
        initrd = descriptors.boot_file("initrd", spec.initrd, self._confinement.uid)
        cmdline = devices.kernel_cmdline(spec, host_tsc_khz())
        if len(cmdline.encode()) > CMDLINE_MAX_BYTES:
            reason = f"with what the machine itself needs it has {len(cmdline)} bytes, the limit is {CMDLINE_MAX_BYTES}"
            raise SandboxdError(
                INVALID_ARGUMENT, what="kernel command line", value=cmdline[:80], reason=reason, command="run"
            )
        yield devices.Board()
        yield devices.Processor(spec.acceleration, spec.vcpus)
        yield devices.Memory(spec.memory_mib)
        yield devices.Boot(kernel, initrd, cmdline)
        yield devices.Console(devices.PassedFd(console))
        yield devices.AgentPort(devices.PassedFd(agent))
        yield devices.Entropy()
        for index, drive in enumerate(spec.drives):
            yield devices.Disk(index, drive, descriptors.drive(drive))
        for index, nic in enumerate(spec.nics):
            yield devices.NetworkCard(index, nic, descriptors.tap(nic.tap))
        yield devices.Control(devices.PassedFd(control))
        yield devices.SystemCallFilter()

    async def _greet(self, control: socket.socket) -> None:
        assert self._process
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._process.control.connect(control)
        except ControlError as error:
            control.close()
            exit_ = await self.kill()
            raise SandboxdError(VMM_START_FAILED, detail=exit_.detail or f"nothing ({exit_.returncode})") from error
        except TimeoutError as error:
            control.close()
            detail = self._process.log.tail.decode(errors="replace") or "nothing"
            raise SandboxdError(
                VMM_UNRESPONSIVE, operation="start", limit_s=f"{START_TIMEOUT_S:g}", detail=detail
            ) from error

    async def _abandon(self) -> None:
        if self._process:
            await self.kill()
        self._state = State.ENDED

    async def _watch(
        self, child: Child, agent: socket.socket, console: BoundedLog, log: BoundedLog, control: Control
    ) -> VmmExit:
        """Waits for the process's end, collects what was said last, closes everything."""
        returncode = await child.wait()
        self._state = State.ENDED
        try:
            await asyncio.gather(
                console.wait_ended(LAST_WORDS_TIMEOUT_S),
                log.wait_ended(LAST_WORDS_TIMEOUT_S),
                control.disconnect(LAST_WORDS_TIMEOUT_S),
            )
        finally:
            console.close()
            log.close()
            if not self._agent_taken:
                agent.close()
        reason = self._reason(returncode, control.shutdown_reason_nowait(), console.tail)
        return VmmExit(returncode, reason, _detail(log.tail, console.tail))

    def _reason(self, returncode: int, shutdown: str, console: bytes) -> str:
        if returncode == 0 and shutdown.startswith("guest"):
            # A panicking guest resets too (panic=-1), and the machine has no device to say so: the console does.
            return "guest_panic" if _PANIC in console else "guest_shutdown"
        if self._we_ended_it:
            return "stopped"
        return "vmm_died"


def _pair(descriptors: Descriptors, undo: contextlib.ExitStack) -> tuple[socket.socket, devices.PassedFd]:
    ours, theirs = descriptors.socket_pair()
    undo.callback(ours.close)
    return ours, theirs


def _check_kernel(path: Path, fd: int) -> None:
    try:
        check_kernel(os.pread(fd, HEAD_BYTES, 0), os.fstat(fd).st_size)
    except NotAKernelError as error:
        raise SandboxdError(KERNEL_UNUSABLE, path=path, reason=f"This is no kernel: {error}.") from error


def _detail(log: bytes, console: bytes) -> str:
    """At most DETAIL_MAX_BYTES: the VMM's last words, then the console's tail."""
    words = log[-DETAIL_MAX_BYTES // 2 :].decode(errors="replace").strip()
    tail = console[-(DETAIL_MAX_BYTES // 2) :].decode(errors="replace").strip()
    detail = "\n".join(part for part in (words, tail and f"console: {tail}") if part)
    return detail.encode()[-DETAIL_MAX_BYTES:].decode(errors="ignore")
