"""Shims from the zygote are shims like others; the zygote itself may die at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sandboxd.base.errors import SandboxdError
from sandboxd.linux.cgroup import Cgroup
from sandboxd.linux.process import identify
from sandboxd.shim.launch import Zygote, start_shim
from tests.support.daemon import running_daemon, wait_until_dead
from tests.support.house import GUEST_DIR
from tests.support.shim_house import ShimHouse

FORKED_PRIVATE_MAX_BYTES = 12 << 20
SPAWNED_PRIVATE_MAX_BYTES = 25 << 20
pytestmark = pytest.mark.skipif(not GUEST_DIR.is_dir(), reason="no guest kernel: `make guest` fetches one")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> ShimHouse:
    return ShimHouse(tmp_path_factory.mktemp("zygote"))


def go(scenario: Coroutine[Any, Any, None], timeout_s: float = 60) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(timeout_s):
            await scenario

    asyncio.run(bounded())


@contextlib.asynccontextmanager
async def warm_zygote() -> AsyncIterator[Zygote]:
    zygote = Zygote()
    zygote.begin()
    try:
        assert await zygote.wait_warm(30)
        yield zygote
    finally:
        await zygote.close()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def parent(pid: int) -> int:
    return int(status(pid)["PPid"])


def words(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode().split("\0")


def descriptors(pid: int) -> dict[int, str]:
    return {int(link.name): str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}


def private_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


@pytest.mark.parametrize("forked", [False, True], ids=["spawned", "forked"])
def test_a_shim_is_the_same_wherever_it_comes_from(house: ShimHouse, forked: bool) -> None:
    async def scenario() -> None:
        async with warm_zygote() as zygote, house.box(zygote if forked else None) as box:
            pid, run_dir = box.client.pid, box.spec.run_dir
            assert parent(pid) == (zygote.pid if forked else os.getpid())
            assert words(pid) == [sys.executable, "-I", "-m", "sandboxd.shim", "serve", str(run_dir)]
            assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
            assert os.getsid(pid) == pid
            await box.client.describe()  # it is through its start
            seen = status(pid)
            assert (seen["Umask"], seen["Threads"], int(seen["SigBlk"], 16)) == ("0077", "1", 0)
            # As whoever runs the tests has them: a shell ignores SIGINT and SIGQUIT for what it runs behind, glibc's
            # posix_spawn the two signals that are its own.
            inherited = 1 << (signal.SIGINT - 1) | 1 << (signal.SIGQUIT - 1) | 0x180000000
            ignored, caught = int(seen["SigIgn"], 16) & ~inherited, int(seen["SigCgt"], 16) & ~inherited
            assert ignored == 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1), "what Python itself ignores"
            assert caught == 1 << (signal.SIGTERM - 1)
            environ = dict(item.split("=", 1) for item in Path(f"/proc/{pid}/environ").read_text().split("\0") if item)
            environ.pop("SANDBOXD_SPAWN_NS", None)
            assert environ == {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
            files = descriptors(pid)
            assert (files[0], files[1], files[2]) == ("/dev/null", "/dev/null", str(run_dir / "shim.log"))
            kinds = sorted(name.partition(":[")[0] for fd, name in files.items() if fd > 2)
            # The event loop with its own pair, the listening socket, our connection.
            assert kinds == ["anon_inode", *["socket"] * 4]
            assert Cgroup(box.spec.cgroup).pids() == {pid}

            vmm_pid = await box.create("sh", "-c", "echo out; exit 3")
            waiting = asyncio.ensure_future(box.client.wait_exit())
            await box.client.start()
            assert private_bytes(pid) < (FORKED_PRIVATE_MAX_BYTES if forked else SPAWNED_PRIVATE_MAX_BYTES)
            ending = await waiting
            assert (ending.exit_status, ending.reason) == (3, "exited") and box.output() == b"out\n"
            assert identify(vmm_pid) is None
            await box.client.delete()
            await box.client.shutdown()
            await box.client.died()
            assert (run_dir / "shim.log").read_text() == ""

    go(scenario())


@pytest.mark.parametrize("forked", [False, True], ids=["spawned", "forked"])
def test_a_shim_that_is_killed_takes_its_machine_along(house: ShimHouse, forked: bool) -> None:
    async def scenario() -> None:
        async with warm_zygote() as zygote, house.box(zygote if forked else None) as box:
            vmm_pid = await box.create("sleep", "1000")
            os.kill(box.client.pid, signal.SIGKILL)
            await box.client.died()
            await asyncio.to_thread(wait_until_dead, vmm_pid)

    go(scenario())


@pytest.mark.parametrize("forked", [False, True], ids=["spawned", "forked"])
def test_a_shim_that_cannot_start_says_why_and_is_reaped(house: ShimHouse, forked: bool) -> None:
    async def scenario() -> None:
        async with warm_zygote() as zygote:
            spec = house.spec(cgroup="cgroup.procs/x")
            with pytest.raises(SandboxdError) as caught:
                await start_shim(spec, zygote if forked else None)
            assert caught.value.kind.code == "shim_start_failed" and "cgroup" in caught.value.cause
            assert not spec.run_dir.exists()
            async with house.box(zygote):
                children = Path(f"/proc/{zygote.pid}/task/{zygote.pid}/children").read_text().split()
                assert len(children) == 1, "the dead one is reaped"

    go(scenario())


def test_what_a_zygote_is(house: ShimHouse) -> None:
    async def scenario() -> None:
        with Path("/etc/hostname").open() as ours:  # whatever its maker has open
            os.set_inheritable(ours.fileno(), True)
            async with warm_zygote() as zygote:
                assert status(zygote.pid)["Threads"] == "1"
                assert set(descriptors(zygote.pid)) == {0, 1, 2}
                assert words(zygote.pid)[-1] == "zygote"
                maps = Path(f"/proc/{zygote.pid}/maps").read_text()
                assert "pydantic_core" in maps and "grpc" not in maps and "sqlite" not in maps
                async with house.box(zygote), house.box(zygote):
                    assert status(zygote.pid)["Threads"] == "1"
                    assert set(descriptors(zygote.pid)) == {0, 1, 2}

    go(scenario())


def test_a_dead_zygote_is_replaced_and_waited_for_by_nobody(house: ShimHouse) -> None:
    async def scenario() -> None:
        async with warm_zygote() as zygote, house.box(zygote) as first:
            old = zygote.pid
            os.kill(old, signal.SIGKILL)
            async with house.box(zygote) as second:  # whether its death is known already or not
                assert parent(second.client.pid) != old
                assert await second.client.describe() and await first.client.describe(), "the first lives on"
                assert await zygote.wait_warm(30) and zygote.pid != old
                async with house.box(zygote) as third:
                    assert parent(third.client.pid) == zygote.pid

    go(scenario())


def test_a_zygote_that_hangs_holds_a_start_up_for_a_bounded_time(
    house: ShimHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandboxd.shim.zygote_handle.FORK_TIMEOUT_S", 0.1)

    async def scenario() -> None:
        async with warm_zygote() as zygote:
            old = zygote.pid
            os.kill(old, signal.SIGSTOP)
            async with house.box(zygote) as box:
                assert parent(box.client.pid) == os.getpid()
                await asyncio.to_thread(wait_until_dead, old)

    go(scenario())


def test_a_shim_that_nobody_holds_never_begins(house: ShimHouse, tmp_path: Path) -> None:
    """Its launcher went away before its GO: no socket, no cgroup, no process."""

    async def scenario() -> None:
        async with warm_zygote() as zygote:
            spec = house.spec()
            spec.run_dir.mkdir(parents=True)
            control = zygote._control
            assert control
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with (tmp_path / "log").open("wb") as log, theirs, ours:
                socket.send_fds(control, [f"1 {spec.run_dir}".encode()], [log.fileno(), theirs.fileno()])
                theirs.close()
                answer, fds, _, _ = socket.recv_fds(ours, 64, 1, socket.MSG_CMSG_CLOEXEC)
            pid = int(answer)
            await asyncio.to_thread(wait_until_dead, pid)
            os.close(fds[0])
            assert list(spec.run_dir.iterdir()) == [] and not Cgroup(spec.cgroup).exists()
            for rubbish in (b"x", b"1 relative", b"1", b"-1 /x", b"1 /x"):  # the last one without descriptors
                control.send(rubbish)
            async with house.box(zygote) as box:
                assert parent(box.client.pid) == zygote.pid, "and it forks on"

    go(scenario())


def test_daemon_and_zygote() -> None:
    """The daemon's zygote makes its shims, is replaced, and goes with it; the shims live on."""
    with running_daemon("tz") as daemon:
        root = Path(__file__).resolve().parent.parent.parent
        daemon.load_busybox(root / "images/busybox/build/busybox")
        first = daemon.spawn("sleep", "1000")
        zygote = parent(daemon.get(first).machine.shim_pid)
        assert "zygote" in words(zygote) and parent(zygote) == daemon.pid
        os.kill(zygote, signal.SIGKILL)
        assert daemon.run("true").exit_status == 0
        second = daemon.spawn("sleep", "1000")
        successor = parent(daemon.get(second).machine.shim_pid)
        assert successor != zygote and "zygote" in words(successor)
        before = [daemon.get(sandbox).machine for sandbox in (first, second)]
        daemon.end(signal.SIGKILL)
        wait_until_dead(successor)
        assert all(identify(machine.shim_pid) for machine in before)
        daemon.start()
        assert [daemon.get(sandbox).machine for sandbox in (first, second)] == before
        assert daemon.exec(second, "echo", "reached").stdout == b"reached\n"


def test_one_that_is_nearly_warm_is_waited_for_and_one_that_never_is_is_not(
    house: ShimHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        zygote = Zygote()
        monkeypatch.setattr("sandboxd.shim.zygote_handle.AHEAD_S", 30)
        zygote.begin()
        async with house.box(zygote) as box:
            assert parent(box.client.pid) == zygote.pid
        await zygote.close()

        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/bin/false")
            zygote = Zygote()
            zygote.begin()
            assert not await zygote.wait_warm(30) and zygote.pid == 0
        async with house.box(zygote) as box:  # which asks for a new one
            assert parent(box.client.pid) == os.getpid()
            assert await zygote.wait_warm(30)
        await zygote.close()

    go(scenario())


def test_a_closed_zygote_makes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with warm_zygote() as zygote:
            old = zygote.pid
        wait_until_dead(old)
        assert await zygote.fork(tmp_path, 2) is None and zygote.pid == 0

    go(scenario())
