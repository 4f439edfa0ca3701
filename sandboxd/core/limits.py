"""What a sandbox may use of its host."""

from __future__ import annotations

from sandboxd.base.units import MIB
from sandboxd.core.spec import SandboxSpec
from sandboxd.linux.cgroup import CgroupLimits

OVERHEAD_MIB = 384
"""Host memory of a sandbox beside its guest's: shim, VMM, TCG's translation buffer, page cache of its disk."""
EXTRA_CPU_MILLI = 1000
"""Host CPU beside the vCPUs: the VMM's I/O and the shim. The vCPUs themselves are what bounds the guest."""
PIDS_MAX = 512
"""Threads of VMM and shim: vCPUs, I/O workers, and room."""


def host_limits(spec: SandboxSpec) -> CgroupLimits:
    """What VMM and shim together may use of the host."""
    return CgroupLimits(
        memory_bytes=(spec.memory_mib + OVERHEAD_MIB) * MIB,
        cpu_milli=spec.vcpus * 1000 + EXTRA_CPU_MILLI,
        pids=PIDS_MAX,
    )
