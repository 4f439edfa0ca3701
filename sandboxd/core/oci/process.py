"""The specification's process to the agent's: the container's first, and those of exec."""

from __future__ import annotations

import posixpath
import re

from sandboxd.api import agent_pb2 as pb
from sandboxd.core.oci.capabilities import compile_capabilities
from sandboxd.core.oci.findings import Findings
from sandboxd.core.oci.spec_process import Process, Rlimit, Scheduler, User

_RLIMIT_NAMES = (
    *("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING"),
    *("MSGQUEUE", "NICE", "RTPRIO", "RTTIME"),
)
_RLIMITS = {f"RLIMIT_{name}": number for number, name in enumerate(_RLIMIT_NAMES)}
"""asm-generic/resource.h"""

_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_REAL_TIME = ("SCHED_FIFO", "SCHED_RR")
_SCHEDULER_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
"""linux/sched.h. The two clamps need values that the specification has no words for."""
_NO_WORDS = ("SCHED_FLAG_UTIL_CLAMP_MIN", "SCHED_FLAG_UTIL_CLAMP_MAX")

_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_IO_CLASS_SHIFT = 13

_CPU_MAX = 1024
_CPU_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?\Z")
_HOME_OF_ROOT = "/root"


def compile_process(process: Process, where: str, findings: Findings, *, is_exec: bool) -> pb.Process:
    """Everything but seccomp and stdin, which are not the process's own words.

    `where` is the JSON path of `process`. The CPU affinity is an exec's alone (config.md, `execCPUAffinity`).
    """
    _refuse_labels(process, where, findings)
    compiled = pb.Process(
        args=_args(process, where, findings),
        env=_env(process, where, findings),
        cwd=_cwd(process, where, findings),
        uid=process.user.uid,
        gid=process.user.gid,
        additional_gids=process.user.additional_gids or (),
        capabilities=compile_capabilities(process.capabilities, f"{where}.capabilities", findings),
        rlimits=_rlimits(process.rlimits or (), f"{where}.rlimits", findings),
        no_new_privileges=process.no_new_privileges,
        terminal=process.terminal,
    )
    _set_optional(compiled, process, where, findings)
    affinity = _affinity(process, f"{where}.execCPUAffinity", findings)
    if is_exec:
        compiled.cpu_affinity.extend(affinity)
    return compiled


def _set_optional(compiled: pb.Process, process: Process, where: str, findings: Findings) -> None:
    """Fields that are only there when the specification says something."""
    if process.user.umask is not None:
        compiled.umask = process.user.umask
    if process.oom_score_adj is not None:
        compiled.oom_score_adj = process.oom_score_adj
    if process.terminal and process.console_size is not None:
        compiled.terminal_width = process.console_size.width
        compiled.terminal_height = process.console_size.height
    if process.io_priority is not None:
        io_class = _IO_CLASSES[process.io_priority.io_class]
        compiled.io_priority = io_class << _IO_CLASS_SHIFT | process.io_priority.priority
    if process.scheduler is not None:
        compiled.scheduler.CopyFrom(_scheduler(process.scheduler, f"{where}.scheduler", findings))


def _refuse_labels(process: Process, where: str, findings: Findings) -> None:
    profile = process.apparmor_profile
    if profile not in ("", "unconfined"):
        why = "the profile is loaded in the host's kernel, not in the guest's; choose `unconfined`"
        findings.unsupported(f"{where}.apparmorProfile", profile, why)
    if process.selinux_label:
        findings.unsupported(f"{where}.selinuxLabel", process.selinux_label, "the guest runs no SELinux policy")


def _args(process: Process, where: str, findings: Findings) -> tuple[str, ...]:
    if not process.args:
        findings.invalid(f"{where}.args", "[]", "a process needs at least the name of its program")
    elif not process.args[0]:
        findings.invalid(f"{where}.args[0]", "", "the name of a program is not empty")
    return process.args


def _env(process: Process, where: str, findings: Findings) -> list[str]:
    """The last value of a name counts. HOME is added as the runtimes do when the process has none.

    They look it up in the container's passwd; here it goes by the id, for the container's files are the guest's.
    """
    variables: dict[str, str] = {}
    for index, entry in enumerate(process.env or ()):
        name, separator, value = entry.partition("=")
        if not name or not separator:
            findings.invalid(f"{where}.env[{index}]", entry, "an environment entry reads NAME=VALUE")
        variables.pop(name, None)
        variables[name] = value
    variables.setdefault("HOME", _home(process.user))
    return [f"{name}={value}" for name, value in variables.items()]


def _home(user: User) -> str:
    return _HOME_OF_ROOT if user.uid == 0 else "/"


def _cwd(process: Process, where: str, findings: Findings) -> str:
    if not process.cwd.startswith("/"):
        findings.invalid(f"{where}.cwd", process.cwd, "the working directory is an absolute path")
    clean = posixpath.normpath(process.cwd)
    return clean[1:] if clean.startswith("//") else clean


def _rlimits(rlimits: tuple[Rlimit, ...], where: str, findings: Findings) -> list[pb.Rlimit]:
    compiled: dict[int, pb.Rlimit] = {}
    for index, limit in enumerate(rlimits):
        number = _RLIMITS.get(limit.type)
        if number is None:
            findings.invalid(f"{where}[{index}].type", limit.type, "no resource limit of this name is known")
        elif number in compiled:
            findings.invalid(f"{where}[{index}].type", limit.type, "a resource limit is given once")
        elif limit.soft > limit.hard:
            findings.invalid(f"{where}[{index}].soft", limit.soft, f"it is above the hard limit {limit.hard}")
        else:
            compiled[number] = pb.Rlimit(resource=number, soft=limit.soft, hard=limit.hard)
    return list(compiled.values())


def _scheduler(scheduler: Scheduler, where: str, findings: Findings) -> pb.Scheduler:
    policy = _POLICIES.get(scheduler.policy)
    if policy is None:
        why = f"the guest's kernel knows {', '.join(_POLICIES)}"
        findings.unsupported(f"{where}.policy", scheduler.policy, why)
    if scheduler.policy in _REAL_TIME and scheduler.priority == 0:
        findings.invalid(f"{where}.priority", 0, f"{scheduler.policy} takes priorities 1 to 99")
    if scheduler.policy not in _REAL_TIME and scheduler.priority:
        findings.invalid(f"{where}.priority", scheduler.priority, "only SCHED_FIFO and SCHED_RR have priorities")
    return pb.Scheduler(
        policy=policy or 0,
        nice=scheduler.nice,
        priority=scheduler.priority,
        flags=_scheduler_flags(scheduler.flags or (), f"{where}.flags", findings),
        runtime_ns=scheduler.runtime,
        deadline_ns=scheduler.deadline,
        period_ns=scheduler.period,
    )


def _scheduler_flags(words: tuple[str, ...], where: str, findings: Findings) -> int:
    flags = 0
    for index, word in enumerate(words):
        if word not in _SCHEDULER_FLAGS:
            findings.invalid(f"{where}[{index}]", word, "no scheduler flag of this name is known")
        elif word in _NO_WORDS:
            findings.unsupported(f"{where}[{index}]", word, "the specification has no words for the clamp's value")
        flags |= _SCHEDULER_FLAGS.get(word, 0)
    return flags


def _affinity(process: Process, where: str, findings: Findings) -> list[int]:
    """`initial` is for a runtime's way into the container's cgroup; the agent's processes start in it."""
    if process.exec_cpu_affinity is None:
        return []
    _cpu_list(process.exec_cpu_affinity.initial, f"{where}.initial", findings)
    return _cpu_list(process.exec_cpu_affinity.final, f"{where}.final", findings)


def _cpu_list(text: str, where: str, findings: Findings) -> list[int]:
    """ "0-3,7" as taskset(1) takes it."""
    cpus: set[int] = set()
    for part in text.split(",") if text else ():
        match = _CPU_RANGE.match(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last >= _CPU_MAX:
            findings.invalid(where, text, f"a list of CPUs reads 0-3,7 and names none above {_CPU_MAX - 1}")
            return []
        cpus.update(range(first, last + 1))
    return sorted(cpus)
