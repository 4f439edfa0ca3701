"""What the SDK returns: frozen records. Times are aware datetimes in UTC, sizes bytes, durations seconds.

Fields are only ever added: their names are also the keys of the command line's JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

State = Literal["unknown", "creating", "created", "running", "stopped", "paused"]


@dataclass(frozen=True, slots=True)
class Port:
    """A published port of a sandbox."""

    bind: str
    """Address of the host; "" is all of them."""
    host_port: int
    guest_port: int
    protocol: str

    def __str__(self) -> str:
        bind = f"[{self.bind}]" if ":" in self.bind else self.bind or "0.0.0.0"  # noqa: S104  (shown, not bound)
        return f"{bind}:{self.host_port}->{self.guest_port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Exit:
    """How a sandbox's command, or one more command in it, ended."""

    exit_status: int
    """0..255; 128 + signal when killed."""
    reason: str
    """exited, signaled, oom_killed, vmm_died, shim_died, agent_lost, host_rebooted, timeout."""
    detail: str
    at: datetime | None

    @property
    def by_itself(self) -> bool:
        """True when the command ended, not the machine around it."""
        return self.reason in ("", "exited", "signaled")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a start, in CLOCK_MONOTONIC nanoseconds of the host."""

    name: str
    process: str
    begin_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Machine:
    """The microVM that a sandbox runs in."""

    shim_pid: int
    vmm_pid: int
    vmm_driver: str
    acceleration: str
    kernel_release: str
    agent_version: str
    guest_memory_bytes: int
    stages: tuple[Stage, ...]


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """A sandbox at one moment."""

    id: str
    name: str
    image: str
    image_id: str
    command: tuple[str, ...]
    state: State
    created_at: datetime | None
    started_at: datetime | None
    exit: Exit | None
    address: str
    ports: tuple[Port, ...]
    labels: Mapping[str, str]
    config: Mapping[str, object]
    """What was asked for, key by key as in the API's SandboxConfig."""
    machine: Machine | None
    """Only of `get` and `inspect`, and only while it runs."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """A local image."""

    id: str
    """Digest of its configuration."""
    references: tuple[str, ...]
    digest: str
    architecture: str
    size_bytes: int
    created_at: datetime | None
    pulled_at: datetime | None
    used_by: tuple[str, ...]
    config: Mapping[str, object]
    """The OCI image configuration."""


@dataclass(frozen=True, slots=True)
class ImageProgress:
    """One step of a pull or load."""

    stage: str
    """resolve, fetch, unpack, pack."""
    item: str
    """A layer's digest, short; "" for the whole image."""
    done_bytes: int
    total_bytes: int
    """0: not known."""


@dataclass(frozen=True, slots=True)
class ImageRemoval:
    removed: tuple[str, ...]
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A piece of a sandbox's output as it was written; not necessarily a line."""

    unix_ns: int
    stream: Literal["stdout", "stderr"]
    data: bytes


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of a process's live output. With a terminal everything is stdout."""

    stream: Literal["stdout", "stderr"]
    data: bytes


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a sandbox or an image."""

    at: datetime
    unix_ns: int
    type: str
    action: str
    id: str
    name: str
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Stats:
    """One sample of what a sandbox uses. Counters are since its start."""

    id: str
    name: str
    at: datetime | None
    cpu_ns: int
    cpu_percent: float
    """Of one CPU, since the sample before."""
    memory_bytes: int
    memory_limit_bytes: int
    host_memory_bytes: int
    """VMM and shim on the host."""
    host_cpu_ns: int
    network_rx_bytes: int
    network_tx_bytes: int
    disk_used_bytes: int
    disk_total_bytes: int
    block_read_bytes: int
    block_write_bytes: int
    pids: int
    oom_kills: int


@dataclass(frozen=True, slots=True)
class PathInfo:
    """A file inside a sandbox."""

    mode: int
    """As st_mode."""
    size_bytes: int
    symlink_target: str


@dataclass(frozen=True, slots=True)
class Version:
    version: str
    api_version: str
    pid: int


@dataclass(frozen=True, slots=True)
class Info:
    """The daemon and its host, in short."""

    version: str
    pid: int
    sandboxes_running: int
    sandboxes_stopped: int
    vmm_driver: str
    acceleration: str
    acceleration_reason: str
    subnet: str
    data_dir: str
    run_dir: str
    kernel: str


@dataclass(frozen=True, slots=True)
class ExecResult:
    """A command that has ended, with all it wrote."""

    command: tuple[str, ...]
    exit_status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as UTF-8, bad bytes replaced."""
        return self.stdout.decode(errors="replace")
