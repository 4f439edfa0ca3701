"""Devices: the nodes and links that every container has, those of the specification, and the device controller's rules.

Numbers are the guest's: 8:0 in a config.json means the guest's first SCSI disk, which it has not got.
"""

from __future__ import annotations

import enum
import stat

from sandboxd.api import agent_pb2 as pb
from sandboxd.core.oci import ebpf, namespaces, steps
from sandboxd.core.oci.ebpf import ACCESS_ALL, ACCESS_MKNOD, DEVICE_BLOCK, DEVICE_CHARACTER
from sandboxd.core.oci.findings import Findings
from sandboxd.core.oci.mount_options import MS_BIND
from sandboxd.core.oci.paths import is_below, normalise
from sandboxd.core.oci.spec_linux import DeviceNode, DeviceRule, Linux
from sandboxd.core.oci.steps import Assembly

_CHARACTER = stat.S_IFCHR
DEFAULT_NODES = {
    "/dev/null": (1, 3),
    "/dev/zero": (1, 5),
    "/dev/full": (1, 7),
    "/dev/random": (1, 8),
    "/dev/urandom": (1, 9),
    "/dev/tty": (5, 0),
}
"""config-linux.md, "Default Devices"; /dev/console is the agent's and /dev/ptmx a link."""

LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
    "/dev/ptmx": "pts/ptmx",
}
"""runtime-linux.md, "Dev symbolic links", and config-linux.md on ptmx."""

_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
_ACCESS = {"r": ebpf.ACCESS_READ, "w": ebpf.ACCESS_WRITE, "m": ebpf.ACCESS_MKNOD}


def _character(major: int, minor: int | None) -> ebpf.Rule:
    return ebpf.Rule(True, DEVICE_CHARACTER, major, minor, ACCESS_ALL)


_DEFAULT_RULES = (
    # Any node may be made (it cannot be opened): images and package managers do.
    ebpf.Rule(True, DEVICE_CHARACTER, None, None, ACCESS_MKNOD),
    ebpf.Rule(True, DEVICE_BLOCK, None, None, ACCESS_MKNOD),
    *(_character(major, minor) for major, minor in DEFAULT_NODES.values()),
    _character(136, None),  # /dev/pts/*
    _character(5, 2),  # /dev/ptmx
    _character(5, 1),  # /dev/console
)
"""Appended to the specification's rules, so that they win, as in runc and crun."""


class DevTree(enum.Enum):
    """What lies at /dev when the mounts are done."""

    OWN = "tmpfs"
    """A file system of this container alone: nothing can be in the way there."""
    IMAGE = "image"
    """A directory of the image, which may hold anything."""
    GUEST = "devtmpfs"
    """The guest's own, shared: it has the standard nodes, and they are not touched."""
    BOUND = "bind"
    """Brought by the specification: left alone, as runc does."""


def add_nodes(assembly: Assembly, tree: DevTree, linux: Linux, findings: Findings) -> None:
    """Steps of `inside`, in the container's root once all is mounted. The specification's replace standard ones."""
    standard = DEFAULT_NODES if tree in (DevTree.OWN, DevTree.IMAGE) else {}
    wanted = {path: _default_node(path) for path in standard}
    for index, node in enumerate(linux.devices or ()):
        where = f"linux.devices[{index}]"
        made = _node(where, node, findings)
        if made is not None:
            if assembly.user_namespace and node.type != "p":
                _map_owner(where, made, linux, findings)
            wanted[made.path] = made
    for index, made in enumerate(wanted.values()):
        _place(assembly, tree, made, index)


def add_links(assembly: Assembly, tree: DevTree) -> None:
    """The links below /dev. An image's own that stand in their way are replaced."""
    if tree is DevTree.BOUND:
        return
    for path, target in LINKS.items():
        if tree is DevTree.IMAGE:
            assembly.inside.append(steps.remove(path, in_root=True, optional=True))
        assembly.inside.append(steps.symlink(path, target, in_root=True, optional=tree is not DevTree.OWN))


def _default_node(path: str) -> pb.MakeNode:
    major, minor = DEFAULT_NODES[path]
    return pb.MakeNode(path=path, mode=_CHARACTER | 0o666, major=major, minor=minor)


def _node(where: str, node: DeviceNode, findings: Findings) -> pb.MakeNode | None:
    path = normalise(node.path)
    if path is None or path == "/":
        findings.invalid(f"{where}.path", node.path, "a device needs an absolute path")
        return None
    if node.type != "p" and (node.major is None or node.minor is None):
        findings.invalid(where, node.path, "a device of this type needs major and minor")
        return None
    mode = 0o666 if node.file_mode is None else node.file_mode
    return pb.MakeNode(
        path=path,
        mode=_TYPES[node.type] | mode,
        major=node.major or 0,
        minor=node.minor or 0,
        uid=node.uid or 0,
        gid=node.gid or 0,
    )


def _map_owner(where: str, node: pb.MakeNode, linux: Linux, findings: Findings) -> None:
    """It is made outside of the user namespace, where the container's ids have other numbers."""
    uid = namespaces.outside(linux.uid_mappings, node.uid)
    gid = namespaces.outside(linux.gid_mappings, node.gid)
    if uid is None or gid is None:
        findings.invalid(where, f"{node.uid}:{node.gid}", "the user namespace maps no such owner")
        return
    node.uid, node.gid = uid, gid


def _place(assembly: Assembly, tree: DevTree, node: pb.MakeNode, index: int) -> None:
    if assembly.user_namespace and not stat.S_ISFIFO(node.mode):
        # mknod(2) is the real root's alone; a node of the guest's /dev, bound in, has the same numbers.
        standard = node.path in DEFAULT_NODES and node == _default_node(node.path)
        source = node.path if standard else assembly.make_node(index, node)
        assembly.inside.append(steps.mount(source, node.path, "", MS_BIND, in_root=True, make_target=True))
        return
    if tree is not DevTree.GUEST and not (tree is DevTree.OWN and is_below(node.path, "/dev")):
        assembly.inside.append(steps.remove(node.path, in_root=True, optional=True))
    assembly.inside.append(pb.Step(in_root=True, make_node=node))


def device_filter(rules: tuple[DeviceRule, ...] | None, findings: Findings) -> bytes:
    """The container's eBPF program; empty when everything is allowed."""
    compiled = [_rule(rule) for rule in rules or ()]
    try:
        return ebpf.device_program([*compiled, *_DEFAULT_RULES])
    except OverflowError as error:
        findings.unsupported("linux.resources.devices", f"{len(compiled)} rules", str(error))
        return b""


def _rule(rule: DeviceRule) -> ebpf.Rule:
    """An absent type or "a" means all devices and all access, whatever else the rule says, as in cgroup v1."""
    if rule.type in (None, "a"):
        return ebpf.Rule(rule.allow, None, None, None, ACCESS_ALL)
    device_type = DEVICE_CHARACTER if rule.type == "c" else DEVICE_BLOCK
    access = sum({_ACCESS[letter] for letter in rule.access or "rwm"})
    return ebpf.Rule(rule.allow, device_type, _number(rule.major), _number(rule.minor), access)


def _number(value: int | None) -> int | None:
    return None if value in (None, -1) else value
