"""libseccomp: rules in, a classic BPF program out. Nothing is loaded into this process.

A program is `struct sock_filter[]` (linux/filter.h), 8 bytes each, for guests of the host's own architecture.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sandboxd.linux import _seccomp
from sandboxd.linux._seccomp import ffi, lib

FILTER_BYTES_MAX = 4096 * 8
"""BPF_MAXINSNS instructions: what seccomp(2) takes."""
_API_LEVEL = 6
"""Actions as a guest kernel of 5.0 or later knows them, whatever the host's kernel is (seccomp_api_set(3))."""
_BINARY_TREE = 2
_BINARY_TREE_FROM_RULES = 16

ACT_KILL_PROCESS = 0x80000000
ACT_KILL_THREAD = 0x00000000
ACT_TRAP = 0x00030000
ACT_ERRNO = 0x00050000
ACT_TRACE = 0x7FF00000
ACT_LOG = 0x7FFC0000
ACT_ALLOW = 0x7FFF0000
"""SECCOMP_RET_* of linux/seccomp.h; the low 16 bits of ERRNO and TRACE are data."""


class Operator(enum.Enum):
    """How an argument is compared; the values are libseccomp's numbers."""

    NE = lib.SCMP_CMP_NE
    LT = lib.SCMP_CMP_LT
    LE = lib.SCMP_CMP_LE
    EQ = lib.SCMP_CMP_EQ
    GE = lib.SCMP_CMP_GE
    GT = lib.SCMP_CMP_GT
    MASKED_EQ = lib.SCMP_CMP_MASKED_EQ
    """argument & value == value_two"""


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of an argument (0..5) with 64-bit values."""

    argument: int
    operator: Operator
    value: int
    value_two: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """`action` for the system call when all conditions hold."""

    syscall: str
    action: int
    conditions: tuple[Condition, ...] = ()


def architecture(name: str) -> int:
    """The AUDIT_ARCH token of libseccomp's name for it ("x86_64", "aarch64"); 0 if it knows none such."""
    return lib.seccomp_arch_resolve_name(name.encode())


def native_architecture() -> int:
    """The token of this host's, and so the guest's, architecture."""
    return lib.seccomp_arch_native()


def is_syscall(name: str) -> bool:
    """Whether this libseccomp knows the name, on any architecture."""
    return lib.seccomp_syscall_resolve_name(name.encode()) != -1


def syscall_number(architecture_token: int, name: str) -> int:
    """The number there; negative if the architecture has no such system call."""
    return lib.seccomp_syscall_resolve_name_arch(architecture_token, name.encode())


def compile_filter(default_action: int, architectures: Sequence[int], rules: Sequence[Rule]) -> bytes:
    """The program. The native architecture is always covered; system calls of others kill (libseccomp's default).

    Raises OSError as libseccomp answers: EACCES for a rule whose action is the default's, EINVAL, EDOM, EFAULT...
    """
    with _context(default_action) as context:
        for token in architectures:
            if lib.seccomp_arch_exist(context, token) != 0:
                _check(lib.seccomp_arch_add(context, token), f"seccomp_arch_add {token:#x}")
        for rule in rules:
            _add(context, rule)
        if len(rules) >= _BINARY_TREE_FROM_RULES:
            _check(lib.seccomp_attr_set(context, lib.SCMP_FLTATR_CTL_OPTIMIZE, _BINARY_TREE), "seccomp_attr_set")
        return _export(context)


@contextmanager
def _context(default_action: int) -> Iterator[_seccomp._Context]:
    _check(lib.seccomp_api_set(_API_LEVEL), "seccomp_api_set")
    context = lib.seccomp_init(default_action)
    if context == ffi.NULL:
        raise OSError(22, f"seccomp_init {default_action:#x}")
    try:
        _check(lib.seccomp_attr_set(context, lib.SCMP_FLTATR_API_SYSRAWRC, 1), "seccomp_attr_set")
        yield context
    finally:
        lib.seccomp_release(context)


def _add(context: _seccomp._Context, rule: Rule) -> None:
    number = lib.seccomp_syscall_resolve_name(rule.syscall.encode())
    comparisons = ffi.new("struct scmp_arg_cmp[]", max(len(rule.conditions), 1))
    for index, condition in enumerate(rule.conditions):
        comparison = comparisons[index]
        comparison.arg = condition.argument
        comparison.op = condition.operator.value
        comparison.datum_a = condition.value
        comparison.datum_b = condition.value_two
    status = lib.seccomp_rule_add_array(context, rule.action, number, len(rule.conditions), comparisons)
    _check(status, f"seccomp_rule_add {rule.syscall}")


def _export(context: _seccomp._Context) -> bytes:
    """Through a memfd: seccomp_export_bpf_mem(3) came with 2.6 only."""
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        _check(lib.seccomp_export_bpf(context, fd), "seccomp_export_bpf")
        size = os.fstat(fd).st_size
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)


def _check(status: int, call: str) -> None:
    if status < 0:
        raise OSError(-status, f"{call}: {os.strerror(-status)}")
