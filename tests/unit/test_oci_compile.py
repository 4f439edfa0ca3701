"""The rest of the compiler: namespaces, process, names, settings, covers, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.base.errors import SandboxdError
from sandboxd.core.oci.compile import PLAN_MAX_BYTES, compile_container, compile_exec
from sandboxd.core.oci.mount_options import MS_PRIVATE, MS_REC, MS_SHARED, MS_SLAVE
from sandboxd.core.oci.spec import parse_process, parse_spec
from tests.support.oci_specs import NAMESPACES, WRITABLE, compiled, config, no_files, spec

MAPS = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def refused(code: str, **changes: Any) -> str:
    with pytest.raises(SandboxdError) as caught:
        compiled(**changes)
    assert caught.value.kind.code == code, caught.value.cause
    assert caught.value.remedy
    return caught.value.cause


# --- namespaces ---


def test_the_machine_is_the_network_namespace() -> None:
    flags = [namespace.clone_flag for namespace in compiled().plan.namespaces]
    assert flags == [0x20000, 0x20000000, 0x8000000, 0x4000000, 0x2000000]
    with_path = [{"type": "mount"}, {"type": "network", "path": "/var/run/netns/cni-1"}]
    assert [each.clone_flag for each in compiled(linux__namespaces=with_path).plan.namespaces] == [0x20000]


def test_clocks_are_shifted_in_a_time_namespace() -> None:
    namespaces = [*NAMESPACES, {"type": "time"}]
    offsets = {"boottime": {"secs": -5, "nanosecs": 7}, "monotonic": {"secs": 100}}
    plan = compiled(linux__namespaces=namespaces, linux__timeOffsets=offsets).plan
    (time,) = (namespace for namespace in plan.namespaces if namespace.clone_flag == 0x80)
    assert time.time_offsets == "boottime -5 7\nmonotonic 100 0\n"


def test_ids_are_mapped_in_a_user_namespace() -> None:
    namespaces = [{"type": "mount"}, {"type": "user"}]
    plan = compiled(linux__namespaces=namespaces, linux__uidMappings=MAPS, linux__gidMappings=MAPS).plan
    assert [(each.container_id, each.host_id, each.size) for each in plan.uid_map] == [(0, 100000, 65536)]
    assert plan.gid_map == plan.uid_map


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"linux__namespaces": [{"type": "mount"}, {"type": "mount"}]}, "linux.namespaces[1].type"),
        ({"linux__uidMappings": MAPS}, "linux.uidMappings"),
        ({"linux__namespaces": [{"type": "mount"}, {"type": "user"}]}, "linux.uidMappings"),
        ({"linux__timeOffsets": {"boottime": {"secs": 1}}}, "linux.timeOffsets"),
        ({"linux__namespaces": [{"type": "mount"}], "hostname": "web"}, "hostname"),
        ({"linux__namespaces": [{"type": "mount"}], "domainname": "example"}, "domainname"),
        (
            {
                "linux__namespaces": [{"type": "mount"}, {"type": "time"}],
                "linux__timeOffsets": {"boottime": {"nanosecs": 10**9}},
            },
            "linux.timeOffsets.boottime.nanosecs",
        ),
        (
            {
                "linux__namespaces": [{"type": "mount"}, {"type": "user"}],
                "linux__uidMappings": [{"containerID": 4294967295, "hostID": 0, "size": 2}],
                "linux__gidMappings": MAPS,
            },
            "linux.uidMappings[0]",
        ),
    ],
)
def test_namespaces_that_make_no_sense(changes: dict[str, Any], path: str) -> None:
    assert f"{path} = " in refused("oci_spec_invalid", **changes)


@pytest.mark.parametrize("namespaces", [[], [{"type": "pid"}], [{"type": "mount", "path": "/proc/1/ns/mnt"}]])
def test_namespaces_of_the_host_cannot_be_had(namespaces: list[dict[str, str]]) -> None:
    assert "linux.namespaces" in refused("oci_spec_unsupported", linux__namespaces=namespaces)


# --- process ---


def test_a_process_with_everything() -> None:
    process = compiled(
        process__user={"uid": 5, "gid": 6, "umask": 0o27, "additionalGids": [7, 8]},
        process__cwd="/srv//app/",
        process__env=["A=1", "B==", "A=2"],
        process__terminal=True,
        process__consoleSize={"height": 50, "width": 132},
        process__noNewPrivileges=True,
        process__oomScoreAdj=-5,
        process__ioPriority={"class": "IOPRIO_CLASS_IDLE"},
        process__rlimits=[{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 18446744073709551615}],
        process__capabilities={"bounding": ["CAP_KILL", "CAP_CHOWN"], "ambient": ["CAP_CHECKPOINT_RESTORE"]},
        process__scheduler={"policy": "SCHED_FIFO", "priority": 7, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        process__apparmorProfile="unconfined",
    ).plan.process
    assert (process.uid, process.gid, process.umask, list(process.additional_gids)) == (5, 6, 0o27, [7, 8])
    assert (process.cwd, list(process.env)) == ("/srv/app", ["B==", "A=2", "HOME=/"])
    assert (process.terminal, process.terminal_width, process.terminal_height) == (True, 132, 50)
    assert process.no_new_privileges and process.oom_score_adj == -5 and process.io_priority == 3 << 13
    assert [(each.resource, each.soft, each.hard) for each in process.rlimits] == [(7, 10, 2**64 - 1)]
    assert (process.capabilities.bounding, process.capabilities.ambient) == (1 << 5 | 1, 1 << 40)
    assert (process.scheduler.policy, process.scheduler.priority, process.scheduler.flags) == (1, 7, 1)


def test_what_is_not_said_is_not_set() -> None:
    process = compiled().plan.process
    assert not process.HasField("umask") and not process.HasField("oom_score_adj")
    assert not process.HasField("io_priority") and not process.HasField("scheduler")
    assert not process.HasField("capabilities"), "no capability at all"
    zero = compiled(process__user={"umask": 0}, process__oomScoreAdj=0).plan.process
    assert zero.HasField("umask") and zero.HasField("oom_score_adj")


def test_the_console_goes_with_the_terminal() -> None:
    assert compiled(process__terminal=True).plan.console
    assert not compiled(process__consoleSize={"height": 1, "width": 1}).plan.process.terminal_width


@pytest.mark.parametrize(("uid", "home"), [(0, "HOME=/root"), (7, "HOME=/")])
def test_home_is_added_where_it_is_missing(uid: int, home: str) -> None:
    assert home in compiled(process__user={"uid": uid}).plan.process.env
    assert "HOME=/x" in compiled(process__user={"uid": uid}, process__env=["HOME=/x"]).plan.process.env


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"process__args": []}, "process.args"),
        ({"process__args": [""]}, "process.args[0]"),
        ({"process__env": ["A=1", "B"]}, "process.env[1]"),
        ({"process__env": ["=1"]}, "process.env[0]"),
        ({"process__cwd": "srv"}, "process.cwd"),
        ({"process__cwd": ""}, "process.cwd"),
        ({"process__rlimits": [{"type": "RLIMIT_LUNCH", "soft": 1, "hard": 1}]}, "process.rlimits[0].type"),
        ({"process__rlimits": [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]}, "process.rlimits[0].soft"),
        ({"process__rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2}, "process.rlimits[1].type"),
        ({"process__scheduler": {"policy": "SCHED_FIFO"}}, "process.scheduler.priority"),
        ({"process__scheduler": {"policy": "SCHED_OTHER", "priority": 1}}, "process.scheduler.priority"),
        ({"process__scheduler": {"policy": "SCHED_OTHER", "flags": ["X"]}}, "process.scheduler.flags[0]"),
        ({"process__execCPUAffinity": {"final": "3-1"}}, "process.execCPUAffinity.final"),
        ({"process__execCPUAffinity": {"initial": "0-99999"}}, "process.execCPUAffinity.initial"),
    ],
)
def test_processes_that_make_no_sense(changes: dict[str, Any], path: str) -> None:
    assert f"{path} = " in refused("oci_spec_invalid", **changes)


def test_an_unknown_capability_is_passed_over_with_a_warning() -> None:
    """config.md: runtimes should not fail on capabilities that cannot be granted."""
    container = compiled(process__capabilities={"bounding": ["CAP_KILL", "CAP_FLY"]})
    assert container.plan.process.capabilities.bounding == 1 << 5
    assert len(container.warnings) == 1 and "CAP_FLY" in container.warnings[0]


def test_exec() -> None:
    base = spec(linux__seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []})
    text = {"args": ["ps"], "cwd": "/", "execCPUAffinity": {"initial": "0", "final": "0-2,5"}, "terminal": True}
    process = compile_exec(parse_process(json.dumps(text).encode()), base)
    assert list(process.cpu_affinity) == [0, 1, 2, 5] and process.seccomp and process.terminal
    assert not compiled(process__execCPUAffinity={"final": "0"}).plan.process.cpu_affinity, "an exec's alone"
    with pytest.raises(SandboxdError, match="process"):
        compile_exec(parse_process(b'{"args":[],"cwd":"/"}'), base)


# --- names, settings, covers ---


def test_names_and_personality() -> None:
    plan = compiled(hostname="web", domainname="example", linux__personality={"domain": "LINUX32"}).plan
    assert (plan.hostname, plan.domainname, plan.personality) == ("web", "example", 8)
    assert compiled(linux__personality={"domain": "LINUX"}).plan.personality == 0


@pytest.mark.parametrize(
    ("word", "flags"),
    [
        ("", MS_PRIVATE | MS_REC),
        ("rslave", MS_SLAVE | MS_REC),
        ("shared", MS_SHARED),
        ("rprivate", MS_PRIVATE | MS_REC),
    ],
)
def test_propagation_of_the_root(word: str, flags: int) -> None:
    plan = compiled(linux__rootfsPropagation=word).plan
    assert plan.root_propagation == flags
    again = [step.mount.flags for step in plan.finish if step.mount.target == "/"]
    assert again == ([flags] if word else [])


def test_propagation_of_nonsense_is_found_once() -> None:
    assert refused("oci_spec_invalid", linux__rootfsPropagation="sideways").count("rootfsPropagation") == 1


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
        ("kernel/shm_rmid_forced", "/proc/sys/kernel/shm_rmid_forced"),
        ("net.ipv4.conf.eth0/100.rp_filter", "/proc/sys/net/ipv4/conf/eth0.100/rp_filter"),
        ("net/ipv4/conf/eth0.100/rp_filter", "/proc/sys/net/ipv4/conf/eth0.100/rp_filter"),
        ("vm.overcommit_memory", "/proc/sys/vm/overcommit_memory"),
    ],
)
def test_sysctls(name: str, path: str) -> None:
    steps = [step for step in compiled(linux__sysctl={name: "1"}).plan.inside if step.HasField("write")]
    assert [(step.write.path, step.write.content, step.in_root) for step in steps] == [(path, b"1", False)]


@pytest.mark.parametrize(
    "name", ["", "a", "../../etc/x", "net..ipv4", "net/../../x", "kernel.a b", "a.b\n", "/a", "a/"]
)
def test_sysctls_that_lead_elsewhere(name: str) -> None:
    assert "linux.sysctl" in refused("oci_spec_invalid", linux__sysctl={name: "1"})


def test_covers_come_last_and_masks_after_read_only() -> None:
    plan = compiled(
        linux__maskedPaths=["/proc/kcore"], linux__readonlyPaths=["/proc/sys"], root={"path": "r", "readonly": True}
    ).plan
    kinds = [step.WhichOneof("kind") for step in plan.finish]
    assert kinds == ["mount_attributes", "read_only", "mask"]
    assert refused("oci_spec_invalid", linux__maskedPaths=["kcore"])


def test_declared_directories_are_made() -> None:
    plan = compiled(annotations={"dev.sandboxd.directories": "/data\n/var/lib/x\n/\nrelative\n/data"}).plan
    made = [step.make_directory.path for step in plan.inside if step.HasField("make_directory")]
    assert made == ["/data", "/var/lib/x"]


# --- what a microVM cannot honour ---


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"process__apparmorProfile": "docker-default"}, "process.apparmorProfile = docker-default"),
        ({"process__selinuxLabel": "system_u:x"}, "process.selinuxLabel"),
        ({"process__scheduler": {"policy": "SCHED_ISO"}}, "process.scheduler.policy"),
        (
            {"process__scheduler": {"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_UTIL_CLAMP_MIN"]}},
            "scheduler.flags[0]",
        ),
        ({"linux__mountLabel": "x"}, "linux.mountLabel"),
        ({"linux__intelRdt": {"closID": "x"}}, "linux.intelRdt"),
        ({"linux__memoryPolicy": {"mode": "MPOL_BIND"}}, "linux.memoryPolicy"),
        ({"linux__netDevices": {"eth1": {}}}, "linux.netDevices"),
        ({"linux__personality": {"domain": "LINUX", "flags": ["X"]}}, "linux.personality.flags"),
        ({"windows": {}}, "windows"),
        ({"vm": {}}, "vm"),
    ],
)
def test_it_is_refused_by_name(changes: dict[str, Any], path: str) -> None:
    assert path in refused("oci_spec_unsupported", **changes)


@pytest.mark.parametrize(
    "name", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
)
def test_no_hook_is_passed_over(name: str) -> None:
    cause = refused("hooks_unsupported", hooks={name: [{"path": "/bin/hook"}]})
    assert f"hooks.{name} = /bin/hook" in cause
    assert compiled(hooks={name: []})


def test_all_findings_come_together() -> None:
    """Of several kinds: the error is the one that the caller can do something about in the text itself."""
    cause = refused(
        "oci_spec_invalid",
        process__args=[],
        hooks={"poststop": [{"path": "/x"}]},
        linux__mountLabel="x",
        mounts=[{"destination": "/a", "type": "bind", "source": "/srv"}],
    )
    for path in ("process.args", "hooks.poststop", "linux.mountLabel", "mounts[0]"):
        assert path in cause
    refused("oci_spec_unsupported", hooks={"poststop": [{"path": "/x"}]}, linux__mountLabel="x")


def test_a_container_needs_process_and_root() -> None:
    text = config()
    del text["process"], text["root"]
    with pytest.raises(SandboxdError) as caught:
        compile_container(
            parse_spec(json.dumps(text).encode()), container_id="web", rootfs=WRITABLE, read_host_file=no_files
        )
    assert "process = (absent)" in caught.value.cause and "root = (absent)" in caught.value.cause


def test_a_plan_fits_one_message() -> None:
    """Below the limit of config.json there may still be too much for one message."""
    args = ["x" * 100_000] * 41
    assert compiled(process__args=args).plan.ByteSize() < PLAN_MAX_BYTES
    assert "bytes of plan" in refused("oci_spec_invalid", process__args=[*args, "x" * 40_000])


@pytest.mark.parametrize("container_id", ["", "../x", "a/b", "a b", "x" * 77])
def test_ids_are_checked(container_id: str) -> None:
    with pytest.raises(SandboxdError):
        compile_container(spec(), container_id=container_id, rootfs=WRITABLE, read_host_file=no_files)


_VALUES = st.sampled_from(
    [
        {"linux__sysctl": {"a.b": "1"}},
        {"linux__maskedPaths": ["/a"]},
        {"linux__readonlyPaths": ["/a", "b"]},
        {"mounts": [{"destination": "/dev", "type": "tmpfs"}]},
        {"mounts": [{"destination": "/x", "type": "bind", "source": "/y"}]},
        {"linux__namespaces": [{"type": "mount"}, {"type": "uts"}]},
        {"linux__namespaces": [{"type": "mount"}, {"type": "user"}], "linux__uidMappings": MAPS},
        {"linux__rootfsPropagation": "rshared"},
        {"process__terminal": True},
        {"hostname": "a"},
        {"linux__resources": {"memory": {"limit": 1}, "devices": [{"allow": True}]}},
        {"linux__devices": [{"type": "p", "path": "/dev/p"}]},
    ]
)


@given(st.lists(_VALUES, max_size=6))
def test_any_combination_is_a_plan_or_a_refusal(changes: list[dict[str, Any]]) -> None:
    merged = {name: value for change in changes for name, value in change.items()}
    try:
        plan = compiled(**merged).plan
    except SandboxdError as error:
        assert error.cause and error.remedy
        return
    steps = [*plan.prepare, *plan.inside, *plan.finish, *plan.cleanup]
    assert all(_path(step).startswith("/") for step in steps)


def _path(step: Any) -> str:
    kind = getattr(step, step.WhichOneof("kind"))
    return str(kind.target if step.HasField("mount") else kind.path)
