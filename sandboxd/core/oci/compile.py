"""An OCI runtime specification to the plan that the guest's agent executes.

Pure: reads nothing but through `read_host_file`. What a microVM cannot honour is refused here, all of it in one error;
nothing is passed over in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sandboxd.api import agent_pb2 as pb
from sandboxd.base.errors import HOOKS_UNSUPPORTED
from sandboxd.base.ids import parse_id
from sandboxd.core.oci import cgroup, devices, namespaces, steps
from sandboxd.core.oci.findings import Findings
from sandboxd.core.oci.hostfile import ReadHostFile, read_host_file
from sandboxd.core.oci.mount_options import ATTR_RDONLY, MS_PRIVATE, MS_REC, parse_propagation
from sandboxd.core.oci.mounts import Mounts
from sandboxd.core.oci.paths import normalise
from sandboxd.core.oci.process import compile_process
from sandboxd.core.oci.rootfs import Rootfs, RootfsMount
from sandboxd.core.oci.seccomp import compile_seccomp
from sandboxd.core.oci.spec import Spec
from sandboxd.core.oci.spec_linux import Linux
from sandboxd.core.oci.spec_process import Process
from sandboxd.core.oci.sysctl import compile_sysctls
from sandboxd.vmm.spec import Drive

PLAN_MAX_BYTES = (4 << 20) - (64 << 10)
"""One ttrpc message of 4 MiB, with room for what is around the plan."""
DIRECTORIES_ANNOTATION = "dev.sandboxd.directories"
"""Directories to make in the root file system where the image has none, separated by newlines: an image's volumes."""

_HOOKS = ("prestart", "create_runtime", "create_container", "start_container", "poststart", "poststop")
_PERSONALITIES = {"LINUX": 0, "LINUX32": 8}

compile_resources = cgroup.compile_resources


@dataclass(frozen=True, slots=True)
class CompiledContainer:
    """What a container takes: a plan for the agent, and the drives that its machine needs besides."""

    plan: pb.Plan
    drives: tuple[Drive, ...]
    warnings: tuple[str, ...]
    """What the specification asks runtimes to pass over with a warning, one sentence each."""


def compile_container(
    spec: Spec,
    *,
    container_id: str,
    rootfs: Sequence[RootfsMount],
    read_host_file: ReadHostFile = read_host_file,
) -> CompiledContainer:
    """Compiles a whole container.

    Raises SandboxdError with every finding: `oci_spec_invalid`, `oci_spec_unsupported`, `host_bind_unsupported`,
    `hooks_unsupported`, `rootfs_unsupported` (the kind of the findings when they agree); `seccomp_profile_invalid`.
    """
    parse_id(container_id)
    findings = Findings("config.json")
    linux = spec.linux or Linux()
    _refuse_foreign(spec, linux, findings)
    assembly = steps.Assembly(container_id, user_namespace=namespaces.has_namespace(linux, "user"))
    root_fs = Rootfs(assembly, container_id, findings)
    read_only = spec.root is not None and spec.root.readonly
    root_fs.add(rootfs, read_only)
    _add_tree(spec, linux, assembly, read_host_file, findings)
    cgroup.add_cgroup(assembly, linux.resources, findings)
    plan = _plan(spec, linux, assembly, findings)
    findings.refuse()
    _check_size(plan, findings)
    return CompiledContainer(plan, tuple(root_fs.drives), tuple(findings.warnings))


def compile_exec(process: Process, spec: Spec) -> pb.Process:
    """One more process in the container of `spec`, under that container's seccomp profile. Raises with all findings."""
    findings = Findings("process")
    compiled = compile_process(process, "process", findings, is_exec=True)
    _add_seccomp(compiled, spec.linux or Linux(), findings)
    findings.refuse()
    return compiled


def _plan(spec: Spec, linux: Linux, assembly: steps.Assembly, findings: Findings) -> pb.Plan:
    resources = linux.resources
    return pb.Plan(
        root=assembly.root,
        root_propagation=_root_propagation(linux, findings),
        namespaces=namespaces.compile_namespaces(linux, findings),
        uid_map=namespaces.compile_id_maps(linux.uid_mappings, "linux.uidMappings", findings),
        gid_map=namespaces.compile_id_maps(linux.gid_mappings, "linux.gidMappings", findings),
        cgroup=assembly.cgroup,
        device_filter=devices.device_filter(resources.devices if resources else None, findings),
        prepare=assembly.prepare,
        inside=assembly.inside,
        finish=assembly.finish,
        hostname=_name(spec.hostname, "hostname", linux, findings),
        domainname=_name(spec.domainname, "domainname", linux, findings),
        process=_first_process(spec, linux, findings),
        cleanup=assembly.cleanup,
        console=spec.process is not None and spec.process.terminal,
        personality=_personality(linux, findings),
    )


def _add_tree(spec: Spec, linux: Linux, assembly: steps.Assembly, read: ReadHostFile, findings: Findings) -> None:
    """All that changes the container's file tree, in the order of runc: mounts, devices, links, settings, covers."""
    own_cgroups = namespaces.has_namespace(linux, "cgroup")
    tree = Mounts(assembly, read, findings, own_cgroup_namespace=own_cgroups).add(spec.mounts or ())
    devices.add_nodes(assembly, tree, linux, findings)
    devices.add_links(assembly, tree)
    _add_directories(spec, assembly)
    assembly.inside += compile_sysctls(linux.sysctl, findings)
    propagation = parse_propagation(linux.rootfs_propagation)
    if propagation:
        assembly.finish.insert(0, steps.mount("", "/", "", propagation))
    if spec.root is not None and spec.root.readonly:
        assembly.finish.append(steps.attributes("/", ATTR_RDONLY, 0))
    _add_covers(linux, assembly, findings)


def _add_directories(spec: Spec, assembly: steps.Assembly) -> None:
    """What an image declares as volumes. (The working directory is made by the agent, when the process enters it.)"""
    wanted = ((spec.annotations or {}).get(DIRECTORIES_ANNOTATION) or "").splitlines()
    for path in dict.fromkeys(normalise(each) for each in wanted):
        if path is not None and path != "/":
            # Optional: on a read-only root the image has it or nobody.
            phase = assembly.prepare if assembly.user_namespace else assembly.inside
            phase.append(steps.directory(path, in_root=True, optional=True))


def _add_covers(linux: Linux, assembly: steps.Assembly, findings: Findings) -> None:
    for name, paths in (("readonlyPaths", linux.readonly_paths), ("maskedPaths", linux.masked_paths)):
        for index, given in enumerate(paths or ()):
            path = normalise(given)
            if path is None:
                findings.invalid(f"linux.{name}[{index}]", given, "a path to cover is absolute")
                continue
            covered = pb.Path(path=path)
            step = pb.Step(mask=covered) if name == "maskedPaths" else pb.Step(read_only=covered)
            assembly.finish.append(step)


def _first_process(spec: Spec, linux: Linux, findings: Findings) -> pb.Process:
    if spec.process is None:
        findings.invalid("process", "(absent)", "a container is started with a process")
        return pb.Process()
    compiled = compile_process(spec.process, "process", findings, is_exec=False)
    _add_seccomp(compiled, linux, findings)
    return compiled


def _add_seccomp(process: pb.Process, linux: Linux, findings: Findings) -> None:
    compiled = compile_seccomp(linux.seccomp, findings)
    process.seccomp = compiled.program
    process.seccomp_flags = compiled.flags


def _root_propagation(linux: Linux, findings: Findings) -> int:
    """As crun: private all the way down unless the specification says otherwise."""
    word = linux.rootfs_propagation
    if not word:
        return MS_PRIVATE | MS_REC
    flags = parse_propagation(word)
    if flags is None:
        findings.invalid(
            "linux.rootfsPropagation", word, "it is one of shared, slave, private and unbindable, or with r before"
        )
    return flags or 0


def _name(name: str, where: str, linux: Linux, findings: Findings) -> str:
    if name and not namespaces.has_namespace(linux, "uts"):
        findings.invalid(where, name, "a name of its own needs a uts namespace of its own")
    return name


def _personality(linux: Linux, findings: Findings) -> int:
    if linux.personality is None:
        return 0
    if linux.personality.flags:
        findings.unsupported("linux.personality.flags", linux.personality.flags, "the specification defines none")
    return _PERSONALITIES[linux.personality.domain]


def _refuse_foreign(spec: Spec, linux: Linux, findings: Findings) -> None:
    """What has no meaning in a guest, or none yet."""
    if spec.root is None:
        findings.invalid("root", "(absent)", "a Linux container has a root file system")
    for name in ("solaris", "windows", "vm", "zos"):
        if getattr(spec, name) is not None:
            findings.unsupported(name, "(given)", "this is a Linux container in a machine that sandboxd makes")
    for name in _HOOKS:
        hooks = getattr(spec.hooks, name, None) or ()
        if hooks:
            words = name.split("_")
            path = "hooks." + words[0] + "".join(word.title() for word in words[1:])
            why = "its program lies on the host and would find no process of the container there"
            findings.add(path, hooks[0].path, why, HOOKS_UNSUPPORTED)
    if linux.mount_label:
        findings.unsupported("linux.mountLabel", linux.mount_label, "the guest runs no SELinux policy")
    if linux.intel_rdt is not None:
        findings.unsupported("linux.intelRdt", "(given)", "cache and bandwidth classes belong to the host's CPUs")
    if linux.memory_policy:
        findings.unsupported("linux.memoryPolicy", "(given)", "the host's memory nodes are not the guest's")
    if linux.net_devices:
        findings.unsupported(
            "linux.netDevices", sorted(linux.net_devices), "a device of the host cannot move into a guest"
        )


def _check_size(plan: pb.Plan, findings: Findings) -> None:
    size = plan.ByteSize()
    if size > PLAN_MAX_BYTES:
        findings.invalid(
            "(whole)", f"{size} bytes of plan", f"at most {PLAN_MAX_BYTES} bytes go to the guest in one piece"
        )
        findings.refuse()
