"""The guest's agent on the host: the sanitized build, in namespaces and a cgroup of its own, over a socketpair."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sandboxd.aio.ttrpc import ClientConnection
from sandboxd.api import agent_pb2 as pb
from sandboxd.guest.client import AgentClient

AGENT_SOURCE = Path(__file__).resolve().parents[2] / "images" / "agent"
CLONE = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "time": 0x00000080,
}
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
ALL_CAPABILITIES = (1 << 41) - 1
T = TypeVar("T")


def build_agent() -> Path:
    """build/agent-asan, made anew where its sources changed."""
    subprocess.run(["make", "-s", "-C", str(AGENT_SOURCE), "sanitize"], check=True)
    return AGENT_SOURCE / "build" / "agent-asan"


def busybox_root(path: Path) -> Path:
    """A root file system of one static busybox and its applets."""
    for name in ("bin", "etc", "dev", "proc", "sys", "tmp", "home"):
        (path / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", path / "bin" / "busybox")
    for applet in subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            (path / "bin" / applet).symlink_to("busybox")
    (path / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\n")
    return path


def cgroup2_mount() -> Path | None:
    """Where cgroup v2 is mounted on this host, if it is."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, target, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(target)
    return None


def process(*args: str, **fields: Any) -> pb.Process:
    """A process as root with every capability that this host's root has, in /."""
    fields.setdefault("env", ["PATH=/bin"])
    fields.setdefault("cwd", "/")
    mask = own_capabilities()
    fields.setdefault(
        "capabilities", pb.Capabilities(bounding=mask, effective=mask, permitted=mask, inheritable=0, ambient=0)
    )
    return pb.Process(args=args, **fields)


def own_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return int(line.split()[1], 16)
    return ALL_CAPABILITIES


class AgentProcess:
    """One agent as process 1 of namespaces of its own, and the host's end of its socket."""

    def __init__(self, binary: Path, work: Path, cgroup: Path) -> None:
        self._log = work / "agent.log"
        self.socket, theirs = socket.socketpair()
        script = (
            f"echo $$ > {cgroup}/cgroup.procs && exec unshare --mount --pid --net --ipc --uts --cgroup --fork "
            f"--kill-child --mount-proc -- sh -c 'mount -t sysfs sysfs /sys && "
            f"mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec {binary} --fd {theirs.fileno()}'"
        )
        environment = {
            "PATH": os.environ["PATH"],
            "ASAN_OPTIONS": "detect_leaks=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        with theirs, self._log.open("wb") as log:
            self._child = subprocess.Popen(
                ["sh", "-c", script],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )

    def ip(self, *args: str) -> str:
        """Runs ip(8) in the agent's network namespace."""
        unshare = self._child.pid
        agent = Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()[0]
        command = ["nsenter", "--target", agent, "--net", "ip", *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def end(self) -> str:
        """Waits for its end, once its socket is closed; answers what it and the sanitizers said, "" being well."""
        try:
            status = self._child.wait(20)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
            return f"the agent did not end when its socket was closed; it said: {self.said()}"
        return self.said() or (f"the agent ended with {status}" if status else "")


class AgentOnHost:
    """One agent and a client to it. Containers get `root` (a bind of the busybox tree) as their root."""

    def __init__(self, binary: Path, tree: Path, work: Path, cgroup: Path) -> None:
        self.tree = tree
        self.work = work
        self.process = AgentProcess(binary, work, cgroup)
        self.loop = asyncio.new_event_loop()
        self.agent = AgentClient(self.run(ClientConnection.from_socket(self.process.socket)))
        self._numbers = iter(range(1, 1 << 30))

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float = 30) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, timeout_s))

    def activate(self) -> pb.ActivateResponse:
        request = pb.ActivateRequest(entropy=os.urandom(64), wall_clock_unix_ns=time.time_ns(), hostname="guest")
        return self.run(self.agent.activate(request))

    def name(self) -> str:
        return f"c{next(self._numbers)}"

    def plan(
        self,
        container: str,
        first: pb.Process,
        namespaces: Sequence[str] = ("mount", "pid", "ipc", "uts", "cgroup"),
        **fields: Any,
    ) -> pb.Plan:
        root = f"{self.work}/roots/{container}"
        cgroup = f"test/{container}"
        plan = pb.Plan(
            prepare=[
                pb.Step(mount=pb.Mount(source=str(self.tree), target=root, flags=MS_BIND | MS_REC, make_target=True)),
                pb.Step(make_directory=pb.MakeDirectory(path=f"/sys/fs/cgroup/{cgroup}", mode=0o755)),
            ],
            root=root,
            root_propagation=MS_PRIVATE | MS_REC,
            namespaces=[pb.Namespace(clone_flag=CLONE[name]) for name in namespaces],
            cgroup=cgroup,
            inside=[
                pb.Step(
                    in_root=True,
                    mount=pb.Mount(source="proc", target="/proc", type="proc", flags=MS_NOSUID | MS_NODEV | MS_NOEXEC),
                ),
                pb.Step(
                    in_root=True,
                    mount=pb.Mount(source="tmpfs", target="/dev", type="tmpfs", flags=MS_NOSUID, data="mode=755"),
                ),
                *(
                    pb.Step(
                        in_root=True, make_node=pb.MakeNode(path=f"/dev/{name}", mode=0o20666, major=major, minor=minor)
                    )
                    for name, major, minor in (("null", 1, 3), ("zero", 1, 5), ("urandom", 1, 9), ("tty", 5, 0))
                ),
                pb.Step(
                    in_root=True,
                    mount=pb.Mount(
                        source="devpts",
                        target="/dev/pts",
                        type="devpts",
                        flags=MS_NOSUID | MS_NOEXEC,
                        data="newinstance,ptmxmode=0666,mode=0620",
                        make_target=True,
                    ),
                ),
                pb.Step(in_root=True, make_symlink=pb.MakeSymlink(path="/dev/ptmx", target="pts/ptmx")),
                pb.Step(in_root=True, mount=pb.Mount(source="tmpfs", target="/tmp", type="tmpfs")),
            ],
            process=first,
            cleanup=[
                pb.Step(unmount=pb.Path(path=root)),
                pb.Step(remove=pb.Path(path=root)),
            ],
        )
        for key, value in fields.items():
            key = key.rstrip("_")  # more of what a positional argument began
            if isinstance(value, (str, int, bool, bytes)):
                setattr(plan, key, value)
            else:
                getattr(plan, key).extend(value)
        return plan

    # --- what most tests do ---

    async def create(self, container: str, plan: pb.Plan) -> pb.CreateContainerResponse:
        return await self.agent.create_container(pb.CreateContainerRequest(container_id=container, plan=plan))

    async def start(self, container: str) -> pb.StartContainerResponse:
        return await self.agent.start_container(pb.StartContainerRequest(container_id=container))

    async def wait(self, container: str, exec_id: str = "") -> pb.WaitResponse:
        return await self.agent.wait(pb.WaitRequest(container_id=container, exec_id=exec_id))

    async def delete(self, container: str) -> None:
        await self.agent.delete_container(pb.DeleteContainerRequest(container_id=container))

    async def kill(self, container: str, number: int = 9, exec_id: str = "", all: bool = False) -> None:
        await self.agent.signal(pb.SignalRequest(container_id=container, exec_id=exec_id, signal=number, all=all))

    async def output(self, container: str, exec_id: str = "", stream: pb.Stream = pb.STREAM_STDOUT) -> bytes:
        """All of a stream up to its end."""
        data = bytearray()
        while True:
            request = pb.ReadOutputRequest(container_id=container, exec_id=exec_id, stream=stream, max_bytes=256 << 10)
            answer = await self.agent.read_output(request)
            data += answer.data
            if answer.eof:
                return bytes(data)

    async def ended(self, container: str, exec_id: str = "") -> tuple[int, bytes, bytes]:
        """Exit status, stdout, stderr."""
        out, err, answer = await asyncio.gather(
            self.output(container, exec_id),
            self.output(container, exec_id, pb.STREAM_STDERR),
            self.wait(container, exec_id),
        )
        return answer.exit_status, out, err

    def run_container(self, first: pb.Process, **fields: Any) -> tuple[int, str, str]:
        """Create, start, read all, wait, delete, the first calls sent without waiting. Text of stdout and stderr."""

        async def go() -> tuple[int, str, str]:
            name = self.name()
            created = asyncio.ensure_future(self.create(name, self.plan(name, first, **fields)))
            started = asyncio.ensure_future(self.start(name))
            ended = asyncio.ensure_future(self.ended(name))
            try:
                await asyncio.gather(created, started)
                status, out, err = await ended
            finally:
                await asyncio.gather(created, started, ended, return_exceptions=True)
            await self.delete(name)
            return status, out.decode(errors="replace"), err.decode(errors="replace")

        return self.run(go())

    def sh(self, script: str, *, spec: dict[str, Any] | None = None, **fields: Any) -> tuple[int, str, str]:
        """Runs a shell script in a container of its own."""
        return self.run_container(process("/bin/sh", "-c", script, **(spec or {})), **fields)

    @contextlib.contextmanager
    def running(self, *args: str, spec: dict[str, Any] | None = None, **fields: Any) -> Iterator[str]:
        """A container that runs `args` (default: sleeps) for the time of a block."""
        name = self.name()
        self.run(
            self.create(name, self.plan(name, process(*(args or ("/bin/sleep", "1000")), **(spec or {})), **fields))
        )
        self.run(self.start(name))
        try:
            yield name
        finally:
            with contextlib.suppress(Exception):
                self.run(self.kill(name))

            async def gone() -> None:
                await self.ended(name)
                await self.delete(name)

            self.run(gone())

    async def exec(self, container: str, spec: pb.Process, exec_id: str) -> pb.ExecResponse:
        return await self.agent.exec(pb.ExecRequest(container_id=container, exec_id=exec_id, process=spec))

    def exec_sh(self, container: str, script: str, **spec: Any) -> tuple[int, str, str]:
        async def go() -> tuple[int, str, str]:
            exec_id = f"e{next(self._numbers)}"
            started = asyncio.ensure_future(self.exec(container, process("/bin/sh", "-c", script, **spec), exec_id))
            status, out, err = await self.ended(container, exec_id)
            await started
            return status, out.decode(errors="replace"), err.decode(errors="replace")

        return self.run(go())

    # --- end ---

    def close(self) -> str:
        """Ends the agent by closing its socket; answers what it and the sanitizers said."""

        async def shut() -> None:
            await self.agent.close()

        self.run(shut())
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        return self.process.end()


@contextlib.contextmanager
def own_cgroup() -> Iterator[Path]:
    """A cgroup for one agent, gone afterwards."""
    top = cgroup2_mount()
    assert top is not None
    path = top / f"agent-test-{uuid.uuid4().hex[:8]}"
    path.mkdir()
    try:
        yield path
    finally:
        for directory in sorted((entry for entry in path.rglob("*") if entry.is_dir()), reverse=True):
            directory.rmdir()
        path.rmdir()
