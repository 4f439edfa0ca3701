"""A guest of a few instructions on /dev/kvm, run and timed: the only proof of what KVM on this host is worth.

Source: Documentation/virt/kvm/api.rst. Memory is set before the interrupt controller is made: the other order takes
fourteen times as long.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import time
from dataclasses import dataclass
from pathlib import Path

from sandboxd.linux._kvm import ffi, lib

DEVICE = Path("/dev/kvm")
END_PORT = 0x10
_PAGE_BYTES = 4096


class KvmError(OSError):
    """A system call on /dev/kvm failed: errno, its text, and as `filename` the call or path."""


@dataclass(frozen=True, slots=True)
class GuestRun:
    """What became of the probe guest."""

    loop_iterations: int
    cpu_ns: int
    """Processor time of the thread that ran it: not lengthened by what else the host does."""
    exit_reason: int
    ended_as_told: bool
    """It left by its port write, having done all its iterations."""


def run_loop(loop_iterations: int) -> GuestRun:
    """Runs a real-mode guest that counts down and then writes to a port. Raises KvmError.

    May hang for as long as the guest does: call it in a process that can be killed.
    """
    with contextlib.ExitStack() as cleanup:
        kvm = _open(cleanup)
        memory = cleanup.enter_context(mmap.mmap(-1, _PAGE_BYTES))
        memory[: len(_program(loop_iterations))] = _program(loop_iterations)
        vm, vcpu = _make_machine(cleanup, kvm, memory)
        run_bytes = _ioctl(kvm, lib.KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE")
        shared = cleanup.enter_context(mmap.mmap(vcpu, run_bytes, mmap.MAP_SHARED))
        del vm
        return _run(vcpu, shared, loop_iterations)


def _program(loop_iterations: int) -> bytes:
    """mov ecx, N; again: dec ecx; jnz again; out END_PORT, al (16-bit code with 32-bit operands)."""
    return b"\x66\xb9" + loop_iterations.to_bytes(4, "little") + b"\x66\x49\x75\xfc\xe6" + bytes([END_PORT])


def _open(cleanup: contextlib.ExitStack) -> int:
    try:
        kvm = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise KvmError(error.errno, error.strerror, str(DEVICE)) from error
    cleanup.callback(os.close, kvm)
    version = _ioctl(kvm, lib.KVM_GET_API_VERSION, 0, "KVM_GET_API_VERSION")
    if version != lib.KVM_API_VERSION:
        raise KvmError(errno.ENOTSUP, f"API version {version} instead of {lib.KVM_API_VERSION}", "KVM_GET_API_VERSION")
    return kvm


def _make_machine(cleanup: contextlib.ExitStack, kvm: int, memory: mmap.mmap) -> tuple[int, int]:
    """(VM, vCPU) with one page of memory at 0 and the processor about to execute it."""
    vm = _ioctl(kvm, lib.KVM_CREATE_VM, 0, "KVM_CREATE_VM")
    cleanup.callback(os.close, vm)
    buffer = ffi.from_buffer(memory)
    region = ffi.new("struct kvm_userspace_memory_region *")
    region.memory_size = _PAGE_BYTES
    region.userspace_addr = _address(buffer)
    _ioctl(vm, lib.KVM_SET_USER_MEMORY_REGION, region, "KVM_SET_USER_MEMORY_REGION")
    _ioctl(vm, lib.KVM_CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP")
    vcpu = _ioctl(vm, lib.KVM_CREATE_VCPU, 0, "KVM_CREATE_VCPU")
    cleanup.callback(os.close, vcpu)
    del buffer
    system = ffi.new("struct kvm_sregs *")
    _ioctl(vcpu, lib.KVM_GET_SREGS, system, "KVM_GET_SREGS")
    system.cs.base = system.cs.selector = 0
    _ioctl(vcpu, lib.KVM_SET_SREGS, system, "KVM_SET_SREGS")
    registers = ffi.new("struct kvm_regs *")
    registers.rip, registers.rflags = 0, 2
    _ioctl(vcpu, lib.KVM_SET_REGS, registers, "KVM_SET_REGS")
    return vm, vcpu


def _run(vcpu: int, shared: mmap.mmap, loop_iterations: int) -> GuestRun:
    view = ffi.from_buffer(shared)
    run = ffi.cast("struct kvm_run *", view)
    started_ns = time.thread_time_ns()
    while True:
        try:
            _ioctl(vcpu, lib.KVM_RUN, 0, "KVM_RUN")
        except KvmError as error:
            if error.errno == errno.EINTR:
                continue
            raise
        if run.exit_reason != lib.KVM_EXIT_INTR:
            break
    cpu_ns = time.thread_time_ns() - started_ns
    reason = run.exit_reason
    ended = reason == lib.KVM_EXIT_IO and lib.sandboxd_io_port(run) == END_PORT
    del run, view
    return GuestRun(loop_iterations, cpu_ns, reason, ended)


def _address(buffer: object) -> int:
    return int(ffi.cast("uintptr_t", buffer))


def _ioctl(fd: int, request: int, argument: object, name: str) -> int:
    """The one error door of the system call."""
    if isinstance(argument, int):
        argument = ffi.cast("unsigned long", argument)
    result = lib.ioctl(fd, request, argument)
    if result < 0:
        raise KvmError(ffi.errno, os.strerror(ffi.errno), name)
    return result
