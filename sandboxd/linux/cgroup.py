"""Control groups, version 1 (a hierarchy per controller) and version 2 (one for all), behind one small class.

A `Cgroup` is named by its path below the root of every hierarchy, "sandboxd/ID". All of it is idempotent: creating what
is there and removing what is not are no errors. Source: the kernel's Documentation/admin-guide/cgroup-{v1,v2}.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from sandboxd.linux.process import kill_pidfd, wait_pidfd

CPU_PERIOD_US = 100_000
_CONTROLLERS = ("memory", "cpu", "cpuacct", "pids", "freezer")
_V2_CONTROLLERS = ("memory", "cpu", "pids")
_CREATE_ATTEMPTS = 8
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*){0,7}\Z")


@dataclass(frozen=True, slots=True)
class Layout:
    """How this host mounts its control groups."""

    version: int
    """1 or 2. A hybrid host, whose version 2 has no controllers, counts as 1."""
    roots: Mapping[str, Path] = field(default_factory=dict)
    """Version 1: where each controller's hierarchy is mounted; several may share one. Version 2: "" alone."""


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """Bounds of everything in a cgroup together; None leaves a thing unbounded."""

    memory_bytes: int | None = None
    cpu_milli: int | None = None
    """Thousandths of one CPU."""
    pids: int | None = None


@dataclass(frozen=True, slots=True)
class CgroupUsage:
    """What a cgroup's processes use; 0 where the host has no such controller."""

    memory_bytes: int
    cpu_ns: int
    pids: int
    oom_kills: int


def parse_layout(mountinfo: str, v2_has_memory: bool) -> Layout:
    """From the text of /proc/self/mountinfo. `v2_has_memory`: whether cgroup.controllers of version 2 names memory."""
    roots: dict[str, Path] = {}
    unified: Path | None = None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        mount_point, (kind, _, options) = Path(before.split(" ")[4]), after.split(" ", 2)
        if kind == "cgroup2":
            unified = unified or mount_point
        elif kind == "cgroup":
            for controller in set(options.split(",")) & set(_CONTROLLERS):
                roots.setdefault(controller, mount_point)
    if unified and (v2_has_memory or not roots):
        return Layout(2, {"": unified})
    return Layout(1, roots)


@cache
def host_layout() -> Layout:
    """This host's, read once."""
    text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    unified = parse_layout(text, v2_has_memory=True)
    controllers = ""
    if unified.version == 2:
        controllers = (unified.roots[""] / "cgroup.controllers").read_text()
    return parse_layout(text, v2_has_memory="memory" in controllers.split())


class Cgroup:
    """One cgroup in every hierarchy that matters. Raises OSError with the file's path for what the kernel refuses."""

    def __init__(self, path: str, layout: Layout | None = None) -> None:
        if not _PATH.match(path):
            raise ValueError(f"not a cgroup's relative path: {path!r}")
        self.path = path
        self._layout = layout or host_layout()
        self._directories = tuple(dict.fromkeys(root / path for root in self._layout.roots.values()))

    def exists(self) -> bool:
        return any(directory.is_dir() for directory in self._directories)

    def create(self, limits: CgroupLimits) -> None:
        """Makes it and sets its limits; a controller that the host lacks bounds nothing."""
        for directory in self._directories:
            self._make(directory)
        for controller, name, value in _limit_files(self._layout.version, limits):
            file = self._file(controller, name)
            if file and file.exists():
                file.write_text(value)

    def add(self, pid: int) -> None:
        """Moves a process, all its threads, into it."""
        for directory in self._directories:
            (directory / "cgroup.procs").write_text(str(pid))

    def enter(self) -> None:
        """Moves this process, which must have one thread only, into it.

        By `tasks` where there is one (v1): a thread that moves itself needs no lock against all forks of the host
        (cgroup_procs_write_start, kernel/cgroup/cgroup.c), which takes a grace period of RCU: 5 to 14 ms.
        """
        for directory in self._directories:
            (directory / ("tasks" if self._layout.version == 1 else "cgroup.procs")).write_text("0")

    def pids(self) -> frozenset[int]:
        """Processes in it, by any of its hierarchies."""
        found: set[int] = set()
        for directory in self._directories:
            with contextlib.suppress(OSError):
                found.update(int(line) for line in (directory / "cgroup.procs").read_text().split())
        return frozenset(found - {0})

    def usage(self) -> CgroupUsage:
        """What it uses now, and what it used in all."""
        if self._layout.version == 2:
            cpu_ns = self._keyed("", "cpu.stat", "usage_usec") * 1000
            oom_kills = self._keyed("", "memory.events", "oom_kill")
            return CgroupUsage(self._number("", "memory.current"), cpu_ns, self._number("", "pids.current"), oom_kills)
        return CgroupUsage(
            self._number("memory", "memory.usage_in_bytes"),
            self._number("cpuacct", "cpuacct.usage"),
            self._number("pids", "pids.current"),
            self._keyed("memory", "memory.oom_control", "oom_kill"),
        )

    def kill(self, timeout_s: float) -> int:
        """SIGKILL to every process in it, this one excepted, and wait for their ends. Answers how many.

        None can fork its way out (freezer, cgroup.kill). Raises OSError (ETIMEDOUT) if one does not end: it hangs in
        the kernel.
        """
        killed = 0
        while members := list(self._open_members()):
            with self._frozen():
                for pidfd in members:
                    kill_pidfd(pidfd, 0)
            ended = [wait_pidfd(pidfd, timeout_s) for pidfd in members]
            for pidfd in members:
                os.close(pidfd)
            if not all(ended):
                raise OSError(errno.ETIMEDOUT, f"{ended.count(False)} killed processes do not end", self.path)
            killed += len(members)
        return killed

    def remove(self) -> None:
        """Removes it, and its parent below the root when that was the last in it. Raises OSError (EBUSY) if in use."""
        for directory in self._directories:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                directory.rmdir()
            # The parent is everybody's; whoever leaves last takes it away, and `create` makes it anew.
            if "/" in self.path:
                with contextlib.suppress(OSError):
                    directory.parent.rmdir()

    def _make(self, directory: Path) -> None:
        for attempt in range(_CREATE_ATTEMPTS):
            try:
                directory.mkdir(parents=True, exist_ok=True)
                self._delegate(directory)
            except FileNotFoundError:
                # Another sandbox's removal took the empty parent away in between.
                if attempt == _CREATE_ATTEMPTS - 1:
                    raise
            else:
                return

    def _delegate(self, directory: Path) -> None:
        """Version 2: a controller works in a cgroup only when its parents pass it on."""
        if self._layout.version != 2:
            return
        root = self._layout.roots[""]
        for parent in (root, *reversed([p for p in directory.parents if root in p.parents])):
            available = (parent / "cgroup.controllers").read_text().split()
            words = [f"+{name}" for name in _V2_CONTROLLERS if name in available]
            (parent / "cgroup.subtree_control").write_text(" ".join(words))

    def _open_members(self) -> Iterator[int]:
        """A pidfd of each process in it; a pid is looked up again after opening, so that no stranger is held."""
        for pid in self.pids() - {os.getpid()}:
            try:
                pidfd = os.pidfd_open(pid)
            except (ProcessLookupError, OSError):
                continue
            # A zombie is still listed and has ended already; a pid that is not listed any more may be anyone's.
            if pid not in self.pids() or wait_pidfd(pidfd, 0):
                os.close(pidfd)
                continue
            yield pidfd

    @contextlib.contextmanager
    def _frozen(self) -> Iterator[None]:
        """Nothing in it forks while the block sends its signals."""
        if self._layout.version == 2:
            with contextlib.suppress(OSError):  # before Linux 5.14: signals one by one, and the loop around
                (self._directories[0] / "cgroup.kill").write_text("1")
            yield
            return
        state = self._file("freezer", "freezer.state")
        self._write_if_there(state, "FROZEN")
        try:
            yield
        finally:
            self._write_if_there(state, "THAWED")

    def _write_if_there(self, file: Path | None, value: str) -> None:
        if file:
            with contextlib.suppress(FileNotFoundError):
                file.write_text(value)

    def _file(self, controller: str, name: str) -> Path | None:
        root = self._layout.roots.get("" if self._layout.version == 2 else controller)
        return root / self.path / name if root else None

    def _number(self, controller: str, name: str) -> int:
        file = self._file(controller, name)
        try:
            return int(file.read_text()) if file else 0
        except (OSError, ValueError):
            return 0

    def _keyed(self, controller: str, name: str, key: str) -> int:
        file = self._file(controller, name)
        try:
            return parse_keyed(file.read_text() if file else "").get(key, 0)
        except OSError:
            return 0


def parse_keyed(text: str) -> dict[str, int]:
    """A flat keyed file: "KEY NUMBER" per line. Lines of another form are passed over."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _limit_files(version: int, limits: CgroupLimits) -> Iterator[tuple[str, str, str]]:
    """Controller, file and text of each limit, in the order they are written."""
    if limits.memory_bytes is not None:
        yield "memory", "memory.max" if version == 2 else "memory.limit_in_bytes", str(limits.memory_bytes)
    if limits.cpu_milli is not None:
        quota_us = limits.cpu_milli * CPU_PERIOD_US // 1000
        if version == 2:
            yield "cpu", "cpu.max", f"{quota_us} {CPU_PERIOD_US}"
        else:
            yield "cpu", "cpu.cfs_period_us", str(CPU_PERIOD_US)
            yield "cpu", "cpu.cfs_quota_us", str(quota_us)
    if limits.pids is not None:
        yield "pids", "pids.max", str(limits.pids)
