"""Namespaces, id maps and clock offsets (config-linux.md).

The machine is the container's network namespace: an entry for it, with a path or without, asks for what is there.
"""

from __future__ import annotations

from sandboxd.api import agent_pb2 as pb
from sandboxd.core.oci.findings import Findings
from sandboxd.core.oci.spec_linux import IdMapping, Linux, Namespace

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
_FLAGS = {
    "mount": CLONE_NEWNS,
    "pid": CLONE_NEWPID,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "user": CLONE_NEWUSER,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
}
_NETWORK = "network"
_NS_PER_S = 1_000_000_000
_ID_MAX = 0xFFFFFFFF


def compile_namespaces(linux: Linux, findings: Findings) -> list[pb.Namespace]:
    """One entry for each namespace to make; none for the network."""
    seen: dict[str, Namespace] = {}
    for index, namespace in enumerate(linux.namespaces or ()):
        where = f"linux.namespaces[{index}]"
        if namespace.type in seen:
            findings.invalid(f"{where}.type", namespace.type, "each type of namespace is given once")
        elif namespace.path and namespace.type != _NETWORK:
            findings.unsupported(
                f"{where}.path", namespace.path, "a namespace of the host cannot be entered from a guest"
            )
        seen[namespace.type] = namespace
    if "mount" not in seen:
        why = "without a mount namespace the container's mounts would be the guest's own"
        findings.unsupported("linux.namespaces", sorted(seen), why)
    _check_user(linux, "user" in seen, findings)
    offsets = _time_offsets(linux, "time" in seen, findings)
    return [
        pb.Namespace(clone_flag=_FLAGS[name], time_offsets=offsets if name == "time" else "")
        for name in seen
        if name != _NETWORK
    ]


def has_namespace(linux: Linux, name: str) -> bool:
    return any(namespace.type == name for namespace in linux.namespaces or ())


def compile_id_maps(mappings: tuple[IdMapping, ...] | None, where: str, findings: Findings) -> list[pb.IdMap]:
    """In the specification's order; overlaps are the kernel's to refuse, wrap-arounds ours."""
    maps = []
    for index, mapping in enumerate(mappings or ()):
        if mapping.size == 0 or max(mapping.container_id, mapping.host_id) + mapping.size - 1 > _ID_MAX:
            findings.invalid(f"{where}[{index}]", mapping.size, "a range of ids has at least one and ends below 2^32")
        maps.append(pb.IdMap(container_id=mapping.container_id, host_id=mapping.host_id, size=mapping.size))
    return maps


def outside(mappings: tuple[IdMapping, ...] | None, container_id: int) -> int | None:
    """The id outside of the user namespace; None if it has none."""
    for mapping in mappings or ():
        if mapping.container_id <= container_id < mapping.container_id + mapping.size:
            return mapping.host_id + container_id - mapping.container_id
    return None


def _check_user(linux: Linux, has_user: bool, findings: Findings) -> None:
    mapped = linux.uid_mappings or linux.gid_mappings
    if mapped and not has_user:
        findings.invalid("linux.uidMappings", "(given)", "ids are mapped in a user namespace, and none is asked for")
    if has_user and not (linux.uid_mappings and linux.gid_mappings):
        why = "a user namespace needs uidMappings and gidMappings, or nobody is anybody in it"
        findings.invalid("linux.uidMappings", "(absent)", why)


def _time_offsets(linux: Linux, has_time: bool, findings: Findings) -> str:
    """Lines for /proc/PID/timens_offsets: "monotonic SECONDS NANOSECONDS"."""
    if linux.time_offsets and not has_time:
        findings.invalid(
            "linux.timeOffsets", "(given)", "clocks are shifted in a time namespace, and none is asked for"
        )
    lines = []
    for clock, offset in (linux.time_offsets or {}).items():
        if offset.nanosecs >= _NS_PER_S:
            findings.invalid(f"linux.timeOffsets.{clock}.nanosecs", offset.nanosecs, "a second has 10^9 nanoseconds")
        lines.append(f"{clock} {offset.secs} {offset.nanosecs}\n")
    return "".join(lines)
