"""QEMU's microvm machine as a driver of `sandboxd.vmm`."""

from sandboxd.vmm.qemu.driver import QemuVmm

__all__ = ["QemuVmm"]
