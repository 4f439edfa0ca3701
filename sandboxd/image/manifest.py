"""The door for what registries and archives say an image is: manifests, indexes, configs.

Formats: OCI image-spec 1.1, Docker image manifest version 2 schema 2.

Unknown fields are allowed there by specification and ignored here; what is used is checked for type, length and digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sandboxd.base.errors import (
    IMAGE_DIGEST_MISMATCH,
    IMAGE_MANIFEST_INVALID,
    IMAGE_UNSUPPORTED_MEDIA_TYPE,
    IMAGE_WRONG_ARCHITECTURE,
    INVALID_ARGUMENT,
    SandboxdError,
)

DOCUMENT_MAX_BYTES = 4 << 20
"""Of a manifest, index or config: what registries themselves allow."""
LAYERS_MAX = 512

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER_PREFIXES = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64", "ppc64le": "ppc64le", "s390x": "s390x"}

Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_Text = Annotated[str, Field(max_length=1 << 20)]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


_Model = TypeVar("_Model", bound=_Document)


class PlatformEntry(_Document):
    architecture: str = ""
    os: str = ""
    variant: str = ""


class Descriptor(_Document):
    mediaType: str = ""
    digest: Sha256
    size: Annotated[int, Field(ge=0, le=1 << 50)]
    platform: PlatformEntry | None = None
    annotations: dict[str, str] | None = None


class Index(_Document):
    manifests: Annotated[list[Descriptor], Field(max_length=1024)]


class Manifest(_Document):
    config: Descriptor
    layers: Annotated[list[Descriptor], Field(max_length=LAYERS_MAX)]


class _RootFs(_Document):
    diff_ids: Annotated[list[Sha256], Field(max_length=LAYERS_MAX)]


class _Process(_Document):
    """`config` of the config: how to start. Null is as good as absent: docker writes it."""

    Entrypoint: list[_Text] | None = None
    Cmd: list[_Text] | None = None
    Env: list[_Text] | None = None
    WorkingDir: _Text | None = None
    User: _Text | None = None
    StopSignal: _Text | None = None
    Volumes: dict[str, Any] | None = None
    ExposedPorts: dict[str, Any] | None = None
    Labels: dict[str, str] | None = None


class ImageConfig(_Document):
    architecture: str
    os: str
    variant: str = ""
    created: str | None = None
    config: _Process | None = None
    rootfs: _RootFs

    @property
    def process(self) -> _Process:
        return self.config or _Process()

    @property
    def platform(self) -> Platform:
        return Platform(self.os, self.architecture, self.variant)

    def created_unix_ns(self) -> int:
        """0 where it is absent or no time (RFC 3339)."""
        try:
            moment = datetime.fromisoformat(self.created or "")
        except ValueError:
            return 0
        return int(moment.timestamp() * 1_000_000_000) if moment.tzinfo else 0


@dataclass(frozen=True, slots=True)
class Platform:
    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def runs(self, other: Platform) -> bool:
        """Whether `other` is an answer to a wish for this one: an unnamed variant takes the architecture's base."""
        if (self.os, self.architecture) != (other.os, other.architecture):
            return False
        return other.variant in ({self.variant} if self.variant else {"", _BASE_VARIANT.get(self.architecture, "")})


_BASE_VARIANT = {"amd64": "v1", "arm64": "v8"}


def host_platform() -> Platform:
    """What this host's microVMs run."""
    machine = os.uname().machine
    return Platform("linux", _MACHINES.get(machine, machine))


def parse_platform(text: str) -> Platform:
    """`OS/ARCH[/VARIANT]`, `ARCH`, or "" for this host's."""
    if not text:
        return host_platform()
    parts = text.split("/")
    if len(parts) > 3 or not all(part.isalnum() and part.isascii() for part in parts):
        reason = "platforms read linux/amd64 or linux/arm64/v8"
        raise SandboxdError(INVALID_ARGUMENT, what="platform", value=text[:80], reason=reason, command="pull")
    return Platform("linux", parts[0]) if len(parts) == 1 else Platform(*parts)


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def require_digest(reference: str, item: str, data: bytes, expected: str) -> None:
    """Raises image_digest_mismatch."""
    actual = digest_of(data)
    if actual != expected:
        raise SandboxdError(IMAGE_DIGEST_MISMATCH, reference=reference, item=item, expected=expected, actual=actual)


def parse_manifest(reference: str, data: bytes) -> Manifest | Index:
    """Tells the two apart by content: the media type inside is optional, the one outside is the server's word."""
    document = _Probe.read(reference, "the manifest", data)
    if document.schemaVersion != 2:
        raise _unsupported(
            reference, f"Its manifest is of schema version {document.schemaVersion}; only 2 is supported."
        )
    if document.mediaType in (OCI_INDEX, DOCKER_LIST) or (not document.mediaType and document.manifests is not None):
        return _read(Index, reference, "the index", data)
    if document.mediaType not in ("", OCI_MANIFEST, DOCKER_MANIFEST):
        raise _unsupported(reference, f"Its manifest is of the media type {document.mediaType[:100]}.")
    manifest = _read(Manifest, reference, "the manifest", data)
    if manifest.config.mediaType not in (OCI_CONFIG, DOCKER_CONFIG):
        raise _unsupported(reference, f"It holds {manifest.config.mediaType[:100]}, which is no container image.")
    for layer in manifest.layers:
        if not layer.mediaType.startswith(_LAYER_PREFIXES) or layer.mediaType.endswith("+encrypted"):
            raise _unsupported(reference, f"A layer is of the media type {layer.mediaType[:100]}.")
    return manifest


class _Probe(_Document):
    schemaVersion: int = 2
    mediaType: str = ""
    manifests: list[Any] | None = None

    @classmethod
    def read(cls, reference: str, item: str, data: bytes) -> _Probe:
        return _read(cls, reference, item, data)


def parse_config(reference: str, data: bytes, layers: int | None = None) -> ImageConfig:
    """Raises image_manifest_invalid, also when it does not describe `layers` layers (None: any number)."""
    config = _read(ImageConfig, reference, "the config", data)
    count = len(config.rootfs.diff_ids)
    if layers is not None and count != layers:
        raise _invalid(reference, "the config", f"It names {count} layers and the manifest has {layers}.")
    return config


def choose(reference: str, index: Index, wanted: Platform) -> Descriptor:
    """The image for `wanted`, an exact variant first. Raises image_wrong_architecture."""
    offered = [(entry, _platform_of(entry)) for entry in index.manifests]
    known = [(entry, platform) for entry, platform in offered if platform.os not in ("", "unknown")]
    for entry, platform in known:
        if platform == wanted:
            return entry
    for entry, platform in known:
        if wanted.runs(platform):
            return entry
    if len(offered) == 1 and not known:
        return offered[0][0]  # an index of one that does not say what it is for: its config will tell
    raise wrong_architecture(reference, wanted, (platform for _, platform in known))


def _platform_of(entry: Descriptor) -> Platform:
    platform = entry.platform or PlatformEntry()
    return Platform(platform.os, platform.architecture, platform.variant)


def require_platform(reference: str, config: ImageConfig, wanted: Platform) -> None:
    """Raises image_wrong_architecture."""
    if config.platform != wanted and not wanted.runs(config.platform):
        raise wrong_architecture(reference, wanted, [config.platform])


def wrong_architecture(reference: str, wanted: Platform, available: Iterable[Platform]) -> SandboxdError:
    names = sorted({str(platform) for platform in available}) or ["no platform at all"]
    return SandboxdError(IMAGE_WRONG_ARCHITECTURE, reference=reference, wanted=wanted, available=", ".join(names[:20]))


def _read(model: type[_Model], reference: str, item: str, data: bytes) -> _Model:
    if len(data) > DOCUMENT_MAX_BYTES:
        raise _invalid(reference, item, f"It has {len(data)} bytes, over the limit of {DOCUMENT_MAX_BYTES}.")
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise _invalid(reference, item, f"{where}: {first['msg']}.") from None


def _invalid(reference: str, item: str, reason: str) -> SandboxdError:
    return SandboxdError(IMAGE_MANIFEST_INVALID, reference=reference, item=item, reason=reason)


def _unsupported(reference: str, reason: str) -> SandboxdError:
    return SandboxdError(IMAGE_UNSUPPORTED_MEDIA_TYPE, reference=reference, reason=reason)
