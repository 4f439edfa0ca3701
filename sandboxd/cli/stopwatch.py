"""What the command line itself takes of a start: it measures the loading of everything else, so it loads nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sandboxd.base.clock import monotonic_ns
from sandboxd.cli.main import MAIN_NS

if TYPE_CHECKING:
    from sandboxd.client.model import Stage


class Stopwatch:
    """The command line's own stages, each from the end of the one before."""

    def __init__(self) -> None:
        self.begin_ns = process_begin_ns()
        self._laps = [("python", self.begin_ns, MAIN_NS)]

    def lap(self, name: str) -> None:
        """What happened since the last lap was `name`."""
        self._laps.append((name, self._laps[-1][2], monotonic_ns()))

    def skip(self) -> None:
        """The time since the last lap belongs to others."""
        now = monotonic_ns()
        self._laps.append(("", now, now))

    def merged(self, others: Sequence[Stage]) -> list[Stage]:
        """All stages in the order of their begins."""
        from sandboxd.client.model import Stage

        own = [Stage(name, "cli", begin_ns, end_ns) for name, begin_ns, end_ns in self._laps if name]
        return sorted([*own, *others], key=lambda stage: (stage.begin_ns, -stage.end_ns))


def process_begin_ns() -> int:
    """CLOCK_MONOTONIC when this process was made, to 10 ms: proc(5), field 22 of stat, ticks of CLOCK_BOOTTIME."""
    now_ns, boot_ns = monotonic_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    try:
        fields = _stat().rpartition(b")")[2].split()
        begin_ns = int(fields[19]) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return MAIN_NS
    return min(MAIN_NS, begin_ns - (boot_ns - now_ns))


def _stat() -> bytes:
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123  (pathlib costs more than all else here)
        return file.read()
