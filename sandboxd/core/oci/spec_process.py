"""The process of the OCI runtime specification (config.md, "Process"), as records."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sandboxd.core.oci.model import LIST_MAX, U32, U64, FileMode, Record, Text, Word

ARGUMENTS_MAX = 65536


class ConsoleSize(Record):
    height: Annotated[int, Field(ge=0, le=65535, strict=True)]
    width: Annotated[int, Field(ge=0, le=65535, strict=True)]


class User(Record):
    uid: U32 = 0
    gid: U32 = 0
    umask: FileMode | None = None
    additional_gids: Annotated[tuple[U32, ...], Field(max_length=65536)] | None = None


class Capabilities(Record):
    """Names are checked where they are compiled: unknown ones are passed over with a warning, as config.md asks."""

    effective: Annotated[tuple[Word, ...], Field(max_length=256)] | None = None
    bounding: Annotated[tuple[Word, ...], Field(max_length=256)] | None = None
    inheritable: Annotated[tuple[Word, ...], Field(max_length=256)] | None = None
    permitted: Annotated[tuple[Word, ...], Field(max_length=256)] | None = None
    ambient: Annotated[tuple[Word, ...], Field(max_length=256)] | None = None


class Rlimit(Record):
    type: Word
    soft: U64
    hard: U64


class Scheduler(Record):
    policy: Word
    nice: Annotated[int, Field(ge=-20, le=19, strict=True)] = 0
    priority: Annotated[int, Field(ge=0, le=99, strict=True)] = 0
    flags: Annotated[tuple[Word, ...], Field(max_length=16)] | None = None
    runtime: U64 = 0
    deadline: U64 = 0
    period: U64 = 0


class IoPriority(Record):
    io_class: Annotated[Literal["IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"], Field(alias="class")]
    priority: Annotated[int, Field(ge=0, le=7, strict=True)] = 0


class ExecCpuAffinity(Record):
    initial: Word = ""
    final: Word = ""


class Process(Record):
    """One process: the container's first, or an exec's."""

    terminal: bool = False
    console_size: ConsoleSize | None = None
    user: User = User()
    args: Annotated[tuple[Text, ...], Field(max_length=ARGUMENTS_MAX)] = ()
    command_line: Text = ""
    env: Annotated[tuple[Text, ...], Field(max_length=ARGUMENTS_MAX)] | None = None
    cwd: Word
    capabilities: Capabilities | None = None
    rlimits: Annotated[tuple[Rlimit, ...], Field(max_length=LIST_MAX)] | None = None
    no_new_privileges: bool = False
    apparmor_profile: Word = ""
    oom_score_adj: Annotated[int, Field(ge=-1000, le=1000, strict=True)] | None = None
    scheduler: Scheduler | None = None
    selinux_label: Word = ""
    io_priority: IoPriority | None = None
    exec_cpu_affinity: Annotated[ExecCpuAffinity | None, Field(alias="execCPUAffinity")] = None
