"""One container of a sandbox: its specification, its first process and its execs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sandboxd.api import agent_pb2
from sandboxd.base.errors import BUNDLE_UNUSABLE, CONTAINER_EXISTS, CONTAINER_NOT_FOUND, SandboxdError
from sandboxd.core.files import read_bounded
from sandboxd.core.oci.compile import CompiledContainer, compile_container
from sandboxd.core.oci.rootfs import RootfsMount
from sandboxd.core.oci.spec import Spec, parse_spec
from sandboxd.core.process import Process, ProcessIo

CONFIG_MAX_BYTES = 4 << 20
EXECS_MAX = 1024
"""Of one container, finished ones that nobody deleted included."""


@dataclass(frozen=True, slots=True)
class ContainerRequest:
    """What a caller wants made. The ends in `io` are open already."""

    id: str
    bundle: Path
    rootfs: tuple[RootfsMount, ...]
    io: ProcessIo
    names: StdioNames


@dataclass(frozen=True, slots=True)
class StdioNames:
    """The stdio of a process as its caller named it, to be told again (containerd's State)."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""


@dataclass(slots=True)
class Container:
    """What a sandbox keeps of a container until it is deleted."""

    request: ContainerRequest
    spec: Spec
    compiled: CompiledContainer
    init: Process
    execs: dict[str, Process] = field(default_factory=dict)
    exec_names: dict[str, StdioNames] = field(default_factory=dict)

    @property
    def plan(self) -> agent_pb2.Plan:
        return self.compiled.plan

    def process(self, exec_id: str) -> Process:
        """The exec, or with "" the first process. Raises container_not_found."""
        process = self.execs.get(exec_id) if exec_id else self.init
        if process is None:
            raise SandboxdError(CONTAINER_NOT_FOUND, id=exec_id[:80])
        return process

    def check_new_exec(self, exec_id: str) -> None:
        """Raises container_exists."""
        if exec_id in self.execs or len(self.execs) >= EXECS_MAX:
            raise SandboxdError(CONTAINER_EXISTS, id=exec_id)


def load_bundle(request: ContainerRequest) -> tuple[Spec, CompiledContainer]:
    """Reads and compiles bundle/config.json. Raises bundle_unusable, or what the specification is refused for."""
    try:
        text = read_bounded(request.bundle / "config.json", CONFIG_MAX_BYTES)
    except OSError as error:
        raise SandboxdError(BUNDLE_UNUSABLE, bundle=request.bundle, reason=f"{error}.") from error
    spec = parse_spec(text)
    compiled = compile_container(spec, container_id=request.id, rootfs=request.rootfs)
    fit_stdio(compiled.plan.process, request.io)
    compiled.plan.console = compiled.plan.console and request.io.terminal
    return spec, compiled


def fit_stdio(process: agent_pb2.Process, io: ProcessIo) -> None:
    """The caller's stdio decides, not the specification's word: what is open is what the process gets."""
    process.stdin = io.has_stdin
    process.terminal = io.terminal
