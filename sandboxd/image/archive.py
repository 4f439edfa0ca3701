"""Images in a file or directory of the host: docker-archive, oci-archive, OCI layout directory.

Read by us rather than by skopeo: every image and tag of an archive is wanted, ids must stay what they are (skopeo
rewrites docker's configs), and layers are unpacked from where they lie, without a copy. All functions block: call them
in a thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sandboxd.base.errors import IMAGE_ARCHIVE_INVALID, IMAGE_TRUNCATED, SandboxdError
from sandboxd.image.manifest import (
    DOCUMENT_MAX_BYTES,
    LAYERS_MAX,
    Descriptor,
    Index,
    Manifest,
    Platform,
    choose,
    digest_of,
    parse_config,
    parse_manifest,
    require_digest,
    require_platform,
)
from sandboxd.image.reference import Reference, parse_reference
from sandboxd.image.tarstream import TarError, TarReader, TarTruncated
from sandboxd.image.unpack import LayerJob

MEMBERS_MAX = 100_000
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", b"\x04\x22\x4d\x18")


@dataclass(frozen=True, slots=True)
class Extent:
    """Where something lies: `size` bytes at `offset` of a file."""

    path: Path
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that is complete on this host, but not yet unpacked."""

    id: str
    manifest_digest: str
    """Empty for a docker-archive, which has none."""
    config: bytes
    layers: tuple[LayerJob, ...]
    references: tuple[Reference, ...]


class Container(Protocol):
    """What holds the members of an archive: a directory or a tar file."""

    path: Path

    def find(self, name: str) -> Extent | None: ...


class Directory:
    """An OCI layout directory. Only regular files count."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, name: str) -> Extent | None:
        path = self.path / name
        try:
            status = path.lstat()
        except OSError:
            return None
        return Extent(path, 0, status.st_size) if stat.S_ISREG(status.st_mode) else None


class TarFile:
    """A plain tar file, listed once. Links in it are followed, as old docker archives need."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._members: dict[str, tuple[int, int, str]] = {}
        with path.open("rb") as file:
            source = _Skipping(file.fileno())
            reader = TarReader(source)
            source.reader = reader
            for entry in reader:
                name = _normal(os.fsdecode(entry.path))
                base = os.path.dirname(name) if entry.kind == b"2" else ""  # noqa: PTH120 (a name in a tar)
                link = _normal(f"{base}/{os.fsdecode(entry.link)}") if entry.kind in b"12" else ""
                self._members[name] = (reader.offset, entry.size, link)
                if len(self._members) > MEMBERS_MAX:
                    raise TarError(f"more than {MEMBERS_MAX} files")

    def find(self, name: str) -> Extent | None:
        for _ in range(8):
            member = self._members.get(_normal(name))
            if member is None:
                return None
            offset, size, name = member
            if not name:
                return Extent(self.path, offset, size)
        return None


class _Skipping:
    """A source whose large reads are seeks: only headers of an archive matter when it is listed."""

    reader: TarReader

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._position = 0

    def read(self, size: int, /) -> bytes:
        size = min(size, self._size - self._position)
        self._position += size
        return os.pread(self._fd, size, self._position - size)


def _normal(name: str) -> str:
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def is_compressed(path: Path) -> bool:
    """Whether it is a file that must be decompressed first."""
    if path.is_dir():
        return False
    with path.open("rb") as file:
        return file.read(6).startswith(_COMPRESSED)


def open_container(path: Path) -> Container:
    """Raises image_archive_invalid, image_truncated."""
    if path.is_dir():
        return Directory(path)
    try:
        return TarFile(path)
    except TarTruncated as error:
        raise SandboxdError(
            IMAGE_TRUNCATED, item="the archive", reference=path, reason=f"The file is incomplete: {error}."
        ) from error
    except TarError as error:
        raise SandboxdError(IMAGE_ARCHIVE_INVALID, path=path, reason=f"It is no tar file: {error}.") from error


def read_images(container: Container, shown: Path, wanted: Platform) -> list[Candidate]:
    """Every image of the container that is for `wanted`. `shown` is the path that messages name."""
    if container.find("oci-layout") and (index := container.find("index.json")):
        return _read_layout(container, str(shown), _read(index, str(shown)), wanted)
    if manifest := container.find("manifest.json"):
        return _read_docker_archive(container, str(shown), _read(manifest, str(shown)), wanted)
    reason = "It has neither oci-layout and index.json (OCI) nor manifest.json (docker)."
    raise SandboxdError(IMAGE_ARCHIVE_INVALID, path=shown, reason=reason)


# --- OCI layout (image-spec, image-layout.md)


def _read_layout(container: Container, shown: str, data: bytes, wanted: Platform) -> list[Candidate]:
    index = parse_manifest(shown, data)
    if not isinstance(index, Index):
        raise SandboxdError(IMAGE_ARCHIVE_INVALID, path=shown, reason="Its index.json is no index.")
    by_name: dict[str, list[Descriptor]] = {}
    for entry in index.manifests:
        if entry.platform is None or entry.platform.os != "unknown":  # attestations are marked so
            by_name.setdefault(_name_of(entry.annotations or {}), []).append(entry)
    if not by_name:
        raise SandboxdError(IMAGE_ARCHIVE_INVALID, path=shown, reason="Its index.json lists no image.")
    found: dict[str, Candidate] = {}
    for name, entries in by_name.items():
        if len(entries) > 1 and all(entry.platform for entry in entries):
            entries = [choose(shown, Index(manifests=entries), wanted)]
        for entry in entries:
            candidate = _layout_image(container, shown, entry, wanted, _names([name] if name else []))
            _add(found, candidate)
    return list(found.values())


def _name_of(annotations: Mapping[str, str]) -> str:
    """A name, or "". A bare word is a tag to some tools and a name to others: `latest` and versions are tags."""
    if name := annotations.get("io.containerd.image.name"):
        return name
    name = annotations.get("org.opencontainers.image.ref.name", "")
    bare = not any(sign in name for sign in "/:@")
    return "" if bare and (name == "latest" or name[:1].isdigit()) else name


def _names(texts: Iterable[str]) -> tuple[Reference, ...]:
    """Those that are references; an archive's other annotations are nobody's error."""
    found = []
    for text in texts:
        try:
            found.append(parse_reference(text))
        except SandboxdError:
            continue
    return tuple(found)


def _layout_image(
    container: Container, shown: str, entry: Descriptor, wanted: Platform, references: tuple[Reference, ...]
) -> Candidate:
    document = _document(container, shown, "the manifest", entry)
    parsed = parse_manifest(shown, document)
    for _ in range(4):
        if isinstance(parsed, Manifest):
            break
        entry = choose(shown, parsed, wanted)
        document = _document(container, shown, "the manifest", entry)
        parsed = parse_manifest(shown, document)
    if not isinstance(parsed, Manifest):
        raise SandboxdError(IMAGE_ARCHIVE_INVALID, path=shown, reason="Its indexes are nested too deeply.")
    config = _document(container, shown, "the config", parsed.config)
    image = parse_config(shown, config, len(parsed.layers))
    require_platform(shown, image, wanted)
    blobs = (_blob(container, shown, layer) for layer in parsed.layers)
    layers = tuple(
        LayerJob(str(blob.path), blob.offset, blob.size, layer.digest, diff_id)
        for blob, layer, diff_id in zip(blobs, parsed.layers, image.rootfs.diff_ids, strict=True)
    )
    return Candidate(parsed.config.digest, entry.digest, config, layers, references)


def _blob(container: Container, shown: str, entry: Descriptor) -> Extent:
    extent = container.find("blobs/" + entry.digest.replace(":", "/"))
    if extent is None:
        raise SandboxdError(IMAGE_ARCHIVE_INVALID, path=shown, reason=f"The blob {entry.digest} is not in it.")
    if extent.size != entry.size:
        reason = f"The blob {entry.digest} has {extent.size} bytes and should have {entry.size}."
        raise SandboxdError(IMAGE_TRUNCATED, item="a blob", reference=shown, reason=reason)
    return extent


def _document(container: Container, shown: str, item: str, entry: Descriptor) -> bytes:
    data = _read(_blob(container, shown, entry), shown)
    require_digest(shown, item, data, entry.digest)
    return data


def _read(extent: Extent, shown: str) -> bytes:
    if extent.size > DOCUMENT_MAX_BYTES:
        reason = f"{extent.path.name} has {extent.size} bytes where a document has at most {DOCUMENT_MAX_BYTES}."
        raise SandboxdError(IMAGE_ARCHIVE_INVALID, path=shown, reason=reason)
    with os.fdopen(os.open(extent.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        file.seek(extent.offset)
        return file.read(extent.size)


# --- docker-archive (docker image spec v1.2, "Combined Image JSON + Filesystem Changeset Format")


class _DockerImage(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)
    Config: str
    RepoTags: list[str] | None = None
    Layers: Annotated[list[str], Field(max_length=LAYERS_MAX)]


_DOCKER_IMAGES = TypeAdapter(Annotated[list[_DockerImage], Field(min_length=1, max_length=1024)])


def _read_docker_archive(container: Container, shown: str, data: bytes, wanted: Platform) -> list[Candidate]:
    try:
        images = _DOCKER_IMAGES.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SandboxdError(
            IMAGE_ARCHIVE_INVALID, path=shown, reason=f"manifest.json, {where}: {first['msg']}."
        ) from None
    found: dict[str, Candidate] = {}
    for image in images:
        _add(found, _docker_image(container, shown, image, wanted))
    return list(found.values())


def _docker_image(container: Container, shown: str, image: _DockerImage, wanted: Platform) -> Candidate:
    data = _read(_member(container, shown, image.Config), shown)
    config = parse_config(shown, data, len(image.Layers))
    require_platform(shown, config, wanted)
    extents = [_member(container, shown, name) for name in image.Layers]
    layers = tuple(
        LayerJob(str(extent.path), extent.offset, extent.size, "", diff_id)
        for extent, diff_id in zip(extents, config.rootfs.diff_ids, strict=True)
    )
    return Candidate(digest_of(data), "", data, layers, _names(image.RepoTags or []))


def _member(container: Container, shown: str, name: str) -> Extent:
    extent = container.find(name)
    if extent is None:
        raise SandboxdError(IMAGE_ARCHIVE_INVALID, path=shown, reason=f"{name[:200]} is not in it.")
    return extent


def _add(found: dict[str, Candidate], new: Candidate) -> None:
    """One candidate per image, with all of its names."""
    old = found.get(new.id)
    references = (*(old.references if old else ()), *new.references)
    found[new.id] = Candidate(new.id, new.manifest_digest, new.config, new.layers, tuple(dict.fromkeys(references)))
