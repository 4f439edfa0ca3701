"""A shim with real guests: what runs in them, how it ends, and what is left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from sandboxd.aio.ttrpc import ClientConnection, RemoteError, StatusCode
from sandboxd.api import agent_pb2
from sandboxd.api.containerd import metrics_pb2, task_pb2, task_types_pb2
from sandboxd.base.errors import SandboxdError
from sandboxd.core.process import KILLED_DRAIN_S
from sandboxd.core.reclaim import reclaim
from sandboxd.core.records import read_exit_record, read_shim_record
from sandboxd.linux.cgroup import Cgroup
from sandboxd.linux.process import identify
from sandboxd.shim.launch import ATTACH_ONLY, connect, start_shim
from tests.support.shim_house import Box, Reader, ShimHouse, write_all

SHIM_PRIVATE_MAX_BYTES = 25 << 20


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> ShimHouse:
    return ShimHouse(tmp_path_factory.mktemp("shim"))


def go(scenario: Coroutine[Any, Any, None], timeout_s: float = 120) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(timeout_s):
            await scenario

    asyncio.run(bounded())


def private_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def nothing_left(box: Box) -> None:
    assert not box.spec.run_dir.exists()
    assert not Cgroup(box.spec.cgroup).exists()
    assert not (box.spec.data_dir / "disk.ext4").exists()


def test_a_container_from_create_to_the_end(house: ShimHouse) -> None:
    async def scenario() -> None:
        async with house.box() as box:
            client = box.client
            vmm_pid = await box.create("sh", "-c", "echo out; echo err >&2; id -u; hostname; exit 7", hostname="box")
            assert vmm_pid in Cgroup(box.spec.cgroup).pids() and client.pid in Cgroup(box.spec.cgroup).pids()
            state = await client.state()
            assert (state.status, state.pid) == (task_types_pb2.CREATED, vmm_pid)
            waiting = asyncio.ensure_future(client.wait_exit())
            assert await client.start() == vmm_pid
            ending = await waiting
            assert (ending.exit_status, ending.reason) == (7, "exited")
            assert box.output() == b"out\n0\nbox\n" and box.output("stderr") == b"err\n"
            assert identify(vmm_pid) is None, "the machine goes with its last container"
            record = read_exit_record(box.spec.run_dir)
            assert record and (record.id, record.exit_status, record.reason) == (client.id, 7, "exited")
            state = await client.state()
            assert (state.status, state.exit_status) == (task_types_pb2.STOPPED, 7)
            described = await client.describe()
            stages = {stage.name: stage for stage in described.stages}
            names = ["shim", "cgroup", "compile", "vmm spawn", "kernel", "modules", "agent", "activate", "create"]
            assert [name for name in [*names, "start", "exit"] if name not in stages] == []
            assert stages["kernel"].process == "guest" and described.kernel_release and described.agent_version
            assert all(stage.begin_ns <= stage.end_ns for stage in described.stages)
            await client.shutdown()
            assert await client.state(), "Shutdown with a container left is refused silently, as containerd expects"
            assert (await client.delete()).exit_status == 7
            await client.shutdown()
            async with asyncio.timeout(5):
                await client.died()
        nothing_left(box)

    go(scenario())


def test_what_can_be_done_in_a_running_container(house: ShimHouse) -> None:
    """One guest, many questions: booting is what costs."""

    async def scenario() -> None:
        async with house.box() as box:
            await box.run("sleep", "1000")
            assert private_bytes(box.client.pid) <= SHIM_PRIVATE_MAX_BYTES
            for ask in (
                _exit_statuses,
                _commands_that_cannot_run,
                _signals,
                _input_of_the_creator,
                _attached_input,
                _terminal,
                _readers_that_go,
                _stdio_that_is_refused,
                _wrong_calls,
                _pausing,
                _measuring,
                _files,
                _adoption,
                _containerds_names,
            ):
                await ask(box)
            assert (await box.client.state()).status == task_types_pb2.RUNNING
            await box.client.kill(signal.SIGKILL)
            ending = await box.client.wait_exit()
            assert (ending.exit_status, ending.reason) == (137, "signaled"), ending
        nothing_left(box)

    go(scenario(), 180)


async def run_exec(box: Box, *command: str, stdin: str = "", terminal: bool = False) -> tuple[int, bytes, bytes]:
    """Runs a process in the container; its status, stdout and stderr."""
    name = f"e{time.monotonic_ns()}"
    out, err = box.fifo(f"{name}.out"), box.fifo(f"{name}.err")
    readers = [Reader(out), Reader(err)]
    process = box.process(*command, terminal=terminal)
    await box.client.exec(name, process, terminal=terminal, stdin=stdin, stdout=str(out), stderr=str(err))
    reading = asyncio.gather(*(reader.read_all() for reader in (readers[:1] if terminal else readers)))
    await box.client.start(name)
    status = (await box.client.wait_exit(name)).exit_status
    texts = await reading
    await box.client.delete(name)
    return status, texts[0], b"" if terminal else texts[1]


async def _exit_statuses(box: Box) -> None:
    assert await run_exec(box, "sh", "-c", "echo a; echo b >&2; exit 3") == (3, b"a\n", b"b\n")
    assert (await run_exec(box, "true"))[0] == 0
    results = await asyncio.gather(*(run_exec(box, "sh", "-c", f"echo {n}; exit {n}") for n in range(10)))
    assert results == [(n, b"%d\n" % n, b"") for n in range(10)]


async def _commands_that_cannot_run(box: Box) -> None:
    for command, code, status in (("nope", "command_not_found", 127), ("/etc/text", "command_not_executable", 126)):
        await box.client.exec("bad", box.process(command))
        with pytest.raises(SandboxdError) as caught:
            await box.client.start("bad")
        assert (caught.value.kind.code, caught.value.kind.exit_status) == (code, status), caught.value.cause
        assert command in caught.value.message
        assert (await box.client.wait_exit("bad")).exit_status == status
        await box.client.delete("bad")


async def _signals(box: Box) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGHUP):
        await box.client.exec("sleeper", box.process("sleep", "100"))
        await box.client.start("sleeper")
        await box.client.kill(number, "sleeper")
        ending = await box.client.wait_exit("sleeper")
        assert (ending.exit_status, ending.reason) == (128 + number, "signaled")
        assert number.name in ending.detail
        await box.client.delete("sleeper")
    # Not started yet: it ends without ever having run.
    await box.client.exec("never", box.process("sleep", "100"))
    await box.client.kill(signal.SIGTERM, "never")
    assert (await box.client.wait_exit("never")).exit_status == 143
    await box.client.delete("never")


async def _input_of_the_creator(box: Box) -> None:
    path = box.fifo("creator.in")
    running = asyncio.ensure_future(run_exec(box, "sh", "-c", "cat; echo done", stdin=str(path)))
    fd = await open_writer(path)
    await write_all(fd, b"line\n" * 1000)
    os.close(fd)
    assert await running == (0, b"line\n" * 1000 + b"done\n", b""), "the end of the FIFO is the end of the input"
    assert await run_exec(box, "cat") == (0, b"", b""), "without stdin a process reads nothing"


async def _attached_input(box: Box) -> None:
    first, second, out = box.fifo("a1"), box.fifo("a2"), box.fifo("a.out")
    reader = Reader(out)
    await box.client.exec("att", box.process("cat"), stdin=ATTACH_ONLY, stdout=str(out))
    await box.client.attach("att", stdin=str(first))
    await box.client.start("att")
    fd = os.open(first, os.O_WRONLY)
    await write_all(fd, b"one ")
    os.close(fd)
    assert await reader.read_until(b"one ")
    # The first writer's end was not the input's end.
    await box.client.attach("att", stdin=str(second))
    fd = os.open(second, os.O_WRONLY | os.O_NONBLOCK)
    await write_all(fd, b"two " * 10_000)
    await box.client.close_stdin("att")
    assert (await box.client.wait_exit("att")).exit_status == 0
    assert await reader.read_all() == b"one " + b"two " * 10_000, "CloseIO comes after what was written before it"
    os.close(fd)
    await box.client.delete("att")


async def _terminal(box: Box) -> None:
    out = box.fifo("tty.out")
    reader = Reader(out)
    inp = box.fifo("tty.in")
    await box.client.exec("tty", box.process("sh", terminal=True), terminal=True, stdin=str(inp), stdout=str(out))
    await box.client.start("tty")
    fd = await open_writer(inp)
    await box.client.resize(101, 37, "tty")
    await write_all(fd, b"tty; stty size; exit 5\n")
    ending = await box.client.wait_exit("tty")
    text = await reader.read_all()
    os.close(fd)
    assert ending.exit_status == 5 and b"37 101" in text and b"/dev/pts/" in text, text
    await box.client.delete("tty")


async def _readers_that_go(box: Box) -> None:
    out = box.fifo("gone.out")
    fd = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    await box.client.exec("yes", box.process("sh", "-c", "for i in 1 2 3 4 5 6; do seq 1 9999; done"))
    await box.client.attach("yes", stdout=str(out))
    os.close(fd)
    await box.client.start("yes")
    assert (await box.client.wait_exit("yes")).exit_status == 0, "a reader that is gone holds nobody back"
    await box.client.delete("yes")


async def _stdio_that_is_refused(box: Box) -> None:
    regular = box.spec.run_dir / "regular"
    regular.write_text("")
    lonely = box.fifo("lonely")
    for path in (str(regular), "relative", "/nowhere/x", "binary:///bin/sh", f"log://{lonely}"):
        with pytest.raises(SandboxdError) as caught:
            await box.client.exec("x", box.process("true"), stdout=path)
        assert caught.value.kind.code == "stdio_unusable", path
    await box.client.exec("x", box.process("true"))
    with pytest.raises(SandboxdError, match="cannot use"):
        await box.client.attach("x", stdout=str(lonely))
    await box.client.delete("x")


async def _wrong_calls(box: Box) -> None:
    async def code(call: Coroutine[Any, Any, Any]) -> str:
        with pytest.raises(SandboxdError) as caught:
            await call
        return caught.value.kind.code

    client = box.client
    assert await code(client.start()) == "sandbox_wrong_state"
    assert await code(client.delete()) == "sandbox_wrong_state"
    assert await code(client.resume()) == "sandbox_wrong_state"
    assert await code(client.start("no-such")) == "container_not_found"
    assert await code(client.kill(0)) == "invalid_argument"
    await client.exec("short", box.process("true"))
    await client.start("short")
    await client.wait_exit("short")
    assert await code(client.kill(signal.SIGTERM, "short")) == "process_ended"
    await client.delete("short")
    assert await code(client.kill(65)) == "invalid_argument"
    assert await code(client.resize(1 << 20, 1)) == "invalid_argument"
    assert await code(client.exec("../x", box.process("true"))) == "invalid_argument"
    assert await code(client.exec("x", {"args": "no list"})) == "oci_spec_invalid"
    assert await code(box.create("true")) == "container_exists"
    await client.exec("twice", box.process("true"))
    assert await code(client.exec("twice", box.process("true"))) == "container_exists"
    await client.delete("twice")


async def _pausing(box: Box) -> None:
    await box.client.pause()
    assert (await box.client.state()).status == task_types_pb2.PAUSED
    with pytest.raises(SandboxdError):
        await box.client.exec("x", box.process("true"))
    await box.client.resume()
    assert (await run_exec(box, "true"))[0] == 0


async def _measuring(box: Box) -> None:
    statistics = await box.client.statistics()
    assert b"usage_usec" in statistics.guest.files["cpu.stat"].encode()
    assert statistics.host_memory_bytes > 50 << 20 and statistics.host_cpu_ns > 0
    assert await box.client.pids()
    await box.client.update({"pids": {"limit": 77}})
    assert "77" in (await run_exec(box, "cat", "/sys/fs/cgroup/pids.max"))[1].decode()


async def _files(box: Box) -> None:
    write = agent_pb2.FileWrite(data=b"by the host", create=True, mode=0o640)
    await box.client.file(agent_pb2.FileRequest(path=b"/tmp/note", write=write))
    assert await run_exec(box, "cat", "/tmp/note") == (0, b"by the host", b"")
    with pytest.raises(SandboxdError) as caught:
        await box.client.file(agent_pb2.FileRequest(path=b"/no/such", stat=agent_pb2.FileStat()))
    assert caught.value.kind.code == "guest_path_not_found"


async def _adoption(box: Box) -> None:
    """Another client, as a daemon after its restart."""
    again = await connect(box.spec.run_dir)
    assert again.pid == box.client.pid
    assert (await again.state()).status == task_types_pb2.RUNNING
    await again.close()


async def _containerds_names(box: Box) -> None:
    connection = await ClientConnection.open_unix(box.spec.run_dir / "shim.sock")
    for service in ("containerd.task.v2.Task", "containerd.task.v3.Task"):
        request = task_pb2.ConnectRequest(id=box.client.id)
        answer = await connection.call(service, "Connect", request, task_pb2.ConnectResponse)
        assert (answer.shim_pid, answer.task_pid) == (box.client.pid, (await box.client.describe()).vmm_pid)
        for method, failing, code in (
            ("Checkpoint", task_pb2.CheckpointTaskRequest(id=box.client.id), StatusCode.UNIMPLEMENTED),
            ("State", task_pb2.StateRequest(id="other"), StatusCode.NOT_FOUND),
            ("Start", task_pb2.StartRequest(id=box.client.id), StatusCode.FAILED_PRECONDITION),
        ):
            with pytest.raises(RemoteError) as caught:
                await connection.call(service, method, failing, task_pb2.StateResponse)
            assert caught.value.code == code
        stats = await connection.call(service, "Stats", task_pb2.StatsRequest(id=box.client.id), task_pb2.StatsResponse)
        assert stats.stats.type_url == "io.containerd.cgroups.v2.Metrics"
        metrics = metrics_pb2.Metrics.FromString(stats.stats.value)
        assert metrics.cpu.usage_usec and metrics.memory.usage and metrics.memory.anon and metrics.pids.current
    await connection.close()
    assert (box.spec.run_dir / "shim.sock").stat().st_mode & 0o777 == 0o600


async def open_writer(path: Path) -> int:
    """The writing end of a FIFO that somebody is about to open for reading."""
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            await asyncio.sleep(0.01)


def test_much_data_neither_hangs_nor_gets_lost(house: ShimHouse) -> None:
    size = 100 << 20

    async def scenario() -> None:
        async with house.box() as box:
            await box.run("sleep", "1000")
            out = box.fifo("big.out")
            reader = Reader(out)
            command = f"dd if=/dev/zero bs=256k count={size >> 18} 2>/dev/null"
            await box.client.exec("out", box.process("sh", "-c", command), stdout=str(out))
            begin = time.monotonic()
            await box.client.start("out")
            assert len(await reader.read_all()) == size
            print(f"\nstdout: {100 / (time.monotonic() - begin):.0f} MB/s")
            assert (await box.client.wait_exit("out")).exit_status == 0

            inp, count = box.fifo("big.in"), box.fifo("count")
            counter = Reader(count)
            await box.client.exec("in", box.process("wc", "-c"), stdin=str(inp), stdout=str(count))
            begin = time.monotonic()
            await box.client.start("in")
            fd = await open_writer(inp)
            await write_all(fd, bytes(size))
            os.close(fd)
            assert int(await counter.read_all()) == size
            print(f"stdin: {100 / (time.monotonic() - begin):.0f} MB/s")
            assert private_bytes(box.client.pid) <= SHIM_PRIVATE_MAX_BYTES + (8 << 20), "data passes, it does not stay"

    go(scenario(), 200)


def test_a_slow_reader_slows_the_process_and_a_killed_one_ends_all_the_same(house: ShimHouse) -> None:
    async def scenario() -> None:
        async with house.box() as box:
            await box.create("sh", "-c", "seq 1 300000; echo end")
            out = box.fifo("slow.out")
            reader = Reader(out)
            await box.client.attach(stdout=str(out))
            await box.client.start()
            waiting = asyncio.ensure_future(box.client.wait_exit())
            await asyncio.sleep(2)
            assert not waiting.done(), "a megabyte in the FIFO and nobody reads: the process waits"
            text = await reader.read_all()
            assert text == b"".join(b"%d\n" % n for n in range(1, 300_001)) + b"end\n"
            assert (await waiting).exit_status == 0
            assert box.output() == text, "every sink has everything"

        async with house.box() as box:
            await box.create("yes")
            out = box.fifo("stuck.out")
            fd = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
            await box.client.attach(stdout=str(out))
            await box.client.start()
            await asyncio.sleep(1)
            await box.client.kill(signal.SIGKILL)
            async with asyncio.timeout(KILLED_DRAIN_S + 3):
                assert (await box.client.wait_exit()).exit_status == 137
            os.close(fd)

    go(scenario())


def test_a_vmm_that_is_killed_is_seen_at_once(house: ShimHouse) -> None:
    async def scenario() -> None:
        async with house.box() as box:
            vmm_pid = await box.create("sleep", "1000")
            await box.client.start()
            await box.client.exec("other", box.process("sleep", "1000"))
            await box.client.start("other")
            waiting = [asyncio.ensure_future(box.client.wait_exit(name)) for name in ("", "other")]
            await box.client.state()
            begin = time.monotonic()
            os.kill(vmm_pid, signal.SIGKILL)
            endings = await asyncio.gather(*waiting)
            assert time.monotonic() - begin < 1
            assert [(each.exit_status, each.reason) for each in endings] == [(137, "vmm_died")] * 2
            record = read_exit_record(box.spec.run_dir)
            assert record and record.reason == "vmm_died"
            with pytest.raises(SandboxdError):
                await box.client.exec("late", box.process("true"))
            assert (await box.client.delete("other")).exit_status == 137
            assert (await box.client.delete()).exit_status == 137
        nothing_left(box)

    go(scenario())


def test_a_shim_that_is_killed_takes_its_machine_along_and_reclaim_the_rest(house: ShimHouse) -> None:
    async def scenario() -> None:
        spec = house.spec()
        client = await start_shim(spec)
        box = Box(client, spec, house)
        vmm_pid = await box.create("sleep", "1000")
        await client.start()
        record = read_shim_record(spec.run_dir)
        assert record and record.vmm and record.vmm.pid == vmm_pid
        waiting = asyncio.ensure_future(client.wait_exit())
        await client.state()
        begin = time.monotonic()
        os.kill(client.pid, signal.SIGKILL)
        await client.died()
        assert time.monotonic() - begin < 1
        with pytest.raises(SandboxdError) as caught:
            await waiting
        assert caught.value.kind.code == "shim_lost"
        with pytest.raises(SandboxdError) as caught:
            await connect(spec.run_dir)
        assert caught.value.kind.code == "shim_lost"
        await client.close()
        for _ in range(2):
            result = await asyncio.to_thread(reclaim, spec.run_dir)
            assert result.complete, result
        assert identify(vmm_pid) is None
        nothing_left(box)
        assert (spec.data_dir / "log.json").exists(), "the log outlives the sandbox"

    go(scenario())


def test_a_shim_that_is_asked_to_end_ends_everything(house: ShimHouse) -> None:
    async def scenario() -> None:
        async with house.box() as box:
            vmm_pid = await box.create("sleep", "1000")
            await box.client.start()
            os.kill(box.client.pid, signal.SIGTERM)
            async with asyncio.timeout(5):
                await box.client.died()
            assert identify(vmm_pid) is None
        nothing_left(box)

    go(scenario())


def test_starts_that_fail_leave_no_machine(house: ShimHouse) -> None:
    async def scenario() -> None:
        for changes, code in (
            ({"memory_mib": 64}, "memory_too_small"),
            ({"kernel": Path("/etc/passwd")}, "kernel_unusable"),
            ({"boot_timeout_s": 0.7}, "boot_timeout"),
        ):
            async with house.box(**changes) as box:
                with pytest.raises(SandboxdError) as caught:
                    await box.create("true")
                assert caught.value.kind.code == code, caught.value.to_json()
                assert Cgroup(box.spec.cgroup).pids() == {box.client.pid}, "only the shim is left"
            nothing_left(box)
        async with house.box() as box:
            bundle = box.spec.run_dir / "none"
            with pytest.raises(SandboxdError) as caught:
                await box.client.create(bundle, [])
            assert caught.value.kind.code == "bundle_unusable"
            (box.spec.data_dir / "disk.ext4").unlink()
            with pytest.raises(SandboxdError):
                await box.create("true")
            assert Cgroup(box.spec.cgroup).pids() == {box.client.pid}

    go(scenario())


def test_a_command_that_is_not_there_ends_the_container_with_127(house: ShimHouse) -> None:
    async def scenario() -> None:
        async with house.box() as box:
            await box.create("nope")
            with pytest.raises(SandboxdError) as caught:
                await box.client.start()
            assert caught.value.kind.code == "command_not_found"
            assert (await box.client.wait_exit()).exit_status == 127

    go(scenario())


def test_a_container_that_takes_too_much_memory_is_told_so(house: ShimHouse) -> None:
    async def scenario() -> None:
        async with house.box() as box:
            await box.run("sh", "-c", "head -c 100m /dev/zero | tail", memory_bytes=32 << 20)
            await box.client.wait_exit()
            async with house.box() as direct:
                await direct.run("tail", "/dev/zero", memory_bytes=32 << 20)
                ending = await direct.client.wait_exit()
                assert (ending.exit_status, ending.reason) == (137, "oom_killed"), ending

    go(scenario())


def test_a_shim_that_cannot_start_leaves_nothing(house: ShimHouse) -> None:
    async def scenario() -> None:
        with pytest.raises(ValueError, match="cgroup"):
            house.spec(cgroup="../outside")
        # A kernel that is handed a control group below a file cannot make it.
        spec = house.spec(cgroup="cgroup.procs/x")
        with pytest.raises(SandboxdError) as caught:
            await start_shim(spec)
        assert caught.value.kind.code == "shim_start_failed"
        assert "cgroup" in caught.value.cause, caught.value.cause
        assert not spec.run_dir.exists() and not (spec.data_dir / "disk.ext4").exists()

    go(scenario())


def test_reclaim_touches_nothing_of_others(house: ShimHouse, tmp_path: Path) -> None:
    """A record that speaks of another's directory or of a process that is another now."""
    spec = house.spec()
    run_dir = tmp_path / "foreign"
    run_dir.mkdir()
    (run_dir / "sandbox.json").write_text(spec.model_dump_json())
    me = identify(os.getpid())
    assert me
    stolen = {"pid": me.pid, "start_time_ticks": me.start_time_ticks - 1, "version": "x"}
    (run_dir / "shim.json").write_text(json.dumps(stolen))
    result = reclaim(run_dir)
    assert result.complete and result.processes_killed == 0
    assert (spec.data_dir / "disk.ext4").exists(), "another sandbox's disk"
    assert not run_dir.exists()
