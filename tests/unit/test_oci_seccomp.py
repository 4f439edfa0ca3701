"""Seccomp profiles: what the compiled program answers to system calls, in an interpreter and in a child of our own."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from typing import Any

import pytest

from sandboxd.base.errors import SandboxdError
from sandboxd.core.oci.default_seccomp import default_profile
from sandboxd.core.oci.option_words import DEFAULT_CAPABILITIES
from sandboxd.linux import seccomp as libseccomp
from tests.support.bpf import run_seccomp_program
from tests.support.oci_specs import compiled

X86_64, I386 = 0xC000003E, 0x40000003
ALLOW, KILL = libseccomp.ACT_ALLOW, libseccomp.ACT_KILL_THREAD


def err(number: int) -> int:
    return libseccomp.ACT_ERRNO | number


def program(profile: dict[str, Any]) -> bytes:
    return compiled(linux__seccomp=profile).plan.process.seccomp


def answer(profile: dict[str, Any], name: str, *arguments: int, architecture: str = "x86_64") -> int:
    token = libseccomp.architecture(architecture)
    number = libseccomp.syscall_number(token, name)
    assert number >= 0, name
    return run_seccomp_program(program(profile), token, number, arguments)


def rule(*names: str, action: str = "SCMP_ACT_ALLOW", **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": action, **more}


def profile(*rules: dict[str, Any], default: str = "SCMP_ACT_ERRNO", **more: Any) -> dict[str, Any]:
    return {"defaultAction": default, "syscalls": list(rules), **more}


def test_no_profile_is_no_program() -> None:
    assert compiled().plan.process.seccomp == b""


@pytest.mark.parametrize(
    ("action", "more", "value"),
    [
        ("SCMP_ACT_KILL", {}, 0),
        ("SCMP_ACT_KILL_THREAD", {}, 0),
        ("SCMP_ACT_KILL_PROCESS", {}, 0x80000000),
        ("SCMP_ACT_TRAP", {}, 0x30000),
        ("SCMP_ACT_ERRNO", {}, err(errno.EPERM)),
        ("SCMP_ACT_ERRNO", {"errnoRet": 38}, err(38)),
        ("SCMP_ACT_ERRNO", {"errnoRet": 0}, err(0)),
        ("SCMP_ACT_TRACE", {"errnoRet": 5}, 0x7FF00005),
        ("SCMP_ACT_LOG", {}, 0x7FFC0000),
    ],
)
def test_actions(action: str, more: dict[str, Any], value: int) -> None:
    allowing = profile(rule("getpid", action=action, **more), default="SCMP_ACT_ALLOW")
    assert answer(allowing, "getpid") == value
    assert answer(allowing, "getuid") == ALLOW


def test_defaults_and_their_errno() -> None:
    assert answer(profile(rule("read", "write", "gettid")), "getpid") == err(errno.EPERM)
    assert answer(profile(rule("read", "gettid"), defaultErrnoRet=99), "getpid") == err(99)
    assert answer(profile(rule("read", "gettid"), default="SCMP_ACT_KILL"), "getpid") == KILL


def test_a_call_newer_than_the_profile_is_not_there() -> None:
    """ENOSYS, not EPERM: programs fall back on it. 435 is clone3, newer than all that the profile names."""
    restrictive = program(profile(rule("read", "openat2")))
    assert run_seccomp_program(restrictive, X86_64, 460) == err(errno.ENOSYS)
    assert run_seccomp_program(restrictive, X86_64, 435) == err(errno.EPERM)
    assert run_seccomp_program(program(profile(rule("read"), default="SCMP_ACT_KILL")), X86_64, 1) == err(errno.ENOSYS)
    open_by_default = program(profile(rule("read", action="SCMP_ACT_KILL"), default="SCMP_ACT_ALLOW"))
    assert run_seccomp_program(open_by_default, X86_64, 460) == ALLOW


def test_names_that_no_libseccomp_knows_are_passed_over() -> None:
    assert answer(profile(rule("getpid", "map_shadow_stack_of_2040")), "getpid") == ALLOW


def test_a_rule_that_says_what_happens_anyway_is_left_out() -> None:
    same = profile(rule("getpid", action="SCMP_ACT_ERRNO", errnoRet=1), rule("openat2"))
    assert answer(same, "getpid") == err(1)


@pytest.mark.parametrize(
    ("op", "value", "two", "hits", "misses"),
    [
        ("SCMP_CMP_EQ", 5, 0, (5,), (4, 6, 1 << 32 | 5)),
        ("SCMP_CMP_NE", 5, 0, (4, 1 << 32 | 5), (5,)),
        ("SCMP_CMP_LT", 5, 0, (4,), (5, 1 << 40)),
        ("SCMP_CMP_LE", 5, 0, (5,), (6,)),
        ("SCMP_CMP_GT", 5, 0, (6, 1 << 33), (5,)),
        ("SCMP_CMP_GE", 5, 0, (5,), (4,)),
        ("SCMP_CMP_MASKED_EQ", 0xF0, 0x30, (0x3F,), (0x4F,)),
    ],
)
def test_arguments(op: str, value: int, two: int, hits: tuple[int, ...], misses: tuple[int, ...]) -> None:
    condition = {"index": 1, "value": value, "valueTwo": two, "op": op}
    allowing = profile(rule("ioctl", args=[condition]), rule("openat2"))
    assert all(answer(allowing, "ioctl", 0, hit) == ALLOW for hit in hits)
    assert all(answer(allowing, "ioctl", 0, miss) == err(1) for miss in misses)


def test_several_arguments_must_all_hold_and_one_named_twice_is_a_choice() -> None:
    def condition(index: int, value: int) -> dict[str, Any]:
        return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}

    both = profile(rule("ioctl", args=[condition(0, 1), condition(1, 2)]), rule("openat2"))
    assert (answer(both, "ioctl", 1, 2), answer(both, "ioctl", 1, 3)) == (ALLOW, err(1))
    either = profile(rule("ioctl", args=[condition(1, 2), condition(1, 3)]), rule("openat2"))
    assert (answer(either, "ioctl", 0, 3), answer(either, "ioctl", 0, 4)) == (ALLOW, err(1))


def test_other_architectures() -> None:
    both = profile(rule("getpid", "openat2"), architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"])
    assert answer(both, "getpid", architecture="x86") == ALLOW
    assert answer(both, "getuid", architecture="x86") == err(1)
    only_native = profile(rule("getpid"))
    assert answer(only_native, "getpid", architecture="x86") == KILL


def test_flags() -> None:
    flags = ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    assert compiled(linux__seccomp=profile(flags=flags)).plan.process.seccomp_flags == 6


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        (profile(default="SCMP_ACT_SING"), "defaultAction"),
        (profile(default="SCMP_ACT_ALLOW", defaultErrnoRet=1), "defaultAction"),
        (profile(rule("read", action="SCMP_ACT_NOTIFY")), "syscalls[0].action"),
        (profile(rule("read", errnoRet=70000, action="SCMP_ACT_ERRNO")), "syscalls[0].action"),
        (profile(rule("read", args=[{"index": 0, "value": 0, "op": "EQ"}])), "syscalls[0].args[0].op"),
        (profile(architectures=["SCMP_ARCH_Z80"]), "architectures[0]"),
        (profile(flags=["SECCOMP_FILTER_FLAG_NEW_LISTENER"]), "flags[0]"),
        (profile(listenerPath="/run/agent.sock"), "listenerPath"),
    ],
)
def test_what_cannot_be_compiled_is_named(wrong: dict[str, Any], path: str) -> None:
    with pytest.raises(SandboxdError) as caught:
        program(wrong)
    assert f"linux.seccomp.{path}" in caught.value.cause


def test_a_profile_that_libseccomp_would_chew_on_for_minutes_is_refused() -> None:
    def conditions(first: int) -> list[dict[str, Any]]:
        return [{"index": 0, "value": (first + index) * (1 << 32 | 1), "op": "SCMP_CMP_EQ"} for index in range(64)]

    names = ("read", "write", "ioctl", "fcntl", "mmap")
    rules = [rule(name, args=conditions(index * 64)) for index, name in enumerate(names)]
    assert program(profile(*rules[:4]))
    with pytest.raises(SandboxdError) as caught:
        program(profile(*rules))
    assert caught.value.kind.code == "seccomp_profile_invalid" and "at most 256" in caught.value.cause


def test_as_many_rules_as_there_are_numbers_of_errors_are_refused() -> None:
    names = [
        *("read", "write", "ioctl", "fcntl", "mmap", "open", "close", "stat", "poll", "lseek", "brk", "dup", "pipe")
    ]
    rules = [rule(*names, action="SCMP_ACT_ERRNO", errnoRet=number) for number in range(2, 400)]
    with pytest.raises(SandboxdError, match="seccomp"):
        program(profile(*rules))


def test_a_rule_said_twice_is_one() -> None:
    same = [rule("getpid", "getuid")] * 4000
    assert answer(profile(*same, rule("openat2")), "getuid") == ALLOW


# --- the default profile ---

DEFAULT = default_profile(frozenset(DEFAULT_CAPABILITIES))


@pytest.mark.parametrize(
    "name",
    [
        *("mount", "umount2", "pivot_root", "move_mount", "fsopen", "unshare", "setns", "kexec_load", "finit_module"),
        *("bpf", "perf_event_open", "keyctl", "add_key", "clock_settime", "swapon", "syslog", "userfaultfd", "acct"),
        *("iopl", "reboot"),
    ],
)
def test_the_default_refuses(name: str) -> None:
    assert answer(DEFAULT, name) == err(errno.EPERM)


@pytest.mark.parametrize(
    "name", ["read", "execve", "ptrace", "socket", "io_uring_setup", "clone", "chroot", "mknodat", "process_vm_readv"]
)
def test_the_default_allows(name: str) -> None:
    assert answer(DEFAULT, name) == ALLOW
    assert answer(DEFAULT, "read", architecture="x86") == ALLOW


@pytest.mark.parametrize("flag", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
def test_the_default_refuses_new_namespaces(flag: int) -> None:
    assert answer(DEFAULT, "clone", flag | 17) == err(errno.EPERM)
    assert answer(DEFAULT, "clone", 0x1200011) == ALLOW, "fork"
    assert answer(DEFAULT, "clone3") == err(errno.ENOSYS)


def test_capabilities_open_what_belongs_to_them() -> None:
    admin = default_profile(frozenset((*DEFAULT_CAPABILITIES, "CAP_SYS_ADMIN")))
    assert {answer(admin, name) for name in ("mount", "unshare", "bpf", "clone3", "syslog")} == {ALLOW}
    assert answer(admin, "clone", 0x10000000) == ALLOW
    assert answer(admin, "reboot") == err(errno.EPERM)
    time = default_profile(frozenset(("CAP_SYS_TIME",)))
    assert answer(time, "clock_settime") == ALLOW


def test_the_default_costs_few_instructions() -> None:
    """Of the program, and on the way of a common call: an emulated machine pays for each."""
    text = program(DEFAULT)
    assert len(text) // 8 <= 256
    assert _steps(text, 0) <= 20


def _steps(text: bytes, number: int) -> int:
    """Instructions run for one system call of the native architecture."""
    data = struct.pack("=IIQ6Q", number, X86_64, 0, 0, 0, 0, 0, 0, 0)
    at, count, accumulator = 0, 0, 0
    while True:
        code, yes, no, value = struct.unpack_from("=HBBI", text, at * 8)
        at, count = at + 1, count + 1
        if code == 0x06:
            return count
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        else:
            tests: dict[int, Callable[[int, int], bool]] = {0x15: int.__eq__, 0x25: int.__gt__, 0x35: int.__ge__}
            at += yes if tests[code](accumulator, value) else no


# --- in a kernel ---


def test_a_child_under_the_default_profile() -> None:
    """seccomp(2) takes the program, and it does what the interpreter says."""
    failures = _run_filtered(program(DEFAULT), [(165, err(1)), (272, err(1)), (39, None), (102, None), (435, err(38))])
    assert failures == []


def _run_filtered(filter_program: bytes, calls: list[tuple[int, int | None]]) -> list[str]:
    """Makes each system call in a child under the filter; what did not answer as expected."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(filter_program, len(filter_program))
    fprog = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", len(filter_program) // 8, ctypes.addressof(buffer)))
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        lines = []
        libc.prctl(38, 1, 0, 0, 0)
        if libc.syscall(317, 1, 0, fprog):
            lines.append(f"seccomp(2): {os.strerror(ctypes.get_errno())}")
        for number, expected in calls:
            ctypes.set_errno(0)
            result = libc.syscall(number, 0, 0, 0, 0)
            got = ctypes.get_errno() if result < 0 else None
            if got != (None if expected is None else expected & 0xFFFF):
                lines.append(f"{number}: {got}")
        os.write(writer, "\n".join(lines).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        failures = file.read().splitlines()
    assert os.waitpid(pid, 0)[1] == 0
    return failures
