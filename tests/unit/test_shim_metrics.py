"""The guest kernel's files as containerd's metrics."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandboxd.api.containerd import metrics_pb2
from sandboxd.shim.metrics import NUMBER_MAX, pack_metrics, read_metrics

FILES = {
    "pids.current": "3\n",
    "pids.max": "max\n",
    "cpu.stat": "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 0\nnot_known 7\n",
    "memory.stat": "anon 4096\nfile 8192\nslab 12\n",
    "memory.current": "20480\n",
    "memory.max": "1048576\n",
    "memory.events": "low 0\nhigh 0\nmax 4\noom 2\noom_kill 1\n",
    "io.stat": "254:0 rbytes=100 wbytes=200 rios=3 wios=4 dbytes=0 dios=0\n254:16 rbytes=5\n",
}


def test_every_file_ends_up_in_its_field() -> None:
    packed = pack_metrics(FILES)
    assert packed.type_url == "io.containerd.cgroups.v2.Metrics"
    metrics = metrics_pb2.Metrics.FromString(packed.value)
    assert (metrics.pids.current, metrics.pids.limit) == (3, NUMBER_MAX)
    assert (metrics.cpu.usage_usec, metrics.cpu.user_usec, metrics.cpu.system_usec) == (1500, 1000, 500)
    assert (metrics.memory.anon, metrics.memory.usage, metrics.memory.usage_limit) == (4096, 20480, 1048576)
    assert (metrics.memory_events.oom_kill, metrics.memory_events.max) == (1, 4)
    assert [(entry.major, entry.minor, entry.rbytes, entry.wios) for entry in metrics.io.usage] == [
        (254, 0, 100, 4),
        (254, 16, 5, 0),
    ]


@given(st.dictionaries(st.sampled_from(sorted(FILES)), st.text(max_size=200)))
def test_a_guest_may_say_anything(files: dict[str, str]) -> None:
    read_metrics(files).SerializeToString()


@given(st.text(alphabet="0123456789: =\nrbytesmax\u0663", max_size=80))
def test_numbers_that_are_none(text: str) -> None:
    read_metrics(dict.fromkeys(FILES, text)).SerializeToString()
