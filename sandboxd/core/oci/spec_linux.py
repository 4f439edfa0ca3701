"""The Linux part of the OCI runtime specification (config-linux.md), as records."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sandboxd.core.oci.model import I64, LIST_MAX, U32, U64, Device, FileMode, Record, Word

NamespaceType = Literal["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"]


class Namespace(Record):
    """config-linux.md, "Namespaces"."""

    type: NamespaceType
    path: Word = ""


class IdMapping(Record):
    """`size` ids from `container_id` on are `host_id`... outside. For us "host" is the guest."""

    container_id: Annotated[U32, Field(alias="containerID")]
    host_id: Annotated[U32, Field(alias="hostID")]
    size: U32


class DeviceNode(Record):
    """A node to make: config-linux.md, "Devices"."""

    type: Literal["c", "b", "u", "p"]
    path: Word
    major: Annotated[int, Field(ge=0, lt=1 << 32, strict=True)] | None = None
    minor: Annotated[int, Field(ge=0, lt=1 << 32, strict=True)] | None = None
    file_mode: FileMode | None = None
    uid: U32 | None = None
    gid: U32 | None = None


class DeviceRule(Record):
    """One line of the device controller. Absent or -1 numbers and an absent type mean all."""

    allow: bool
    type: Literal["a", "c", "b"] | None = None
    major: Device | None = None
    minor: Device | None = None
    access: Annotated[str, Field(pattern=r"^[rwm]{0,3}$")] | None = None


class Memory(Record):
    """Bytes; -1 is unlimited."""

    limit: I64 | None = None
    reservation: I64 | None = None
    swap: I64 | None = None
    """Memory and swap together (cgroup v1's meaning)."""
    kernel: I64 | None = None
    kernel_tcp: Annotated[I64 | None, Field(alias="kernelTCP")] = None
    swappiness: U64 | None = None
    disable_oom_killer: Annotated[bool | None, Field(alias="disableOOMKiller")] = None
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class Cpu(Record):
    """Microseconds."""

    shares: U64 | None = None
    quota: I64 | None = None
    burst: U64 | None = None
    period: U64 | None = None
    realtime_runtime: I64 | None = None
    realtime_period: U64 | None = None
    cpus: Word | None = None
    mems: Word | None = None
    idle: I64 | None = None


class Pids(Record):
    limit: I64 | None = None


class WeightDevice(Record):
    major: U32
    minor: U32
    weight: U32 | None = None
    leaf_weight: U32 | None = None


class ThrottleDevice(Record):
    major: U32
    minor: U32
    rate: U64


class BlockIo(Record):
    weight: U32 | None = None
    leaf_weight: U32 | None = None
    weight_device: tuple[WeightDevice, ...] | None = None
    throttle_read_bps_device: tuple[ThrottleDevice, ...] | None = None
    throttle_write_bps_device: tuple[ThrottleDevice, ...] | None = None
    throttle_read_iops_device: Annotated[tuple[ThrottleDevice, ...] | None, Field(alias="throttleReadIOPSDevice")] = (
        None
    )
    throttle_write_iops_device: Annotated[tuple[ThrottleDevice, ...] | None, Field(alias="throttleWriteIOPSDevice")] = (
        None
    )


class HugepageLimit(Record):
    page_size: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}(KB|MB|GB)$")]
    limit: U64


class InterfacePriority(Record):
    name: Word
    priority: U32


class NetworkClass(Record):
    class_id: Annotated[U32 | None, Field(alias="classID")] = None
    priorities: tuple[InterfacePriority, ...] | None = None


class Rdma(Record):
    hca_handles: U32 | None = None
    hca_objects: U32 | None = None


class Resources(Record):
    """Limits of a container's cgroup."""

    devices: Annotated[tuple[DeviceRule, ...], Field(max_length=LIST_MAX)] | None = None
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None
    block_io: Annotated[BlockIo | None, Field(alias="blockIO")] = None
    hugepage_limits: tuple[HugepageLimit, ...] | None = None
    network: NetworkClass | None = None
    rdma: dict[Word, Rdma] | None = None
    unified: dict[Word, Word] | None = None


class SeccompArgument(Record):
    index: Annotated[int, Field(ge=0, le=5, strict=True)]
    value: U64
    value_two: U64 = 0
    op: Word


class SeccompSyscall(Record):
    names: Annotated[tuple[Word, ...], Field(min_length=1, max_length=LIST_MAX)]
    action: Word
    errno_ret: U32 | None = None
    args: Annotated[tuple[SeccompArgument, ...], Field(max_length=64)] | None = None


class Seccomp(Record):
    """config-linux.md, "Seccomp". The names of actions, architectures and flags are checked where they are compiled."""

    default_action: Word
    default_errno_ret: U32 | None = None
    architectures: Annotated[tuple[Word, ...], Field(max_length=64)] | None = None
    flags: Annotated[tuple[Word, ...], Field(max_length=16)] | None = None
    listener_path: Word = ""
    listener_metadata: Word = ""
    syscalls: Annotated[tuple[SeccompSyscall, ...], Field(max_length=LIST_MAX)] | None = None


class Personality(Record):
    domain: Literal["LINUX", "LINUX32"]
    flags: tuple[Word, ...] | None = None


class TimeOffset(Record):
    secs: I64 = 0
    nanosecs: U32 = 0


class IntelRdt(Record):
    clos_id: Annotated[Word, Field(alias="closID")] = ""


class Linux(Record):
    """All of config-linux.md. What we refuse is here too, so that it can be refused by name."""

    devices: Annotated[tuple[DeviceNode, ...], Field(max_length=LIST_MAX)] | None = None
    uid_mappings: Annotated[tuple[IdMapping, ...], Field(max_length=340)] | None = None
    gid_mappings: Annotated[tuple[IdMapping, ...], Field(max_length=340)] | None = None
    sysctl: dict[Word, Word] | None = None
    cgroups_path: Word = ""
    resources: Resources | None = None
    rootfs_propagation: Word = ""
    seccomp: Seccomp | None = None
    namespaces: Annotated[tuple[Namespace, ...], Field(max_length=16)] | None = None
    masked_paths: Annotated[tuple[Word, ...], Field(max_length=LIST_MAX)] | None = None
    readonly_paths: Annotated[tuple[Word, ...], Field(max_length=LIST_MAX)] | None = None
    mount_label: Word = ""
    intel_rdt: IntelRdt | None = None
    personality: Personality | None = None
    time_offsets: dict[Literal["boottime", "monotonic"], TimeOffset] | None = None
    memory_policy: dict[str, object] | None = None
    net_devices: dict[Word, object] | None = None
