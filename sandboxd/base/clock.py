"""Time: one monotonic clock for all stages of a start, across processes."""

from __future__ import annotations

import time


def monotonic_ns() -> int:
    """CLOCK_MONOTONIC, nanoseconds: the same for every process of the host."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def unix_ns() -> int:
    """CLOCK_REALTIME, nanoseconds since the epoch."""
    return time.time_ns()
