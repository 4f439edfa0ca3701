"""What a machine is: the description that every driver takes.

Values only. A driver either honours all of it or refuses; nothing is ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MEMORY_MIN_MIB = 64
MEMORY_MAX_MIB = 1 << 20
VCPUS_MAX = 64
DRIVES_MAX = 16
NICS_MAX = 4


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Drive(_Frozen):
    """A raw image as a virtio-blk device. The guest finds it by its serial: "block:SERIAL" in a plan."""

    serial: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,20}$")]
    path: Path
    read_only: bool


class Nic(_Frozen):
    """A virtio-net device on an existing persistent tap (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR); the driver opens it."""

    tap: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,15}$")]
    mac: Annotated[str, Field(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]
    mtu: Annotated[int, Field(ge=68, le=65535)] = 1500


class MachineSpec(_Frozen):
    """One microVM. Every path exists when the machine is booted."""

    id: str
    vcpus: Annotated[int, Field(ge=1, le=VCPUS_MAX)] = 1
    memory_mib: Annotated[int, Field(ge=MEMORY_MIN_MIB, le=MEMORY_MAX_MIB)] = 512
    kernel: Path
    """bzImage or ELF vmlinux."""
    initrd: Path
    cmdline_extra: str = ""
    """Appended to what the driver itself needs on the kernel's command line."""
    drives: Annotated[tuple[Drive, ...], Field(max_length=DRIVES_MAX)] = ()
    nics: Annotated[tuple[Nic, ...], Field(max_length=NICS_MAX)] = ()
    acceleration: Literal["tcg", "kvm"] = "tcg"


class Confinement(_Frozen):
    """Whom a VMM process runs as, and where."""

    uid: Annotated[int, Field(ge=0)]
    gid: Annotated[int, Field(ge=0)]
    work_dir: Path
    """The sandbox's own, root-owned 0700: console.log and vmm.log, both bounded. The VMM has descriptors only."""
