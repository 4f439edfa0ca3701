"""Processes of this host, held so that a reused pid is never taken for the process it was.

A process is its pid together with its start time (field 22 of /proc/PID/stat, clock ticks since boot; proc(5)): that
pair is unique until the next boot. A pidfd (pidfd_open(2), Linux 5.3) then stays with that very process.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_START_TIME_FIELD = 22
_FIRST_FIELD_AFTER_NAME = 3
_ARGUMENTS_START_FIELD, _ARGUMENTS_END_FIELD = 48, 49


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of this boot."""

    pid: int
    start_time_ticks: int


def identify(pid: int) -> ProcessIdentity | None:
    """Who has this pid now; None if nobody, or only a zombie that waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name is in parentheses and may hold anything, parentheses too: fields count from the last one.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return ProcessIdentity(pid, int(fields[_START_TIME_FIELD - _FIRST_FIELD_AFTER_NAME]))


def open_process(identity: ProcessIdentity) -> int | None:
    """A pidfd of exactly that process, to be closed by the caller; None if it is gone."""
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return None
    # Asked after opening: whoever has the pid now is whom the pidfd holds.
    if identify(identity.pid) != identity:
        os.close(pidfd)
        return None
    return pidfd


def kill_process(identity: ProcessIdentity, timeout_s: float) -> bool:
    """SIGKILL to exactly that process and wait for its end. False if it still was there after `timeout_s`."""
    pidfd = open_process(identity)
    if pidfd is None:
        return True
    try:
        return kill_pidfd(pidfd, timeout_s)
    finally:
        os.close(pidfd)


def kill_pidfd(pidfd: int, timeout_s: float) -> bool:
    """SIGKILL to the process and wait for its end (reaped or not). False if it still was there after `timeout_s`."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    return wait_pidfd(pidfd, timeout_s)


def wait_pidfd(pidfd: int, timeout_s: float) -> bool:
    """Blocks until the process has ended; False after `timeout_s`. For clean-up paths that own their thread."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        if poller.poll(left_s * 1000):
            return True
    return bool(poller.poll(0))


def set_command_line(words: Sequence[str]) -> None:
    """Changes what /proc/PID/cmdline, and so ps(1), shows of this process.

    There is as much room as the arguments had that it was started with; what is longer is cut. Nothing happens where
    the kernel does not let the process write its own memory: it is for people who look, no more.
    """
    with contextlib.suppress(OSError):
        stat = Path("/proc/self/stat").read_bytes()
        fields = stat[stat.rindex(b")") + 2 :].split()
        start, end = (
            int(fields[field - _FIRST_FIELD_AFTER_NAME]) for field in (_ARGUMENTS_START_FIELD, _ARGUMENTS_END_FIELD)
        )
        room = end - start
        text = b"\0".join(os.fsencode(word) for word in words)[: room - 1]
        with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(text.ljust(room, b"\0"))
