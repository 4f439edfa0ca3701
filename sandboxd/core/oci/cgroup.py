"""linux.resources to writes into the container's cgroup (v2), in the ways of runc and crun.

The limits are those of one container in the guest; the whole sandbox is bounded by its machine and by its cgroup on
the host.
`linux.cgroupsPath` names a cgroup of the host, and is the shim's business.
"""

from __future__ import annotations

import re

from sandboxd.api import agent_pb2 as pb
from sandboxd.core.oci import steps
from sandboxd.core.oci.findings import Findings
from sandboxd.core.oci.spec_linux import BlockIo, Cpu, Memory, Resources, ThrottleDevice
from sandboxd.core.oci.steps import Assembly

BASE_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids")
"""Enabled for every container: statistics read them."""
_MORE_CONTROLLERS = ("hugetlb", "rdma", "misc")

_SHARES_MIN, _SHARES_MAX = 2, 262144
_PERIOD_DEFAULT_US = 100_000
_BLOCK_WEIGHT_MIN, _BLOCK_WEIGHT_MAX = 10, 1000
_UNIFIED_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}(?:\.[A-Za-z0-9_]{1,64}){1,4}\Z")
_UNIFIED_CGROUP = ("cgroup.max.depth", "cgroup.max.descendants", "cgroup.pressure")
_RDMA_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}\Z")
_V1 = "cgroup v2, which a guest has, knows no such limit"


def add_cgroup(assembly: Assembly, resources: Resources | None, findings: Findings) -> None:
    """Makes the container's cgroup in `prepare` and writes its limits. The agent removes it with the container."""
    limits = Limits(resources, "linux.resources", findings)
    root, parent = steps.CGROUP_ROOT, f"{steps.CGROUP_ROOT}/{steps.CGROUP_PARENT}"
    controllers = [*BASE_CONTROLLERS, *(name for name in _MORE_CONTROLLERS if name in limits.controllers)]
    enable = " ".join(f"+{name}" for name in controllers)
    assembly.prepare += [
        steps.write(f"{root}/cgroup.subtree_control", enable),
        steps.directory(parent),
        steps.write(f"{parent}/cgroup.subtree_control", enable),
        steps.directory(f"{root}/{assembly.cgroup}"),
        *limits.steps(assembly.cgroup),
    ]


def compile_resources(resources: Resources, cgroup: str) -> list[pb.Step]:
    """Steps for Update. `cgroup` is Plan.cgroup of the container. Raises with all findings.

    Device rules cannot change: their program is attached when the container is created.
    """
    findings = Findings("resources")
    if resources.devices:
        findings.unsupported("devices", f"{len(resources.devices)} rules", "a running container's device rules stay")
    if resources.memory is not None and resources.memory.check_before_update:
        findings.unsupported("memory.checkBeforeUpdate", True, "the kernel reclaims, and kills where it cannot")
    limits = Limits(resources, "", findings)
    findings.refuse()
    return limits.steps(cgroup)


class Limits:
    """Values by file name, in the order in which they are written."""

    def __init__(self, resources: Resources | None, where: str, findings: Findings) -> None:
        self._where = where
        self._findings = findings
        self._values: list[tuple[str, str, bool]] = []
        if resources is not None:
            self._take(resources)

    @property
    def controllers(self) -> set[str]:
        return {name.partition(".")[0] for name, _, _ in self._values}

    def steps(self, cgroup: str) -> list[pb.Step]:
        directory = f"{steps.CGROUP_ROOT}/{cgroup}"
        return [steps.write(f"{directory}/{name}", value, optional=optional) for name, value, optional in self._values]

    def _take(self, resources: Resources) -> None:
        self._cpu(resources.cpu or Cpu())
        self._memory(resources.memory or Memory())
        if resources.pids is not None and resources.pids.limit is not None:
            self._set("pids.max", _or_max(resources.pids.limit, unlimited=resources.pids.limit <= 0))
        self._block_io(resources.block_io or BlockIo())
        for limit in resources.hugepage_limits or ():
            self._set(f"hugetlb.{limit.page_size}.max", str(limit.limit))
            # Reservations count too, where the kernel can (5.7).
            self._set(f"hugetlb.{limit.page_size}.rsvd.max", str(limit.limit), optional=True)
        self._rdma(resources)
        network = resources.network
        if network is not None and (network.class_id or network.priorities):
            self._unsupported("network", network.class_id or len(network.priorities or ()), _V1)
        self._unified(resources.unified or {})

    def _set(self, name: str, value: str, *, optional: bool = False) -> None:
        self._values.append((name, value, optional))

    def _unsupported(self, path: str, value: object, why: str) -> None:
        self._findings.unsupported(self._path(path), value, why)

    def _invalid(self, path: str, value: object, why: str) -> None:
        self._findings.invalid(self._path(path), value, why)

    def _path(self, path: str) -> str:
        return f"{self._where}.{path}" if self._where else path

    # --- cpu, cpuset ---

    def _cpu(self, cpu: Cpu) -> None:
        if cpu.cpus:
            self._list_of_numbers("cpuset.cpus", "cpu.cpus", cpu.cpus)
        if cpu.mems:
            self._list_of_numbers("cpuset.mems", "cpu.mems", cpu.mems)
        if cpu.idle:
            self._set("cpu.idle", str(cpu.idle))
        if cpu.shares:
            self._set("cpu.weight", str(weight_of_shares(cpu.shares)))
        if cpu.quota or cpu.period:
            quota = _or_max(cpu.quota or -1, unlimited=(cpu.quota or -1) < 0)
            self._set("cpu.max", f"{quota} {cpu.period or _PERIOD_DEFAULT_US}")
        if cpu.burst is not None:
            self._set("cpu.max.burst", str(cpu.burst))
        if cpu.realtime_runtime or cpu.realtime_period:
            self._unsupported("cpu.realtimeRuntime", cpu.realtime_runtime or cpu.realtime_period, _V1)

    def _list_of_numbers(self, name: str, path: str, text: str) -> None:
        if re.fullmatch(r"\d{1,5}(?:-\d{1,5})?(?:,\d{1,5}(?:-\d{1,5})?){0,255}", text):
            self._set(name, text)
        else:
            self._invalid(path, text, "a list of CPUs or memory nodes reads 0-3,7")

    # --- memory ---

    def _memory(self, memory: Memory) -> None:
        limit, swap = memory.limit or 0, self._swap(memory)
        if swap is not None:
            # A guest without swap has no such file; then no swap is what there is.
            self._set("memory.swap.max", _or_max(swap), optional=swap <= 0)
        if limit:
            self._set("memory.max", _or_max(limit))
        if memory.reservation:
            self._set("memory.low", _or_max(memory.reservation))
        for name, value in (("kernel", memory.kernel), ("kernelTCP", memory.kernel_tcp)):
            if value is not None and value > 0:
                self._unsupported(f"memory.{name}", value, _V1)
        if memory.swappiness is not None:
            self._unsupported("memory.swappiness", memory.swappiness, _V1)
        if memory.disable_oom_killer:
            self._unsupported("memory.disableOOMKiller", True, _V1)
        if memory.use_hierarchy is False:
            self._unsupported("memory.useHierarchy", False, "cgroup v2 always counts the whole hierarchy")

    def _swap(self, memory: Memory) -> int | None:
        """cgroup v1 counts memory and swap together, v2 swap alone. None leaves it, -1 is unlimited."""
        limit, both = memory.limit or 0, memory.swap or 0
        if limit < 0 and both == 0:
            return -1
        if both <= 0 or limit < 0:
            return both or None
        if limit == 0:
            self._invalid("memory.swap", both, "memory and swap together need memory.limit to be told apart")
            return None
        if both < limit:
            self._invalid("memory.swap", both, f"memory and swap together are less than memory.limit {limit}")
            return None
        return both - limit

    # --- io ---

    def _block_io(self, block_io: BlockIo) -> None:
        if block_io.leaf_weight:
            self._unsupported("blockIO.leafWeight", block_io.leaf_weight, _V1)
        lines: list[tuple[str, int | None]] = [("default", block_io.weight)]
        for index, device in enumerate(block_io.weight_device or ()):
            lines.append((f"{device.major}:{device.minor}", device.weight))
            if device.leaf_weight:
                self._unsupported(f"blockIO.weightDevice[{index}].leafWeight", device.leaf_weight, _V1)
        for device_number, weight in lines:
            if weight:
                self._io_weight(device_number, weight)
        self._throttle("rbps", block_io.throttle_read_bps_device)
        self._throttle("wbps", block_io.throttle_write_bps_device)
        self._throttle("riops", block_io.throttle_read_iops_device)
        self._throttle("wiops", block_io.throttle_write_iops_device)

    def _io_weight(self, device: str, weight: int) -> None:
        if not _BLOCK_WEIGHT_MIN <= weight <= _BLOCK_WEIGHT_MAX:
            self._invalid("blockIO.weight", weight, f"weights are {_BLOCK_WEIGHT_MIN} to {_BLOCK_WEIGHT_MAX}")
            return
        self._set("io.weight", f"{device} {1 + (weight - 10) * 9999 // 990}")

    def _throttle(self, key: str, devices: tuple[ThrottleDevice, ...] | None) -> None:
        for device in devices or ():
            self._set("io.max", f"{device.major}:{device.minor} {key}={device.rate or 'max'}")

    # --- the rest ---

    def _rdma(self, resources: Resources) -> None:
        for name, limit in (resources.rdma or {}).items():
            if not _RDMA_NAME.match(name):
                self._invalid(f"rdma.{name}", name, "this is not the name of an RDMA device")
                continue
            handles = "" if limit.hca_handles is None else f" hca_handle={limit.hca_handles}"
            objects = "" if limit.hca_objects is None else f" hca_object={limit.hca_objects}"
            self._set("rdma.max", f"{name}{handles}{objects}")

    def _unified(self, unified: dict[str, str]) -> None:
        """Verbatim, but only into files of a controller: cgroup.procs and its like would move or stop the agent."""
        known = (*BASE_CONTROLLERS, *_MORE_CONTROLLERS)
        for name, value in unified.items():
            controller = name.partition(".")[0]
            if not _UNIFIED_NAME.match(name) or (controller not in known and name not in _UNIFIED_CGROUP):
                self._invalid(
                    f"unified.{name}", value, f"files of these controllers may be written: {', '.join(known)}"
                )
            else:
                self._set(name, value)


def weight_of_shares(shares: int) -> int:
    """cgroup v1's cpu.shares (2..262144) to v2's cpu.weight (1..10000), linear as in runc 1.1 and crun 1.8."""
    clamped = min(max(shares, _SHARES_MIN), _SHARES_MAX)
    return 1 + (clamped - _SHARES_MIN) * 9999 // (_SHARES_MAX - _SHARES_MIN)


def _or_max(value: int, *, unlimited: bool | None = None) -> str:
    is_unlimited = value < 0 if unlimited is None else unlimited
    return "max" if is_unlimited else str(value)
