"""OCI seccomp profiles (config-linux.md, "Seccomp") to BPF, with runc's habits where the specification is silent.

Names of system calls that libseccomp does not know are passed over: they name what this system cannot do anyway.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from functools import lru_cache

from sandboxd.base.errors import SECCOMP_PROFILE_INVALID, SandboxdError
from sandboxd.core.oci.findings import Findings
from sandboxd.core.oci.spec_linux import Seccomp, SeccompArgument, SeccompSyscall
from sandboxd.linux import seccomp as libseccomp
from sandboxd.linux.seccomp import Condition, Operator, Rule

_ACTIONS = {
    "SCMP_ACT_KILL": libseccomp.ACT_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": libseccomp.ACT_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": libseccomp.ACT_KILL_PROCESS,
    "SCMP_ACT_TRAP": libseccomp.ACT_TRAP,
    "SCMP_ACT_ERRNO": libseccomp.ACT_ERRNO,
    "SCMP_ACT_TRACE": libseccomp.ACT_TRACE,
    "SCMP_ACT_ALLOW": libseccomp.ACT_ALLOW,
    "SCMP_ACT_LOG": libseccomp.ACT_LOG,
}
_CARRIES_DATA = (libseccomp.ACT_ERRNO, libseccomp.ACT_TRACE)
_OPEN_ACTIONS = (libseccomp.ACT_ALLOW, libseccomp.ACT_LOG, libseccomp.ACT_TRACE)

_ARCHITECTURES = {
    f"SCMP_ARCH_{name}": name.lower()
    for name in (
        *("X86", "X86_64", "X32", "ARM", "AARCH64", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32"),
        *("PPC", "PPC64", "PPC64LE", "S390", "S390X", "PARISC", "PARISC64", "RISCV64", "LOONGARCH64", "M68K", "SH"),
        "SHEB",
    )
}
_KIN = {"x86_64": ("x86_64", "x86", "x32"), "aarch64": ("aarch64", "arm")}
"""Architectures whose programs a kernel of the first one can run."""

_OPERATORS = {f"SCMP_CMP_{operator.name}": operator for operator in Operator}

_FLAGS = {
    # One thread installs the filter before execve: there is nobody to synchronise with.
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
}

RULES_MAX = 4096
CONDITIONAL_RULES_MAX = 256
"""docker's own profile has about 20. libseccomp's time grows with the third power of their number: 256 take 0.1 s."""

_INSTRUCTION = struct.Struct("=HBBI")
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_GREATER = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_DATA_NR = 0
_DATA_ARCH = 4
_X32_BIT = 0x40000000


@dataclass(frozen=True, slots=True)
class CompiledSeccomp:
    """What the agent gives to seccomp(2): struct sock_filter[] and SECCOMP_FILTER_FLAG_*."""

    program: bytes = b""
    flags: int = 0


def compile_seccomp(profile: Seccomp | None, findings: Findings) -> CompiledSeccomp:
    """An absent profile gives an empty program (no filter). Adds findings under "linux.seccomp".

    Raises `seccomp_profile_invalid` when libseccomp refuses the whole.
    """
    if profile is None:
        return CompiledSeccomp()
    checked = _Profile(profile, findings)
    if not checked.sound:
        return CompiledSeccomp()
    return CompiledSeccomp(_program(profile), checked.flags)


class _Profile:
    """Names turned into numbers, faults into findings."""

    def __init__(self, profile: Seccomp, findings: Findings) -> None:
        self._findings = findings
        self.sound = True
        self.flags = 0
        self._check_action("linux.seccomp.defaultAction", profile.default_action, profile.default_errno_ret)
        for index, name in enumerate(profile.architectures or ()):
            if name not in _ARCHITECTURES:
                self._unsound(f"linux.seccomp.architectures[{index}]", name, "no architecture of this name is known")
        for index, name in enumerate(profile.flags or ()):
            self._add_flag(f"linux.seccomp.flags[{index}]", name)
        for index, syscall in enumerate(profile.syscalls or ()):
            self._check_syscall(f"linux.seccomp.syscalls[{index}]", syscall)
        if profile.listener_path or profile.listener_metadata:
            value = profile.listener_path or profile.listener_metadata
            self._unsound(
                "linux.seccomp.listenerPath", value, "an agent on the host cannot watch a guest's system calls"
            )

    def _unsound(self, path: str, value: object, why: str) -> None:
        self.sound = False
        self._findings.unsupported(path, value, why)

    def _check_action(self, path: str, name: str, errno_ret: int | None) -> None:
        action = _ACTIONS.get(name)
        if action is None:
            self._unsound(path, name, f"known actions are {', '.join(_ACTIONS)}")
        elif errno_ret is not None and action not in _CARRIES_DATA:
            # The specification allows to refuse it, and a number that has no effect is a misunderstanding.
            self._unsound(path, f"{name} with errnoRet {errno_ret}", "this action carries no errno")
        elif errno_ret is not None and errno_ret > 0xFFFF:
            self._unsound(path, errno_ret, "an errno has 16 bits")

    def _add_flag(self, path: str, name: str) -> None:
        if name in _FLAGS:
            self.flags |= _FLAGS[name]
        else:
            self._unsound(path, name, f"known flags are {', '.join(_FLAGS)}")

    def _check_syscall(self, path: str, syscall: SeccompSyscall) -> None:
        self._check_action(f"{path}.action", syscall.action, syscall.errno_ret)
        for index, argument in enumerate(syscall.args or ()):
            if argument.op not in _OPERATORS:
                self._unsound(f"{path}.args[{index}].op", argument.op, f"known operators are {', '.join(_OPERATORS)}")


@lru_cache(maxsize=8)
def _program(profile: Seccomp) -> bytes:
    """Cached: every exec of a container compiles the same profile."""
    default = _action(profile.default_action, profile.default_errno_ret)
    tokens = _runnable(profile)
    rules = _all_rules(profile, default)
    try:
        program = libseccomp.compile_filter(default, tokens, rules)
    except OSError as error:
        raise SandboxdError(SECCOMP_PROFILE_INVALID, reason=f"libseccomp: {error.strerror}") from error
    program = _unknown_calls_stub(profile, default, tokens) + program
    if len(program) > libseccomp.FILTER_BYTES_MAX:
        raise _too_large(len(program) // 8, "BPF instructions", libseccomp.FILTER_BYTES_MAX // 8)
    return program


def _all_rules(profile: Seccomp, default: int) -> list[Rule]:
    """Each once, in order. Raises `seccomp_profile_invalid` for more than libseccomp digests in a reasonable time."""
    rules: dict[Rule, None] = {}
    for syscall in profile.syscalls or ():
        rules.update(dict.fromkeys(_rules(syscall, default)))
        if len(rules) > RULES_MAX:
            raise _too_large(len(rules), "rules", RULES_MAX)
    conditional = sum(bool(rule.conditions) for rule in rules)
    if conditional > CONDITIONAL_RULES_MAX:
        raise _too_large(conditional, "rules with conditions on arguments", CONDITIONAL_RULES_MAX)
    return list(rules)


def _too_large(count: int, what: str, limit: int) -> SandboxdError:
    return SandboxdError(SECCOMP_PROFILE_INVALID, reason=f"It makes {count} {what}; at most {limit} are taken.")


def _action(name: str, errno_ret: int | None) -> int:
    action = _ACTIONS[name]
    if action not in _CARRIES_DATA:
        return action
    return action | (errno.EPERM if errno_ret is None else errno_ret)


def _runnable(profile: Seccomp) -> tuple[int, ...]:
    """Tokens of the profile's architectures that this machine can run at all, the native one first."""
    native = libseccomp.native_architecture()
    kin = next((names for first, names in _KIN.items() if libseccomp.architecture(first) == native), ())
    named = [_ARCHITECTURES[name] for name in profile.architectures or ()]
    others = (libseccomp.architecture(name) for name in named if name in kin)
    return (native, *(token for token in others if token != native))


def _rules(syscall: SeccompSyscall, default: int) -> list[Rule]:
    """A rule that says what happens anyway is left out, as runc does: libseccomp refuses it (EACCES)."""
    action = _action(syscall.action, syscall.errno_ret)
    if action == default:
        return []
    alternatives = _alternatives(syscall.args or ())
    names = (name for name in syscall.names if libseccomp.is_syscall(name))
    return [Rule(name, action, conditions) for name in names for conditions in alternatives]


def _alternatives(arguments: tuple[SeccompArgument, ...]) -> list[tuple[Condition, ...]]:
    """All conditions together, unless one argument is named twice: then each is an alternative, as in runc."""
    conditions = [Condition(each.index, _OPERATORS[each.op], each.value, each.value_two) for each in arguments]
    if len({condition.argument for condition in conditions}) == len(conditions):
        return [tuple(conditions)]
    return [(condition,) for condition in conditions]


def _unknown_calls_stub(profile: Seccomp, default: int, tokens: tuple[int, ...]) -> bytes:
    """Instructions in front: a system call newer than all that the profile names answers ENOSYS, not the default.

    A profile that allows by name cannot know calls made after it was written; programs try those and fall back on
    ENOSYS only. runc does the same. The stub leaves a call alone whose architecture the profile does not cover.
    """
    if default in _OPEN_ACTIONS or (default & 0xFFFF0000) == libseccomp.ACT_TRACE:
        return b""
    if default == libseccomp.ACT_ERRNO | errno.ENOSYS:
        return b""
    names = [name for syscall in profile.syscalls or () for name in syscall.names]
    return b"".join(_stub_of(token, newest) for token in _plain(tokens) if (newest := _newest(token, names)) >= 0)


def _plain(tokens: tuple[int, ...]) -> list[int]:
    """Without x32: it shares x86_64's token in seccomp_data, and its numbers carry a bit above all others."""
    x32 = libseccomp.architecture("x32")
    return [token for token in tokens if token != x32]


def _newest(token: int, names: list[str]) -> int:
    return max((libseccomp.syscall_number(token, name) for name in names), default=-1)


def _stub_of(token: int, newest: int) -> bytes:
    return b"".join(
        _INSTRUCTION.pack(*instruction)
        for instruction in (
            (_LOAD, 0, 0, _DATA_ARCH),
            (_JUMP_EQUAL, 0, 4, token),
            (_LOAD, 0, 0, _DATA_NR),
            (_JUMP_GREATER, 0, 2, newest),
            (_JUMP_GREATER, 1, 0, _X32_BIT - 1),
            (_RETURN, 0, 0, libseccomp.ACT_ERRNO | errno.ENOSYS),
        )
    )
