"""How fast this host's time stamp counter runs: what a guest without a timer to measure it by has to be told.

The kernel keeps the figure to itself, so it is measured: the counter against CLOCK_MONOTONIC_RAW, between two readings.
One reading is taken when this module loads, which is long enough before any use to make the other one exact. A process
that is forked takes its own: its parent's may be from before the host slept, through which the counter need not count.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from sandboxd.linux import _tsc

BASELINE_NS = 10_000_000
"""Between the readings, at least: with readings good to 50 ns, 10 ms give 10 parts in a million."""


@dataclass(frozen=True, slots=True)
class _Reading:
    ticks: int
    raw_ns: int


def _read() -> _Reading:
    ticks, raw_ns = _tsc.ffi.new("uint64_t *"), _tsc.ffi.new("uint64_t *")
    _tsc.lib.sandboxd_read_clocks(ticks, raw_ns)
    return _Reading(ticks[0], raw_ns[0])


_first = _read()


def _begin_anew() -> None:
    global _first
    _first = _read()


os.register_at_fork(after_in_child=_begin_anew)


def baseline_missing_s() -> float:
    """How long to wait before `host_tsc_khz` is exact; 0 nearly always."""
    return max(0, _first.raw_ns + BASELINE_NS - _read().raw_ns) / 1e9


def host_tsc_khz() -> int:
    """The counter's rate in kHz; 0 when the host's counter does not count steadily."""
    now = _read()
    elapsed_ns = now.raw_ns - _first.raw_ns
    return (
        round((now.ticks - _first.ticks) * 1_000_000 / elapsed_ns) if elapsed_ns > 0 and now.ticks > _first.ticks else 0
    )
