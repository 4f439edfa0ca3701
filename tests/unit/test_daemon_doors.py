"""What comes in from outside: requests, filters, signals, a guest's own statistics."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.api import sandboxd_pb2 as api
from sandboxd.base.errors import SandboxdError
from sandboxd.core.config import Config
from sandboxd.core.lifecycle import State
from sandboxd.core.spec import NetworkAttachment
from sandboxd.daemon import bundle
from sandboxd.daemon.events import event_matches, parse_event_filters
from sandboxd.daemon.listing import matches, parse_filters
from sandboxd.daemon.names import new_name
from sandboxd.daemon.records import EventRecord, Exit, SandboxRecord
from sandboxd.daemon.request import check_request
from sandboxd.daemon.signals import parse_signal
from sandboxd.daemon.stats import parse_guest


def check(**fields: object) -> api.SandboxConfig:
    return check_request(api.SandboxConfig(image="busybox", **fields), Config()).config  # type: ignore[arg-type]


def test_defaults_are_filled_in_and_the_caller_is_left_alone() -> None:
    asked = api.SandboxConfig(image="busybox")
    request = check_request(asked, Config())
    config = request.config
    assert (config.memory_bytes, config.vcpus, config.disk_bytes) == (512 << 20, 1, 4 << 30)
    assert (config.network, config.pull, config.vmm, config.cpus_milli) == ("default", "missing", "auto", 1000)
    assert request.networked and request.memory_mib == 512 and request.kernel is None
    assert asked == api.SandboxConfig(image="busybox")
    assert check_request(api.SandboxConfig(image="b", memory_bytes=(100 << 20) + 1), Config()).memory_mib == 101


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image": ""}, "image"),
        ({"image": "a\nb"}, "image"),
        ({"name": "a/b"}, "name"),
        ({"name": "x" * 64}, "name"),
        ({"hostname": "-x"}, "hostname"),
        ({"hostname": "x" * 64}, "hostname"),
        ({"disk_bytes": 1}, "16 MiB"),
        ({"memory_bytes": 1 << 60}, "memory"),
        ({"vcpus": 10_000}, "cpus"),
        ({"cpus_milli": 5}, "cpus"),
        ({"cpus_milli": 1001}, "cpus"),
        ({"timeout_s": -1.0}, "timeout"),
        ({"timeout_s": math.nan}, "timeout"),
        ({"timeout_s": math.inf}, "timeout"),
        ({"network": "host"}, "network"),
        ({"network": "none", "ports": [api.PortMapping(guest_port=80)]}, "publish"),
        ({"ports": [api.PortMapping(guest_port=0)]}, "port"),
        ({"ports": [api.PortMapping(guest_port=80, host_port=70000)]}, "port"),
        ({"ports": [api.PortMapping(guest_port=80, protocol="icmp")]}, "port"),
        ({"ports": [api.PortMapping(guest_port=80, bind="nowhere")]}, "port"),
        ({"pull": "sometimes"}, "pull"),
        ({"vmm": "xen"}, "vmm"),
        ({"kernel": "relative"}, "kernel"),
        ({"stop_signal": "SIGNOTHING"}, "signal"),
        ({"env": ["=x"]}, "environment"),
        ({"env": ["A=\0"]}, "environment"),
        ({"command": ["a\0b"]}, "command"),
        ({"command": ["x" * (2 << 20)]}, "command"),
        ({"command": ["x"] * 5000}, "command"),
        ({"working_dir": "relative"}, "working directory"),
        ({"labels": {"": "x"}}, "label"),
        ({"labels": {str(n): "" for n in range(300)}}, "labels"),
        ({"terminal_width": 1 << 20}, "terminal"),
        ({"pids_limit": 1 << 40}, "pids"),
    ],
    ids=str,
)
def test_nonsense_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(SandboxdError) as caught:
        check_request(api.SandboxConfig(**{"image": "busybox", **fields}), Config())  # type: ignore[arg-type]
    error = caught.value
    assert error.kind.code == "invalid_argument"
    assert words in f"{error.message} {error.cause}"
    assert len(error.message) + len(error.cause) < 1000


def test_all_findings_of_one_request_come_together() -> None:
    with pytest.raises(SandboxdError) as caught:
        check(name="a/b", vmm="xen", env=["x"])
    assert "3 errors" in caught.value.message
    assert all(word in caught.value.cause for word in ("name", "vmm", "environment"))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SIGTERM", 15),
        ("term", 15),
        ("9", 9),
        ("RTMIN+3", 37),
        ("SIGRTMAX-1", 63),
        ("0", None),
        ("65", None),
        ("", None),
        ("RTMIN+60", None),
        ("SIGSIGTERM", None),
        ("٣", None),
    ],
)
def test_signals(text: str, number: int | None) -> None:
    assert parse_signal(text) == number


FILES = {
    "cpu.stat": "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n",
    "memory.current": "4096\n",
    "memory.max": "max\n",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n",
    "pids.current": "7\n",
    "io.stat": "254:0 rbytes=100 wbytes=200 rios=1\n254:16 rbytes=1 wbytes=2\n",
    "net/dev": (
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n"
        "    lo:     999       1    0    0    0     0          0         0      999       1    0    0    0\n"
        "  eth0:    1000       2    0    0    0     0          0         0     2000       3    0    0    0\n"
    ),
    "statfs": "1000 400 300 10 5",
}


def test_a_guests_files_become_numbers() -> None:
    found = parse_guest(FILES)
    assert (found.cpu_ns, found.memory_bytes, found.memory_limit_bytes) == (1_500_000, 4096, 0)
    assert (found.pids, found.oom_kills) == (7, 2)
    assert (found.block_read_bytes, found.block_write_bytes) == (101, 202)
    assert (found.network_rx_bytes, found.network_tx_bytes) == (1000, 2000)
    assert (found.disk_total_bytes, found.disk_used_bytes) == (1000, 600)
    assert parse_guest({"memory.max": "1048576"}).memory_limit_bytes == 1 << 20


@given(st.dictionaries(st.sampled_from(sorted(FILES)), st.text(max_size=300) | st.sampled_from(sorted(FILES.values()))))
def test_whatever_a_guest_says_fits_the_answer(files: dict[str, str]) -> None:
    found = parse_guest(files)
    api.SandboxStats(
        cpu_ns=found.cpu_ns,
        memory_bytes=found.memory_bytes,
        memory_limit_bytes=found.memory_limit_bytes,
        pids=found.pids,
        oom_kills=found.oom_kills,
        block_read_bytes=found.block_read_bytes,
        block_write_bytes=found.block_write_bytes,
        network_rx_bytes=found.network_rx_bytes,
        network_tx_bytes=found.network_tx_bytes,
        disk_total_bytes=found.disk_total_bytes,
        disk_used_bytes=found.disk_used_bytes,
    )


def test_numbers_are_bounded() -> None:
    assert parse_guest({"memory.current": "9" * 100}).memory_bytes == 0
    huge = "1:0 rbytes=18446744073709551615 wbytes=0\n" * 5
    assert parse_guest({"io.stat": huge}).block_read_bytes == (1 << 64) - 1
    assert parse_guest({"cpu.stat": "usage_usec 18446744073709551615"}).cpu_ns == (1 << 64) - 1
    assert parse_guest({"statfs": "5 10"}).disk_used_bytes == 0


def record(name: str, state: State, **labels: str) -> SandboxRecord:
    config = api.SandboxConfig(image="busybox", labels=labels).SerializeToString()
    ended = Exit(3, 1, "exited") if state is State.STOPPED else None
    return SandboxRecord(f"id-{name}", name, state, config, "sha256:1", ("sh",), 1, "boot", exit=ended)


@pytest.mark.parametrize(
    ("filters", "labels", "found"),
    [
        ([], {}, "abc"),
        (["name=a"], {}, "a"),
        (["name=a", "name=b"], {}, "ab"),
        (["status=running"], {}, "ab"),
        (["status=exited"], {}, "c"),
        (["exited=3"], {}, "c"),
        (["exited=4"], {}, ""),
        (["label=k"], {}, "ab"),
        (["label=k=1"], {}, "a"),
        (["label=k", "label=l"], {}, "b"),
        ([], {"k": "2"}, "b"),
        (["id=id-b"], {}, "b"),
        (["ancestor=busybox", "status=stopped"], {}, "c"),
    ],
)
def test_list_filters(filters: list[str], labels: dict[str, str], found: str) -> None:
    rows = [
        record("a", State.RUNNING, k="1"),
        record("b", State.RUNNING, k="2", l="x"),
        record("c", State.STOPPED),
    ]
    parsed = parse_filters(filters, labels)
    assert "".join(row.name for row in rows if matches(row, parsed)) == found


@pytest.mark.parametrize("text", ["nokey", "color=red", "status=sleepy", "=x"])
def test_bad_list_filters(text: str) -> None:
    with pytest.raises(SandboxdError):
        parse_filters([text], {})


def test_event_filters() -> None:
    event = EventRecord(1, "sandbox", "die", "abc123", "web", {"tier": "db"})
    for filters in (
        ["type=container"],
        ["event=die"],
        ["sandbox=web"],
        ["container=abc"],
        ["label=tier=db"],
        ["name=web"],
    ):
        assert event_matches(event, parse_event_filters(filters)), filters
    for filters in (
        ["type=image"],
        ["event=start"],
        ["sandbox=other"],
        ["image=web"],
        ["label=none"],
        ["event=die", "name=x"],
    ):
        assert not event_matches(event, parse_event_filters(filters)), filters
    with pytest.raises(SandboxdError):
        parse_event_filters(["colour=red"])


def test_names_are_names_and_new() -> None:
    from sandboxd.base.ids import parse_name

    seen: set[str] = set()
    for _ in range(2000):
        name = new_name(seen)
        assert parse_name(name) == name and name not in seen
        seen.add(name)


def test_the_files_of_etc() -> None:
    network = NetworkAttachment(
        tap="t0",
        mac="02:00:00:00:00:01",
        addresses=("10.1.0.2/16",),
        routes=(),
        dns_servers=("10.1.0.1",),
        dns_search=("a.example", "b.example"),
    )
    assert bundle.resolv_conf(network) == "nameserver 10.1.0.1\nsearch a.example b.example\n"
    assert "nameserver" not in bundle.resolv_conf(None)
    assert bundle.hosts("box.example", network).endswith("10.1.0.2\tbox.example box\n")
    assert "box" not in bundle.hosts("box", None)
