"""A shim's life: its cgroup, its socket, its word to the launcher, the calls, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from pathlib import Path

import sandboxd
from sandboxd.base.clock import monotonic_ns
from sandboxd.base.errors import CGROUP_UNUSABLE, SandboxdError
from sandboxd.core.files import read_bounded
from sandboxd.core.limits import host_limits
from sandboxd.core.records import RECORD_MAX_BYTES, SANDBOX_FILE, SOCKET_FILE, ShimRecord, write_shim_record
from sandboxd.core.spec import SandboxSpec
from sandboxd.linux.cgroup import Cgroup
from sandboxd.linux.process import identify
from sandboxd.shim.names import READY, SPAWN_TIME_VARIABLE
from sandboxd.telemetry.logs import set_up_logging
from sandboxd.telemetry.stages import StageRecorder

BACKLOG = 128

_log = logging.getLogger(__name__)


def serve(run_dir: str) -> int:
    """Serves the sandbox of `run_dir` until Shutdown or SIGTERM; the process's exit status."""
    os.umask(0o077)
    begin_ns = int(os.environ.pop(SPAWN_TIME_VARIABLE, monotonic_ns()))
    stages = StageRecorder("shim")
    try:
        spec = SandboxSpec.model_validate_json(read_bounded(Path(run_dir) / SANDBOX_FILE, RECORD_MAX_BYTES))
        set_up_logging(sandbox=spec.id)
        with stages.stage("cgroup"):
            _join_cgroup(spec)
        listener = _listen(spec.run_dir / SOCKET_FILE)
        _leave_record(spec.run_dir)
        _say_ready()
        # Only now what takes its time to load: the caller goes on meanwhile, and its first call waits in the socket.
        from sandboxd.shim.server import run

        stages.record("shim", begin_ns, monotonic_ns())
        asyncio.run(run(spec, stages, listener))
    except SandboxdError as error:
        _log.error("%s: %s %s", error.message, error.cause, error.remedy)
        return 1
    except Exception:  # the last door of the process: its log is where the launcher looks
        _log.exception("the shim failed")
        return 1
    return 0


def _join_cgroup(spec: SandboxSpec) -> None:
    """First of all: whatever this process and its children use is the sandbox's."""
    try:
        cgroup = Cgroup(spec.cgroup)
        cgroup.create(host_limits(spec))
        cgroup.enter()
    except (OSError, ValueError) as error:
        raise SandboxdError(CGROUP_UNUSABLE, cgroup=spec.cgroup, reason=f"{error}.") from error


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(BACKLOG)
    return listener


def _leave_record(run_dir: Path) -> None:
    identity = identify(os.getpid())
    assert identity
    write_shim_record(run_dir, ShimRecord(identity.pid, identity.start_time_ticks, sandboxd.__version__))


def _say_ready() -> None:
    """Tells the launcher, and lets go of its pipe."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, READY)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.close(null)
