"""One more process in a running sandbox: `exec`, attached or detached."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator
from typing import Any

from sandboxd.api import sandboxd_pb2 as api
from sandboxd.api import shim_pb2
from sandboxd.base.errors import SANDBOX_WRONG_STATE, SandboxdError
from sandboxd.core.oci.generate import ExecOptions, exec_process
from sandboxd.daemon.bundle import read_config
from sandboxd.daemon.events import EventBus
from sandboxd.daemon.images import Images
from sandboxd.daemon.live import Live
from sandboxd.daemon.paths import BUNDLE, Paths
from sandboxd.daemon.records import SandboxRecord
from sandboxd.daemon.request import (
    WINDOW_MAX,
    Finding,
    command_findings,
    environment_findings,
    refusal,
    working_dir_findings,
)
from sandboxd.daemon.sandboxes import Sandboxes
from sandboxd.daemon.session import Context, Session
from sandboxd.shim.launch import ATTACH_ONLY, ShimClient

EXEC_ID_BYTES = 8

_log = logging.getLogger(__name__)


class Executions:
    """Runs processes in sandboxes, and forgets them when they have ended, whoever still looks."""

    def __init__(self, sandboxes: Sandboxes, images: Images, events: EventBus, paths: Paths) -> None:
        self._sandboxes = sandboxes
        self._images = images
        self._events = events
        self._paths = paths
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(
        self,
        record: SandboxRecord,
        wanted: api.ExecConfig,
        messages: AsyncIterator[api.RunRequest],
        context: Context,
    ) -> None:
        """Raises sandbox_wrong_state, invalid_argument, unknown_user, command_not_found, command_not_executable."""
        live, shim = self._sandboxes.require_running(record, "execute a command in")
        _check(wanted)
        process = await self._process(record, wanted)
        exec_id = secrets.token_hex(EXEC_ID_BYTES)
        stdin = wanted.stdin and not wanted.detach
        session = None
        try:
            try:
                await shim.exec(exec_id, process, terminal=wanted.terminal, stdin=ATTACH_ONLY if stdin else "")
                if not wanted.detach:
                    session = Session(live, shim, self._paths, exec_id=exec_id, stdin=stdin, terminal=wanted.terminal)
                    await session.attach()
                ended = await self._start(record, shim, exec_id, wanted)
            except BaseException:
                self._spawn(_forget(shim, exec_id))
                raise
            if session is None:
                await context.write(api.ProcessOutput(started=True))
                return
            await context.write(api.ProcessOutput(started=True))
            await session.run(messages, context)
        finally:
            if session:
                await session.close()
        exit_ = await self._exit(live, ended)
        await context.write(api.ProcessOutput(exit=exit_))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _process(self, record: SandboxRecord, wanted: api.ExecConfig) -> dict[str, Any]:
        try:
            config = await asyncio.to_thread(read_config, self._paths.run_of(record.id) / BUNDLE)
        except FileNotFoundError:
            operation = "execute a command in"
            raise SandboxdError(
                SANDBOX_WRONG_STATE, operation=operation, id=record.id, state="stopped", needed="running"
            ) from None
        passwd, group = self._images.accounts(record.image_id) if wanted.user else (b"", b"")
        options = ExecOptions(
            command=tuple(wanted.command),
            env=tuple(wanted.env),
            working_dir=wanted.working_dir,
            user=wanted.user,
            terminal=wanted.terminal,
            terminal_width=wanted.terminal_width,
            terminal_height=wanted.terminal_height,
            privileged=wanted.privileged,
            passwd=passwd,
            group=group,
        )
        return exec_process(config, options)

    async def _start(
        self, record: SandboxRecord, shim: ShimClient, exec_id: str, wanted: api.ExecConfig
    ) -> asyncio.Future[shim_pb2.Exit]:
        """Answers how it will have ended."""
        await shim.start(exec_id)
        command = " ".join(wanted.command)[:256]
        self._events.publish("sandbox", "exec_start", record.id, record.name, command=command, execID=exec_id)
        ended: asyncio.Future[shim_pb2.Exit] = asyncio.get_running_loop().create_future()
        self._spawn(self._watch(record, shim, exec_id, ended))
        return ended

    async def _watch(
        self, record: SandboxRecord, shim: ShimClient, exec_id: str, ended: asyncio.Future[shim_pb2.Exit]
    ) -> None:
        try:
            exit_ = await shim.wait_exit(exec_id)
        except SandboxdError as error:
            if not ended.done():
                ended.set_exception(error)
                ended.exception()  # nobody may be looking
            return
        if not ended.done():
            ended.set_result(exit_)
        status = str(exit_.exit_status)
        self._events.publish("sandbox", "exec_die", record.id, record.name, execID=exec_id, exitCode=status)
        await _delete(shim, exec_id)

    async def _exit(self, live: Live, ended: asyncio.Future[shim_pb2.Exit]) -> shim_pb2.Exit:
        """Of the process; where its machine went away under it, how the machine ended."""
        try:
            return await asyncio.shield(ended)
        except SandboxdError:
            return (await live.exit()).to_api()

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _check(wanted: api.ExecConfig) -> None:
    findings: list[Finding] = [
        *command_findings(wanted.command),
        *environment_findings(wanted.env),
        *working_dir_findings(wanted.working_dir),
    ]
    if "\0" in wanted.user or len(wanted.user) > 256:
        findings.append(("user", wanted.user, "it reads name|uid[:group|gid]"))
    if wanted.terminal_width > WINDOW_MAX or wanted.terminal_height > WINDOW_MAX:
        size = f"{wanted.terminal_width}x{wanted.terminal_height}"
        findings.append(("terminal size", size, f"each side is at most {WINDOW_MAX}"))
    if findings:
        raise refusal(findings, "exec")


async def _forget(shim: ShimClient, exec_id: str) -> None:
    """Of a process whose caller went away or was refused: at once, or when it has ended if it was started by then."""
    try:
        await shim.delete(exec_id)
    except SandboxdError as error:
        if error.kind is not SANDBOX_WRONG_STATE:
            return  # it was never made, or its shim is gone
        with contextlib.suppress(SandboxdError):
            await shim.wait_exit(exec_id)
            await shim.delete(exec_id)


async def _delete(shim: ShimClient, exec_id: str) -> None:
    try:
        await shim.delete(exec_id)
    except SandboxdError as error:
        _log.debug("sandbox %s: exec %s was not deleted: %s", shim.id, exec_id, error)
