"""Starting a shim, and finding one again: for the daemon.

client = await start_shim(spec, zygote)  # its process runs, its socket answers; nothing boots before client.create
client = await connect(run_dir)          # after a restart of the daemon
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from dataclasses import dataclass
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
from sandboxd.shim.zygote_handle import ENVIRONMENT, Zygote

START_TIMEOUT_S = 30.0
_LOG_TAIL_BYTES = 2048

__all__ = ["ATTACH_ONLY", "START_TIMEOUT_S", "ShimClient", "Zygote", "connect", "start_shim"]


async def start_shim(spec: SandboxSpec, zygote: Zygote | None = None) -> ShimClient:
    """Starts the shim of a sandbox: a process in a session of its own. Returns when its socket answers.

    From `zygote` if that is ready at once, else as a process from the ground up: the shim is the same.
    Makes the run_dir (0700; what is in it already stays) and sandbox.json. Raises shim_start_failed when it ends or is
    not ready within START_TIMEOUT_S; then the sandbox is reclaimed: run_dir and the disk in data_dir are gone.
    """
    started: _Started | None = None
    try:
        spec.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(spec.run_dir / SANDBOX_FILE, spec.model_dump_json().encode())
        started = await _start(spec.run_dir, zygote)
        await _wait_ready(spec, started.word)
        return await _client(spec.id, spec.run_dir, started.pid, started.pidfd, started.child)
    except BaseException as error:
        if started:
            await started.kill()
        log_tail = _log_tail(spec.run_dir)
        await asyncio.to_thread(reclaim, spec.run_dir)
        if isinstance(error, OSError):
            reason = f"{error}."
            raise SandboxdError(SHIM_START_FAILED, id=spec.id, reason=reason, log_tail=log_tail) from error
        raise


@dataclass(frozen=True, slots=True)
class _Started:
    """A shim's process, from wherever it came."""

    pid: int
    pidfd: int
    word: socket.socket
    """Its stdout: its way to say that it is ready; it closes it then."""
    child: Child | None
    """To be reaped by us; the zygote's are reaped by it."""

    async def kill(self) -> None:
        """Ends it and lets go of it."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        await wait_readable(self.pidfd)
        os.close(self.pidfd)
        if self.child:
            await self.child.wait()


async def _start(run_dir: Path, zygote: Zygote | None) -> _Started:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    log_fd = os.open(run_dir / LOG_FILE, flags, 0o600)
    try:
        if zygote and (forked := await zygote.fork(run_dir, log_fd)):
            return _Started(forked.pid, forked.pidfd, forked.word, None)
        return _spawn(run_dir, log_fd)
    finally:
        os.close(log_fd)


def _spawn(run_dir: Path, log_fd: int) -> _Started:
    # -I: neither the caller's environment nor its directory may decide what code runs.
    argv = [sys.executable, "-I", "-m", "sandboxd.shim", "serve", str(run_dir)]
    environment = {**ENVIRONMENT, SPAWN_TIME_VARIABLE: str(monotonic_ns())}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with contextlib.ExitStack() as undo, theirs:
        undo.enter_context(ours)
        child = Child.spawn(
            argv, stdout=theirs.fileno(), stderr=log_fd, env=environment, cwd=Path("/"), new_session=True
        )
        undo.callback(child.send_signal, signal.SIGKILL)
        pidfd = os.pidfd_open(child.pid)
        undo.pop_all()
    return _Started(child.pid, pidfd, ours, child)


async def _wait_ready(spec: SandboxSpec, word: socket.socket) -> None:
    with word:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await wait_readable(word.fileno())
            said = word.recv(len(READY))
        except TimeoutError:
            said, reason = b"", f"It was not ready within {START_TIMEOUT_S:g} s."
        except OSError as error:
            said, reason = b"", f"It ended at once: {error}."
        else:
            reason = "It ended at once."
    if said != READY:
        raise SandboxdError(SHIM_START_FAILED, id=spec.id, reason=reason, log_tail=_log_tail(spec.run_dir))


async def connect(run_dir: Path) -> ShimClient:
    """Finds the living shim of a run_dir: pid and start time must be those of its shim.json. Raises shim_lost."""
    record = read_shim_record(run_dir)
    if record is None:
        raise SandboxdError(SHIM_LOST, id=run_dir.name, reason="It left no word of which process it is.")
    pidfd = open_process(record.shim)
    if pidfd is None:
        raise SandboxdError(SHIM_LOST, id=run_dir.name, reason=f"Process {record.pid} has ended.")
    try:
        return await _client(run_dir.name, run_dir, record.pid, pidfd, None)
    except BaseException:
        os.close(pidfd)
        raise


async def _client(sandbox_id: str, run_dir: Path, pid: int, pidfd: int, child: Child | None) -> ShimClient:
    try:
        connection = await ClientConnection.open_unix(run_dir / SOCKET_FILE)
    except OSError as error:
        reason = f"Its socket does not answer: {error}."
        raise SandboxdError(SHIM_LOST, id=sandbox_id, reason=reason) from error
    return ShimClient(sandbox_id, run_dir, pid, pidfd, connection, child)


def _log_tail(run_dir: Path) -> str:
    try:
        text = (run_dir / LOG_FILE).read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
    except OSError:
        text = ""
    return text or "(nothing)"
