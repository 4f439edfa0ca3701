"""Cleaning up after a sandbox whose shim is gone, from what lies in its run_dir alone.

Everything is found by what was recorded as the sandbox's own: its cgroup, its processes by pid and start time, its
run_dir and its disk. A pid that another process has now, a mount or a file of anyone else, is not touched. May be
called any number of times, by anyone, also after an earlier call was cut short. The tap goes back to the daemon's pool,
which owns it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from sandboxd.core.files import read_bounded
from sandboxd.core.records import RECORD_MAX_BYTES, SANDBOX_FILE, read_shim_record
from sandboxd.core.spec import SandboxSpec
from sandboxd.linux.cgroup import Cgroup
from sandboxd.linux.mounts import unmount_below
from sandboxd.linux.process import identify, kill_process

KILL_TIMEOUT_S = 10.0
DISK_FILE = "disk.ext4"


@dataclass(frozen=True, slots=True)
class ReclaimResult:
    """What a call of `reclaim` found and did."""

    processes_killed: int
    unmounted: tuple[str, ...]
    left: tuple[str, ...]
    """What could not be removed, with the reason. Empty: nothing of the sandbox is left but data_dir's log."""

    @property
    def complete(self) -> bool:
        return not self.left


def reclaim(run_dir: Path) -> ReclaimResult:
    """Kills what is left of the sandbox and removes cgroup, mounts, run_dir and disk. Blocks, at most about 20 s.

    The log files in data_dir stay. Never raises for what it cannot remove: it says so in the result.
    """
    left: list[str] = []
    spec = read_spec(run_dir)
    killed = _kill_recorded(run_dir, left)
    if spec:
        killed += _remove_cgroup(spec, left)
        _remove_disk(spec.data_dir, left)
    unmounted = _unmount(run_dir, left)
    # Last: as long as sandbox.json is there, a call that was cut short can be repeated.
    if not left:
        _remove_run_dir(run_dir, left)
    return ReclaimResult(killed, unmounted, tuple(left))


def read_spec(run_dir: Path) -> SandboxSpec | None:
    """The sandbox of this run_dir; None if no record says so, or the record speaks of another directory."""
    try:
        spec = SandboxSpec.model_validate_json(read_bounded(run_dir / SANDBOX_FILE, RECORD_MAX_BYTES))
    except (OSError, ValidationError):
        return None
    return spec if spec.run_dir == run_dir else None


def _kill_recorded(run_dir: Path, left: list[str]) -> int:
    record = read_shim_record(run_dir)
    killed = 0
    # The shim first: a living one would answer the VMM's death by writing into what is being removed.
    for identity in (record.shim, record.vmm) if record else ():
        if identity is None or identify(identity.pid) != identity:
            continue
        killed += 1
        if not kill_process(identity, KILL_TIMEOUT_S):
            left.append(f"process {identity.pid} does not end")
    return killed


def _remove_cgroup(spec: SandboxSpec, left: list[str]) -> int:
    cgroup = Cgroup(spec.cgroup)
    try:
        killed = cgroup.kill(KILL_TIMEOUT_S)
        cgroup.remove()
    except OSError as error:
        left.append(f"control group {spec.cgroup}: {error}")
        return 0
    return killed


def _remove_disk(data_dir: Path, left: list[str]) -> None:
    try:
        (data_dir / DISK_FILE).unlink(missing_ok=True)
    except OSError as error:
        left.append(f"disk: {error}")


def _unmount(run_dir: Path, left: list[str]) -> tuple[str, ...]:
    try:
        return unmount_below(run_dir)
    except OSError as error:
        left.append(f"mounts below {run_dir}: {error}")
        return ()


def _remove_run_dir(run_dir: Path, left: list[str]) -> None:
    try:
        shutil.rmtree(run_dir)
    except FileNotFoundError:
        pass
    except OSError as error:
        left.append(f"{run_dir}: {error}")
