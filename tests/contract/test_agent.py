"""The guest's agent, executing plans on the host under ASan and UBSan: every call and every step.

Also what a container and its host see of a process: ids, streams, terminals, signals, exit statuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandboxd.api import agent_pb2 as pb
from sandboxd.base.errors import (
    GUEST_FAILED,
    GUEST_PATH_NOT_FOUND,
    GUEST_PATH_UNUSABLE,
    GUEST_WRONG_STATE,
    ErrorKind,
    SandboxdError,
)
from tests.support.agent_host import (
    CLONE,
    MS_BIND,
    AgentOnHost,
    build_agent,
    busybox_root,
    cgroup2_mount,
    own_cgroup,
    process,
)

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(cgroup2_mount() is None, reason="needs cgroup v2 mounted somewhere"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox-static"),
]


@pytest.fixture(scope="module")
def guest() -> Iterator[AgentOnHost]:
    """One activated agent for all tests of this file; the sanitizers' verdict comes at its end."""
    work = Path(tempfile.mkdtemp(prefix="agent-"))
    work.chmod(0o755)  # root of a user namespace has no right of its own here
    tree = busybox_root(work / "tree")
    with own_cgroup() as cgroup:
        agent = AgentOnHost(build_agent(), tree, work, cgroup)
        try:
            agent.run(agent.agent.hello(pb.HelloRequest()))
            with pytest.raises(SandboxdError) as refused:
                agent.sh("true")
            assert refused.value.kind is GUEST_WRONG_STATE
            agent.activate()
            yield agent
        finally:
            said = agent.close()
            shutil.rmtree(work)
        assert said == ""


@contextlib.contextmanager
def refused(kind: ErrorKind, *words: str) -> Iterator[None]:
    with pytest.raises(SandboxdError) as caught:
        yield
    assert caught.value.kind is kind, caught.value.cause
    for word in words:
        assert word in caught.value.cause


def step(**kind: object) -> pb.Step:
    return pb.Step(**kind)  # type: ignore[arg-type]


# --- the guest ---


def test_hello_tells_what_booted(guest: AgentOnHost) -> None:
    answer = guest.run(guest.agent.hello(pb.HelloRequest()))
    assert answer.kernel_release == os.uname().release
    assert answer.vcpus == len(os.sched_getaffinity(0))
    assert answer.started_boottime_ns <= answer.modules_boottime_ns <= answer.now_boottime_ns
    assert answer.memory_bytes > 64 << 20


def test_activation_checks_what_it_is_given(guest: AgentOnHost) -> None:
    good: dict[str, Any] = {"entropy": os.urandom(32), "wall_clock_unix_ns": time.time_ns()}
    for fields, word in (
        ({"entropy": b"short"}, "entropy"),
        ({"entropy": bytes(513)}, "entropy"),
        ({"wall_clock_unix_ns": -1}, "clock"),
        ({"interfaces": [pb.Interface(mac="02:00:00:00:00:01")]}, "ENODEV"),
        ({"interfaces": [pb.Interface(mac="nonsense")]}, "ENODEV"),
    ):
        with refused(GUEST_FAILED, word):
            guest.run(guest.agent.activate(pb.ActivateRequest(**{**good, **fields})))
    with refused(GUEST_WRONG_STATE, "not activated"):
        guest.sh("true")
    assert abs(guest.activate().wall_clock_unix_ns - time.time_ns()) < 5e9


def test_network(guest: AgentOnHost) -> None:
    mac = "02:00:00:00:00:17"
    guest.process.ip("link", "add", "test0", "address", mac, "type", "veth", "peer", "test1")
    guest.process.ip("link", "set", "test1", "up")
    interface = pb.Interface(
        mac=mac,
        mtu=1400,
        addresses=["10.88.0.2/16", "fd00::2/64"],
        routes=[
            pb.Route(destination="192.0.2.1/32"),
            pb.Route(destination="0.0.0.0/0", gateway="10.88.0.1"),
            pb.Route(destination="::/0", gateway="fd00::1"),
        ],
        neighbours=[pb.Neighbour(address="10.88.0.1", mac="02:00:00:00:00:01")],
    )

    def activate(**fields: Any) -> list[str]:
        changed = pb.Interface()
        changed.CopyFrom(interface)
        for name, value in fields.items():
            changed.ClearField(name)
            getattr(changed, name).extend(value)
        request = pb.ActivateRequest(entropy=os.urandom(32), wall_clock_unix_ns=time.time_ns(), interfaces=[changed])
        return list(guest.run(guest.agent.activate(request)).interface_names)

    assert activate() == activate() == ["test0"]  # the same again is no error
    link = json.loads(guest.process.ip("-j", "addr", "show", "test0"))[0]
    assert (link["mtu"], "UP" in link["flags"]) == (1400, True)
    addresses = {(entry["local"], entry["prefixlen"]) for entry in link["addr_info"] if entry["scope"] == "global"}
    assert addresses == {("10.88.0.2", 16), ("fd00::2", 64)}
    routes = guest.process.ip("route")
    assert "default via 10.88.0.1 dev test0" in routes
    assert "192.0.2.1 dev test0" in routes
    assert "default via fd00::1 dev test0" in guest.process.ip("-6", "route")
    assert "02:00:00:00:00:01 PERMANENT" in guest.process.ip("neigh")
    for bad in ("10.88.0.2/33", "10.88.0/8", "1.2.3.4/", "1.2.3.4/x", "fd00::2/129", "x" * 100, ""):
        with refused(GUEST_FAILED, "is no address"):
            activate(addresses=[bad])
        with refused(GUEST_FAILED, "is no address"):
            activate(routes=[pb.Route(destination=bad)])
    with refused(GUEST_FAILED, "ENETUNREACH"):
        activate(routes=[pb.Route(destination="198.51.100.0/24", gateway="203.0.113.1")])
    with refused(GUEST_FAILED, "MAC"):
        activate(neighbours=[pb.Neighbour(address="10.88.0.9", mac="nonsense")])
    guest.activate()


# --- processes ---


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_exit_status(guest: AgentOnHost, status: int) -> None:
    assert guest.sh(f"echo out; echo err >&2; exit {status}") == (status, "out\n", "err\n")


def test_killed_by_a_signal(guest: AgentOnHost) -> None:
    with guest.running() as name:
        guest.run(guest.kill(name))
        answer = guest.run(guest.wait(name))
        assert (answer.exit_status, answer.signal, answer.oom_killed) == (137, 9, False)
        assert abs(answer.exited_at_unix_ns - time.time_ns()) < 5e9
        with refused(GUEST_WRONG_STATE, "ended"):
            guest.run(guest.kill(name))


@pytest.mark.parametrize(
    ("command", "errno", "status"),
    [("/bin/nothing", 2, 127), ("nothing", 2, 127), ("/etc/passwd", 13, 126), ("/etc", 13, 126)],
)
def test_command_that_cannot_be_executed(guest: AgentOnHost, command: str, errno: int, status: int) -> None:
    name = guest.name()
    guest.run(guest.create(name, guest.plan(name, process(command))))
    assert guest.run(guest.start(name)).exec_errno == errno
    assert guest.run(guest.ended(name)) == (status, b"", b"")
    guest.run(guest.delete(name))


def test_identity_of_a_process(guest: AgentOnHost) -> None:
    spec: dict[str, Any] = {
        "uid": 1000,
        "gid": 1001,
        "additional_gids": [7, 8],
        "umask": 0o27,
        "cwd": "/made/on/the/way",
        "env": ["PATH=/bin", "A=b c", "EMPTY="],
        "oom_score_adj": 321,
        "no_new_privileges": True,
        "rlimits": [pb.Rlimit(resource=7, soft=100, hard=200)],
        "capabilities": pb.Capabilities(bounding=0x21, effective=0, permitted=0, inheritable=0x20, ambient=0),
    }
    status, out, err = guest.sh(
        "id -u; id -g; id -G; umask; pwd; env | sort; cat /proc/self/oom_score_adj; ulimit -Sn; ulimit -Hn;"
        "grep -E 'NoNewPrivs|CapBnd|CapInh|CapEff' /proc/self/status; echo to stdout > /dev/fd/1",
        spec=spec,
        inside=[step(in_root=True, make_symlink=pb.MakeSymlink(path="/dev/fd", target="/proc/self/fd"))],
    )
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        *("1000", "1001", "1001 7 8", "0027", "/made/on/the/way", "A=b c", "EMPTY=", "PATH=/bin"),
        *("PWD=/made/on/the/way", "SHLVL=1", "321", "100", "200"),
        *("CapInh:\t0000000000000020", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000021", "NoNewPrivs:\t1"),
        "to stdout",
    ]


def test_ambient_capabilities_survive_execve(guest: AgentOnHost) -> None:
    bit = 1 << 5
    capabilities = pb.Capabilities(bounding=bit, effective=bit, permitted=bit, inheritable=bit, ambient=bit)
    status, out, _ = guest.sh(
        "grep -E 'Cap(Eff|Amb)' /proc/self/status", spec={"uid": 1000, "capabilities": capabilities}
    )
    assert (status, out.split()) == (0, ["CapEff:", f"{bit:016x}", "CapAmb:", f"{bit:016x}"])


def test_absent_capabilities_are_none(guest: AgentOnHost) -> None:
    assert guest.sh("grep CapEff /proc/self/status", spec={"capabilities": None})[1].split()[1] == "0" * 16


def test_a_process_sees_no_descriptor_of_the_agent(guest: AgentOnHost) -> None:
    with guest.running():  # another container's pipes are open in the agent
        assert guest.sh("ls /proc/self/fd")[1].split() == ["0", "1", "2", "3"]  # 3: ls's own


def test_scheduling(guest: AgentOnHost) -> None:
    spec = {"scheduler": pb.Scheduler(policy=3, nice=5), "cpu_affinity": [0], "io_priority": (3 << 13)}
    status, out, err = guest.sh(
        "cut -d' ' -f19,41 /proc/self/stat; grep Cpus_allowed_list /proc/self/status; ionice", spec=spec
    )
    assert (status, err, out.split()) == (0, "", ["5", "3", "Cpus_allowed_list:", "0", "idle"])


def test_personality_and_names(guest: AgentOnHost) -> None:
    fields: dict[str, Any] = {"hostname": "inner", "domainname": "example", "personality": 8}
    status, out, _ = guest.sh(
        "hostname; cat /proc/sys/kernel/domainname; uname -m; cat /proc/self/personality", **fields
    )
    assert (status, out.split()) == (0, ["inner", "example", "i686", "00000008"])


def test_seccomp(guest: AgentOnHost) -> None:
    def instruction(code: int, jt: int, jf: int, k: int) -> bytes:
        return code.to_bytes(2, "little") + bytes((jt, jf)) + k.to_bytes(4, "little")

    # mkdir(2) answers EXDEV; everything else is allowed.
    program = (
        instruction(0x20, 0, 0, 0)
        + instruction(0x15, 0, 1, 83)
        + instruction(6, 0, 0, 0x50012)
        + instruction(6, 0, 0, 0x7FFF0000)
    )
    for privileges in (True, False):
        spec = {"seccomp": program, "no_new_privileges": privileges, "uid": 1000}
        status, out, err = guest.sh("mkdir /tmp/x; grep Seccomp: /proc/self/status", spec=spec)
        assert (status, out.split()) == (0, ["Seccomp:", "2"])
        assert "cross-device link" in err
    for bad in (b"1234567", program * 2048):
        with refused(GUEST_FAILED, "seccomp"):
            guest.sh("true", spec={"seccomp": bad})
    with refused(GUEST_FAILED, "seccomp"):  # the kernel's own check
        guest.sh("true", spec={"seccomp": instruction(0xFFFF, 0, 0, 0)})


def test_a_working_directory_outside_of_the_root(guest: AgentOnHost) -> None:
    for number in range(3, 12):
        with refused(GUEST_FAILED):
            guest.sh("pwd; ls", spec={"cwd": f"/proc/self/fd/{number}"})


def test_ids_that_mean_no_change_are_refused(guest: AgentOnHost) -> None:
    for spec in ({"uid": 0xFFFFFFFF}, {"gid": 0xFFFFFFFF}):
        with refused(GUEST_FAILED, "id -1"):
            guest.sh("true", spec=spec)


# --- streams ---


def test_big_streams_with_a_slow_reader(guest: AgentOnHost) -> None:
    size = 1 << 20

    async def go() -> tuple[bytes, int]:
        name = guest.name()
        await guest.create(name, guest.plan(name, process("/bin/sh", "-c", "cat; echo end >&2", stdin=True)))
        await guest.start(name)
        data = os.urandom(size)
        writes = [
            asyncio.ensure_future(
                guest.agent.write_input(pb.WriteInputRequest(container_id=name, data=data[at : at + 100_000]))
            )
            for at in range(0, size, 100_000)
        ]
        writes.append(
            asyncio.ensure_future(guest.agent.write_input(pb.WriteInputRequest(container_id=name, close=True)))
        )
        _, pending = await asyncio.wait(writes, timeout=0.3)
        assert len(pending) > 5, "input was taken though nobody read the output"
        got = bytearray()
        while True:
            answer = await guest.agent.read_output(
                pb.ReadOutputRequest(container_id=name, stream=pb.STREAM_STDOUT, max_bytes=7000)
            )
            got += answer.data
            if answer.eof:
                break
        assert not any(write.closed for write in await asyncio.gather(*writes))
        assert bytes(got) == data
        return await guest.output(name, stream=pb.STREAM_STDERR), (await _wait_and_delete(guest, name)).exit_status

    assert guest.run(go()) == (b"end\n", 0)


async def _wait_and_delete(guest: AgentOnHost, name: str) -> pb.WaitResponse:
    answer = await guest.wait(name)
    await guest.delete(name)
    return answer


def test_input_that_nobody_reads(guest: AgentOnHost) -> None:
    with guest.running("/bin/sh", "-c", "exec <&-; sleep 1000", spec={"stdin": True}) as name:

        async def go() -> None:
            while not (await guest.agent.write_input(pb.WriteInputRequest(container_id=name, data=b"x" * 4096))).closed:
                pass

        guest.run(go())
    with guest.running() as name:  # stdin false: /dev/null
        assert guest.run(guest.agent.write_input(pb.WriteInputRequest(container_id=name, data=b"x"))).closed


def test_wait_is_answered_after_the_output_was_read(guest: AgentOnHost) -> None:
    async def go() -> None:
        name = guest.name()
        await guest.create(name, guest.plan(name, process("/bin/echo", "hello")))
        await guest.start(name)
        wait = asyncio.ensure_future(guest.wait(name))
        done, _ = await asyncio.wait([wait], timeout=0.5)
        assert not done
        assert await guest.output(name) == b"hello\n"
        assert (await wait).exit_status == 0
        assert await guest.output(name, stream=pb.STREAM_STDERR) == b""
        await guest.delete(name)

    guest.run(go())


def test_children_left_behind_do_not_hold_up_the_end(guest: AgentOnHost) -> None:
    assert guest.sh("echo first; (sleep 1000; echo late) & exit 5") == (5, "first\n", "")
    with guest.running() as name:
        started = time.monotonic()
        assert guest.exec_sh(name, "echo first; (sleep 1000; echo late) & exit 6") == (6, "first\n", "")
        assert time.monotonic() - started < 5


def test_one_reader_at_a_time_and_bounded(guest: AgentOnHost) -> None:
    with guest.running() as name:
        for size in (0, (256 << 10) + 1, 0xFFFFFFFF):
            with refused(GUEST_FAILED, "max_bytes"):
                guest.run(
                    guest.agent.read_output(
                        pb.ReadOutputRequest(container_id=name, stream=pb.STREAM_STDOUT, max_bytes=size)
                    )
                )
        with refused(GUEST_FAILED, "stream"):
            guest.run(guest.agent.read_output(pb.ReadOutputRequest(container_id=name, max_bytes=1)))


# --- terminals ---


def test_terminal(guest: AgentOnHost) -> None:
    script = "tty; stty size; echo $0; ls -l /dev/console | cut -c1; read line; echo got $line; stty size; exit 7"
    spec = process("/bin/sh", "-c", script, terminal=True, terminal_width=77, terminal_height=33, stdin=True, uid=1000)

    async def go() -> str:
        name = guest.name()
        await asyncio.gather(guest.create(name, guest.plan(name, spec, console=True)), guest.start(name))
        size = pb.ResizeTerminalRequest(container_id=name, width=100, height=50)
        first = b""
        while b"\nc\r\n" not in first:
            request = pb.ReadOutputRequest(container_id=name, stream=pb.STREAM_STDOUT, max_bytes=4096)
            first += (await guest.agent.read_output(request)).data
        await guest.agent.resize_terminal(size)
        await guest.agent.write_input(pb.WriteInputRequest(container_id=name, data=b"line\n"))
        status, out, err = await guest.ended(name)
        assert (status, err) == (7, b"")
        with refused(GUEST_WRONG_STATE):
            await guest.agent.resize_terminal(size)
        await guest.delete(name)
        return (first + out).decode().replace("\r", "")

    out = guest.run(go()).split("\n")
    assert [line for line in out if line != "line"] == ["/dev/pts/0", "33 77", "/bin/sh", "c", "got line", "50 100", ""]


def test_terminal_of_an_exec_and_its_signals(guest: AgentOnHost) -> None:
    with guest.running() as name:

        async def go() -> tuple[int, bytes, bytes]:
            spec = process("/bin/sh", "-c", "echo ready; sleep 1000", terminal=True, stdin=True)
            await guest.exec(name, spec, "tty")
            request = pb.ReadOutputRequest(container_id=name, exec_id="tty", stream=pb.STREAM_STDOUT, max_bytes=99)
            said = b""
            while not said.endswith(b"\n"):
                said += (await guest.agent.read_output(request)).data
            assert said == b"ready\r\n"
            await guest.agent.write_input(pb.WriteInputRequest(container_id=name, exec_id="tty", data=b"\x03"))
            return await guest.ended(name, "tty")

        status, said, _ = guest.run(go())
        assert status == 130
        assert said in (b"^C", b"")  # the kernel signals first and echoes then, and its terminal may be gone by then
        with refused(GUEST_WRONG_STATE, "no terminal"):
            guest.run(guest.agent.resize_terminal(pb.ResizeTerminalRequest(container_id=name, width=1, height=1)))


# --- containers ---


def test_calls_may_be_sent_without_waiting(guest: AgentOnHost) -> None:
    async def go() -> None:
        name = guest.name()
        results = await asyncio.gather(
            guest.create(name, guest.plan(name, process("/bin/sleep", "1000"))),
            guest.start(name),
            guest.exec(name, process("/bin/sh", "-c", "echo in exec; exit 3"), "e"),
            guest.ended(name, "e"),
        )
        assert results[3] == (3, b"in exec\n", b"")
        assert (await asyncio.gather(guest.kill(name), guest.ended(name)))[1][0] == 137
        await guest.delete(name)

    guest.run(go())


def test_states(guest: AgentOnHost) -> None:
    name = guest.name()
    with refused(GUEST_FAILED, "does not exist"):
        guest.run(guest.start(name))
    guest.run(guest.create(name, guest.plan(name, process("/bin/sleep", "1000"))))
    with refused(GUEST_FAILED, "exists"):
        guest.run(guest.create(name, guest.plan(name, process("/bin/true"))))
    with refused(GUEST_WRONG_STATE, "not running"):
        guest.run(guest.exec(name, process("/bin/true"), "e"))
    guest.run(guest.start(name))
    with refused(GUEST_WRONG_STATE):
        guest.run(guest.start(name))
    with refused(GUEST_WRONG_STATE, "is running"):
        guest.run(guest.delete(name))
    with refused(GUEST_FAILED, "no exec"):
        guest.run(guest.wait(name, "nobody"))
    guest.run(guest.kill(name))
    guest.run(guest.ended(name))
    with refused(GUEST_WRONG_STATE, "not running"):
        guest.run(guest.exec(name, process("/bin/true"), "e"))
    guest.run(guest.delete(name))
    with refused(GUEST_FAILED, "does not exist"):
        guest.run(guest.delete(name))


def test_a_created_container_can_be_deleted_or_killed(guest: AgentOnHost) -> None:
    for kill in (False, True):
        name = guest.name()
        guest.run(guest.create(name, guest.plan(name, process("/bin/true"))))
        if kill:
            guest.run(guest.kill(name))
            assert guest.run(guest.ended(name))[0] == 137
        guest.run(guest.delete(name))
        assert not (guest.work / "roots" / name).exists()


def test_a_failed_create_leaves_nothing(guest: AgentOnHost) -> None:
    name = guest.name()
    bad = step(in_root=True, mount=pb.Mount(source="x", target="/proc", type="nonsense"))
    for stage in ("prepare", "inside", "finish"):
        with refused(GUEST_FAILED, "mount /proc: ENODEV"):
            plan = guest.plan(name, process("/bin/true"))
            getattr(plan, stage).append(bad)
            guest.run(guest.create(name, plan))
        with refused(GUEST_FAILED, "does not exist"):
            guest.run(guest.delete(name))
        assert not (guest.work / "roots" / name).exists()
        assert name not in guest.sh("ls /cg/test", **_bind("/sys/fs/cgroup", "/cg"))[1].split()


def _bind(source: str, target: str) -> dict[str, Any]:
    return {
        "inside": [
            step(in_root=True, mount=pb.Mount(source=source, target=target, flags=MS_BIND | 16384, make_target=True))
        ]
    }


def test_hundred_execs(guest: AgentOnHost) -> None:
    with guest.running() as name:

        async def one(number: int) -> tuple[int, bytes, bytes]:
            exec_id = f"many{number}"
            results = await asyncio.gather(
                guest.exec(name, process("/bin/sh", "-c", f"echo {number}; exit {number}"), exec_id),
                guest.ended(name, exec_id),
            )
            return results[1]

        async def all_of_them() -> list[tuple[int, bytes, bytes]]:
            return list(await asyncio.gather(*(one(number) for number in range(100))))

        for number, result in enumerate(guest.run(all_of_them(), 60)):
            assert result == (number, f"{number}\n".encode(), b"")


def test_an_exec_is_where_its_container_is(guest: AgentOnHost) -> None:
    look = "for n in mnt pid ipc uts cgroup net user; do readlink ns/$n; done; cat cgroup; hostname"
    with guest.running(hostname="inner") as name:
        compare = f"cd /proc/self; ({look}) > /tmp/mine; cd /proc/1; ({look}) > /tmp/first; cmp /tmp/mine /tmp/first"
        status, out, err = guest.exec_sh(name, f"{compare} && cat /tmp/mine")
        assert (status, err) == (0, ""), out
        assert out.splitlines()[-1] == "inner"
        with refused(GUEST_FAILED, "chdir /nowhere: ENOENT"):
            guest.run(guest.exec(name, process("/bin/true", cwd="/nowhere"), "e"))


def test_signals_reach_all_or_one(guest: AgentOnHost) -> None:
    trap = "trap 'echo got it; exit 9' USR1; echo ready; while :; do sleep 0.05; done"
    with guest.running("/bin/sh", "-c", trap) as name:

        async def go() -> tuple[object, ...]:
            await guest.exec(name, process("/bin/sh", "-c", trap), "e")
            for exec_id in ("", "e"):
                request = pb.ReadOutputRequest(
                    container_id=name, exec_id=exec_id, stream=pb.STREAM_STDOUT, max_bytes=99
                )
                assert (await guest.agent.read_output(request)).data == b"ready\n"
            await guest.kill(name, 10, "e")
            first = await guest.ended(name, "e")
            await guest.kill(name, 10, all=True)
            return first, (await guest.ended(name))[:2]

        assert guest.run(go()) == ((9, b"got it\n", b""), (9, b"got it\n"))
        for number in (0, 65, 4_000_000_000):
            with refused(GUEST_FAILED, "not a signal"):
                guest.run(guest.kill(name, number))


def test_the_end_of_the_first_process_ends_all(guest: AgentOnHost) -> None:
    """Also without a pid namespace, and in cgroups that the container made itself."""
    namespaces = ("mount", "uts", "ipc")
    script = "mkdir -p /cg/deep/er; (echo 0 > /cg/deep/er/cgroup.procs; exec sleep 1000) & sleep 0.2; echo $!"
    with guest.running(namespaces=namespaces, **_bind("/sys/fs/cgroup", "/cg")) as name:
        status, out, _ = guest.run_container(
            process("/bin/sh", "-c", script.replace("/cg/", "/cg/test/mine/")),
            namespaces=namespaces,
            cgroup="test/mine",
            prepare=[step(make_directory=pb.MakeDirectory(path="/sys/fs/cgroup/test/mine", mode=0o755))],
            **_bind("/sys/fs/cgroup", "/cg"),
        )
        assert status == 0
        assert guest.exec_sh(name, f"kill -0 {out.strip()}")[0] == 1
        assert "mine" not in guest.exec_sh(name, "ls /cg/test")[1].split()


def test_freeze(guest: AgentOnHost) -> None:
    with guest.running("/bin/sh", "-c", "while :; do echo tick; sleep 0.01; done") as name:

        async def ticks() -> bytes:
            request = pb.ReadOutputRequest(container_id=name, stream=pb.STREAM_STDOUT, max_bytes=256 << 10)
            return (await guest.agent.read_output(request)).data

        time.sleep(0.2)  # so that something is there to read
        guest.run(guest.agent.freeze(pb.FreezeRequest(container_id=name, frozen=True)))
        guest.run(ticks())
        with pytest.raises(TimeoutError):
            guest.run(ticks(), 0.5)
        guest.run(guest.agent.freeze(pb.FreezeRequest(container_id=name, frozen=False)))
        # The cancelled read is still the one that is answered first.
        time.sleep(0.1)
        assert b"tick" in guest.run(ticks())


def test_processes_and_statistics(guest: AgentOnHost) -> None:
    with guest.running("/bin/sh", "-c", "sleep 1000 & sleep 1001 & echo up; wait") as name:
        guest.run(
            guest.agent.read_output(pb.ReadOutputRequest(container_id=name, stream=pb.STREAM_STDOUT, max_bytes=9))
        )
        assert len(guest.run(guest.agent.list_processes(pb.ListProcessesRequest(container_id=name))).pids) == 3
        files = guest.run(guest.agent.stats(pb.StatsRequest(container_id=name))).files
        assert "populated 1" in files["cgroup.events"]
        assert "MemTotal:" in files["meminfo"]
        assert "lo:" in files["net/dev"]
        total, free, *_ = map(int, files["statfs"].split())
        assert total > free > 0


def test_update_runs_steps(guest: AgentOnHost) -> None:
    with guest.running() as name:
        path = f"/sys/fs/cgroup/test/{name}/cgroup.max.descendants"
        write = step(write=pb.Write(path=path, content=b"3"))
        guest.run(guest.agent.update(pb.UpdateRequest(container_id=name, steps=[write])))
        write.write.content = b"nonsense"
        with refused(GUEST_FAILED, f"write {path}: EINVAL"):
            guest.run(guest.agent.update(pb.UpdateRequest(container_id=name, steps=[write])))


# --- namespaces ---


def test_joined_namespaces(guest: AgentOnHost) -> None:
    with guest.running(hostname="pod") as pod:
        joined = [pb.Namespace(clone_flag=CLONE[name], container_id=pod) for name in ("ipc", "uts", "pid")]
        status, out, _ = guest.sh(
            "hostname; readlink /proc/self/ns/ipc; ls -d /proc/[0-9]*", namespaces=("mount",), namespaces_=joined
        )
        host, ipc, *pids = out.split()
        assert (status, host) == (0, "pod")
        assert guest.exec_sh(pod, "readlink /proc/self/ns/ipc")[1].strip() == ipc
        assert len(pids) >= 2  # the pod's first process is seen
    with refused(GUEST_FAILED, "does not exist"):
        guest.sh("true", namespaces=("mount",), namespaces_=joined)


def test_user_namespace(guest: AgentOnHost) -> None:
    maps: dict[str, Any] = {
        "uid_map": [pb.IdMap(container_id=0, host_id=100_000, size=1000)],
        "gid_map": [pb.IdMap(container_id=0, host_id=200_000, size=1000)],
    }
    # Device nodes cannot be made in a user namespace; what remains of the usual plan can.
    name = guest.name()
    plan = guest.plan(
        name,
        process("/bin/sh", "-c", "id -u; id -g; cat /proc/self/uid_map; grep CapEff /proc/self/status; sleep 1000"),
        namespaces=("mount", "pid", "ipc", "uts", "user"),
        **maps,
    )
    kept = [s for s in plan.inside if not s.HasField("make_node")]
    del plan.inside[:]
    plan.inside.extend(kept)
    guest.run(guest.create(name, plan))
    guest.run(guest.start(name))
    request, first = pb.ReadOutputRequest(container_id=name, stream=pb.STREAM_STDOUT, max_bytes=999), b""
    while b"CapEff" not in first:
        first += guest.run(guest.agent.read_output(request)).data
    assert first.split()[:5] == [b"0", b"0", b"0", b"100000", b"1000"]
    assert guest.exec_sh(name, "id -u; readlink /proc/self/ns/user; readlink /proc/1/ns/user")[1].split()[0] == "0"
    guest.run(guest.kill(name))
    guest.run(guest.ended(name))
    guest.run(guest.delete(name))


def test_time_namespace(guest: AgentOnHost) -> None:
    time_namespace = pb.Namespace(clone_flag=CLONE["time"], time_offsets="monotonic 1000000 0\nboottime 2000000 0\n")
    status, out, _ = guest.sh("cut -d. -f1 /proc/uptime", namespaces_=[time_namespace])
    assert status == 0
    assert int(out) > 2_000_000


def test_new_network_namespace_has_lo_up(guest: AgentOnHost) -> None:
    status, out, _ = guest.sh("ip -o addr", namespaces=("mount", "pid", "net"))
    assert status == 0
    assert "127.0.0.1" in out


# --- steps ---


def test_steps_in_the_root(guest: AgentOnHost) -> None:
    steps = [
        step(make_directory=pb.MakeDirectory(path="/tmp/a/b/c", mode=0o1751, uid=5, gid=6), in_root=True),
        step(make_directory=pb.MakeDirectory(path="/tmp/a/b/c", mode=0o700, uid=0, gid=0), in_root=True),  # left alone
        step(make_file=pb.MakeFile(path="/tmp/new/file", mode=0o640, uid=7, gid=8, content=b"content\n"), in_root=True),
        step(make_file=pb.MakeFile(path="/tmp/new/file", mode=0o604, uid=7, gid=8, content=b"short"), in_root=True),
        step(write=pb.Write(path="/tmp/new/file", content=b"SHORT"), in_root=True),
        step(make_symlink=pb.MakeSymlink(path="/tmp/link", target="new/file"), in_root=True),
        step(make_symlink=pb.MakeSymlink(path="/tmp/link", target="new/file"), in_root=True),
        step(make_node=pb.MakeNode(path="/tmp/fifo", mode=0o10644), in_root=True),
        step(
            mount=pb.Mount(source="tmpfs", target="/tmp/m", type="tmpfs", data="size=64k", make_target=True),
            in_root=True,
        ),
        step(mount_attributes=pb.MountAttributes(path="/tmp/m", set=1 | 8), in_root=True),  # read-only, noexec
        step(mask=pb.Path(path="/etc/passwd"), in_root=True),
        step(mask=pb.Path(path="/home"), in_root=True),
        step(mask=pb.Path(path="/not/there"), in_root=True),
        step(read_only=pb.Path(path="/tmp/new"), in_root=True),
        step(read_only=pb.Path(path="/not/there"), in_root=True),
        step(remove=pb.Path(path="/not/there"), in_root=True, optional=True),
        step(make_file=pb.MakeFile(path="/tmp/gone", mode=0o600), in_root=True),
        step(remove=pb.Path(path="/tmp/gone"), in_root=True),
    ]
    status, out, err = guest.sh(
        "stat -c '%a %u %g' /tmp/a/b/c; stat -c '%a %u %g' /tmp/new/file; cat /tmp/link; echo; stat -c %F /tmp/fifo;"
        "grep ' /tmp/m ' /proc/mounts | cut -d' ' -f4; wc -c < /etc/passwd; ls -A /home | wc -l;"
        "touch /home/x 2>&1; touch /tmp/new/x 2>&1; ls -d /tmp/gone 2>&1",
        inside=steps,
    )
    assert (status, err) == (1, "")
    lines = out.splitlines()
    assert lines[:5] == ["1751 5 6", "604 7 8", "SHORT", "fifo", lines[4]]
    assert {"ro", "noexec", "size=64k"} <= set(lines[4].split(","))
    assert lines[5:7] == ["0", "0"]
    assert ["Read-only" in line for line in lines[7:9]] == [True, True]
    assert "No such file" in lines[9]


def test_steps_after_the_root_changed(guest: AgentOnHost) -> None:
    status, out, _ = guest.sh(
        "wc -c < /etc/passwd; touch /home/x 2>&1; cat /tmp/new; cat /proc/sys/kernel/msgmax; ls -A /bin/sh",
        finish=[
            step(mask=pb.Path(path="/etc/passwd")),
            step(mask=pb.Path(path="/bin/../home"), in_root=True),
            step(make_file=pb.MakeFile(path="/tmp/new", mode=0o600, content=b"late\n")),
            step(write=pb.Write(path="/proc/sys/kernel/msgmax", content=b"4321")),
        ],
    )
    assert status == 0
    assert out.splitlines() == ["0", "touch: /home/x: Read-only file system", "late", "4321", "/bin/sh"]


def test_propagation_and_bind_of_a_file(guest: AgentOnHost, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("127.0.0.1 me\n")
    bind = pb.Mount(
        source=str(tmp_path / "hosts"), target="/etc/new/hosts", flags=MS_BIND, make_target=True, propagation=1 << 18
    )
    status, out, _ = guest.sh(
        "cat /tmp/etc/hosts; grep -c shared: /proc/self/mountinfo",
        inside=[
            step(
                in_root=True,
                mount=pb.Mount(
                    source=bind.source, target="/tmp/etc/hosts", flags=MS_BIND, make_target=True, propagation=1 << 18
                ),
            )
        ],
        root_propagation=(1 << 20) | 16384,
    )
    assert status == 0
    assert out.splitlines()[0] == "127.0.0.1 me"
    assert int(out.splitlines()[1]) > 3


@pytest.mark.parametrize("stage", ["prepare", "inside", "finish"])
def test_paths_of_an_image_do_not_lead_out(guest: AgentOnHost, tmp_path: Path, stage: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    evil = guest.work / f"evil-{stage}"
    busybox_root(evil)
    (evil / "up").symlink_to("../../../../../../../../../.." + str(outside))
    (evil / "absolute").symlink_to(str(outside))
    (evil / "dangling").symlink_to("/nowhere/at/all")
    (evil / "magic").symlink_to("/proc/self/cwd")
    name = guest.name()
    mount = step(
        mount=pb.Mount(source=str(evil), target=f"{guest.work}/roots/{name}", flags=MS_BIND | 16384, make_target=True)
    )
    for path in (
        "/up/x",
        "/absolute/x",
        "/../../../../../../../../.." + str(outside) + "/x",
        "/dangling/x",
        "/magic/x",
    ):
        for attempt in (
            step(in_root=True, optional=True, make_file=pb.MakeFile(path=path, mode=0o600, content=b"evil")),
            step(in_root=True, optional=True, make_directory=pb.MakeDirectory(path=path + "d", mode=0o700)),
            step(in_root=True, optional=True, make_symlink=pb.MakeSymlink(path=path + "s", target="evil")),
            step(in_root=True, optional=True, make_node=pb.MakeNode(path=path + "f", mode=0o10600)),
            step(
                in_root=True,
                optional=True,
                mount=pb.Mount(source="tmpfs", target=path + "m", type="tmpfs", make_target=True),
            ),
        ):
            plan = guest.plan(name, process("/bin/true"))
            plan.prepare[0].CopyFrom(mount)
            getattr(plan, stage).append(attempt)
            guest.run(guest.create(name, plan))
            guest.run(guest.delete(name))
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    assert not Path("/nowhere").exists()
    for path in ("/up/secret", "/absolute/secret"):
        plan = guest.plan(name, process("/bin/true"))
        plan.prepare[0].CopyFrom(mount)
        getattr(plan, stage).append(step(in_root=True, write=pb.Write(path=path, content=b"evil")))
        with refused(GUEST_FAILED, "ENOENT"):
            guest.run(guest.create(name, plan))
    assert (outside / "secret").read_text() == "secret"
    shutil.rmtree(evil)


def test_steps_that_are_no_steps(guest: AgentOnHost) -> None:
    for bad, word in (
        (pb.Step(), "kind"),
        (step(copy_tree_up=pb.Path(path="/x")), "kind"),
        (step(make_file=pb.MakeFile(path="relative", mode=0o600)), "absolute"),
        (step(make_file=pb.MakeFile(path="", mode=0o600)), "absolute"),
        (step(in_root=True, make_file=pb.MakeFile(path="/", mode=0o600)), "names something"),
        (step(in_root=True, make_file=pb.MakeFile(path="/etc/..", mode=0o600)), "names something"),
        (step(make_file=pb.MakeFile(path="/tmp/big", mode=0o600, content=bytes((1 << 20) + 1))), "over"),
        (step(mount=pb.Mount(source="x", target="/x", data="y" * 4096)), "over"),
        (step(mount=pb.Mount(source="block:nothing", target="/x", type="ext4")), "nothing"),
        (step(in_root=True, write=pb.Write(path="/" + "x/" * 3000, content=b"")), "ENAMETOOLONG"),
    ):
        started = time.monotonic()
        with pytest.raises(SandboxdError):
            guest.sh("true", inside=[bad])
        name = guest.name()
        with pytest.raises(SandboxdError) as caught:
            guest.run(guest.create(name, guest.plan(name, process("/bin/true"), prepare=[bad])))
        assert word in caught.value.cause
        assert time.monotonic() - started < 15


# --- device filter ---


def test_device_filter(guest: AgentOnHost) -> None:
    def deny(major: int, minor: int) -> bytes:
        def instruction(code: int, registers: int, offset: int, value: int) -> bytes:
            return bytes((code, registers)) + offset.to_bytes(2, "little", signed=True) + value.to_bytes(4, "little")

        return b"".join(
            (
                instruction(0x61, 0x14, 0, 0),  # r4 = context->access_type
                instruction(0x77, 0x04, 0, 16),  # the kind of access: 1 mknod, 2 read, 4 write
                instruction(0x61, 0x12, 4, 0),  # r2 = context->major
                instruction(0x61, 0x13, 8, 0),  # r3 = context->minor
                instruction(0xB7, 0x00, 0, 1),  # r0 = 1
                instruction(0x15, 0x04, 3, 1),  # if r4 == mknod: exit
                instruction(0x55, 0x02, 2, major),  # if r2 != major: exit
                instruction(0x55, 0x03, 1, minor),
                instruction(0xB7, 0x00, 0, 0),
                instruction(0x95, 0x00, 0, 0),
            )
        )

    script = "head -c1 /dev/zero >/dev/null && echo zero; head -c1 /dev/urandom > /dev/null 2>&1 || echo denied"
    assert guest.sh(script, device_filter=deny(1, 9)) == (0, "zero\ndenied\n", "")
    assert guest.sh(script)[1] == "zero\n"
    for bad in (b"1234567", bytes(8 * 4097), b"\xff" * 8):
        with refused(GUEST_FAILED):
            guest.sh("true", device_filter=bad)


# --- files ---


async def file(guest: AgentOnHost, name: str, path: str | bytes, **operation: object) -> pb.FileResponse:
    where = path.encode() if isinstance(path, str) else path
    return await guest.agent.file(pb.FileRequest(container_id=name, path=where, **operation))  # type: ignore[arg-type]


def test_files(guest: AgentOnHost) -> None:
    odd = b"/tmp/caf\xe9\xff"
    with guest.running() as name:

        async def go() -> None:
            data = os.urandom(300_000)
            await file(guest, name, "/tmp/d", make=pb.FileMake(mode=0o40751))
            await file(guest, name, "/tmp/d/f", write=pb.FileWrite(data=data[:200_000], create=True, mode=0o640))
            await file(guest, name, "/tmp/d/f", write=pb.FileWrite(data=data[200_000:], offset=200_000))
            first = await file(guest, name, "/tmp/d/f", read=pb.FileRead(max_bytes=256 << 10))
            rest = await file(guest, name, "/tmp/d/f", read=pb.FileRead(max_bytes=256 << 10, offset=256 << 10))
            assert first.data + rest.data == data
            assert (first.eof, rest.eof) == (False, True)
            await file(guest, name, "/tmp/d/s", make=pb.FileMake(mode=0o120000, symlink_target=b"f"))
            await file(guest, name, "/tmp/d/h", make=pb.FileMake(hardlink_of=b"/tmp/d/f"))
            await file(guest, name, "/tmp/d/p", make=pb.FileMake(mode=0o10600))
            await file(guest, name, "/tmp/d/n", make=pb.FileMake(mode=0o20600, major=1, minor=3))
            await file(guest, name, odd, write=pb.FileWrite(data=b"odd", create=True, mode=0o600))
            set_all = pb.FileSetAttributes(mode=0o4755, uid=12, gid=34, mtime_unix_ns=-1_500_000_001)
            await file(guest, name, "/tmp/d/f", set_attributes=set_all)
            await file(guest, name, "/tmp/d/s", set_attributes=pb.FileSetAttributes(uid=5, mode=0o777))
            entry = (await file(guest, name, "/tmp/d/f", stat=pb.FileStat())).entries[0]
            assert (entry.name, entry.mode, entry.uid, entry.gid, entry.size) == (b"f", 0o104755, 12, 34, 300_000)
            assert (entry.mtime_unix_ns, entry.links) == (-1_500_000_001, 2)
            link = (await file(guest, name, "/tmp/d/s", stat=pb.FileStat())).entries[0]
            assert (link.symlink_target, link.uid, link.mode & 0o170000) == (b"f", 5, 0o120000)
            assert (await file(guest, name, "/tmp/d/s", stat=pb.FileStat(follow=True))).entries[0].inode == entry.inode
            names, after, eof = [], b"", False
            while not eof:
                page = await file(guest, name, "/tmp/d", list=pb.FileList(after=after, max_entries=2))
                names += [listed.name for listed in page.entries]
                after, eof = (page.entries[-1].name if page.entries else after), page.eof
            assert sorted(names) == [b"f", b"h", b"n", b"p", b"s"]
            assert odd.rpartition(b"/")[2] in {
                e.name for e in (await file(guest, name, "/tmp", list=pb.FileList(max_entries=1024))).entries
            }
            for gone in ("f", "h", "n", "p", "s"):
                await file(guest, name, f"/tmp/d/{gone}", remove=pb.FileRemove())
            await file(guest, name, "/tmp/d", remove=pb.FileRemove())

        guest.run(go())


@pytest.mark.parametrize(
    ("path", "operation", "kind"),
    [
        ("/none", {"stat": pb.FileStat()}, GUEST_PATH_NOT_FOUND),
        ("/none", {"read": pb.FileRead(max_bytes=1)}, GUEST_PATH_NOT_FOUND),
        ("/none/x", {"write": pb.FileWrite(create=True)}, GUEST_PATH_NOT_FOUND),
        ("/none", {"list": pb.FileList(max_entries=1)}, GUEST_PATH_NOT_FOUND),
        ("/none", {"remove": pb.FileRemove()}, GUEST_PATH_NOT_FOUND),
        ("/bin", {"read": pb.FileRead(max_bytes=1)}, GUEST_PATH_UNUSABLE),
        ("/bin", {"remove": pb.FileRemove()}, GUEST_PATH_UNUSABLE),
        ("/bin", {"make": pb.FileMake(mode=0o40755)}, GUEST_PATH_UNUSABLE),
        ("/x", {"make": pb.FileMake(mode=0o100644)}, GUEST_PATH_UNUSABLE),
        ("/dev/zero", {"read": pb.FileRead(max_bytes=1)}, GUEST_PATH_UNUSABLE),
        ("/tmp/fifo", {"write": pb.FileWrite(data=b"x", create=True)}, GUEST_PATH_UNUSABLE),
        ("/tmp/fifo", {"read": pb.FileRead(max_bytes=1)}, GUEST_PATH_UNUSABLE),
        ("/bin/sh", {"read": pb.FileRead(max_bytes=(256 << 10) + 1)}, GUEST_PATH_UNUSABLE),
        ("/bin/sh", {"read": pb.FileRead(max_bytes=1, offset=1 << 63)}, GUEST_PATH_UNUSABLE),
        ("/bin", {"list": pb.FileList(max_entries=1025)}, GUEST_PATH_UNUSABLE),
        ("/bin", {"list": pb.FileList(max_entries=1, after=b"gone")}, GUEST_WRONG_STATE),
        ("relative", {"stat": pb.FileStat()}, GUEST_PATH_UNUSABLE),
        ("/a\0b", {"stat": pb.FileStat()}, GUEST_PATH_UNUSABLE),
        ("/" + "x" * 5000, {"stat": pb.FileStat()}, GUEST_PATH_UNUSABLE),
        ("/bin", {}, GUEST_PATH_UNUSABLE),
        ("/full/x", {"write": pb.FileWrite(data=bytes(1 << 20), create=True)}, GUEST_PATH_UNUSABLE),
        ("/proc/1/cwd/x", {"stat": pb.FileStat()}, GUEST_PATH_UNUSABLE),
    ],
)
def test_file_operations_that_fail(
    guest: AgentOnHost, path: str, operation: dict[str, object], kind: ErrorKind
) -> None:
    inside = [
        step(in_root=True, make_node=pb.MakeNode(path="/tmp/fifo", mode=0o10666)),
        step(
            in_root=True,
            mount=pb.Mount(source="tmpfs", target="/full", type="tmpfs", data="size=64k", make_target=True),
        ),
    ]
    with guest.running(inside=inside) as name:
        with pytest.raises(SandboxdError) as caught:
            guest.run(file(guest, name, path, **operation))
        assert caught.value.kind is kind, caught.value.cause


def test_file_operations_do_not_leave_the_root(guest: AgentOnHost, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    with guest.running() as name:
        guest.exec_sh(name, f"ln -s {tmp_path} /tmp/out; ln -s ../../../../../../..{tmp_path}/secret /tmp/up")
        for path in ("/tmp/out/secret", "/tmp/up", f"/../../../..{tmp_path}/secret"):
            for operation in (
                {"read": pb.FileRead(max_bytes=9)},
                {"write": pb.FileWrite(data=b"x")},
                {"stat": pb.FileStat(follow=True)},
            ):
                with pytest.raises(SandboxdError) as caught:
                    guest.run(file(guest, name, path, **operation))
                assert caught.value.kind is GUEST_PATH_NOT_FOUND
    assert (tmp_path / "secret").read_text() == "secret"
