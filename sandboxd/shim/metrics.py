"""A container's numbers as containerd wants them: an Any of io.containerd.cgroups.v2.Metrics.

From the raw text of the guest kernel's files, which a hostile guest may fill with anything: what does not parse is left
out, and nothing raises. Source: Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from sandboxd.api.containerd import metrics_pb2 as pb

NUMBER_MAX = (1 << 64) - 1
FILE_MAX_CHARS = 64 << 10
DEVICES_MAX = 64


def pack_metrics(files: Mapping[str, str]) -> AnyMessage:
    """`files` as agent.proto's StatsResponse has them."""
    metrics = read_metrics({name: text[:FILE_MAX_CHARS] for name, text in files.items()})
    # containerd's type names are bare, without a host before them.
    return AnyMessage(type_url=metrics.DESCRIPTOR.full_name, value=metrics.SerializeToString())


def read_metrics(files: Mapping[str, str]) -> pb.Metrics:
    """The message; absent figures are 0, "max" is the greatest number."""
    metrics = pb.Metrics()
    metrics.pids.current = _number(files.get("pids.current", ""))
    metrics.pids.limit = _number(files.get("pids.max", ""))
    _fill(metrics.cpu, files.get("cpu.stat", ""))
    _fill(metrics.memory, files.get("memory.stat", ""))
    memory = metrics.memory
    memory.usage = _number(files.get("memory.current", ""))
    memory.usage_limit = _number(files.get("memory.max", ""))
    memory.max_usage = _number(files.get("memory.peak", ""))
    memory.swap_usage = _number(files.get("memory.swap.current", ""))
    memory.swap_limit = _number(files.get("memory.swap.max", ""))
    _fill(metrics.memory_events, files.get("memory.events", ""))
    for line in files.get("io.stat", "").splitlines()[:DEVICES_MAX]:
        _add_device(metrics.io, line)
    return metrics


def _number(word: str) -> int:
    word = word.strip()
    if word == "max":
        return NUMBER_MAX
    return min(int(word), NUMBER_MAX) if word.isascii() and word.isdigit() and len(word) <= 20 else 0


def _fill(message: Message, text: str) -> None:
    """`KEY NUMBER` lines into the fields of those names."""
    known = message.DESCRIPTOR.fields_by_name
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key in known:
            setattr(message, key, _number(value))


def _add_device(io: pb.IOStat, line: str) -> None:
    """`MAJOR:MINOR KEY=NUMBER ...`"""
    numbers, *pairs = line.split(" ")
    major, colon, minor = numbers.partition(":")
    if colon:
        entry = io.usage.add(major=_number(major), minor=_number(minor))
        _fill(entry, "\n".join(pair.replace("=", " ", 1) for pair in pairs))
