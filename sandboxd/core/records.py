"""What a sandbox's shim leaves in its run_dir for others: who it is (shim.json) and how the sandbox ended (exit.json).

Both are written atomically by the shim and read by the daemon and by reclaim, also when the shim is long gone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

from sandboxd.core.files import read_bounded, write_atomically
from sandboxd.linux.process import ProcessIdentity

SANDBOX_FILE = "sandbox.json"
SHIM_FILE = "shim.json"
EXIT_FILE = "exit.json"
SOCKET_FILE = "shim.sock"
LOG_FILE = "shim.log"
RECORD_MAX_BYTES = 1 << 20

REASONS = ("exited", "signaled", "oom_killed", "vmm_died", "shim_died", "agent_lost", "host_rebooted", "timeout")


@dataclass(frozen=True, slots=True)
class ShimRecord:
    """The shim of a run_dir, and the VMM process that it started (0: none yet)."""

    pid: int
    start_time_ticks: int
    version: str
    vmm_pid: int = 0
    vmm_start_time_ticks: int = 0

    @property
    def shim(self) -> ProcessIdentity:
        return ProcessIdentity(self.pid, self.start_time_ticks)

    @property
    def vmm(self) -> ProcessIdentity | None:
        return ProcessIdentity(self.vmm_pid, self.vmm_start_time_ticks) if self.vmm_pid else None


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """How a process of a sandbox ended."""

    id: str
    exit_status: int
    """0..255; 128 + signal when killed."""
    exited_at_unix_ns: int
    reason: str
    """One of REASONS."""
    detail: str = ""
    """For people: the VMM's last words, the console's tail."""


R = TypeVar("R", ShimRecord, ExitRecord)


def write_shim_record(run_dir: Path, record: ShimRecord) -> None:
    write_atomically(run_dir / SHIM_FILE, json.dumps(asdict(record)).encode())


def read_shim_record(run_dir: Path) -> ShimRecord | None:
    """None if there is none, or none that can be read (then nobody ever was told of that shim)."""
    return _read(run_dir / SHIM_FILE, ShimRecord)


def write_exit_record(run_dir: Path, record: ExitRecord) -> None:
    write_atomically(run_dir / EXIT_FILE, json.dumps(asdict(record)).encode())


def read_exit_record(run_dir: Path) -> ExitRecord | None:
    """None if the sandbox has not ended, or its shim died before it could say how."""
    return _read(run_dir / EXIT_FILE, ExitRecord)


def _read(path: Path, record_type: type[R]) -> R | None:
    """Checked by hand: two flat records are not worth pydantic's import in a process that only cleans up."""
    try:
        values = json.loads(read_bounded(path, RECORD_MAX_BYTES))
        types = {field.name: field.type for field in fields(record_type)}
        if any(type(value).__name__ != types[name] for name, value in values.items()):
            return None
        return record_type(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
