"""The configuration: one sparse TOML file, checked whole at the door.

    /etc/sandboxd/config.toml, or what $SANDBOXD_CONFIG or --config names

Every key has a default, so no file is needed. A key that is not known is an error that names the nearest known one; a
value that does not fit is an error with its path, the value and the limit; all errors of one file come together.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic_core import ErrorDetails

from sandboxd.base.errors import CONFIG_INVALID, CONFIG_UNKNOWN_KEY, CONFIG_UNREADABLE, SandboxdError
from sandboxd.base.units import MIB, format_size, parse_duration, parse_size

DEFAULT_PATH = Path("/etc/sandboxd/config.toml")
CONFIG_MAX_BYTES = 1 << 20
RUN_DIR_MAX_BYTES = 70
"""A unix socket's path has 107 bytes; "/sandboxes/ID/shim.sock" follows."""
DISK_MIN_BYTES = 16 * MIB
DISK_MAX_BYTES = 16 << 40
MEMORY_MIN_BYTES = 64 * MIB
MEMORY_MAX_BYTES = 1 << 40
VCPUS_MAX = 64


def _size(value: object) -> object:
    """`"512M"` or a whole number of MiB."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return value
    try:
        return parse_size(str(value))
    except SandboxdError as error:
        raise ValueError(error.cause) from None


def _duration(value: object) -> object:
    """`"90s"`, or a number of seconds."""
    if not isinstance(value, str):
        return value
    try:
        return parse_duration(value)
    except SandboxdError as error:
        raise ValueError(error.cause) from None


def _absolute(value: Path) -> Path:
    if not value.is_absolute() or ".." in value.parts:
        raise ValueError("must be an absolute path without `..`")
    return value


def _short(value: Path) -> Path:
    if len(os.fsencode(value)) > RUN_DIR_MAX_BYTES:
        raise ValueError(f"must be at most {RUN_DIR_MAX_BYTES} bytes long, because sockets lie below it")
    return value


def _subnet(value: str) -> str:
    if value == "auto":
        return value
    try:
        network = ipaddress.IPv4Network(value)
    except ValueError:
        raise ValueError('must be "auto" or an IPv4 network like "10.88.0.0/16"') from None
    if not 8 <= network.prefixlen <= 29:
        raise ValueError("must have a prefix length of 8 to 29")
    return str(network)


def _address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError("must be an IP address") from None


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
SocketDir = Annotated[AbsolutePath, AfterValidator(_short)]
Size = Annotated[int, BeforeValidator(_size)]
Duration = Annotated[float, BeforeValidator(_duration)]
RegistryHost = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9.\-\[\]:/_]+$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, populate_by_name=False)


class MachineConfig(_Section):
    """What a machine has when nobody says otherwise."""

    memory_bytes: Annotated[Size, Field(alias="memory", ge=MEMORY_MIN_BYTES, le=MEMORY_MAX_BYTES)] = 512 * MIB
    vcpus: Annotated[int, Field(ge=1, le=VCPUS_MAX, strict=True)] = 1
    disk_bytes: Annotated[Size, Field(alias="disk", ge=DISK_MIN_BYTES, le=DISK_MAX_BYTES)] = 4 << 30
    kernel: AbsolutePath | None = None
    """Another kernel image than the guest's own."""
    driver: Literal["auto", "qemu", "kvm"] = "auto"
    boot_timeout_s: Annotated[Duration, Field(alias="boot_timeout", gt=0, le=3600)] = 60.0


class NetworkConfig(_Section):
    """The bridge that all networked sandboxes share."""

    bridge: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,15}$")] = "sandboxd0"
    subnet: Annotated[str, AfterValidator(_subnet)] = "auto"
    dns: tuple[Annotated[str, AfterValidator(_address)], ...] = ()
    mtu: Annotated[int, Field(ge=576, le=65535, strict=True)] = 1500
    tap_prefix: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,7}$")] = "sbx"
    """First letters of every tap's name: two daemons of one host need two."""


class ImagesConfig(_Section):
    """Where images without a host in their name come from. No host is built in."""

    default_registry: RegistryHost | None = None
    mirrors: dict[RegistryHost, tuple[RegistryHost, ...]] = {}
    insecure: tuple[RegistryHost, ...] = ()
    """Registries that are spoken to without TLS."""


class LogConfig(_Section):
    max_bytes: Annotated[Size, Field(ge=4096, le=1 << 40)] = 16 * MIB
    """Of one sandbox's log file; one older file is kept."""


class LimitsConfig(_Section):
    sandboxes: Annotated[int, Field(ge=1, le=65000, strict=True)] = 1000
    """Alive at the same time."""
    starts: Annotated[int, Field(ge=0, le=1000, strict=True)] = 0
    """Machines that boot at the same time, the rest wait their turn; 0: twice as many as the host has CPUs."""


class Config(_Section):
    """The effective configuration. Values are checked and in base units."""

    data_dir: AbsolutePath = Path("/var/lib/sandboxd")
    run_dir: SocketDir = Path("/run/sandboxd")
    socket: Annotated[AbsolutePath | None, Field()] = None
    """Of the gRPC API; None: RUN_DIR/sandboxd.sock."""
    machine: MachineConfig = MachineConfig()
    network: NetworkConfig = NetworkConfig()
    images: ImagesConfig = ImagesConfig()
    log: LogConfig = LogConfig()
    limits: LimitsConfig = LimitsConfig()

    _path: Path | None = PrivateAttr(default=None)

    @property
    def path(self) -> Path | None:
        """The file it came from; None: defaults only."""
        return self._path

    @property
    def socket_path(self) -> Path:
        return self.socket or self.run_dir / "sandboxd.sock"


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the effective configuration, for `config show`."""

    key: str
    """Dotted, as in the file: "machine.memory"."""
    value: object
    """JSON-able; sizes in bytes, durations in seconds."""
    source: str
    """"default" or the file's path."""


def config_path(path: Path | None = None) -> Path | None:
    """The file that `load_config(path)` would read; None when none is named and the default one does not exist."""
    named = path or (Path(os.environ["SANDBOXD_CONFIG"]) if os.environ.get("SANDBOXD_CONFIG") else None)
    if named is not None:
        return named
    return DEFAULT_PATH if DEFAULT_PATH.exists() else None


def load_config(path: Path | None = None) -> Config:
    """Reads and checks the configuration. A file that was named (argument, $SANDBOXD_CONFIG) must exist.

    Errors: config_unreadable, config_unknown_key, config_invalid.
    """
    found = config_path(path)
    if found is None:
        return Config()
    return parse_config(_read(found), found)


def parse_config(text: str, path: Path) -> Config:
    """Checks the text of a configuration file; `path` is for the messages."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SandboxdError(CONFIG_INVALID, path=path, reason=f"It is not TOML: {error}.") from None
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        raise _refusal(error, path) from None
    config._path = path
    return config


def effective(config: Config) -> list[Setting]:
    """Every key with its value and where that came from, in the order of the documentation."""
    return list(_settings(config, "", str(config.path)))


def known_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """All dotted keys, sections included."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        keys.append(key)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += known_keys(field.annotation, key + ".")
    return keys


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_MAX_BYTES + 1)
    except OSError as error:
        raise SandboxdError(CONFIG_UNREADABLE, path=path, reason=f"{error.strerror}.") from None
    if len(data) > CONFIG_MAX_BYTES:
        raise SandboxdError(CONFIG_UNREADABLE, path=path, reason=f"It is longer than {CONFIG_MAX_BYTES} bytes.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise SandboxdError(CONFIG_INVALID, path=path, reason=f"It is not UTF-8 at byte {error.start}.") from None


def _settings(section: BaseModel, prefix: str, file: str) -> Iterator[Setting]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        key = prefix + (field.alias or name)
        if isinstance(value, BaseModel):
            yield from _settings(value, key + ".", file)
            continue
        if key == "socket" and isinstance(section, Config):
            value = section.socket_path
        yield Setting(key, _plain(value), file if name in section.model_fields_set else "default")


def _plain(value: Any) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _refusal(error: ValidationError, path: Path) -> SandboxdError:
    """One error for all findings of one file; a key that is not known gives it its code."""
    findings = [(".".join(str(part) for part in finding["loc"]), finding) for finding in error.errors()]
    unknown = [key for key, finding in findings if finding["type"] == "extra_forbidden"]
    lines = [_unknown(key) for key in unknown]
    lines += [
        f"{key} = {_shown(finding['input'])} {_limit(key, finding)}."
        for key, finding in findings
        if finding["type"] != "extra_forbidden"
    ]
    reason = " ".join(lines)
    if unknown:
        return SandboxdError(CONFIG_UNKNOWN_KEY, path=path, key=", ".join(unknown), reason=reason)
    return SandboxdError(CONFIG_INVALID, path=path, reason=reason)


def _unknown(key: str) -> str:
    keys = known_keys()
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    leaf = key.rsplit(".", 1)[-1]
    same_leaf = [known for known in keys if known.rsplit(".", 1)[-1] == leaf]
    best = (same_leaf or near or [""])[0]
    return f"{key} is not known; the nearest known key is {best}." if best else f"{key} is not known."


_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "less_than_equal": ("at most", "le"),
    "greater_than": ("above", "gt"),
}
_SIZE_KEYS = frozenset({"machine.memory", "machine.disk", "log.max_bytes"})
_KINDS = {"model_type": "must be a table", "dict_type": "must be a table", "tuple_type": "must be a list"}


def _limit(key: str, finding: ErrorDetails) -> str:
    """The second half of a sentence about a value: what it must be."""
    kind = finding["type"]
    if kind in _BOUNDS:
        word, name = _BOUNDS[kind]
        bound = finding["ctx"][name]
        return f"must be {word} {format_size(bound) if key in _SIZE_KEYS else bound}"
    text = finding["msg"].removeprefix("Value error, ").removeprefix("Input ").replace("should", "must", 1)
    return _KINDS.get(kind) or (text if text.startswith("must") else f"is refused: {text}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
