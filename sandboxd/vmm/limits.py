"""What a machine needs to come up, found by measurement."""

from __future__ import annotations

MEMORY_BOOT_MIN_MIB = 96


def memory_boot_min_mib(vcpus: int) -> int:
    """The least memory with which the stock cloud kernel and our initrd reach the agent."""
    return MEMORY_BOOT_MIN_MIB + vcpus
