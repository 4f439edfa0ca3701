"""What a sandbox is: the record that starts one, written once by who starts the shim, read by the shim and by reclaim.

It lies as `sandbox.json` in the sandbox's own directory and holds everything that has to be found again after a crash
of anyone: no other process's memory is needed to clean up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Route(_Frozen):
    destination: str
    gateway: str = ""


class NetworkAttachment(_Frozen):
    """One NIC of the guest and the tap it hangs on. The tap exists and is up; addresses are the guest's."""

    tap: str
    mac: str
    mtu: int = 1500
    addresses: tuple[str, ...]
    """With prefix length: "10.88.0.2/16"."""
    routes: tuple[Route, ...]
    dns_servers: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()


class SandboxSpec(_Frozen):
    """Everything about a sandbox that is not its containers."""

    id: str
    driver: Literal["qemu", "kvm"]
    acceleration: Literal["tcg", "kvm"]
    kernel: Path
    initrd: Path
    cmdline_extra: str = ""
    vcpus: int
    memory_mib: int
    hostname: str
    network: NetworkAttachment | None
    vmm_uid: int
    """Also the gid."""
    cgroup: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*){0,7}$")]
    """Below each controller's root: "sandboxd/ID"."""
    run_dir: Path
    """This sandbox's own directory on tmpfs: sandbox.json, shim.json, shim.sock, exit.json, bundle/, console.log."""
    data_dir: Path
    """This sandbox's own directory on disk: disk.ext4, log.json."""
    boot_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    log_max_bytes: int = 16 << 20
    """Of one log file; one older file is kept."""
