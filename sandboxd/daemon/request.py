"""A caller's SandboxConfig, checked at the door: whole, against every limit, with the configured defaults filled in.

All that is wrong with one request is reported together. What needs the image to be judged (users, capabilities,
sysctls) is checked by sandboxd.core.oci.generate before anything is made.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandboxd.api import sandboxd_pb2 as api
from sandboxd.base.errors import INVALID_ARGUMENT, SandboxdError
from sandboxd.base.ids import parse_name
from sandboxd.base.ports import PORTS_PER_SANDBOX_MAX, PortRequest, port_request
from sandboxd.base.units import MIB, format_size
from sandboxd.core.config import DISK_MAX_BYTES, DISK_MIN_BYTES, MEMORY_MAX_BYTES, VCPUS_MAX, Config
from sandboxd.daemon.signals import parse_signal
from sandboxd.vmm.limits import check_memory

TEXT_MAX_BYTES = 1 << 20
"""Of all arguments, or of all environment variables, together."""
ITEMS_MAX = 4096
LABELS_MAX = 256
LABEL_MAX_CHARS = 64 << 10
PATH_MAX_BYTES = 4095
TIMEOUT_MAX_S = 10 * 366 * 86400.0
SECCOMP_MAX_BYTES = 1 << 20
WINDOW_MAX = 65535
PIDS_MAX = 4 << 20
CPUS_MILLI_MIN = 10

_HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*\Z")
_HOSTNAME_MAX = 64
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Finding = tuple[str, str, str]
"""What, the value, and a sentence."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request that can be carried out as far as anyone can tell without its image."""

    config: api.SandboxConfig
    """The caller's own, every default filled in. Not changed after this."""
    ports: tuple[PortRequest, ...]
    networked: bool
    memory_mib: int
    kernel: Path | None


def check_request(asked: api.SandboxConfig, defaults: Config) -> Request:
    """Raises invalid_argument, for one finding or for all of them together; memory_too_small."""
    config = api.SandboxConfig()
    config.CopyFrom(asked)
    _fill(config, defaults)
    findings = list(_findings(config))
    ports: list[PortRequest] = []
    for port in config.ports:
        try:
            ports.append(port_request(port.guest_port, port.host_port, port.protocol, port.bind))
        except SandboxdError as error:
            findings.append((error.context.get("what", "port"), error.context.get("value", ""), error.cause))
    if findings:
        raise refusal(findings)
    memory_mib = -(-config.memory_bytes // MIB)
    check_memory(memory_mib, config.vcpus)
    return Request(
        config=config,
        ports=tuple(ports),
        networked=config.network != "none",
        memory_mib=memory_mib,
        kernel=Path(config.kernel) if config.kernel else defaults.machine.kernel,
    )


def refusal(findings: Sequence[Finding], command: str = "run") -> SandboxdError:
    """One error for all findings of one request."""
    if len(findings) == 1:
        what, value, reason = findings[0]
        return SandboxdError(INVALID_ARGUMENT, what=what, value=shown(value), reason=_sentence(reason), command=command)
    reason = " ".join(_sentence(f"{what} {shown(value)}: {reason}") for what, value, reason in findings)
    return SandboxdError(
        INVALID_ARGUMENT, what="the request", value=f"{len(findings)} errors", reason=reason, command=command
    )


def shown(value: str) -> str:
    """A caller's text as it may stand in a message: one line, bounded."""
    text = _CONTROL.sub("?", value)
    return text if len(text) <= 80 else text[:77] + "..."


def _sentence(text: str) -> str:
    return text if text.endswith(".") else text + "."


def _fill(config: api.SandboxConfig, defaults: Config) -> None:
    machine = defaults.machine
    config.memory_bytes = config.memory_bytes or machine.memory_bytes
    config.vcpus = config.vcpus or machine.vcpus
    config.disk_bytes = config.disk_bytes or machine.disk_bytes
    config.cpus_milli = config.cpus_milli or config.vcpus * 1000
    config.network = config.network or "default"
    config.pull = config.pull or "missing"
    config.vmm = config.vmm or machine.driver


def _findings(config: api.SandboxConfig) -> Iterator[Finding]:
    yield from _identity(config)
    yield from _sizes(config)
    yield from _choices(config)
    yield from _process(config)
    yield from _texts("label", [f"{key}={value}" for key, value in config.labels.items()])


def _identity(config: api.SandboxConfig) -> Iterator[Finding]:
    if config.name:
        try:
            parse_name(config.name)
        except SandboxdError as error:
            yield "name", config.name, error.cause
    if not config.image or len(config.image) > PATH_MAX_BYTES or _CONTROL.search(config.image):
        yield "image", config.image, "an image reference reads [HOST[:PORT]/]NAME[:TAG][@DIGEST]"
    if config.hostname and (len(config.hostname) > _HOSTNAME_MAX or not _HOSTNAME.match(config.hostname)):
        yield (
            "hostname",
            config.hostname,
            f"host names are at most {_HOSTNAME_MAX} of a-z A-Z 0-9 - in parts joined by dots",
        )
    if len(config.labels) > LABELS_MAX:
        yield "labels", str(len(config.labels)), f"a sandbox has at most {LABELS_MAX} labels"
    for key, value in config.labels.items():
        if not key or len(key) + len(value) > LABEL_MAX_CHARS:
            yield "label", key, f"a label has a key, and at most {LABEL_MAX_CHARS} characters with its value"


def _sizes(config: api.SandboxConfig) -> Iterator[Finding]:
    if config.memory_bytes > MEMORY_MAX_BYTES:
        yield "memory", format_size(config.memory_bytes), f"a machine has at most {format_size(MEMORY_MAX_BYTES)}"
    if not DISK_MIN_BYTES <= config.disk_bytes <= DISK_MAX_BYTES:
        limits = f"{format_size(DISK_MIN_BYTES)} to {format_size(DISK_MAX_BYTES)}"
        yield "disk", format_size(config.disk_bytes), f"a disk has {limits}"
    vcpus_max = min(VCPUS_MAX, os.cpu_count() or 1)
    if config.vcpus > vcpus_max:
        yield "cpus", str(config.vcpus), f"this host has {vcpus_max} to give to one machine"
    elif not CPUS_MILLI_MIN <= config.cpus_milli <= config.vcpus * 1000:
        yield "cpus", f"{config.cpus_milli / 1000:g}", f"with {config.vcpus} vCPUs it is 0.01 to {config.vcpus}"
    if config.pids_limit > PIDS_MAX:
        yield "pids limit", str(config.pids_limit), f"it is at most {PIDS_MAX}"
    if not (math.isfinite(config.timeout_s) and 0 <= config.timeout_s <= TIMEOUT_MAX_S):
        yield "timeout", f"{config.timeout_s:g} s", f"it is 0 (never) to {TIMEOUT_MAX_S:g} seconds"
    if config.terminal_width > WINDOW_MAX or config.terminal_height > WINDOW_MAX:
        yield "terminal size", f"{config.terminal_width}x{config.terminal_height}", f"each side is at most {WINDOW_MAX}"


def _choices(config: api.SandboxConfig) -> Iterator[Finding]:
    if config.network not in ("default", "none"):
        yield "network", config.network, "it is `default` or `none`"
    if config.ports and config.network == "none":
        yield "network", config.network, "a sandbox without a network cannot publish ports"
    if len(config.ports) > PORTS_PER_SANDBOX_MAX:
        yield "ports", str(len(config.ports)), f"a sandbox publishes at most {PORTS_PER_SANDBOX_MAX} ports"
    if config.pull not in ("missing", "always", "never"):
        yield "pull", config.pull, "it is `missing`, `always` or `never`"
    if config.vmm not in ("auto", "qemu", "kvm"):
        yield "vmm", config.vmm, "it is `auto`, `qemu` or `kvm`"
    if config.kernel and (not config.kernel.startswith("/") or len(config.kernel.encode()) > PATH_MAX_BYTES):
        yield "kernel", config.kernel, "it is the absolute path of a file of this host"
    if config.HasField("stop_signal") and parse_signal(config.stop_signal) is None:
        yield "stop signal", config.stop_signal, "it is a signal's name or number"


def _process(config: api.SandboxConfig) -> Iterator[Finding]:
    yield from _texts("command", config.command)
    yield from _texts("environment", config.env)
    yield from environment_findings(config.env)
    yield from _texts("tmpfs", config.tmpfs)
    yield from _texts("ulimit", config.ulimits)
    yield from _texts("capability", [*config.cap_add, *config.cap_drop])
    yield from _texts("sysctl", [f"{key}={value}" for key, value in config.sysctls.items()])
    yield from _texts("entrypoint, user or platform", [config.entrypoint, config.user, config.platform])
    yield from working_dir_findings(config.working_dir)
    if len(config.security_seccomp) > SECCOMP_MAX_BYTES:
        yield "seccomp profile", "", f"it has at most {SECCOMP_MAX_BYTES} bytes"


def command_findings(command: Sequence[str]) -> Iterator[Finding]:
    """Of an argument list that must not be empty."""
    if not command or not command[0]:
        yield "command", "", "it has at least one word"
    yield from _texts("command", command)


def environment_findings(env: Sequence[str]) -> Iterator[Finding]:
    for item in env:
        if not item.partition("=")[0] or "=" not in item:
            yield "environment variable", item, "it reads KEY=VALUE"


def working_dir_findings(path: str) -> Iterator[Finding]:
    if path and (not path.startswith("/") or "\0" in path or len(path.encode()) > PATH_MAX_BYTES):
        yield "working directory", path, f"it is an absolute path of at most {PATH_MAX_BYTES} bytes"


def _texts(what: str, items: Sequence[str]) -> Iterator[Finding]:
    if len(items) > ITEMS_MAX:
        yield what, f"{len(items)} items", f"there are at most {ITEMS_MAX}"
    if sum(len(item) for item in items) > TEXT_MAX_BYTES:
        yield what, "", f"all of them together have at most {TEXT_MAX_BYTES} bytes"
    for item in items:
        if "\0" in item:
            yield what, item, "it holds a NUL byte"
