"""What a machine needs to come up, found by measurement."""

from __future__ import annotations

from sandboxd.base.errors import MEMORY_TOO_SMALL, SandboxdError

_BASE_MIB = 79
"""Debian's 6.1 cloud kernel, uncompressed, with our initrd: 72 MiB reach the agent, 68 do not."""
_PER_VCPU_MIB = 1


def memory_boot_min_mib(vcpus: int) -> int:
    """The least memory with which the stock kernel and our initrd come up and leave a container some 40 MiB."""
    return _BASE_MIB + _PER_VCPU_MIB * vcpus


def check_memory(memory_mib: int, vcpus: int) -> None:
    """Raises memory_too_small, quoting the limit. For doors; `boot` checks it again."""
    limit_mib = memory_boot_min_mib(vcpus)
    if memory_mib < limit_mib:
        raise SandboxdError(MEMORY_TOO_SMALL, memory_mib=memory_mib, limit_mib=limit_mib)
