"""From image and options to config.json: what docker does."""

from __future__ import annotations

import json
import platform
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.base.errors import SandboxdError
from sandboxd.core.oci.accounts import group_ids, resolve_account
from sandboxd.core.oci.capabilities import NAMES
from sandboxd.core.oci.compile import compile_container, compile_exec
from sandboxd.core.oci.generate import (
    ContainerOptions,
    ExecOptions,
    ImageRuntimeConfig,
    container_config,
    effective_command,
    exec_process,
)
from sandboxd.core.oci.option_words import DEFAULT_CAPABILITIES, capability_set, parse_ulimit, tmpfs_mount
from sandboxd.core.oci.spec import parse_process, parse_spec
from tests.support.oci_specs import WRITABLE, no_files

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
# a comment
broken line
web:x:101:102:Web:/srv/web:/bin/sh
nohome:x:103:103
over:x:99999999999:1::/:/bin/sh
1234:x:77:78::/named-like-a-number:
"""
GROUP = b"""root:x:0:
web:x:102:
log:x:20:web,nohome
adm:x:21:root,other
disk:x:22:web
bad:x:none:web
"""
IMAGE = ImageRuntimeConfig(
    entrypoint=("/entry",),
    cmd=("serve", "-v"),
    env=("PATH=/image/bin", "LANG=C"),
    working_dir="/srv",
    user="web",
    stop_signal="SIGQUIT",
    volumes=("/data", "/var/lib/x/"),
    labels={"org.example": "yes"},
    passwd=PASSWD,
    group=GROUP,
)
_KEYS = st.sampled_from(
    ["defaultAction", "archMap", "syscalls", "names", "name", "action", "includes", "excludes", "caps", "architecture"]
)
BARE = ImageRuntimeConfig(cmd=("sh",))


def process_of(image: ImageRuntimeConfig = BARE, **options: Any) -> dict[str, Any]:
    process: dict[str, Any] = container_config(image, ContainerOptions(**options))["process"]
    return process


def environment(image: ImageRuntimeConfig = BARE, **options: Any) -> dict[str, str]:
    pairs = [entry.partition("=") for entry in process_of(image, **options)["env"]]
    assert len(pairs) == len({name for name, _, _ in pairs})
    return {name: value for name, _, value in pairs}


# --- command ---


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ({}, ["/entry", "serve", "-v"]),
        ({"command": ("x",)}, ["/entry", "x"]),
        ({"entrypoint": ("/other",)}, ["/other"]),
        ({"entrypoint": ("/other",), "command": ("x", "y")}, ["/other", "x", "y"]),
        ({"entrypoint": (), "command": ("sh", "-c", "true")}, ["sh", "-c", "true"]),
    ],
)
def test_command(options: dict[str, Any], command: list[str]) -> None:
    assert effective_command(IMAGE, ContainerOptions(**options)) == command
    assert process_of(IMAGE, **options)["args"] == command


@pytest.mark.parametrize(
    ("image", "options"),
    [(ImageRuntimeConfig(), {}), (IMAGE, {"entrypoint": ()}), (ImageRuntimeConfig(cmd=("",)), {})],
)
def test_nothing_to_run(image: ImageRuntimeConfig, options: dict[str, Any]) -> None:
    with pytest.raises(SandboxdError) as caught:
        container_config(image, ContainerOptions(**options))
    assert caught.value.kind.code == "no_command"


# --- environment and directory ---


def test_environment_of_a_bare_image() -> None:
    assert environment() == {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    assert environment(terminal=True, hostname="h")["TERM"] == "xterm"
    assert environment(hostname="h")["HOSTNAME"] == "h"


def test_the_callers_environment_wins() -> None:
    got = environment(IMAGE, env=("LANG=de", "A=b=c", "PATH", "HOME=/x"))
    assert got == {"HOME": "/x", "LANG": "de", "A": "b=c"}
    assert environment(IMAGE)["PATH"] == "/image/bin" and environment(IMAGE)["HOME"] == "/srv/web"


@pytest.mark.parametrize("options", [{"env": ("=x",)}, {"working_dir": "relative"}])
def test_nonsense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SandboxdError) as caught:
        container_config(BARE, ContainerOptions(**options))
    assert caught.value.kind.code == "invalid_argument"


def test_working_directory() -> None:
    assert process_of()["cwd"] == "/"
    assert process_of(IMAGE)["cwd"] == "/srv"
    assert process_of(IMAGE, working_dir="/a/../b/")["cwd"] == "/b"


# --- users ---


@pytest.mark.parametrize(
    ("user", "ids"),
    [
        ("", (0, 0, (0, 21), "/root")),
        ("root", (0, 0, (0, 21), "/root")),
        ("web", (101, 102, (102, 20, 22), "/srv/web")),
        ("web:log", (101, 20, (20,), "/srv/web")),
        ("web:999", (101, 999, (999,), "/srv/web")),
        ("101", (101, 102, (102, 20, 22), "/srv/web")),
        ("1000", (1000, 0, (0,), "/")),
        ("1000:1000", (1000, 1000, (1000,), "/")),
        ("1234", (77, 78, (78,), "/named-like-a-number")),
        ("nohome", (103, 103, (103, 20), "/")),
        (":log", (0, 20, (20,), "/root")),
        ("web:", (101, 102, (102, 20, 22), "/srv/web")),
        ("2147483647", (2147483647, 0, (0,), "/")),
    ],
)
def test_users(user: str, ids: tuple[int, int, tuple[int, ...], str]) -> None:
    account = resolve_account(user, PASSWD, GROUP)
    assert (account.uid, account.gid, account.additional_gids, account.home) == ids


@pytest.mark.parametrize("user", ["nobody", "web:staff", "-1", "2147483648", "over", "٣", "web:-1", "1" * 100])
def test_users_that_the_image_has_not(user: str) -> None:
    with pytest.raises(SandboxdError) as caught:
        resolve_account(user, PASSWD, GROUP)
    assert caught.value.kind.code == "unknown_user" and "-u 1000:1000" in caught.value.remedy


def test_an_image_without_files() -> None:
    assert resolve_account("5:6", b"", b"").uid == 5
    assert resolve_account("0", b"", b"").home == "/root"
    with pytest.raises(SandboxdError):
        resolve_account("root", b"", b"")


def test_more_groups() -> None:
    assert group_ids(("log", "5"), GROUP) == (20, 5)
    assert process_of(IMAGE, group_add=("adm", "log"))["user"]["additionalGids"] == [102, 20, 22, 21]


@given(st.binary(max_size=200), st.binary(max_size=200), st.text(max_size=12))
def test_whatever_files_an_image_has(passwd: bytes, group: bytes, user: str) -> None:
    try:
        account = resolve_account(user, passwd, group)
    except SandboxdError as error:
        assert error.kind.code == "unknown_user"
    else:
        assert 0 <= account.uid < 1 << 31 and account.gid == account.additional_gids[0]


# --- rights ---


@pytest.mark.parametrize(
    ("added", "dropped", "expected"),
    [
        ((), (), set(DEFAULT_CAPABILITIES)),
        (
            ("net_admin", "CAP_SYS_TIME"),
            ("mknod",),
            {*DEFAULT_CAPABILITIES, "CAP_NET_ADMIN", "CAP_SYS_TIME"} - {"CAP_MKNOD"},
        ),
        ((), ("ALL",), set()),
        (("kill",), ("all",), {"CAP_KILL"}),
        (("ALL",), ("SYS_ADMIN",), set(NAMES) - {"CAP_SYS_ADMIN"}),
        (("chown",), ("chown",), set(DEFAULT_CAPABILITIES) - {"CAP_CHOWN"}),
    ],
)
def test_capabilities(added: tuple[str, ...], dropped: tuple[str, ...], expected: set[str]) -> None:
    assert capability_set(added, dropped, privileged=False) == expected


def test_a_user_other_than_root_has_the_bounding_set_alone() -> None:
    assert process_of()["capabilities"]["effective"] == process_of()["capabilities"]["bounding"]
    capabilities = process_of(IMAGE)["capabilities"]
    assert len(capabilities["bounding"]) == 14
    assert capabilities["effective"] == capabilities["permitted"] == capabilities["ambient"] == []


@pytest.mark.parametrize(
    "options",
    [
        {"cap_add": ("FLY",)},
        {"cap_drop": ("CAP_",)},
        {"ulimits": ("nofile",)},
        {"ulimits": ("nofile=2:1",)},
        {"ulimits": ("lunch=1",)},
        {"tmpfs": ("run",)},
        {"tmpfs": ("/",)},
        {"tmpfs": ("/run:size=big",)},
        {"tmpfs": ("/run:lowerdir=/x",)},
    ],
)
def test_words_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(SandboxdError) as caught:
        container_config(BARE, ContainerOptions(**options))
    assert caught.value.kind.code == "invalid_argument"


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "x" * (1 << 21), "[" * 100_000])
def test_a_seccomp_profile_that_is_none(text: str) -> None:
    with pytest.raises(SandboxdError) as caught:
        container_config(BARE, ContainerOptions(seccomp=text))
    assert caught.value.kind.code == "seccomp_profile_invalid"


def test_ulimits() -> None:
    assert parse_ulimit("core=-1") == {"type": "RLIMIT_CORE", "soft": 2**64 - 1, "hard": 2**64 - 1}
    assert parse_ulimit("nofile=5:unlimited")["hard"] == 2**64 - 1
    limits = process_of(ulimits=("nofile=10:20", "nproc=7"))["rlimits"]
    assert {limit["type"]: limit["soft"] for limit in limits} == {"RLIMIT_NOFILE": 10, "RLIMIT_NPROC": 7}


def test_seccomp() -> None:
    def profile(**options: Any) -> Any:
        return container_config(BARE, ContainerOptions(**options))["linux"].get("seccomp")

    assert profile()["defaultAction"] == "SCMP_ACT_ALLOW"
    assert profile(seccomp="unconfined") is None and profile(privileged=True) is None
    own = {"defaultAction": "SCMP_ACT_LOG"}
    assert profile(seccomp=json.dumps(own)) == own == profile(seccomp=json.dumps(own), privileged=True)


def test_privileged() -> None:
    config = container_config(BARE, ContainerOptions(privileged=True))
    assert config["process"]["capabilities"]["effective"] == list(NAMES)
    assert "maskedPaths" not in config["linux"]
    options = {mount["destination"]: mount["options"] for mount in config["mounts"]}
    assert "ro" not in options["/sys"] + options["/sys/fs/cgroup"]
    plan = compile_container(
        parse_spec(json.dumps(config).encode()), container_id="p", rootfs=WRITABLE, read_host_file=no_files
    ).plan
    assert plan.device_filter == b"" and plan.process.seccomp == b""


DOCKERS = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 1,
    "archMap": [
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
    ],
    "syscalls": [
        {"names": ["read", "openat2"], "action": "SCMP_ACT_ALLOW", "args": None, "comment": "", "includes": {}},
        {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}, "excludes": {}},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390"]}},
        {"names": ["arm_fadvise64_64"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm", "arm64"]}},
        {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "4.8"}},
        {"name": "write", "action": "SCMP_ACT_ALLOW"},
    ],
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the table is that of x86_64")
@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["read", "openat2", "clone", "arch_prctl", "ptrace", "write"]),
        ({"cap_add": ("SYS_ADMIN",)}, ["read", "openat2", "mount", "arch_prctl", "ptrace", "write"]),
    ],
)
def test_dockers_profiles_are_decided_for_the_container(options: dict[str, Any], names: list[str]) -> None:
    config = container_config(BARE, ContainerOptions(seccomp=json.dumps(DOCKERS), **options))
    profile = config["linux"]["seccomp"]
    assert [name for rule in profile["syscalls"] for name in rule["names"]] == names
    assert profile["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    assert not any(key in rule for rule in profile["syscalls"] for key in ("includes", "excludes", "comment", "name"))


@pytest.mark.parametrize(
    ("profile", "code"),
    [
        ({}, "oci_spec_invalid"),
        ({"defaultAction": "SCMP_ACT_SING"}, "oci_spec_unsupported"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [7]}, "oci_spec_invalid"),
        (
            {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "includes": 7}]},
            "seccomp_profile_invalid",
        ),
        (
            {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "includes": {"caps": "ALL"}}]},
            "seccomp_profile_invalid",
        ),
    ],
)
def test_a_profile_is_refused_before_anything_is_made(profile: dict[str, Any], code: str) -> None:
    with pytest.raises(SandboxdError) as caught:
        container_config(BARE, ContainerOptions(seccomp=json.dumps(profile)))
    assert caught.value.kind.code == code


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda x: st.lists(x) | st.dictionaries(_KEYS, x)))
def test_whatever_profile_is_one_or_refused(profile: Any) -> None:
    try:
        container_config(BARE, ContainerOptions(seccomp=json.dumps(profile) or "{}"))
    except SandboxdError as error:
        assert error.cause


# --- the rest ---


def test_mounts_are_dockers() -> None:
    mounts = {mount["destination"]: mount for mount in container_config(BARE, ContainerOptions())["mounts"]}
    assert set(mounts) == {"/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm"}
    assert "size=67108864" in mounts["/dev/shm"]["options"] and "ro" in mounts["/sys"]["options"]


def test_tmpfs() -> None:
    assert tmpfs_mount("/run")["options"] == ["nosuid", "nodev", "noexec"]
    assert tmpfs_mount("/run:exec,size=1g,mode=1777")["options"] == ["nosuid", "nodev", "exec", "size=1g", "mode=1777"]
    config = container_config(BARE, ContainerOptions(tmpfs=("/dev/shm:size=1m", "/a/b/c", "/a")))
    places = [mount["destination"] for mount in config["mounts"]]
    assert places.count("/dev/shm") == 1 and places.index("/a") < places.index("/a/b/c")


def test_limits_names_and_annotations() -> None:
    options = ContainerOptions(
        pids_limit=9,
        memory_bytes=1 << 20,
        cpus_milli=1500,
        sysctls={"net.ipv4.ip_forward": "1"},
        read_only=True,
        hostname="h",
        no_new_privileges=True,
        oom_score_adj=5,
        stop_signal="SIGINT",
        labels={"a": "b"},
        terminal=True,
        terminal_width=80,
        terminal_height=24,
    )
    config = container_config(IMAGE, options)
    resources = config["linux"]["resources"]
    assert (resources["pids"], resources["memory"]) == ({"limit": 9}, {"limit": 1 << 20})
    assert resources["cpu"] == {"quota": 150000, "period": 100000}
    assert (config["hostname"], config["root"]["readonly"]) == ("h", True)
    assert config["process"]["consoleSize"] == {"width": 80, "height": 24}
    assert config["process"]["noNewPrivileges"] and config["process"]["oomScoreAdj"] == 5
    assert config["annotations"] == {
        "org.example": "yes",
        "a": "b",
        "org.opencontainers.image.stopSignal": "SIGINT",
        "dev.sandboxd.directories": "/data\n/var/lib/x",
    }


def test_what_is_made_passes_its_own_door_and_compiles() -> None:
    text = json.dumps(container_config(IMAGE, ContainerOptions(hostname="h", terminal=True))).encode()
    container = compile_container(parse_spec(text), container_id="c", rootfs=WRITABLE, read_host_file=no_files)
    assert container.warnings == ()
    assert container.plan.process.uid == 101 and container.plan.process.seccomp and container.plan.device_filter


# --- exec ---

BASE = container_config(IMAGE, ContainerOptions(hostname="h", terminal=True, terminal_width=80, terminal_height=24))


def exec_of(**options: Any) -> dict[str, Any]:
    return exec_process(BASE, ExecOptions(**{"command": ("id",), "passwd": PASSWD, "group": GROUP, **options}))


def test_exec_is_like_the_container_but_for_what_is_said() -> None:
    process = exec_of()
    assert process["args"] == ["id"] and not process["terminal"] and "consoleSize" not in process
    for name in ("user", "cwd", "capabilities", "rlimits"):
        assert process[name] == BASE["process"][name]
    assert BASE["process"]["args"] == ["/entry", "serve", "-v"], "the base is not changed"


def test_exec_as_somebody_else() -> None:
    process = exec_of(user="root", env=("A=1",), working_dir="/tmp", terminal=True, terminal_width=9, terminal_height=8)
    assert process["user"]["uid"] == 0 and "HOME=/root" in process["env"] and "A=1" in process["env"]
    assert process["capabilities"]["effective"] == process["capabilities"]["bounding"] != []
    assert (process["cwd"], process["consoleSize"]) == ("/tmp", {"width": 9, "height": 8})
    assert exec_of(privileged=True, user="0")["capabilities"]["effective"] == list(NAMES)
    with pytest.raises(SandboxdError, match="nobody"):
        exec_of(user="nobody")
    with pytest.raises(SandboxdError):
        exec_of(command=())


def test_exec_compiles() -> None:
    text = json.dumps(exec_of(user="1000")).encode()
    process = compile_exec(parse_process(text), parse_spec(json.dumps(BASE).encode()))
    assert process.uid == 1000 and process.seccomp
