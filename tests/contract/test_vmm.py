"""What every VMM driver promises, held against real machines with the real kernel, initrd and agent.

Today there is one driver, QEMU on TCG (or KVM, where the probe finds it); the next one joins `DRIVERS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sandboxd.aio.ttrpc import ClientConnection
from sandboxd.api import agent_pb2 as pb
from sandboxd.base.errors import SandboxdError
from sandboxd.guest.boot import GuestImage, prepare_guest
from sandboxd.guest.client import AgentClient
from sandboxd.linux.tap import create_tap, delete_tap
from sandboxd.vmm.limits import memory_boot_min_mib
from sandboxd.vmm.qemu import QemuVmm
from sandboxd.vmm.spec import Confinement, Drive, MachineSpec, Nic

DATA_DIR = Path(os.environ.get("DATA_DIR", "/var/lib/sandboxd"))
"""Where `make guest` put the kernel."""
UID = 0x5B00F000
BOOT_TIMEOUT_S = 60.0
CLONE_NEWNS, CLONE_NEWPID, MS_RDONLY = 0x00020000, 0x20000000, 1
DRIVERS = {"qemu": QemuVmm}


@pytest.fixture(scope="module")
def guest() -> GuestImage:
    return prepare_guest(DATA_DIR)


@pytest.fixture(params=sorted(DRIVERS))
def workshop(request: pytest.FixtureRequest, guest: GuestImage, tmp_path: Path) -> Workshop:
    return Workshop(DRIVERS[request.param], guest, tmp_path)


class Workshop:
    """Makes machines of one driver."""

    def __init__(self, driver: type[QemuVmm], guest: GuestImage, root: Path) -> None:
        self.driver, self.guest, self.root = driver, guest, root

    def make(self, **values: Any) -> QemuVmm:
        defaults = {"id": "test", "memory_mib": 256, "kernel": self.guest.kernel, "initrd": self.guest.initrd}
        work_dir = self.root / f"work{len(list(self.root.iterdir()))}"
        work_dir.mkdir(mode=0o700)
        spec = MachineSpec.model_validate({**defaults, **values})
        return self.driver(spec, Confinement(uid=UID, gid=UID, work_dir=work_dir))

    @contextlib.asynccontextmanager
    async def booted(self, **values: Any) -> AsyncIterator[tuple[QemuVmm, AgentClient]]:
        """A machine whose agent answered; killed at the end, and then nothing of it is left."""
        vmm = self.make(**values)
        await vmm.boot()
        agent = AgentClient(await ClientConnection.from_socket(vmm.agent))
        try:
            async with asyncio.timeout(BOOT_TIMEOUT_S):
                await agent.hello(pb.HelloRequest())
            yield vmm, agent
        finally:
            await agent.close()
            await vmm.kill()
        assert not Path(f"/proc/{vmm.pid}").exists()


def open_descriptors() -> dict[str, str]:
    """Of this process, without what the listing itself opens."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found[entry.name] = str(entry.readlink())
    return {number: target for number, target in found.items() if not target.startswith("/proc/")}


def go(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(2 * BOOT_TIMEOUT_S):
            await scenario

    before = open_descriptors()
    asyncio.run(bounded())
    assert open_descriptors() == before


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def refused(vmm: QemuVmm, code: str) -> SandboxdError:
    """`boot` raises this, and leaves nothing behind."""
    descriptors = open_descriptors()
    with pytest.raises(SandboxdError) as caught:
        await vmm.boot()
    assert caught.value.kind.code == code, caught.value.cause
    assert not vmm.pid or not Path(f"/proc/{vmm.pid}").exists()
    assert open_descriptors() == descriptors
    return caught.value


def test_a_machine_boots_to_its_agent_with_what_it_was_given(workshop: Workshop) -> None:
    async def scenario() -> None:
        async with workshop.booted(memory_mib=256, vcpus=2) as (vmm, agent):
            hello = await agent.hello(pb.HelloRequest())
            assert hello.kernel_release == workshop.guest.release
            assert hello.vcpus == 2
            assert 180 << 20 < hello.memory_bytes <= 256 << 20
            statistics = vmm.statistics()
            assert statistics.pid == vmm.pid
            assert statistics.rss_bytes > 32 << 20 and statistics.cpu_ns > 0

    go(scenario())


def test_its_process_may_do_next_to_nothing(workshop: Workshop) -> None:
    disk = workshop.root / "disk"
    disk.write_bytes(bytes(1 << 20))
    drives = (Drive(serial="disk", path=disk, read_only=False),)

    async def scenario() -> None:
        async with workshop.booted(drives=drives) as (vmm, _):
            found = status(vmm.pid)
            assert found["Uid"].split() == found["Gid"].split() == [str(UID)] * 4
            assert found["Groups"] == ""
            sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
            assert [int(found[name], 16) for name in sets] == [0] * 5
            assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
            for kind in ("net", "ipc", "uts"):
                ours, theirs = (Path(f"/proc/{pid}/ns/{kind}").readlink() for pid in ("self", vmm.pid))
                assert ours != theirs
            assert written_paths(vmm.pid) == {str(disk)}
            assert str(workshop.root) not in Path(f"/proc/{vmm.pid}/cmdline").read_text()

    go(scenario())


def written_paths(pid: int) -> set[str]:
    """Files and devices of the host that a process has open for writing."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        flags = int(re.findall(r"flags:\s+(\d+)", Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text())[0], 8)
        target = str(entry.readlink())
        if flags & os.O_ACCMODE != os.O_RDONLY and target.startswith("/") and target != "/dev/null":
            found.add(target)
    return found


def test_the_end_is_seen_at_once_when_it_is_killed(workshop: Workshop) -> None:
    async def scenario() -> None:
        async with workshop.booted() as (vmm, agent):
            hangs = asyncio.create_task(agent.watch_oom(pb.WatchOomRequest(container_id="none", seen=0)))
            began = time.monotonic()
            os.kill(vmm.pid, signal.SIGKILL)
            first, second = await asyncio.gather(vmm.wait(), vmm.wait())
            assert time.monotonic() - began < 1
            assert first == second
            assert (first.returncode, first.reason) == (-signal.SIGKILL, "vmm_died")
            assert await vmm.kill() == first
            await asyncio.wait([hangs], timeout=1)
            assert isinstance(hangs.exception(), SandboxdError)

    go(scenario())


def test_the_guest_s_clock_runs_as_fast_as_the_host_s(workshop: Workshop) -> None:
    async def scenario() -> None:
        async with workshop.booted() as (_, agent):
            first = (await agent.hello(pb.HelloRequest())).now_boottime_ns - time.monotonic_ns()
            await asyncio.sleep(2)
            second = (await agent.hello(pb.HelloRequest())).now_boottime_ns - time.monotonic_ns()
            assert abs(second - first) < 0.05e9

    go(scenario())


def test_pause_stops_the_guest_and_resume_continues_it(workshop: Workshop) -> None:
    async def scenario() -> None:
        async with workshop.booted() as (vmm, agent):
            before = (await agent.hello(pb.HelloRequest())).now_boottime_ns
            await vmm.pause()
            with pytest.raises(SandboxdError, match="cannot pause now"):
                await vmm.pause()
            asked = asyncio.create_task(agent.hello(pb.HelloRequest()))
            cpu_ns = vmm.statistics().cpu_ns
            await asyncio.wait([asked], timeout=0.5)
            assert not asked.done()
            assert vmm.statistics().cpu_ns - cpu_ns < 0.2e9
            await vmm.resume()
            assert (await asked).now_boottime_ns > before
            with pytest.raises(SandboxdError, match="cannot resume now"):
                await vmm.resume()

    go(scenario())


def test_stop_ends_it_in_order(workshop: Workshop) -> None:
    async def scenario() -> None:
        async with workshop.booted() as (vmm, _):
            end = await vmm.stop(5)
            assert (end.returncode, end.reason) == (0, "stopped")
            assert await vmm.stop(5) == await vmm.kill() == end
            for operation in (vmm.pause, vmm.resume, vmm.boot):
                with pytest.raises(SandboxdError, match="machine cannot"):
                    await operation()

    go(scenario())


def test_stop_ends_what_does_not_listen_any_more(workshop: Workshop) -> None:
    async def scenario() -> None:
        async with workshop.booted() as (vmm, _):
            os.kill(vmm.pid, signal.SIGSTOP)
            end = await vmm.stop(0.2)
            assert (end.returncode, end.reason) == (-signal.SIGKILL, "stopped")

    go(scenario())


def test_a_guest_that_powers_off_is_told_from_one_that_panics(workshop: Workshop) -> None:
    async def scenario() -> None:
        async with workshop.booted() as (vmm, agent):
            with contextlib.suppress(SandboxdError):
                await agent.shutdown(pb.ShutdownRequest())
            assert (await vmm.wait()).reason == "guest_shutdown"
        # Without an init, and without a root to look for one on, the kernel gives up.
        panics = workshop.make(cmdline_extra="rdinit=/nowhere")
        await panics.boot()
        panics.agent.close()
        end = await panics.wait()
        assert (end.reason, end.returncode) == ("guest_panic", 0)
        assert "Kernel panic" in end.detail and len(end.detail.encode()) <= 4096
        assert "Kernel panic" in panics.console_tail()
        assert "Kernel panic" in (panics._confinement.work_dir / "console.log").read_text(errors="replace")

    go(scenario())


def test_two_machines_share_an_image_and_write_to_disks_of_their_own(workshop: Workshop) -> None:
    content = os.urandom(1 << 20)
    tree = workshop.root / "tree"
    for directory in ("bin", "disk", "proc"):
        (tree / directory).mkdir(parents=True)
    (tree / "content").write_bytes(content)
    (tree / "bin" / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (tree / "bin" / "busybox").chmod(0o755)
    image = workshop.root / "image.erofs"
    subprocess.run(["mkfs.erofs", image, tree], check=True, capture_output=True)

    async def one(name: str) -> None:
        disk = workshop.root / f"{name}.ext4"
        with disk.open("wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
        drives = (
            Drive(serial="image", path=image, read_only=True),
            Drive(serial="disk", path=disk, read_only=False),
        )
        async with workshop.booted(drives=drives) as (_, agent):
            output = await run_container(agent, f"echo {name} >/disk/name; sync; busybox sha256sum /content")
            assert output.split()[0].decode() == hashlib.sha256(content).hexdigest()
        read = subprocess.run(["debugfs", "-R", "cat /name", disk], check=True, capture_output=True)
        assert read.stdout.decode().strip() == name

    async def scenario() -> None:
        before = hashlib.sha256(image.read_bytes()).digest()
        async with asyncio.TaskGroup() as group:
            for name in ("first", "second"):
                group.create_task(one(name))
        assert hashlib.sha256(image.read_bytes()).digest() == before

    go(scenario())


async def run_container(agent: AgentClient, script: str) -> bytes:
    """Runs a shell script on drive "image" with drive "disk" at /disk; its output."""
    mount_root = pb.Mount(source="block:image", target="/run/root", type="erofs", flags=MS_RDONLY, make_target=True)
    cgroup = ("/sys/fs/cgroup/sandbox", "/sys/fs/cgroup/sandbox/test")
    plan = pb.Plan(
        prepare=[
            pb.Step(mount=mount_root),
            *(pb.Step(make_directory=pb.MakeDirectory(path=p, mode=0o755)) for p in cgroup),
        ],
        root="/run/root",
        namespaces=[pb.Namespace(clone_flag=CLONE_NEWNS), pb.Namespace(clone_flag=CLONE_NEWPID)],
        inside=[pb.Step(in_root=True, mount=pb.Mount(source="block:disk", target="/disk", type="ext4"))],
        process=pb.Process(args=["/bin/busybox", "sh", "-c", script], env=["PATH=/bin"], cwd="/"),
        cgroup="sandbox/test",
    )
    await agent.activate(pb.ActivateRequest(entropy=os.urandom(64), wall_clock_unix_ns=time.time_ns(), hostname="test"))
    await agent.create_container(pb.CreateContainerRequest(container_id="test", plan=plan))
    await agent.start_container(pb.StartContainerRequest(container_id="test"))
    output = b""
    while True:
        request = pb.ReadOutputRequest(container_id="test", stream=pb.STREAM_STDOUT, max_bytes=1 << 16)
        answer = await agent.read_output(request)
        output += answer.data
        if answer.eof:
            return output


def test_a_network_card_hangs_on_its_tap(workshop: Workshop) -> None:
    tap, mac = "sbvmmtest0", "02:5b:00:00:00:01"
    create_tap(tap)

    async def scenario() -> None:
        async with workshop.booted(nics=(Nic(tap=tap, mac=mac, mtu=1400),)) as (vmm, agent):
            interface = pb.Interface(mac=mac, addresses=["10.99.0.2/24"])
            request = pb.ActivateRequest(
                entropy=os.urandom(64), wall_clock_unix_ns=time.time_ns(), hostname="test", interfaces=[interface]
            )
            assert list((await agent.activate(request)).interface_names) == ["eth0"]
            assert written_paths(vmm.pid) == {"/dev/net/tun"}

    try:
        go(scenario())
    finally:
        delete_tap(tap)


def test_a_machine_dies_with_the_process_that_made_it(workshop: Workshop) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio
        from pathlib import Path
        from sandboxd.vmm.qemu import QemuVmm
        from sandboxd.vmm.spec import Confinement, MachineSpec

        async def main():
            spec = MachineSpec(id="t", memory_mib=128, kernel=Path({str(workshop.guest.kernel)!r}),
                               initrd=Path({str(workshop.guest.initrd)!r}))
            vmm = QemuVmm(spec, Confinement(uid={UID}, gid={UID}, work_dir=Path({str(workshop.root)!r})))
            await vmm.boot()
            print(vmm.pid, flush=True)
            await vmm.wait()

        asyncio.run(main())
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as owner:
        assert owner.stdout
        pid = int(owner.stdout.readline())
        machine = os.pidfd_open(pid)
        try:
            assert not select.select([machine], [], [], 0)[0]
            owner.kill()
            assert select.select([machine], [], [], 1)[0], "the machine outlived its owner"
        finally:
            os.close(machine)


Values = dict[str, Any]


@pytest.mark.parametrize(
    ("code", "words", "values"),
    [
        ("kernel_unusable", "neither", lambda root: {"kernel": text(root)}),
        ("vmm_start_failed", "PVH", lambda root: {"kernel": Path("/bin/busybox")}),
        ("vmm_file_unusable", "No such file", lambda root: {"kernel": root / "none"}),
        ("vmm_file_unusable", "may not read it", lambda root: {"initrd": text(root, mode=0o600)}),
        ("vmm_file_unusable", "not a regular file", lambda root: {"initrd": root}),
        ("vmm_file_unusable", "No such file", lambda root: {"drives": drive(root / "none")}),
        ("vmm_file_unusable", "not a regular file", lambda root: {"drives": drive(Path("/dev/null"))}),
        ("vmm_file_unusable", "directory", lambda root: {"drives": drive(root)}),
        ("tap_unusable", "does not exist", lambda root: {"nics": (Nic(tap="none", mac="02:00:00:00:00:01"),)}),
        ("memory_too_small", "at least", lambda root: {"memory_mib": memory_boot_min_mib(1) - 1}),
        ("invalid_argument", "2047", lambda root: {"cmdline_extra": "x" * 2047}),
    ],
)
def test_what_cannot_boot_is_refused_and_leaves_nothing(
    workshop: Workshop, code: str, words: str, values: Callable[[Path], Values]
) -> None:
    async def scenario() -> None:
        error = await refused(workshop.make(**values(workshop.root)), code)
        assert words in error.cause

    go(scenario())


def text(root: Path, mode: int = 0o644) -> Path:
    path = root / "text"
    path.write_text("hello " * 1000)
    path.chmod(mode)
    return path


def drive(path: Path) -> tuple[Drive, ...]:
    return (Drive(serial="disk", path=path, read_only=False),)


def test_a_disk_is_not_shared_for_writing(workshop: Workshop) -> None:
    disk = workshop.root / "disk"
    disk.write_bytes(bytes(1 << 20))

    async def scenario() -> None:
        async with workshop.booted(drives=drive(disk)):
            error = await refused(workshop.make(drives=drive(disk)), "vmm_start_failed")
            assert "lock" in error.cause

    go(scenario())


def test_the_least_memory_is_enough(workshop: Workshop) -> None:
    async def scenario() -> None:
        async with workshop.booted(memory_mib=memory_boot_min_mib(1)) as (_, agent):
            assert (await agent.hello(pb.HelloRequest())).memory_bytes > 32 << 20

    go(scenario())


def test_without_a_place_for_its_logs_it_does_not_start(workshop: Workshop) -> None:
    async def scenario() -> None:
        vmm = workshop.make()
        vmm._confinement.work_dir.rmdir()
        assert "console.log" in (await refused(vmm, "vmm_file_unusable")).message

    go(scenario())


def test_what_was_never_booted_cannot_be_used(workshop: Workshop) -> None:
    async def scenario() -> None:
        vmm = workshop.make()
        assert vmm.pid == 0 and vmm.console_tail() == ""
        for operation in (vmm.pause, vmm.kill, vmm.wait):
            with pytest.raises(SandboxdError, match="machine cannot"):
                await operation()
        with pytest.raises(SandboxdError, match="machine cannot reach"):
            _ = vmm.agent

    go(scenario())
