"""A handle on one sandbox. It keeps the id, so it never acts on a successor of the same name."""

from __future__ import annotations

import asyncio
import os
import posixpath
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from sandboxd.api import sandboxd_pb2 as pb
from sandboxd.api import shim_pb2
from sandboxd.base.errors import COMMAND_FAILED, SANDBOX_NOT_FOUND, SandboxdError
from sandboxd.client import convert, model
from sandboxd.client.channel import Connection
from sandboxd.client.options import checked_command, environment
from sandboxd.client.process import AsyncProcess

STOP_EXTRA_S = 60.0
REMOVE_LIMIT_S = 120.0
STDERR_TAIL_BYTES = 400
KILL_LIMIT_S = 5.0


class AsyncSandbox:
    """A sandbox. `async with` removes it at the end, running or not."""

    def __init__(self, connection: Connection, info: model.SandboxInfo) -> None:
        self._connection = connection
        self.info = info
        """As of the last call that told; `refresh` asks again."""

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def name(self) -> str:
        return self.info.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.name or '-'} {self.info.image} {self.info.state}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.remove(force=True)
        except SandboxdError as error:
            # Gone already is what was wanted; and an exception on its way out says more than this one would.
            if error.kind.code != SANDBOX_NOT_FOUND.code and value is None:
                raise

    # --- life ---

    async def start(self) -> None:
        """Starts the command of a sandbox that `create` made."""
        request = pb.StartRequest(id=self.id)
        self.info = convert.sandbox(await self._connection.unary("Sandboxes/Start", request, pb.Sandbox, limit_s=None))

    async def refresh(self) -> model.SandboxInfo:
        answer = await self._connection.unary("Sandboxes/Get", pb.GetRequest(id=self.id), pb.Sandbox)
        self.info = convert.sandbox(answer)
        return self.info

    async def stop(self, *, timeout_s: float | None = None) -> model.SandboxInfo:
        """The image's stop signal, then after `timeout_s` (the daemon's default: 10) SIGKILL."""
        request = pb.StopRequest(id=self.id)
        if timeout_s is not None:
            request.timeout_s = timeout_s
        limit_s = (10.0 if timeout_s is None else timeout_s) + STOP_EXTRA_S
        self.info = convert.sandbox(
            await self._connection.unary("Sandboxes/Stop", request, pb.Sandbox, limit_s=limit_s)
        )
        return self.info

    async def kill(self, signal: int = 9) -> None:
        """Sends a signal to the command."""
        await self._connection.unary("Sandboxes/Kill", pb.KillRequest(id=self.id, signal=signal), pb.KillResponse)

    async def wait(self) -> model.Exit:
        """Until the command has ended."""
        request = pb.WaitRequest(id=self.id)
        return convert.exit_status(await self._connection.unary("Sandboxes/Wait", request, shim_pb2.Exit, limit_s=None))

    async def remove(self, *, force: bool = False) -> None:
        """Removes the record and what is left; with `force` ends the command first."""
        request = pb.RemoveRequest(id=self.id, force=force)
        await self._connection.unary("Sandboxes/Remove", request, pb.RemoveResponse, limit_s=REMOVE_LIMIT_S)

    # --- commands ---

    async def popen(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | Sequence[str] = (),
        workdir: str = "",
        user: str = "",
        terminal: bool = False,
        terminal_size: tuple[int, int] = (0, 0),
        stdin: bool = False,
        privileged: bool = False,
        detach: bool = False,
    ) -> AsyncProcess:
        """Starts one more command and returns its live process. With `detach` it runs on without one."""
        config = pb.ExecConfig(
            sandbox=self.id,
            command=checked_command(command),
            env=environment(env),
            working_dir=workdir,
            user=user,
            terminal=terminal,
            stdin=stdin,
            detach=detach,
            privileged=privileged,
            terminal_width=terminal_size[0],
            terminal_height=terminal_size[1],
        )
        call = await self._connection.duplex("Sandboxes/Exec", pb.RunRequest, pb.ProcessOutput)
        await call.write(pb.RunRequest(exec=config))
        return AsyncProcess(call)

    async def exec(
        self,
        command: Sequence[str],
        *,
        input: bytes | None = None,
        env: Mapping[str, str] | Sequence[str] = (),
        workdir: str = "",
        user: str = "",
        privileged: bool = False,
        check: bool = False,
        timeout_s: float | None = None,
    ) -> model.ExecResult:
        """Runs one more command to its end and returns all it wrote.

        Errors: command_failed with `check`; TimeoutError after `timeout_s`, when the command has been sent SIGKILL.
        """
        process = await self.popen(
            command, env=env, workdir=workdir, user=user, privileged=privileged, stdin=input is not None
        )
        async with process:
            result = await _within(
                timeout_s, process, asyncio.create_task(_communicate(process, tuple(command), input))
            )
        if check and result.exit_status:
            tail = result.stderr[-STDERR_TAIL_BYTES:].decode(errors="replace").strip() or "(it is empty)"
            raise SandboxdError(
                COMMAND_FAILED, command=" ".join(command)[:200], status=result.exit_status, stderr_tail=tail
            )
        return result

    async def attach(self, *, stdin: bool = False) -> AsyncProcess:
        """The running command itself: its output from now on, and its input."""
        call = await self._connection.duplex("Sandboxes/Attach", pb.RunRequest, pb.ProcessOutput)
        await call.write(pb.RunRequest(attach=pb.AttachConfig(sandbox=self.id, stdin=stdin)))
        return AsyncProcess(call)

    async def processes(self) -> list[int]:
        """Process ids in the guest."""
        request = pb.GetRequest(id=self.id)
        return list((await self._connection.unary("Sandboxes/Processes", request, pb.ProcessesResponse)).pids)

    # --- what it says and uses ---

    async def logs(
        self, *, follow: bool = False, tail: int | None = None, since_unix_ns: int = 0, until_unix_ns: int = 0
    ) -> AsyncIterator[model.LogEntry]:
        """Its output so far, of stopped sandboxes too; with `follow` also what comes, until it ends."""
        request = pb.LogsRequest(id=self.id, follow=follow, since_unix_ns=since_unix_ns, until_unix_ns=until_unix_ns)
        if tail is not None:
            request.tail = tail
        async for entry in self._connection.stream("Sandboxes/Logs", request, pb.LogEntry):
            yield convert.log_entry(entry)

    async def stats(self) -> model.Stats:
        """One sample."""
        found = [sample async for sample in self._samples(stream=False)]
        if not found:
            raise self._connection.broken("there was no sample")
        return found[0]

    async def stats_stream(self) -> AsyncIterator[model.Stats]:
        """Samples without end."""
        async for sample in self._samples(stream=True):
            yield sample

    async def _samples(self, *, stream: bool) -> AsyncIterator[model.Stats]:
        request = pb.StatsRequest(ids=[self.id], stream=stream)
        async for sample in self._connection.stream("Sandboxes/Stats", request, pb.SandboxStats):
            yield convert.stats(sample)

    # --- files ---

    async def stat_path(self, path: str, *, follow: bool = True) -> model.PathInfo | None:
        """None when there is no such file."""
        request = pb.StatPathRequest(id=self.id, path=path, follow=follow)
        answer = await self._connection.unary("Sandboxes/StatPath", request, pb.StatPathResponse)
        return model.PathInfo(answer.mode, answer.size, answer.symlink_target) if answer.exists else None

    async def copy_in(
        self, source: str | os.PathLike[str], target: str, *, keep_owner: bool = False, follow: bool = False
    ) -> int:
        """Copies a file or tree of this host into the sandbox, with docker's rules about `/` and `/.`.
        Returns the number of entries."""
        from sandboxd.client import copy

        return await copy.copy_in(self, os.fspath(source), target, keep_owner=keep_owner, follow=follow)

    async def copy_out(
        self, source: str, target: str | os.PathLike[str], *, keep_owner: bool = False, follow: bool = False
    ) -> int:
        """Copies a file or tree of the sandbox to this host, with docker's rules. Nothing outside `target` is written,
        whatever the sandbox sends. Returns the number of entries."""
        from sandboxd.client import copy

        return await copy.copy_out(self, source, os.fspath(target), keep_owner=keep_owner, follow=follow)

    async def upload_tar(self, path: str, chunks: AsyncIterable[bytes], *, keep_owner: bool = False) -> int:
        """Unpacks a tar stream into `path`, an existing directory of the sandbox. Returns the number of entries."""
        call = await self._connection.upload("Sandboxes/CopyIn", pb.CopyInRequest, pb.CopyInResponse)
        try:
            going = await call.write(
                pb.CopyInRequest(target=pb.CopyTarget(id=self.id, path=path, keep_owner=keep_owner))
            )
            if going:
                async for chunk in chunks:
                    if not await call.write(pb.CopyInRequest(data=chunk)):
                        break
            return (await call.finish()).files
        except BaseException:
            call.cancel()
            raise

    async def download_tar(self, path: str, *, follow: bool = False) -> AsyncIterator[bytes]:
        """A tar stream of a file or tree, its first entry named like the last part of `path`."""
        request = pb.CopyOutRequest(id=self.id, path=path, follow=follow)
        async for chunk in self._connection.stream("Sandboxes/CopyOut", request, pb.CopyChunk):
            yield chunk.data

    async def read_file(self, path: str) -> bytes:
        """A whole regular file, symbolic links followed."""
        from sandboxd.client import copy

        return await copy.read_file(self, path)

    async def write_file(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Makes or replaces a file that belongs to root. Its directory exists."""
        content = data.encode() if isinstance(data, str) else data
        directory, name = posixpath.split(posixpath.normpath(posixpath.join("/", path)))
        from sandboxd.client import copy

        await copy.write_file(self, directory, name, content, mode)


async def _within(
    timeout_s: float | None, process: AsyncProcess, work: asyncio.Task[model.ExecResult]
) -> model.ExecResult:
    """The result of `work`; when the time is over, the process is killed first: a cancelled call could not say so."""
    try:
        done, _ = await asyncio.wait({work}, timeout=timeout_s)
        if not done:
            await process.signal(9)
            await asyncio.wait({work}, timeout=KILL_LIMIT_S)
            raise TimeoutError(f"the command was killed after {timeout_s:g} s")
        return work.result()
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def _communicate(process: AsyncProcess, command: tuple[str, ...], input: bytes | None) -> model.ExecResult:
    """Writes and reads at the same time, so that neither side waits for the other."""

    async def feed(data: bytes) -> None:
        if await process.write(data):
            await process.close_stdin()

    collected: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    feeder = asyncio.create_task(feed(input)) if input is not None else None
    try:
        async for output in process:
            collected[output.stream].append(output.data)
        exit = await process.wait()
    finally:
        if feeder:
            feeder.cancel()
            await asyncio.gather(feeder, return_exceptions=True)
    return model.ExecResult(command, exit.exit_status, b"".join(collected["stdout"]), b"".join(collected["stderr"]))
