"""The synchronous client: the words of `AsyncClient`, without `await`. A test holds that the two agree."""

from __future__ import annotations

import builtins
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self, Unpack

from sandboxd.client import model
from sandboxd.client.aio import AsyncClient
from sandboxd.client.bridge import bridge
from sandboxd.client.images import AsyncImages
from sandboxd.client.options import RunOptions
from sandboxd.client.process import AsyncProcess, OnProgress
from sandboxd.client.sandbox import AsyncSandbox

_default: Client | None = None


def run(
    image: str,
    command: Sequence[str] = (),
    *,
    on_progress: OnProgress | None = None,
    **options: Unpack[RunOptions],
) -> Sandbox:
    """Starts a sandbox with the default daemon, which is started too where none runs.

    `with sandboxd.run(...) as sandbox` removes it at the end. Standard input stays open, so that a shell waits.
    """
    global _default
    if _default is None:
        _default = Client(autostart=True)
    return _default.run(image, command, on_progress=on_progress, **options)


class Client:
    """A daemon's client: `with Client() as client`. Any number of threads may use it."""

    def __init__(
        self,
        socket: str | os.PathLike[str] = "",
        *,
        config: str | os.PathLike[str] = "",
        autostart: bool = False,
    ) -> None:
        self._async = AsyncClient(socket, config=config, autostart=autostart)
        self.images = Images(self._async.images)

    @property
    def socket(self) -> str:
        """The path that this client speaks to."""
        return self._async.socket

    def open(self) -> None:
        """Connects, and starts a daemon if that was allowed. Any call does so by itself."""
        bridge().call(self._async.open())

    def close(self) -> None:
        bridge().call(self._async.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(
        self,
        image: str,
        command: Sequence[str] = (),
        *,
        on_progress: OnProgress | None = None,
        **options: Unpack[RunOptions],
    ) -> Sandbox:
        """Starts a sandbox in the background. Standard input stays open unless stdin=False, so that a shell waits."""
        return Sandbox(bridge().call(self._async.run(image, command, on_progress=on_progress, **options)))

    def run_attached(
        self,
        image: str,
        command: Sequence[str] = (),
        *,
        on_progress: OnProgress | None = None,
        detach: bool = False,
        client_begin_ns: int = 0,
        **options: Unpack[RunOptions],
    ) -> Process:
        """Starts a sandbox and streams its input and output from the first byte."""
        return Process(
            bridge().call(
                self._async.run_attached(
                    image, command, on_progress=on_progress, detach=detach, client_begin_ns=client_begin_ns, **options
                )
            )
        )

    def create(self, image: str, command: Sequence[str] = (), **options: Unpack[RunOptions]) -> Sandbox:
        """Makes a sandbox whose command waits for `start`."""
        return Sandbox(bridge().call(self._async.create(image, command, **options)))

    def get(self, sandbox: str) -> Sandbox:
        """By id, unambiguous start of an id, or name."""
        return Sandbox(bridge().call(self._async.get(sandbox)))

    def list(
        self, *, all: bool = False, labels: Mapping[str, str] | None = None, filters: Sequence[str] = ()
    ) -> list[Sandbox]:
        """Running sandboxes, or all; filters read name=, status=, label=, id=."""
        return [Sandbox(item) for item in bridge().call(self._async.list(all=all, labels=labels, filters=filters))]

    def stats(self, sandboxes: Sequence[str] = (), *, stream: bool = False) -> Iterator[model.Stats]:
        """One sample of each sandbox (default: all that run), or samples without end."""
        return bridge().iterate(self._async.stats(sandboxes, stream=stream))

    def events(
        self, *, follow: bool = True, since_unix_ns: int = 0, filters: Sequence[str] = ()
    ) -> Iterator[model.Event]:
        """What happened since then, and with `follow` what happens."""
        return bridge().iterate(self._async.events(follow=follow, since_unix_ns=since_unix_ns, filters=filters))

    def version(self) -> model.Version:
        return bridge().call(self._async.version())

    def info(self) -> model.Info:
        return bridge().call(self._async.info())

    def shutdown(self) -> None:
        """Ends the daemon; sandboxes run on."""
        bridge().call(self._async.shutdown())


class Images:
    """`client.images` of a Client."""

    def __init__(self, images: AsyncImages) -> None:
        self._async = images

    def pull(
        self,
        reference: str,
        *,
        platform: str = "",
        username: str = "",
        password: str = "",
        tls_verify: bool | None = None,
        ca_file: str = "",
        on_progress: OnProgress | None = None,
    ) -> model.ImageInfo:
        """Fetches an image from its registry. `ca_file` is a path of the daemon's host."""
        return bridge().call(
            self._async.pull(
                reference,
                platform=platform,
                username=username,
                password=password,
                tls_verify=tls_verify,
                ca_file=ca_file,
                on_progress=on_progress,
            )
        )

    def load(
        self, path: str | os.PathLike[str], *, tag: str = "", on_progress: OnProgress | None = None
    ) -> model.ImageInfo:
        """A docker-archive, an oci-archive or an OCI layout directory of the daemon's host."""
        return bridge().call(self._async.load(path, tag=tag, on_progress=on_progress))

    def list(self) -> builtins.list[model.ImageInfo]:
        return bridge().call(self._async.list())

    def get(self, reference: str) -> model.ImageInfo:
        """By reference, id, or unambiguous start of an id."""
        return bridge().call(self._async.get(reference))

    def remove(self, reference: str, *, force: bool = False) -> model.ImageRemoval:
        return bridge().call(self._async.remove(reference, force=force))


class Process:
    """A live process: iterate over it for its output. See AsyncProcess."""

    def __init__(self, process: AsyncProcess) -> None:
        self._async = process

    @property
    def sandbox(self) -> model.SandboxInfo | None:
        return self._async.sandbox

    @property
    def started(self) -> bool:
        return self._async.started

    @property
    def stages(self) -> tuple[model.Stage, ...]:
        return self._async.stages

    @property
    def exit(self) -> model.Exit | None:
        return self._async.exit

    def receive(self) -> model.Output | None:
        """The next piece of output; None when there is none to come."""
        return bridge().call(self._async.receive())

    def __iter__(self) -> Iterator[model.Output]:
        while (output := self.receive()) is not None:
            yield output

    def wait(self) -> model.Exit:
        """Drops what output is left and returns how the process ended."""
        return bridge().call(self._async.wait())

    def write(self, data: bytes) -> bool:
        """Sends standard input; returns when it was taken. False when nobody takes any more."""
        return bridge().call(self._async.write(data))

    def close_stdin(self) -> None:
        bridge().call(self._async.close_stdin())

    def resize(self, columns: int, rows: int) -> None:
        bridge().call(self._async.resize(columns, rows))

    def signal(self, number: int) -> None:
        bridge().call(self._async.signal(number))

    def detach(self) -> None:
        """Leaves it running. The iterator ends."""
        bridge().call(self._detached())

    async def _detached(self) -> None:
        self._async.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


class Sandbox:
    """A sandbox. `with` removes it at the end, running or not. See AsyncSandbox."""

    def __init__(self, sandbox: AsyncSandbox) -> None:
        self._async = sandbox

    @property
    def id(self) -> str:
        return self._async.id

    @property
    def name(self) -> str:
        return self._async.name

    @property
    def info(self) -> model.SandboxInfo:
        """As of the last call that told; `refresh` asks again."""
        return self._async.info

    def __repr__(self) -> str:
        return repr(self._async).replace("AsyncSandbox", "Sandbox", 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        bridge().call(self._async.__aexit__(kind, value, trace))

    def start(self) -> None:
        """Starts the command of a sandbox that `create` made."""
        bridge().call(self._async.start())

    def refresh(self) -> model.SandboxInfo:
        return bridge().call(self._async.refresh())

    def stop(self, *, timeout_s: float | None = None) -> model.SandboxInfo:
        """The image's stop signal, then after `timeout_s` (the daemon's default: 10) SIGKILL."""
        return bridge().call(self._async.stop(timeout_s=timeout_s))

    def kill(self, signal: int = 9) -> None:
        """Sends a signal to the command."""
        bridge().call(self._async.kill(signal))

    def wait(self) -> model.Exit:
        """Until the command has ended."""
        return bridge().call(self._async.wait())

    def remove(self, *, force: bool = False) -> None:
        """Removes the record and what is left; with `force` ends the command first."""
        bridge().call(self._async.remove(force=force))

    def popen(
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
    ) -> Process:
        """Starts one more command and returns its live process. With `detach` it runs on without one."""
        return Process(
            bridge().call(
                self._async.popen(
                    command,
                    env=env,
                    workdir=workdir,
                    user=user,
                    terminal=terminal,
                    terminal_size=terminal_size,
                    stdin=stdin,
                    privileged=privileged,
                    detach=detach,
                )
            )
        )

    def exec(
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
        return bridge().call(
            self._async.exec(
                command,
                input=input,
                env=env,
                workdir=workdir,
                user=user,
                privileged=privileged,
                check=check,
                timeout_s=timeout_s,
            )
        )

    def attach(self, *, stdin: bool = False) -> Process:
        """The running command itself: its output from now on, and its input."""
        return Process(bridge().call(self._async.attach(stdin=stdin)))

    def processes(self) -> list[int]:
        """Process ids in the guest."""
        return bridge().call(self._async.processes())

    def logs(
        self, *, follow: bool = False, tail: int | None = None, since_unix_ns: int = 0, until_unix_ns: int = 0
    ) -> Iterator[model.LogEntry]:
        """Its output so far, of stopped sandboxes too; with `follow` also what comes, until it ends."""
        return bridge().iterate(
            self._async.logs(follow=follow, tail=tail, since_unix_ns=since_unix_ns, until_unix_ns=until_unix_ns)
        )

    def stats(self) -> model.Stats:
        """One sample."""
        return bridge().call(self._async.stats())

    def stats_stream(self) -> Iterator[model.Stats]:
        """Samples without end."""
        return bridge().iterate(self._async.stats_stream())

    def stat_path(self, path: str, *, follow: bool = True) -> model.PathInfo | None:
        """None when there is no such file."""
        return bridge().call(self._async.stat_path(path, follow=follow))

    def copy_in(
        self, source: str | os.PathLike[str], target: str, *, keep_owner: bool = False, follow: bool = False
    ) -> int:
        """Copies a file or tree of this host into the sandbox, with docker's rules about `/` and `/.`.
        Returns the number of entries."""
        return bridge().call(self._async.copy_in(source, target, keep_owner=keep_owner, follow=follow))

    def copy_out(
        self, source: str, target: str | os.PathLike[str], *, keep_owner: bool = False, follow: bool = False
    ) -> int:
        """Copies a file or tree of the sandbox to this host, with docker's rules. Nothing outside `target` is written,
        whatever the sandbox sends. Returns the number of entries."""
        return bridge().call(self._async.copy_out(source, target, keep_owner=keep_owner, follow=follow))

    def upload_tar(self, path: str, chunks: Iterable[bytes], *, keep_owner: bool = False) -> int:
        """Unpacks a tar stream into `path`, an existing directory of the sandbox. Returns the number of entries."""

        async def each() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        return bridge().call(self._async.upload_tar(path, each(), keep_owner=keep_owner))

    def download_tar(self, path: str, *, follow: bool = False) -> Iterator[bytes]:
        """A tar stream of a file or tree, its first entry named like the last part of `path`."""
        return bridge().iterate(self._async.download_tar(path, follow=follow))

    def read_file(self, path: str) -> bytes:
        """A whole regular file, symbolic links followed."""
        return bridge().call(self._async.read_file(path))

    def write_file(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Makes or replaces a file that belongs to root. Its directory exists."""
        bridge().call(self._async.write_file(path, data, mode=mode))
