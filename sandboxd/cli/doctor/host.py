"""This host: who asks, virtualisation by proof, control groups, room, network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from sandboxd.base.errors import SandboxdError
from sandboxd.base.units import format_size
from sandboxd.cli.doctor.finding import Finding, Patient

DISK_LOW_BYTES, DISK_NONE_BYTES = 5 << 30, 1 << 30
MEMORY_LOW_BYTES, MEMORY_NONE_BYTES = 1 << 30, 256 << 20


def user(_: Patient) -> Iterable[Finding]:
    if os.geteuid() == 0:
        yield Finding("ok", "user", "root")
    else:
        detail = f"user {os.geteuid()} can neither start sandboxd nor use its socket, and sees less here"
        yield Finding("warning", "user", detail, "sudo sandboxctl doctor")


def virtualisation(_: Patient) -> Iterable[Finding]:
    """A guest of a few instructions, timed: nothing else tells whether KVM here runs a stock kernel."""
    from sandboxd.vmm.probe import probe_virtualisation

    found = probe_virtualisation()
    if found.kind == "hardware":
        yield Finding("ok", "virtualisation", found.reason)
    else:
        # Sandboxes run either way, so a host without usable KVM is slow and not broken.
        yield Finding("warning", "virtualisation", found.reason, found.remedy)


def control_groups(_: Patient) -> Iterable[Finding]:
    from sandboxd.linux.cgroup import host_layout

    try:
        layout = host_layout()
    except OSError as error:
        yield Finding("error", "cgroups", f"cannot be read: {error.strerror}", "mount -t cgroup2 none /sys/fs/cgroup")
        return
    if layout.version == 2:
        controllers = (layout.roots[""] / "cgroup.controllers").read_text().split()
    else:
        controllers = sorted(layout.roots)
    missing = [name for name in ("memory", "cpu", "pids") if name not in controllers]
    if missing:
        detail = f"version {layout.version} without {', '.join(missing)}: a sandbox is not bounded in that"
        yield Finding("warning", "cgroups", detail, "add systemd.unified_cgroup_hierarchy=1 to the host's kernel")
    else:
        yield Finding("ok", "cgroups", f"version {layout.version} with memory, cpu and pids")


def room(patient: Patient) -> Iterable[Finding]:
    directory = existing(patient.config.data_dir)
    free = shutil.disk_usage(directory).free
    detail = f"{format_size(free)} free for {patient.config.data_dir}"
    remedy = "sandboxctl images; sandboxctl rmi IMAGE, or another data_dir in the configuration"
    yield _graded("disk", free, (DISK_LOW_BYTES, DISK_NONE_BYTES), detail, remedy)
    available = memory_available_bytes()
    detail = f"{format_size(available)} of memory available; a sandbox takes up to its --memory"
    remedy = "sandboxctl stats --no-stream; sandboxctl stop SANDBOX"
    yield _graded("memory", available, (MEMORY_LOW_BYTES, MEMORY_NONE_BYTES), detail, remedy)


def _graded(title: str, value: int, limits: tuple[int, int], detail: str, remedy: str) -> Finding:
    low, none = limits
    if value >= low:
        return Finding("ok", title, detail)
    return Finding("warning" if value >= none else "error", title, detail, remedy)


def existing(path: Path) -> Path:
    """The nearest directory upwards that exists."""
    return next(parent for parent in (path, *path.parents) if parent.is_dir())


def memory_available_bytes() -> int:
    """MemAvailable of proc(5)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def network(patient: Patient) -> Iterable[Finding]:
    from sandboxd.net.diagnosis import diagnose
    from sandboxd.net.settings import NetworkSettings

    wanted = patient.config.network
    try:
        settings = NetworkSettings(
            bridge=wanted.bridge,
            subnet=wanted.subnet,
            mtu=wanted.mtu,
            tap_prefix=wanted.tap_prefix,
            dns=wanted.dns,
        )
    except SandboxdError as error:
        yield Finding("error", "network", f"{error.message}: {error.cause}", error.remedy)
        return
    for found in diagnose(settings):
        yield Finding(found.level, found.title, found.detail, found.remedy)
