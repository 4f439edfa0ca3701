"""A sandboxd of a test's own, spoken to over gRPC: its configuration, directories, network names, and its end."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from sandboxd.api import sandboxd_pb2 as api
from sandboxd.api import sandboxd_pb2_grpc as api_grpc
from sandboxd.daemon.paths import Paths
from tests.support.house import GUEST_DIR

START_TIMEOUT_S = 60
CALL_TIMEOUT_S = 120


@dataclass
class Outcome:
    """What a Run, Exec or Attach answered."""

    sandbox: api.Sandbox = field(default_factory=api.Sandbox)
    stdout: bytes = b""
    stderr: bytes = b""
    started: bool = False
    stages: tuple[str, ...] = ()
    exit_status: int | None = None
    reason: str = ""


@dataclass
class TestDaemon:
    """`kill` and `start` may be called in turn; sandboxes live on in between."""

    __test__ = False  # its name is no invitation to pytest

    root: Path
    name: str
    extra: str = ""
    process: subprocess.Popen[bytes] | None = None
    channel: grpc.Channel | None = None

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def run_dir(self) -> Path:
        return self.root / "run"

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    @property
    def log(self) -> str:
        return (self.root / "sandboxd.log").read_text()

    @property
    def sandboxes(self) -> Any:
        return api_grpc.SandboxesStub(self.channel)  # type: ignore[no-untyped-call]

    @property
    def images(self) -> Any:
        return api_grpc.ImagesStub(self.channel)  # type: ignore[no-untyped-call]

    @property
    def system(self) -> Any:
        return api_grpc.SystemStub(self.channel)  # type: ignore[no-untyped-call]

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def write_config(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.config.write_text(
            f'data_dir = "{self.data_dir}"\nrun_dir = "{self.run_dir}"\n'
            f'[network]\nbridge = "br-{self.name}"\ntap_prefix = "{self.name}"\n{self.extra}'
        )
        if GUEST_DIR.is_dir() and not (self.data_dir / "guest").exists():
            shutil.copytree(GUEST_DIR, self.data_dir / "guest", symlinks=True)

    def start(self) -> None:
        """Returns when it says that it is ready."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, (self.root / "sandboxd.log").open("ab") as log:
            notify.bind("")
            environ = {**os.environ, "NOTIFY_SOCKET": "@" + notify.getsockname()[1:].decode()}
            environ.pop("SANDBOXD_SOCKET", None)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sandboxd.daemon", "--config", str(self.config), "--log-level", "debug"],
                env=environ,
                stdout=log,
                stderr=log,
            )
            notify.settimeout(START_TIMEOUT_S)
            try:
                assert b"READY=1" in notify.recv(4096)
            except TimeoutError:
                raise AssertionError(f"the daemon is not ready:\n{self.log}") from None
        self.channel = grpc.insecure_channel(f"unix:{self.run_dir}/sandboxd.sock")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Sends the signal; its exit status."""
        assert self.process
        if self.channel:
            self.channel.close()
            self.channel = None
        self.process.send_signal(number)
        status = self.process.wait(60)
        self.process = None
        return status

    def restart(self, number: int = signal.SIGKILL) -> None:
        self.end(number)
        self.start()

    # --- calls ---

    def run(self, *command: str, stdin: Iterable[bytes] = (), **options: Any) -> Outcome:
        """To its end, or with `detach=True` to its start."""
        detach = options.pop("detach", False)
        config = make_config(*command, **options)
        first = api.RunRequest(run=api.RunConfig(config=config, detach=detach))
        chunks = [api.RunRequest(stdin=chunk) for chunk in stdin]
        return converse(self.sandboxes.Run, first, *chunks, api.RunRequest(close_stdin=True))

    def spawn(self, *command: str, **options: Any) -> str:
        """Detached; the id."""
        return self.run(*command, detach=True, **options).sandbox.id

    def exec(self, sandbox: str, *command: str, stdin: Iterable[bytes] = (), **options: Any) -> Outcome:
        first = api.RunRequest()
        getattr(first, "exec").CopyFrom(  # noqa: B009
            api.ExecConfig(sandbox=sandbox, command=command, stdin=bool(stdin), **options)
        )
        chunks = [api.RunRequest(stdin=chunk) for chunk in stdin]
        return converse(self.sandboxes.Exec, first, *chunks, api.RunRequest(close_stdin=True))

    def get(self, sandbox: str) -> api.Sandbox:
        answer: api.Sandbox = self.sandboxes.Get(api.GetRequest(id=sandbox), timeout=CALL_TIMEOUT_S)
        return answer

    def all(self) -> list[api.Sandbox]:
        return list(self.sandboxes.List(api.ListRequest(all=True)).sandboxes)

    def logs(self, sandbox: str, **options: Any) -> bytes:
        return b"".join(entry.data for entry in self.sandboxes.Logs(api.LogsRequest(id=sandbox, **options)))

    def wait(self, sandbox: str) -> tuple[int, str]:
        exit_ = self.sandboxes.Wait(api.WaitRequest(id=sandbox), timeout=CALL_TIMEOUT_S)
        return exit_.exit_status, exit_.reason

    def remove(self, sandbox: str, *, force: bool = True) -> None:
        self.sandboxes.Remove(api.RemoveRequest(id=sandbox, force=force), timeout=CALL_TIMEOUT_S)

    def load_busybox(self, layout: Path) -> None:
        list(self.images.Load(api.LoadRequest(path=str(layout), tag="busybox")))

    def leftovers(self) -> dict[str, list[str]]:
        """What is on the host of this daemon's sandboxes; empty when none is alive."""
        names = [path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith(self.name)]
        used = [name for name in names if not Path(f"/sys/class/net/{name}/carrier").exists()]
        parent = Paths(self.data_dir, self.run_dir).cgroup
        cgroups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{parent}/*") if path.is_dir()]
        processes = [pid for pid, words in _commands() if str(self.run_dir) in words and "sandboxd.daemon" not in words]
        run_dirs = [str(path) for path in (self.run_dir / "sandboxes").iterdir()]
        disks = [str(path) for path in (self.data_dir / "sandboxes").rglob("disk.*")]
        found = {"taps": used, "cgroups": cgroups, "processes": processes, "run_dirs": run_dirs, "disks": disks}
        return {kind: names for kind, names in found.items() if names}


def make_config(*command: str, **options: Any) -> api.SandboxConfig:
    """A small sandbox without a network, unless told otherwise."""
    values = {"image": "busybox", "network": "none", "memory_bytes": 160 << 20, **options}
    return api.SandboxConfig(command=command, **values)


class Conversation:
    """A call with messages both ways, whose client half stays open until `close`, as that of a real client does."""

    def __init__(self, method: Any, *messages: api.RunRequest) -> None:
        self._queue: queue.SimpleQueue[api.RunRequest | None] = queue.SimpleQueue()
        for message in messages:
            self.send(message)
        self.answers: Any = method(iter(self._queue.get, None))

    def send(self, message: api.RunRequest) -> None:
        self._queue.put(message)

    def until(self, kind: str) -> api.ProcessOutput:
        """The next answer of this kind; others before it are dropped."""
        return next(answer for answer in self.answers if answer.WhichOneof("kind") == kind)

    def close(self) -> None:
        self._queue.put(None)

    def cancel(self) -> None:
        self.answers.cancel()
        self.close()


def converse(method: Any, *messages: api.RunRequest) -> Outcome:
    """Says all of it, then listens to the end."""
    conversation = Conversation(method, *messages)
    try:
        return collect(conversation.answers)
    finally:
        conversation.close()


def collect(answers: Iterable[api.ProcessOutput]) -> Outcome:
    outcome = Outcome()
    for answer in answers:
        kind = answer.WhichOneof("kind")
        if kind == "sandbox":
            outcome.sandbox = answer.sandbox
        elif kind == "stdout":
            outcome.stdout += answer.stdout
        elif kind == "stderr":
            outcome.stderr += answer.stderr
        elif kind == "started":
            outcome.started = True
        elif kind == "stages":
            outcome.stages = tuple(stage.name for stage in answer.stages.stages)
        elif kind == "exit":
            outcome.exit_status, outcome.reason = answer.exit.exit_status, answer.exit.reason
    return outcome


def detail(error: grpc.RpcError) -> api.ErrorDetail:
    """The catalogue's words of a failed call."""
    metadata = dict(error.trailing_metadata() or ())
    return api.ErrorDetail.FromString(metadata["sandboxd-error-bin"])


@contextlib.contextmanager
def running_daemon(name: str = "td", *, extra: str = "", start: bool = True) -> Iterator[TestDaemon]:
    """A daemon below a short path (sockets lie there); all of it is gone afterwards. `name`: at most 6 letters."""
    root = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    daemon = TestDaemon(root, name, extra)
    try:
        daemon.write_config()
        if start:
            daemon.start()
        yield daemon
    finally:
        _shut(daemon)


def _shut(daemon: TestDaemon) -> None:
    try:
        if daemon.process is None and (daemon.run_dir / "sandboxes").is_dir():
            daemon.start()
        if daemon.process:
            for sandbox in daemon.all():
                with contextlib.suppress(grpc.RpcError):
                    daemon.remove(sandbox.id)
            daemon.end()
    finally:
        if daemon.process:
            daemon.process.kill()
            daemon.process.wait()
        shutil.rmtree(daemon.root, ignore_errors=True)


def _commands() -> Iterator[tuple[str, str]]:
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                yield path.name, (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue


def wait_until_dead(pid: int, timeout_s: float = 5) -> None:
    """By pidfd. Returns at once for a process that is gone."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        assert poll.poll(timeout_s * 1000), f"process {pid} lives on"
    finally:
        os.close(fd)
