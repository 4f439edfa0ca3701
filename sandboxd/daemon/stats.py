"""From the raw text of a guest kernel's files to numbers.

The text comes from the guest, so it may hold anything: what does not parse counts as absent, numbers are bounded to
what the answer's fields can hold, and nothing raises. Formats: Linux Documentation/admin-guide/cgroup-v2.rst, proc(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_U64_MAX = (1 << 64) - 1
FILE_MAX_CHARS = 64 << 10
_LINES_MAX = 1024
_NET_RX_BYTES, _NET_TX_BYTES = 0, 8
"""Columns of /proc/net/dev after the colon."""


@dataclass(frozen=True, slots=True)
class GuestStatistics:
    """One container, as its guest's kernel counts it. Absent figures are 0."""

    cpu_ns: int = 0
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    """0: no limit but the machine's own memory."""
    pids: int = 0
    oom_kills: int = 0
    block_read_bytes: int = 0
    block_write_bytes: int = 0
    network_rx_bytes: int = 0
    network_tx_bytes: int = 0
    disk_total_bytes: int = 0
    disk_used_bytes: int = 0


def parse_guest(files: Mapping[str, str]) -> GuestStatistics:
    """`files` as agent.proto's StatsResponse has them."""
    text = {name: content[:FILE_MAX_CHARS] for name, content in files.items()}
    read_bytes, write_bytes = _io(text.get("io.stat", ""))
    rx_bytes, tx_bytes = _network(text.get("net/dev", ""))
    total_bytes, used_bytes = _disk(text.get("statfs", ""))
    return GuestStatistics(
        cpu_ns=min(_flat(text.get("cpu.stat", "")).get("usage_usec", 0) * 1000, _U64_MAX),
        memory_bytes=_number(text.get("memory.current", "")),
        memory_limit_bytes=_number(text.get("memory.max", "")),
        pids=_number(text.get("pids.current", "")),
        oom_kills=_flat(text.get("memory.events", "")).get("oom_kill", 0),
        block_read_bytes=read_bytes,
        block_write_bytes=write_bytes,
        network_rx_bytes=rx_bytes,
        network_tx_bytes=tx_bytes,
        disk_total_bytes=total_bytes,
        disk_used_bytes=used_bytes,
    )


def _number(text: str) -> int:
    """A whole number from 0; anything else, `max` included, is 0."""
    word = text.strip()
    return min(int(word), _U64_MAX) if word.isascii() and word.isdigit() and len(word) <= 20 else 0


def _lines(text: str) -> list[str]:
    return text.splitlines()[:_LINES_MAX]


def _sum(numbers: Iterable[int]) -> int:
    return min(sum(numbers), _U64_MAX)


def _flat(text: str) -> dict[str, int]:
    """A flat keyed file: `KEY VALUE` lines."""
    pairs = (line.split(" ") for line in _lines(text))
    return {pair[0]: _number(pair[1]) for pair in pairs if len(pair) == 2}


def _io(text: str) -> tuple[int, int]:
    """io.stat: `MAJ:MIN rbytes=N wbytes=N ...` lines. Answers bytes read and written over all devices."""
    fields = [dict(word.split("=", 1) for word in line.split(" ")[1:] if "=" in word) for line in _lines(text)]
    return _sum(_number(field.get("rbytes", "")) for field in fields), _sum(
        _number(field.get("wbytes", "")) for field in fields
    )


def _network(text: str) -> tuple[int, int]:
    """/proc/net/dev: `NAME: NUMBERS` lines. Answers bytes received and sent over all interfaces but lo."""
    rows = [line.partition(":") for line in _lines(text)]
    columns = [values.split() for name, colon, values in rows if colon and name.strip() != "lo"]
    full = [row for row in columns if len(row) > _NET_TX_BYTES]
    return _sum(_number(row[_NET_RX_BYTES]) for row in full), _sum(_number(row[_NET_TX_BYTES]) for row in full)


def _disk(text: str) -> tuple[int, int]:
    """The agent's statfs line: total, free, available bytes, inodes, free inodes. Answers total and used bytes."""
    words = [_number(word) for word in text.split()[:3]]
    if len(words) < 2:
        return 0, 0
    return words[0], max(0, words[0] - words[1])
