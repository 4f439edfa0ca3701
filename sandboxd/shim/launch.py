"""Starting a shim, and finding one again: for the daemon.

client = await start_shim(spec)          # its process runs, its socket answers; nothing boots before client.create
client = await connect(run_dir)          # after a restart of the daemon
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from sandboxd.aio.child import Child
from sandboxd.aio.descriptors import wait_readable
from sandboxd.aio.ttrpc import ClientConnection
from sandboxd.base.clock import monotonic_ns
from sandboxd.base.errors import SHIM_LOST, SHIM_START_FAILED, SandboxdError
from sandboxd.core.files import write_atomically
from sandboxd.core.reclaim import reclaim
from sandboxd.core.records import LOG_FILE, SANDBOX_FILE, SOCKET_FILE, read_shim_record
from sandboxd.core.spec import SandboxSpec
from sandboxd.linux.process import open_process
from sandboxd.shim.client import ShimClient
from sandboxd.shim.names import ATTACH_ONLY, READY, SPAWN_TIME_VARIABLE

START_TIMEOUT_S = 30.0
_LOG_TAIL_BYTES = 2048

__all__ = ["ATTACH_ONLY", "START_TIMEOUT_S", "ShimClient", "connect", "start_shim"]


async def start_shim(spec: SandboxSpec) -> ShimClient:
    """Starts the shim of a sandbox: a process in a session of its own. Returns when its socket answers.

    Makes the run_dir (0700; what is in it already stays) and sandbox.json. Raises shim_start_failed when it ends or is
    not ready within START_TIMEOUT_S; then the sandbox is reclaimed: run_dir and the disk in data_dir are gone.
    """
    child: Child | None = None
    try:
        spec.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(spec.run_dir / SANDBOX_FILE, spec.model_dump_json().encode())
        child = _spawn(spec.run_dir)
        await _wait_ready(spec, child)
        return await _client(spec.id, spec.run_dir, child.pid, os.pidfd_open(child.pid), child)
    except BaseException as error:
        if child:
            await child.kill()
        log_tail = _log_tail(spec.run_dir)
        await asyncio.to_thread(reclaim, spec.run_dir)
        if isinstance(error, OSError):
            reason = f"{error}."
            raise SandboxdError(SHIM_START_FAILED, id=spec.id, reason=reason, log_tail=log_tail) from error
        raise


def _spawn(run_dir: Path) -> Child:
    # -I: neither the caller's environment nor its directory may decide what code runs.
    argv = [sys.executable, "-I", "-m", "sandboxd.shim", "serve", str(run_dir)]
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        SPAWN_TIME_VARIABLE: str(monotonic_ns()),
    }
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    log_fd = os.open(run_dir / LOG_FILE, flags, 0o600)
    try:
        # stdout is the shim's way to say that it is ready; it closes it then.
        return Child.spawn(
            argv, stdout=subprocess.PIPE, stderr=log_fd, env=environment, cwd=Path("/"), new_session=True
        )
    finally:
        os.close(log_fd)


async def _wait_ready(spec: SandboxSpec, child: Child) -> None:
    assert child.stdout
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            await wait_readable(child.stdout.fileno())
        word = os.read(child.stdout.fileno(), len(READY))
    except TimeoutError:
        word, reason = b"", f"It was not ready within {START_TIMEOUT_S:g} s."
    else:
        reason = "It ended at once."
    finally:
        child.stdout.close()
    if word != READY:
        raise SandboxdError(SHIM_START_FAILED, id=spec.id, reason=reason, log_tail=_log_tail(spec.run_dir))


async def connect(run_dir: Path) -> ShimClient:
    """Finds the living shim of a run_dir: pid and start time must be those of its shim.json. Raises shim_lost."""
    record = read_shim_record(run_dir)
    if record is None:
        raise SandboxdError(SHIM_LOST, id=run_dir.name, reason="It left no word of which process it is.")
    pidfd = open_process(record.shim)
    if pidfd is None:
        raise SandboxdError(SHIM_LOST, id=run_dir.name, reason=f"Process {record.pid} has ended.")
    return await _client(run_dir.name, run_dir, record.pid, pidfd, None)


async def _client(sandbox_id: str, run_dir: Path, pid: int, pidfd: int, child: Child | None) -> ShimClient:
    try:
        connection = await ClientConnection.open_unix(run_dir / SOCKET_FILE)
    except OSError as error:
        os.close(pidfd)
        reason = f"Its socket does not answer: {error}."
        raise SandboxdError(SHIM_LOST, id=sandbox_id, reason=reason) from error
    return ShimClient(sandbox_id, run_dir, pid, pidfd, connection, child)


def _log_tail(run_dir: Path) -> str:
    try:
        text = (run_dir / LOG_FILE).read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
    except OSError:
        text = ""
    return text or "(nothing)"
