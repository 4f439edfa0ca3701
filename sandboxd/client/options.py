"""What a sandbox can be asked to be: one vocabulary for `run` and `create`, in the SDK and on the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from sandboxd.api import sandboxd_pb2 as pb
from sandboxd.base.errors import INVALID_ARGUMENT, SandboxdError
from sandboxd.base.ids import parse_name
from sandboxd.base.units import parse_size

CPUS_MAX = 64
TIMEOUT_MAX_S = 1e9
COMMAND_MAX_BYTES = 1 << 20
"""Of all arguments together; Linux itself allows 2 MiB for arguments and environment."""


class RunOptions(TypedDict, total=False):
    """All optional. Sizes as text: "512M", "1.5G", bare = MiB."""

    name: str
    entrypoint: str
    """Empty means none: the command alone is executed."""
    env: Mapping[str, str] | Sequence[str]
    """A mapping, or "KEY=VALUE" items."""
    workdir: str
    user: str
    """name|uid[:group|gid]"""
    hostname: str
    labels: Mapping[str, str]
    memory: str
    cpus: float
    """Quota; the machine gets as many vCPUs as that needs."""
    disk: str
    network: Literal["default", "none"]
    ports: Sequence[str]
    """[BIND:]HOST:GUEST[/tcp|udp], or GUEST alone: the daemon chooses the host's port."""
    read_only: bool
    terminal: bool
    terminal_size: tuple[int, int]
    """(columns, rows)"""
    stdin: bool
    """Keep standard input open."""
    remove: bool
    """Remove it as soon as it has ended."""
    timeout_s: float
    pull: Literal["missing", "always", "never"]
    platform: str
    vmm: Literal["auto", "qemu", "kvm"]
    kernel: str
    cap_add: Sequence[str]
    cap_drop: Sequence[str]
    privileged: bool
    tmpfs: Sequence[str]
    sysctls: Mapping[str, str]
    ulimits: Sequence[str]
    seccomp: str
    """Empty is the default profile, "unconfined", or a profile's JSON text."""
    no_new_privileges: bool
    stop_signal: str
    replace: bool
    pids_limit: int


def build_config(image: str, command: Sequence[str], options: RunOptions) -> pb.SandboxConfig:
    """The API's message. Errors: invalid_argument, before anything is sent."""
    if not image:
        raise refusal("image", image, "an image has a name, like busybox or registry/name:tag")
    config = pb.SandboxConfig(image=image, command=checked_command(command))
    _identity(config, options)
    _size(config, options)
    _network(config, options)
    _process(config, options)
    _security(config, options)
    config.remove = options.get("remove", False)
    config.replace = options.get("replace", False)
    config.pull = options.get("pull", "missing")
    config.platform = options.get("platform", "")
    config.vmm = options.get("vmm", "auto")
    config.kernel = options.get("kernel", "")
    config.timeout_s = options.get("timeout_s", 0.0)
    if not 0 <= config.timeout_s < TIMEOUT_MAX_S:
        raise refusal("--timeout", f"{config.timeout_s:g}", "it is a duration like 30s, 5m or 1h30m")
    return config


def _identity(config: pb.SandboxConfig, options: RunOptions) -> None:
    if options.get("name"):
        config.name = parse_name(options["name"])
    config.hostname = options.get("hostname", "")
    config.labels.update(options.get("labels", {}))


def _size(config: pb.SandboxConfig, options: RunOptions) -> None:
    if options.get("memory"):
        config.memory_bytes = parse_size(options["memory"], "--memory")
    if options.get("disk"):
        config.disk_bytes = parse_size(options["disk"], "--disk")
    if "cpus" in options:
        cpus = options["cpus"]
        if not 0.001 <= cpus <= CPUS_MAX:
            raise refusal("--cpus", f"{cpus:g}", f"it is a number above 0 and at most {CPUS_MAX}")
        config.vcpus = math.ceil(cpus)
        config.cpus_milli = round(cpus * 1000)
    pids = options.get("pids_limit", 0)
    config.pids_limit = max(0, pids)  # docker's -1 is "no limit", as 0 is


def _network(config: pb.SandboxConfig, options: RunOptions) -> None:
    network = options.get("network", "default")
    if network not in ("default", "none"):
        raise refusal("--network", network, "there are two networks: default and none")
    config.network = network
    if options.get("ports"):
        _ports(config, options["ports"])
    if config.ports and network == "none":
        raise refusal("--publish", options["ports"][0], "a sandbox with --network none has no ports to publish")


def _ports(config: pb.SandboxConfig, specs: Sequence[str]) -> None:
    from sandboxd.base.ports import parse_port_spec

    for spec in specs:
        for mapping in parse_port_spec(spec):
            config.ports.add(
                bind=mapping.bind,
                host_port=mapping.host_port,
                guest_port=mapping.guest_port,
                protocol=mapping.protocol,
            )


def _process(config: pb.SandboxConfig, options: RunOptions) -> None:
    if "entrypoint" in options:
        config.entrypoint = options["entrypoint"]
    config.env.extend(environment(options.get("env", ())))
    config.working_dir = options.get("workdir", "")
    config.user = options.get("user", "")
    config.terminal = options.get("terminal", False)
    config.terminal_width, config.terminal_height = options.get("terminal_size", (0, 0))
    config.stdin = options.get("stdin", False)
    if options.get("stop_signal"):
        config.stop_signal = options["stop_signal"]


def _security(config: pb.SandboxConfig, options: RunOptions) -> None:
    config.read_only = options.get("read_only", False)
    config.cap_add.extend(options.get("cap_add", ()))
    config.cap_drop.extend(options.get("cap_drop", ()))
    config.privileged = options.get("privileged", False)
    config.tmpfs.extend(options.get("tmpfs", ()))
    config.sysctls.update(options.get("sysctls", {}))
    config.ulimits.extend(options.get("ulimits", ()))
    config.security_seccomp = options.get("seccomp", "")
    config.no_new_privileges = options.get("no_new_privileges", False)


def environment(env: Mapping[str, str] | Sequence[str]) -> list[str]:
    """Items that read KEY=VALUE, checked."""
    items = [f"{key}={value}" for key, value in env.items()] if isinstance(env, Mapping) else list(env)
    for item in items:
        if "=" not in item or item.startswith("=") or "\0" in item:
            raise refusal("environment variable", item, "it reads KEY=VALUE")
    return items


def checked_command(command: Sequence[str]) -> list[str]:
    """The argument list. A bare string is refused: it would be taken apart letter by letter."""
    if isinstance(command, str):
        raise refusal("command", command, 'give it as a list, like ["sh", "-c", "echo hi"]')
    items = list(command)
    if any("\0" in item for item in items):
        raise refusal("command", " ".join(items), "an argument holds a NUL byte")
    if sum(len(item.encode(errors="surrogateescape")) for item in items) > COMMAND_MAX_BYTES:
        raise refusal("command", items[0], f"all arguments together have at most {COMMAND_MAX_BYTES} bytes")
    return items


def refusal(what: str, value: str, reason: str, command: str = "run") -> SandboxdError:
    return SandboxdError(INVALID_ARGUMENT, what=what, value=value[:80], reason=f"{reason}.", command=command)
