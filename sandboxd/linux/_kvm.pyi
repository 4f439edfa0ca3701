"""What the compiled module offers, for the type checker."""

from typing import Literal, overload

class _Segment:
    base: int
    selector: int

class _Struct:
    slot: int
    guest_phys_addr: int
    memory_size: int
    userspace_addr: int
    rip: int
    rflags: int
    exit_reason: int
    cs: _Segment

class _Address: ...

class _Number:
    def __int__(self) -> int: ...

class _Ffi:
    @property
    def errno(self) -> int: ...
    def new(self, declaration: str, /) -> _Struct: ...
    @overload
    def cast(self, type_name: Literal["struct kvm_run *"], value: object, /) -> _Struct: ...
    @overload
    def cast(self, type_name: Literal["uintptr_t", "unsigned long"], value: object, /) -> _Number: ...
    def from_buffer(self, buffer: object, /) -> _Address: ...

class _Lib:
    KVM_API_VERSION: int
    KVM_GET_API_VERSION: int
    KVM_CREATE_VM: int
    KVM_CREATE_VCPU: int
    KVM_GET_VCPU_MMAP_SIZE: int
    KVM_SET_USER_MEMORY_REGION: int
    KVM_CREATE_IRQCHIP: int
    KVM_GET_SREGS: int
    KVM_SET_SREGS: int
    KVM_SET_REGS: int
    KVM_RUN: int
    KVM_EXIT_IO: int
    KVM_EXIT_INTR: int
    def ioctl(self, fd: int, request: int, argument: object, /) -> int: ...
    def sandboxd_io_port(self, run: _Struct, /) -> int: ...

ffi: _Ffi
lib: _Lib
