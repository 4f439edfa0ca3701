"""Device rules to an eBPF program of type BPF_PROG_TYPE_CGROUP_DEVICE.

Meaning of the rules, the same for cgroup v1 and what runc makes of it on v2: each kind of access (read, write, mknod)
is decided by the last rule that matches the device and names that access; where none does, it is denied.

The program walks the rules from the last to the first and keeps the accesses that are still undecided:

    r2 = type, r3 = access still undecided, r4 = major, r5 = minor
    rule that allows:  matches? r3 &= ~its access; r3 == 0? return 1
    rule that denies:  matches? r3 & its access? return 0
    return 0

Source: linux/bpf.h (struct bpf_insn, struct bpf_cgroup_dev_ctx), kernel/bpf/cgroup.c.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

INSTRUCTIONS_MAX = 4096
"""What the agent takes, and the kernel's own BPF_MAXINSNS."""

DEVICE_BLOCK = 1
DEVICE_CHARACTER = 2
ACCESS_MKNOD = 1
ACCESS_READ = 2
ACCESS_WRITE = 4
ACCESS_ALL = ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE

_INSTRUCTION = struct.Struct("=BBhi")
_LOAD_WORD = 0x61  # BPF_LDX | BPF_MEM | BPF_W
_MOVE_REGISTER = 0xBC  # BPF_ALU | BPF_MOV | BPF_X (32 bit)
_MOVE_IMMEDIATE = 0xB7  # BPF_ALU64 | BPF_MOV | BPF_K
_AND_IMMEDIATE = 0x54  # BPF_ALU | BPF_AND | BPF_K (32 bit)
_SHIFT_RIGHT = 0x74  # BPF_ALU | BPF_RSH | BPF_K (32 bit)
_JUMP_NOT_EQUAL = 0x56  # BPF_JMP32 | BPF_JNE | BPF_K
_EXIT = 0x95

_R0, _R1, _TYPE, _UNDECIDED, _MAJOR, _MINOR, _SCRATCH = range(7)


@dataclass(frozen=True, slots=True)
class Rule:
    """None matches every type or number."""

    allow: bool
    device_type: int | None
    major: int | None
    minor: int | None
    access: int

    @property
    def matches_all(self) -> bool:
        return self.device_type is None and self.major is None and self.minor is None and self.access == ACCESS_ALL


def device_program(rules: Sequence[Rule]) -> bytes:
    """struct bpf_insn[]. Empty when the rules allow everything: no program is needed then.

    Raises OverflowError when it would be longer than INSTRUCTIONS_MAX.
    """
    effective = _effective(rules)
    if not effective or not all(rule.allow for rule in effective[:-1]) or not effective[-1].allow:
        return _assemble(effective)
    return b"" if effective[-1].matches_all else _assemble(effective)


def _effective(rules: Sequence[Rule]) -> list[Rule]:
    """Last first, cut after the one that decides everything, without repetitions and rules that name no access."""
    effective: dict[Rule, None] = {}
    for rule in reversed(rules):
        if rule.access:
            effective.setdefault(rule)
        if rule.matches_all:
            break
    return list(effective)


def _assemble(rules: Sequence[Rule]) -> bytes:
    code = [
        _op(_LOAD_WORD, _TYPE, _R1, 0),
        _op(_MOVE_REGISTER, _UNDECIDED, _TYPE),
        _op(_AND_IMMEDIATE, _TYPE, immediate=0xFFFF),
        _op(_SHIFT_RIGHT, _UNDECIDED, immediate=16),
        _op(_LOAD_WORD, _MAJOR, _R1, 4),
        _op(_LOAD_WORD, _MINOR, _R1, 8),
    ]
    for rule in rules:
        code += _rule(rule)
        if len(code) + 2 > INSTRUCTIONS_MAX:
            raise OverflowError(f"{len(rules)} device rules make more than {INSTRUCTIONS_MAX} eBPF instructions")
    if not rules or not rules[-1].matches_all:
        code += _return(0)
    return b"".join(code)


def _rule(rule: Rule) -> list[bytes]:
    decide = _allow(rule.access) if rule.allow else _deny(rule.access)
    checks = [
        (register, wanted)
        for register, wanted in ((_TYPE, rule.device_type), (_MAJOR, rule.major), (_MINOR, rule.minor))
        if wanted is not None
    ]
    jumps = [
        _op(_JUMP_NOT_EQUAL, register, offset=len(checks) - 1 - index + len(decide), immediate=wanted)
        for index, (register, wanted) in enumerate(checks)
    ]
    return [*jumps, *decide]


def _allow(access: int) -> list[bytes]:
    if access == ACCESS_ALL:
        return _return(1)
    return [
        _op(_AND_IMMEDIATE, _UNDECIDED, immediate=ACCESS_ALL & ~access),
        _op(_JUMP_NOT_EQUAL, _UNDECIDED, offset=2, immediate=0),
        *_return(1),
    ]


def _deny(access: int) -> list[bytes]:
    if access == ACCESS_ALL:
        return _return(0)
    # Undecided and named here: with the named bits masked out, something would be missing.
    return [
        _op(_MOVE_REGISTER, _SCRATCH, _UNDECIDED),
        _op(_AND_IMMEDIATE, _SCRATCH, immediate=access),
        _op(0x16, _SCRATCH, offset=2, immediate=0),  # BPF_JMP32 | BPF_JEQ | BPF_K
        *_return(0),
    ]


def _return(value: int) -> list[bytes]:
    return [_op(_MOVE_IMMEDIATE, _R0, immediate=value), _op(_EXIT)]


def _op(code: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    signed = immediate - (1 << 32) if immediate >= 1 << 31 else immediate
    return _INSTRUCTION.pack(code, destination | source << 4, offset, signed)
