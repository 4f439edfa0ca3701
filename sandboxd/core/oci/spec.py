"""The OCI runtime specification's config.json, parsed once at the door into frozen records.

Source: opencontainers/runtime-spec, config.md and config-linux.md, 1.0.0 to 1.3.0. Syntax, types and ranges are checked
here; what the values mean, and whether a microVM can honour them, is `compile`'s business.
"""

from __future__ import annotations

import re
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError

from sandboxd.core.oci.findings import Findings
from sandboxd.core.oci.model import Record, Text, Word
from sandboxd.core.oci.spec_linux import IdMapping, Linux, Resources, Seccomp
from sandboxd.core.oci.spec_process import Process

CONFIG_MAX_BYTES = 4 << 20
MOUNTS_MAX = 512
_VERSION = re.compile(r"1\.\d{1,4}\.\d{1,4}(?:[-+][0-9A-Za-z.+-]{1,64})?\Z")


class Root(Record):
    path: Word
    readonly: bool = False


class Mount(Record):
    destination: Word
    type: Word = ""
    source: Word = ""
    options: Annotated[tuple[Word, ...], Field(max_length=256)] | None = None
    uid_mappings: tuple[IdMapping, ...] | None = None
    gid_mappings: tuple[IdMapping, ...] | None = None


class Hook(Record):
    path: Word
    args: tuple[Text, ...] | None = None
    env: tuple[Text, ...] | None = None
    timeout: int | None = None


class Hooks(Record):
    prestart: tuple[Hook, ...] | None = None
    create_runtime: tuple[Hook, ...] | None = None
    create_container: tuple[Hook, ...] | None = None
    start_container: tuple[Hook, ...] | None = None
    poststart: tuple[Hook, ...] | None = None
    poststop: tuple[Hook, ...] | None = None


class Spec(Record):
    """A whole config.json."""

    oci_version: Annotated[str, Field(max_length=80)]
    process: Process | None = None
    root: Root | None = None
    hostname: Annotated[str, Field(max_length=64, pattern=r"^[^\x00/]*$")] = ""
    domainname: Annotated[str, Field(max_length=64, pattern=r"^[^\x00/]*$")] = ""
    mounts: Annotated[tuple[Mount, ...], Field(max_length=MOUNTS_MAX)] | None = None
    hooks: Hooks | None = None
    annotations: dict[Word, Text] | None = None
    linux: Linux | None = None
    solaris: dict[str, object] | None = None
    windows: dict[str, object] | None = None
    vm: dict[str, object] | None = None
    zos: dict[str, object] | None = None


_RecordT = TypeVar("_RecordT", bound=Record)


def parse_spec(text: bytes) -> Spec:
    """A config.json. Raises `oci_spec_invalid` with every finding."""
    spec = _parse(Spec, text, "config.json")
    if not _VERSION.match(spec.oci_version):
        findings = Findings("config.json")
        findings.invalid("ociVersion", spec.oci_version, "versions 1.x.y are understood")
        findings.refuse()
    return spec


def parse_process(text: bytes) -> Process:
    """A process alone, as an Exec request carries it. Raises `oci_spec_invalid`."""
    return _parse(Process, text, "process")


def parse_resources(text: bytes) -> Resources:
    """Resources alone, as an Update request carries them. Raises `oci_spec_invalid`."""
    return _parse(Resources, text, "resources")


def parse_seccomp(text: bytes) -> Seccomp:
    """A seccomp profile alone. Raises `oci_spec_invalid`."""
    return _parse(Seccomp, text, "seccomp profile")


def _parse(record: type[_RecordT], text: bytes, document: str) -> _RecordT:
    findings = Findings(document)
    if len(text) > CONFIG_MAX_BYTES:
        findings.invalid("(whole)", f"{len(text)} bytes", f"at most {CONFIG_MAX_BYTES} bytes are read")
        findings.refuse()
    try:
        return record.model_validate_json(text)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_context=False):
            findings.invalid(_json_path(detail["loc"]), _given(detail["input"], detail["type"]), detail["msg"])
    findings.refuse()
    raise AssertionError("a validation error without details")


def _json_path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "(whole)"


def _given(value: object, kind: str) -> object:
    if kind == "missing":
        return "(absent)"
    return "(not JSON)" if kind == "json_invalid" else value
