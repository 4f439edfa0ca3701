"""Lifecycle, steps, records, the output log and control groups: pure parts of core and linux."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.base.errors import SandboxdError
from sandboxd.core.lifecycle import TRANSITIONS, Lifecycle, State
from sandboxd.core.output_log import complete_utf8, decode_record, encode_records
from sandboxd.core.records import (
    EXIT_FILE,
    SHIM_FILE,
    ExitRecord,
    ShimRecord,
    read_exit_record,
    read_shim_record,
    write_exit_record,
    write_shim_record,
)
from sandboxd.core.steps import Step, perform
from sandboxd.linux.cgroup import Cgroup, CgroupLimits, Layout, parse_keyed, parse_layout
from sandboxd.linux.mounts import unescape

# --- lifecycle ---


def at(state: State) -> Lifecycle:
    paths = {
        State.CREATING: (),
        State.CREATED: (State.CREATED,),
        State.RUNNING: (State.CREATED, State.RUNNING),
        State.PAUSED: (State.CREATED, State.RUNNING, State.PAUSED),
        State.STOPPED: (State.STOPPED,),
    }
    life = Lifecycle("web")
    for step in paths[state]:
        life.move(step, "set up")
    return life


@pytest.mark.parametrize("source", State)
@pytest.mark.parametrize("target", State)
def test_only_the_table_moves_a_life(source: State, target: State) -> None:
    life = at(source)
    if target in TRANSITIONS[source]:
        life.move(target, "test")
        assert life.state is target
        return
    with pytest.raises(SandboxdError) as caught:
        life.move(target, "test")
    assert life.state is source
    assert caught.value.kind.code == "sandbox_wrong_state"
    assert source.value in caught.value.message and "web" in caught.value.message


def test_every_state_is_in_the_table_and_stopped_is_the_end() -> None:
    assert set(TRANSITIONS) == set(State)
    assert not TRANSITIONS[State.STOPPED]
    assert all(State.STOPPED in targets for state, targets in TRANSITIONS.items() if state is not State.STOPPED)


# --- steps ---


def test_a_failing_step_undoes_itself_and_all_before_it_in_reverse() -> None:
    trace: list[str] = []

    def step(name: str, fails: bool = False, undo_fails: bool = False) -> Step:
        async def do() -> None:
            trace.append(name)
            if fails:
                raise ValueError(name)

        async def undo() -> None:
            trace.append(f"-{name}")
            if undo_fails:
                raise OSError(name)

        return Step(name, do, undo)

    async def scenario() -> None:
        with pytest.raises(ValueError, match="c"):
            await perform([step("a"), step("b", undo_fails=True), step("c", fails=True), step("d")])
        assert trace == ["a", "b", "c", "-c", "-b", "-a"]
        trace.clear()
        done = await perform([step("a"), step("b")])
        assert done.names == ("a", "b")
        await done.undo()
        await done.undo()
        assert trace == ["a", "b", "-b", "-a"]

    asyncio.run(scenario())


def test_cancellation_undoes_too() -> None:
    trace: list[str] = []
    entered = asyncio.Event()

    async def hang() -> None:
        entered.set()
        await asyncio.Event().wait()

    async def undo() -> None:
        await asyncio.sleep(0)
        trace.append("undone")

    async def scenario() -> None:
        task = asyncio.ensure_future(perform([Step("x", hang, undo)]))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert trace == ["undone"]


# --- records ---


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    assert read_shim_record(tmp_path) is None and read_exit_record(tmp_path) is None
    shim = ShimRecord(12, 34, "0.1", 56, 78)
    ending = ExitRecord("web", 137, 1731, "vmm_died", 'it said "no"\n')
    write_shim_record(tmp_path, shim)
    write_exit_record(tmp_path, ending)
    assert read_shim_record(tmp_path) == shim and read_exit_record(tmp_path) == ending
    assert sorted(path.name for path in tmp_path.iterdir()) == [EXIT_FILE, SHIM_FILE], "no temporary file stays"
    assert (tmp_path / SHIM_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"pid": "1"}', '{"pid": 1, "x": 2}', "\xff", "{" * 10_000])
def test_a_record_that_is_none_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / SHIM_FILE).write_text(text, encoding="latin-1")
    (tmp_path / EXIT_FILE).write_text(text, encoding="latin-1")
    assert read_shim_record(tmp_path) is None and read_exit_record(tmp_path) is None


# --- the output log ---


@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode), st.just(b"a\r\nb\n" * 9000)))
def test_a_log_gives_back_every_byte(data: bytes) -> None:
    lines = encode_records(17, "stderr", data).splitlines(keepends=True)
    records = [decode_record(line) for line in lines]
    assert all(record and record.unix_ns == 17 and record.stream == "stderr" for record in records)
    assert b"".join(record.data for record in records if record) == data
    assert all(line.endswith(b"\n") and json.loads(line) for line in lines)


def test_a_record_is_one_line_or_a_piece_of_one() -> None:
    lines = encode_records(1, "stdout", b"one\ntwo\r\nthree").splitlines()
    assert [json.loads(line)["log"] for line in lines] == ["one\n", "two\r\n", "three"]
    assert len(encode_records(1, "stdout", b"x" * 40_000).splitlines()) == 3


@given(st.text(min_size=1, max_size=20), st.integers(0, 80))
def test_characters_are_not_cut(text: str, cut: int) -> None:
    piece = text.encode()[:cut]
    end = complete_utf8(piece)
    assert len(piece) - end <= 3
    piece[:end].decode()


@pytest.mark.parametrize("data", [b"\xff\xfe\xfd\xfc", b"\x80\x80\x80\x80", b"", b"\xf0", b"ab\xe2\x82"])
def test_bytes_that_are_no_text_do_not_wait_for_ever(data: bytes) -> None:
    assert len(data) - complete_utf8(data) <= 3
    assert complete_utf8(data + b"abcd") == len(data) + 4


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"time": 1}', b'{"time":1,"stream":"x","log":""}', b"\xff\n"])
def test_what_is_no_record_is_passed_over(line: bytes) -> None:
    assert decode_record(line) is None


# --- control groups ---

V1 = """\
31 23 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
34 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
35 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
V2 = "31 23 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def test_layouts_of_hosts() -> None:
    hybrid = parse_layout(V1, v2_has_memory=False)
    both = Path("/sys/fs/cgroup/cpu,cpuacct")
    assert hybrid == Layout(1, {"cpu": both, "cpuacct": both, "memory": Path("/sys/fs/cgroup/memory")})
    assert parse_layout(V1, v2_has_memory=True) == Layout(2, {"": Path("/sys/fs/cgroup/unified")})
    assert parse_layout(V2, v2_has_memory=True) == Layout(2, {"": Path("/sys/fs/cgroup")})
    assert parse_layout(V2, v2_has_memory=False) == Layout(2, {"": Path("/sys/fs/cgroup")})
    assert parse_layout("", v2_has_memory=False) == Layout(1, {})


@pytest.mark.parametrize("path", ["", "/", "/a", "a/../b", "..", "a//b", "a/", "a b", "a\n", "a/.b", "-/" * 9])
def test_a_cgroups_path_stays_below_its_root(path: str) -> None:
    with pytest.raises(ValueError, match="not a cgroup"):
        Cgroup(path, Layout(1, {}))


def test_version_2_passes_controllers_down_and_writes_its_limits(tmp_path: Path) -> None:
    group = tmp_path / "sandboxd" / "web"
    group.mkdir(parents=True)
    for directory in (tmp_path, group.parent):
        (directory / "cgroup.controllers").write_text("cpuset cpu memory pids\n")
    for name in ("memory.max", "cpu.max", "pids.max"):
        (group / name).write_text("max\n")
    Cgroup("sandboxd/web", Layout(2, {"": tmp_path})).create(CgroupLimits(1 << 20, 1500, 99))
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"
    assert (group.parent / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"
    assert not (group / "cgroup.subtree_control").exists(), "a group with processes passes nothing on"
    assert (group / "memory.max").read_text() == str(1 << 20)
    assert (group / "cpu.max").read_text() == "150000 100000"
    assert (group / "pids.max").read_text() == "99"


def test_version_1_writes_its_limits_and_reads_its_usage(tmp_path: Path) -> None:
    roots = {name: tmp_path / name for name in ("memory", "cpu", "cpuacct", "pids")}
    files = {"memory": "memory.limit_in_bytes", "cpu": "cpu.cfs_quota_us", "pids": "pids.max"}
    for name, root in roots.items():
        (root / "a" / "b").mkdir(parents=True)
        (root / "a" / "b" / files.get(name, "x")).write_text("-1")
    (roots["memory"] / "a/b/memory.usage_in_bytes").write_text("4096\n")
    (roots["memory"] / "a/b/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (roots["cpuacct"] / "a/b/cpuacct.usage").write_text("77\n")
    group = Cgroup("a/b", Layout(1, roots))
    group.create(CgroupLimits(8192, 500, None))
    assert (roots["memory"] / "a/b/memory.limit_in_bytes").read_text() == "8192"
    assert (roots["cpu"] / "a/b/cpu.cfs_quota_us").read_text() == "50000"
    assert (roots["pids"] / "a/b/pids.max").read_text() == "-1"
    usage = group.usage()
    assert (usage.memory_bytes, usage.cpu_ns, usage.oom_kills, usage.pids) == (4096, 77, 3, 0)


def test_keyed_files() -> None:
    assert parse_keyed("usage_usec 12\nx\nnr 1 2\nbad y\n") == {"usage_usec": 12}


def test_paths_of_the_mount_table() -> None:
    assert unescape(r"/a\040b\011c\134d") == "/a b\tc\\d"
