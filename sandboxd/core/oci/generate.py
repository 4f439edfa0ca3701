"""From an image's configuration and a caller's options to config.json: what docker does between the two.

The result is JSON-able and goes through the same door as anyone's config.json (`parse_spec`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sandboxd.base.errors import INVALID_ARGUMENT, NO_COMMAND, SandboxdError
from sandboxd.core.oci.accounts import Account, group_ids, resolve_account
from sandboxd.core.oci.compile import DIRECTORIES_ANNOTATION
from sandboxd.core.oci.default_seccomp import default_profile
from sandboxd.core.oci.option_words import capability_set, in_order, parse_ulimit, tmpfs_mount
from sandboxd.core.oci.own_seccomp import own_profile
from sandboxd.core.oci.paths import normalise

OCI_VERSION = "1.0.2"
STOP_SIGNAL_ANNOTATION = "org.opencontainers.image.stopSignal"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHM_SIZE_BYTES = 64 << 20
_SHM = "/dev/shm"  # noqa: S108 - the container's
_EMPTY: Mapping[str, str] = MappingProxyType({})
_CPU_PERIOD_US = 100_000
_OPEN_FILES = {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 524288}
"""systemd's default for services, and so docker 29's for containers; the kernel's own 4096 is too small."""

_MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap"),
    "/sys/firmware",
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup")


@dataclass(frozen=True, slots=True)
class ImageRuntimeConfig:
    """What an image says about running it, and the texts of its /etc/passwd and /etc/group."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    passwd: bytes = b""
    group: bytes = b""


@dataclass(frozen=True, slots=True)
class ContainerOptions:
    """What a caller says about one container. Nothing set means docker's default."""

    command: tuple[str, ...] = ()
    """Empty: the image's Cmd, unless `entrypoint` is given."""
    entrypoint: tuple[str, ...] | None = None
    """None: the image's. Given, even empty: this one, and the image's Cmd is forgotten."""
    env: tuple[str, ...] = ()
    """KEY=VALUE; KEY alone takes the image's variable away."""
    working_dir: str = ""
    user: str = ""
    """name|uid[:group|gid]; empty: the image's."""
    group_add: tuple[str, ...] = ()
    hostname: str = ""
    terminal: bool = False
    terminal_width: int = 0
    terminal_height: int = 0
    read_only: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    """Everything of the guest: it has no meaning for the host."""
    tmpfs: tuple[str, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    ulimits: tuple[str, ...] = ()
    seccomp: str = ""
    """Empty: the default profile; "unconfined"; or a profile's JSON text, in docker's format or the specification's."""
    no_new_privileges: bool = False
    stop_signal: str = ""
    pids_limit: int = 0
    """0: unlimited."""
    memory_bytes: int = 0
    """Of the container's cgroup in the guest; 0: what the machine has."""
    cpus_milli: int = 0
    """Quota in thousandths of a CPU; 0: what the machine has."""
    oom_score_adj: int | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    """Go into the annotations with the image's."""


@dataclass(frozen=True, slots=True)
class ExecOptions:
    """What a caller says about one more process in a running container."""

    command: tuple[str, ...]
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    """Empty: the container's own user."""
    terminal: bool = False
    terminal_width: int = 0
    terminal_height: int = 0
    privileged: bool = False
    passwd: bytes = b""
    """Texts of the container's /etc/passwd and /etc/group."""
    group: bytes = b""


def container_config(image: ImageRuntimeConfig, options: ContainerOptions) -> dict[str, Any]:
    """A config.json.

    Raises `no_command`, `unknown_user`, `invalid_argument`, `seccomp_profile_invalid`, or `oci_spec_invalid` and
    `oci_spec_unsupported` for a seccomp profile of the caller's.
    """
    account = resolve_account(options.user or image.user, image.passwd, image.group)
    capabilities = capability_set(options.cap_add, options.cap_drop, privileged=options.privileged)
    config: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": _process(image, options, account, capabilities),
        "root": {"path": "rootfs", "readonly": options.read_only},
        "mounts": _mounts(options),
        "linux": _linux(options, capabilities),
        "annotations": _annotations(image, options),
    }
    if options.hostname:
        config["hostname"] = options.hostname
    return config


def exec_process(base_spec: Mapping[str, Any], options: ExecOptions) -> dict[str, Any]:
    """A process for the container of `base_spec` (a config.json as made above): its environment, directory and rights.

    Raises `no_command`, `unknown_user`, `invalid_argument`.
    """
    if not options.command:
        raise SandboxdError(NO_COMMAND)
    process: dict[str, Any] = json.loads(json.dumps(base_spec["process"]))
    process |= {"args": list(options.command), "terminal": options.terminal}
    process.pop("consoleSize", None)
    if options.user:
        account = resolve_account(options.user, options.passwd, options.group)
        process["user"] = _user(account, ())
        process["env"] = _merged(process.get("env", []), [f"HOME={account.home}"])
    if options.privileged or options.user:
        bounding = frozenset(process["capabilities"]["bounding"])
        capabilities = capability_set((), (), privileged=True) if options.privileged else bounding
        process["capabilities"] = _capabilities(capabilities, process["user"]["uid"])
    terminal = ["TERM=xterm"] if options.terminal else []
    process["env"] = _merged([*terminal, *process.get("env", [])], options.env)
    if options.working_dir:
        process["cwd"] = _directory(options.working_dir)
    _add_console(process, options.terminal_width, options.terminal_height)
    return process


# --- process ---------------------------------------------------------------------------------------------------------


def effective_command(image: ImageRuntimeConfig, options: ContainerOptions) -> list[str]:
    """The container's argv. Raises `no_command`."""
    if options.entrypoint is None:
        command = [*image.entrypoint, *(options.command or image.cmd)]
    else:
        command = [*options.entrypoint, *options.command]
    if not command or not command[0]:
        raise SandboxdError(NO_COMMAND)
    return command


def _process(
    image: ImageRuntimeConfig, options: ContainerOptions, account: Account, capabilities: frozenset[str]
) -> dict[str, Any]:
    process: dict[str, Any] = {
        "terminal": options.terminal,
        "user": _user(account, group_ids(options.group_add, image.group)),
        "args": effective_command(image, options),
        "env": _environment(image, options, account),
        "cwd": _directory(options.working_dir or image.working_dir or "/"),
        "capabilities": _capabilities(capabilities, account.uid),
        "rlimits": _rlimits(options),
        "noNewPrivileges": options.no_new_privileges,
    }
    if options.oom_score_adj is not None:
        process["oomScoreAdj"] = options.oom_score_adj
    _add_console(process, options.terminal_width, options.terminal_height)
    return process


def _add_console(process: dict[str, Any], width: int, height: int) -> None:
    if process["terminal"] and width and height:
        process["consoleSize"] = {"width": width, "height": height}


def _user(account: Account, more_groups: tuple[int, ...]) -> dict[str, Any]:
    groups = list(dict.fromkeys((*account.additional_gids, *more_groups)))
    return {"uid": account.uid, "gid": account.gid, "additionalGids": groups}


def _capabilities(capabilities: frozenset[str], uid: int) -> dict[str, Any]:
    """For another user than root the bounding set alone: programs may bring file capabilities, the process has none."""
    held = in_order(capabilities)
    own = held if uid == 0 else []
    return {"bounding": held, "effective": own, "permitted": own, "inheritable": [], "ambient": []}


def _environment(image: ImageRuntimeConfig, options: ContainerOptions, account: Account) -> list[str]:
    base = [f"PATH={DEFAULT_PATH}", f"HOME={account.home}"]
    if options.hostname:
        base.append(f"HOSTNAME={options.hostname}")
    if options.terminal:
        base.append("TERM=xterm")
    return _merged(_merged(base, image.env), options.env)


def _merged(base: list[str], changes: tuple[str, ...] | list[str]) -> list[str]:
    """The last value of a name wins, at the first one's place; a name without "=" is taken away."""
    variables: dict[str, str] = {}
    for entry in base:
        name, _, value = entry.partition("=")
        variables[name] = value
    for entry in changes:
        name, separator, value = entry.partition("=")
        if not name:
            raise _refusal("env", entry, "An environment variable reads NAME=VALUE.")
        if separator:
            variables[name] = value
        else:
            variables.pop(name, None)
    return [f"{name}={value}" for name, value in variables.items()]


def _directory(path: str) -> str:
    clean = normalise(path)
    if clean is None:
        raise _refusal("workdir", path, "The working directory is an absolute path of the container.")
    return clean


def _rlimits(options: ContainerOptions) -> list[dict[str, Any]]:
    limits = [_OPEN_FILES, *(parse_ulimit(text) for text in options.ulimits)]
    return list({limit["type"]: limit for limit in limits}.values())


# --- the rest --------------------------------------------------------------------------------------------------------


def _mounts(options: ContainerOptions) -> list[dict[str, Any]]:
    """docker's, and --tmpfs. A tmpfs on a default mount's place replaces it; parents come before what lies in them."""
    plain, shared = ["nosuid", "noexec", "nodev"], "size=65536k"
    read_only = [] if options.privileged else ["ro"]
    dev = (
        _mount("/dev", "devtmpfs", ["nosuid", "noexec"])
        if options.privileged
        else _mount("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", shared])
    )
    mounts = [
        _mount("/proc", "proc", plain),
        dev,
        _mount("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        _mount("/sys", "sysfs", [*plain, *read_only]),
        _mount("/sys/fs/cgroup", "cgroup", [*plain, *read_only]),
        _mount("/dev/mqueue", "mqueue", plain),
        _mount(_SHM, "tmpfs", [*plain, "mode=1777", f"size={SHM_SIZE_BYTES}"]),
    ]
    by_place = {mount["destination"]: mount for mount in mounts}
    by_place |= {mount["destination"]: mount for mount in map(tmpfs_mount, options.tmpfs)}
    return sorted(by_place.values(), key=lambda mount: mount["destination"].count("/"))


def _mount(destination: str, fs_type: str, words: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": fs_type, "source": fs_type, "options": words}


def _linux(options: ContainerOptions, capabilities: frozenset[str]) -> dict[str, Any]:
    linux: dict[str, Any] = {
        "namespaces": [{"type": name} for name in _NAMESPACES],
        "resources": _resources(options),
        "sysctl": dict(options.sysctls),
    }
    if not options.privileged:
        linux |= {"maskedPaths": list(_MASKED), "readonlyPaths": list(_READ_ONLY)}
    profile = _seccomp(options, capabilities)
    if profile is not None:
        linux["seccomp"] = profile
    return linux


def _resources(options: ContainerOptions) -> dict[str, Any]:
    resources: dict[str, Any] = {"devices": [{"allow": options.privileged, "access": "rwm"}]}
    if options.pids_limit:
        resources["pids"] = {"limit": options.pids_limit}
    if options.memory_bytes:
        resources["memory"] = {"limit": options.memory_bytes}
    if options.cpus_milli:
        resources["cpu"] = {"quota": options.cpus_milli * _CPU_PERIOD_US // 1000, "period": _CPU_PERIOD_US}
    return resources


def _seccomp(options: ContainerOptions, capabilities: frozenset[str]) -> Any:
    if options.seccomp == "unconfined" or (options.privileged and not options.seccomp):
        return None
    if not options.seccomp:
        return default_profile(capabilities)
    return own_profile(options.seccomp, capabilities)


def _annotations(image: ImageRuntimeConfig, options: ContainerOptions) -> dict[str, str]:
    annotations = {**image.labels, **options.labels}
    stop_signal = options.stop_signal or image.stop_signal
    if stop_signal:
        annotations[STOP_SIGNAL_ANNOTATION] = stop_signal
    volumes = [path for path in map(normalise, image.volumes) if path is not None and "\n" not in path]
    if volumes:
        annotations[DIRECTORIES_ANNOTATION] = "\n".join(volumes)
    return annotations


def _refusal(what: str, value: str, reason: str) -> SandboxdError:
    return SandboxdError(INVALID_ARGUMENT, what=what, value=value[:80], reason=reason, command="run")
