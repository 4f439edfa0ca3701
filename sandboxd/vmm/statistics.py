"""What the host's kernel counts for one process: /proc/PID/stat and statm (proc(5))."""

from __future__ import annotations

import os
from pathlib import Path

from sandboxd.vmm.driver import VmmStatistics

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def process_statistics(pid: int) -> VmmStatistics:
    """All zero but the pid for a process that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        resident_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return VmmStatistics(pid, 0, 0)
    # Behind the name come fields 3 and on: utime is field 14, stime 15, num_threads 20.
    user, system, threads = int(fields[11]), int(fields[12]), int(fields[17])
    return VmmStatistics(pid, resident_pages * _PAGE_BYTES, (user + system) * _TICK_NS, {"threads": threads})
