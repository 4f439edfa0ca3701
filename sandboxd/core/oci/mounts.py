"""The specification's mounts to steps of a plan, in their order.

File systems that need no source (proc, sysfs, tmpfs...) are mounted by the guest's kernel. Binds of small regular files
of the host are carried over by content; whatever the container writes there stays in the sandbox. Everything else of
the host is out of reach and refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from sandboxd.api import agent_pb2 as pb
from sandboxd.base.errors import HOST_BIND_UNSUPPORTED
from sandboxd.core.oci import steps
from sandboxd.core.oci.devices import DevTree
from sandboxd.core.oci.findings import Findings
from sandboxd.core.oci.hostfile import HostFileRefused, ReadHostFile
from sandboxd.core.oci.mount_options import ATTR_RDONLY, MS_BIND, MS_RDONLY, MS_REC, MS_REMOUNT, Options, parse_options
from sandboxd.core.oci.paths import is_below, normalise
from sandboxd.core.oci.spec import Mount
from sandboxd.core.oci.steps import Assembly

EMBEDDED_MAX_BYTES = 2 << 20
"""Of all embedded files of a container together: the plan has to fit one ttrpc message of 4 MiB."""
DATA_MAX_BYTES = 4095
"""mount(2): one page, the terminating NUL included."""

_SOURCELESS = {
    *("proc", "sysfs", "tmpfs", "ramfs", "mqueue", "devpts", "devtmpfs", "cgroup", "cgroup2", "hugetlbfs", "debugfs"),
    *("tracefs", "securityfs", "configfs", "bpf", "fusectl", "binfmt_misc", "pstore"),
}
_BOUND_IN_USER_NAMESPACE = {"sysfs": "/sys", "cgroup": steps.CGROUP_ROOT, "cgroup2": steps.CGROUP_ROOT}


@dataclass(frozen=True, slots=True)
class _Checked:
    """A mount of the specification that passed the door."""

    where: str
    target: str
    fs_type: str
    source: str
    options: Options

    @property
    def is_bind(self) -> bool:
        return self.fs_type == "bind" or self.options.is_bind


class Mounts:
    """Adds the mounts of one specification to an assembly."""

    def __init__(
        self, assembly: Assembly, read_host_file: ReadHostFile, findings: Findings, *, own_cgroup_namespace: bool
    ) -> None:
        self._assembly = assembly
        self._read = read_host_file
        self._findings = findings
        self._own_cgroup_namespace = own_cgroup_namespace
        self._embedded_bytes = 0
        self._embedded = 0

    def add(self, mounts: tuple[Mount, ...]) -> DevTree:
        """All of them; answers what came to lie at /dev."""
        checked = [each for index, mount in enumerate(mounts) if (each := self._check(f"mounts[{index}]", mount))]
        tree = DevTree.IMAGE
        for index, mount in enumerate(checked):
            later = checked[index + 1 :]
            self._add_one(mount, checked[:index], later)
            if mount.target == "/dev":
                tree = _tree(mount)
        return tree

    def _check(self, where: str, mount: Mount) -> _Checked | None:
        target = normalise(mount.destination, relative_to="/")
        options = parse_options(mount.options)
        for word, why in options.refused:
            self._findings.unsupported(f"{where}.options", word, why)
        if mount.uid_mappings or mount.gid_mappings:
            self._findings.unsupported(
                f"{where}.uidMappings", mount.destination, "id-mapped mounts are not made in a guest"
            )
        if target is None or target == "/":
            self._findings.invalid(f"{where}.destination", mount.destination, "a mount needs a place below the root")
            return None
        if len(",".join(options.data)) > DATA_MAX_BYTES:
            self._findings.invalid(
                f"{where}.options", f"{len(options.data)} words", f"mount data has {DATA_MAX_BYTES} bytes"
            )
            return None
        checked = _Checked(where, target, mount.type, mount.source, options)
        return checked if self._is_possible(checked) else None

    def _is_possible(self, mount: _Checked) -> bool:
        if mount.is_bind or mount.options.flags & MS_REMOUNT or mount.fs_type in _SOURCELESS:
            return True
        why = "a guest mounts proc, sysfs, tmpfs, devpts, mqueue, cgroup and others without a source, and small files"
        self._findings.unsupported(f"{mount.where}.type", mount.fs_type, why)
        return False

    def _add_one(self, mount: _Checked, earlier: list[_Checked], later: list[_Checked]) -> None:
        if mount.options.flags & MS_REMOUNT:
            self._assembly.inside += _remount(mount)
        elif mount.is_bind:
            self._add_file(mount, earlier)
        else:
            self._add_native(mount, earlier, later)

    # --- what the guest's kernel mounts by itself ---

    def _add_native(self, mount: _Checked, earlier: list[_Checked], later: list[_Checked]) -> None:
        self._make_target_as_root(mount, earlier)
        if self._must_be_bound(mount.fs_type):
            source = _BOUND_IN_USER_NAMESPACE[mount.fs_type]
            bound = steps.mount(source, mount.target, "", MS_BIND | MS_REC, in_root=True, make_target=True)
            self._assembly.inside += [bound, *_bind_attributes(mount), *_cgroups_below(mount), *_propagations(mount)]
            return
        flags = mount.options.flags
        late_read_only = bool(flags & MS_RDONLY) and mount.fs_type == "tmpfs" and _is_filled(mount, later)
        if late_read_only:
            flags &= ~MS_RDONLY
            self._assembly.finish.append(steps.attributes(mount.target, ATTR_RDONLY, 0))
        self._assembly.inside += [_native(mount, flags), *_recursive_attributes(mount), *_propagations(mount)]

    def _must_be_bound(self, fs_type: str) -> bool:
        """In a user namespace the kernel mounts only what its own namespaces own: sysfs belongs to the guest's network
        namespace, and a cgroup tree to the cgroup namespace. runc and crun bind the host's there."""
        if not self._assembly.user_namespace:
            return False
        return fs_type == "sysfs" or (fs_type in ("cgroup", "cgroup2") and not self._own_cgroup_namespace)

    def _make_target_as_root(self, mount: _Checked, earlier: list[_Checked]) -> None:
        """The image's directories belong to ids that a user namespace does not map: the guest's root makes them."""
        if self._assembly.user_namespace and not _is_covered(mount, earlier):
            self._assembly.prepare.append(steps.directory(mount.target, in_root=True, optional=True))

    # --- files of the host, by content ---

    def _add_file(self, mount: _Checked, earlier: list[_Checked]) -> None:
        try:
            host = self._read(mount.source)
        except HostFileRefused as refusal:
            self._findings.add(mount.where, f"{mount.source} -> {mount.target}", str(refusal), HOST_BIND_UNSUPPORTED)
            return
        self._embedded_bytes += len(host.content)
        if self._embedded_bytes > EMBEDDED_MAX_BYTES:
            why = f"all files of a container that are carried over by content have {EMBEDDED_MAX_BYTES >> 20} MiB"
            self._findings.add(mount.where, mount.source, why, HOST_BIND_UNSUPPORTED)
            return
        name = f"file-{self._embedded}"
        self._embedded += 1
        source = self._assembly.make_file(name, host.content, host.mode, host.uid, host.gid)
        bound = steps.mount(source, mount.target, "", MS_BIND, in_root=True, make_target=True)
        as_root = self._assembly.user_namespace and not _is_covered(mount, earlier)
        phase = self._assembly.prepare if as_root else self._assembly.inside
        phase += [bound, *_bind_attributes(mount), *_propagations(mount)]


def _tree(mount: _Checked) -> DevTree:
    if mount.is_bind:
        return DevTree.BOUND
    return DevTree.GUEST if mount.fs_type == "devtmpfs" else DevTree.OWN


def _is_filled(mount: _Checked, later: list[_Checked]) -> bool:
    """Whether something is still to be made in it: devices, or mount points."""
    return mount.target == "/dev" or any(is_below(other.target, mount.target) for other in later)


def _is_covered(mount: _Checked, earlier: list[_Checked]) -> bool:
    return any(is_below(mount.target, other.target) for other in earlier)


def _native(mount: _Checked, flags: int) -> pb.Step:
    fs_type = "cgroup2" if mount.fs_type == "cgroup" else mount.fs_type
    source = mount.source or fs_type
    return steps.mount(
        source, mount.target, fs_type, flags, ",".join(mount.options.data), in_root=True, make_target=True
    )


def _remount(mount: _Checked) -> list[pb.Step]:
    if mount.is_bind:
        return [*_bind_attributes(mount), *_propagations(mount)]
    data = ",".join(mount.options.data)
    changed = steps.mount(mount.source, mount.target, mount.fs_type, mount.options.flags, data, in_root=True)
    return [changed, *_recursive_attributes(mount), *_propagations(mount)]


def _bind_attributes(mount: _Checked) -> list[pb.Step]:
    to_set, to_clear = mount.options.bind_attributes()
    own = [steps.attributes(mount.target, to_set, to_clear, in_root=True)] if to_set or to_clear else []
    return [*own, *_recursive_attributes(mount)]


def _cgroups_below(mount: _Checked) -> list[pb.Step]:
    """A bound /sys brings the guest's cgroups along, those of other containers too: to look at, not to change."""
    if mount.fs_type != "sysfs":
        return []
    cgroups = steps.attributes(f"{mount.target}/fs/cgroup", ATTR_RDONLY, 0, recursive=True, in_root=True)
    return [cgroups]


def _recursive_attributes(mount: _Checked) -> list[pb.Step]:
    to_set, to_clear = mount.options.recursive_set, mount.options.recursive_clear
    if not (to_set or to_clear):
        return []
    return [steps.attributes(mount.target, to_set, to_clear, recursive=True, in_root=True)]


def _propagations(mount: _Checked) -> list[pb.Step]:
    return [steps.mount("", mount.target, "", flags, in_root=True) for flags in mount.options.propagation]
