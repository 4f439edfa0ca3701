"""Images made in a test: layers entry by entry, honest and hostile, in every form that an archive or registry has."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OCI = "application/vnd.oci.image"
MTIME_S = 1_600_000_000.25
_SUFFIX = {"plain": "", "gzip": "+gzip", "zstd": "+zstd"}


@dataclass(frozen=True)
class Entry:
    """One tar entry: the header, and the data of a regular file."""

    header: tarfile.TarInfo
    data: bytes = b""


def _entry(
    name: str,
    kind: bytes,
    data: bytes = b"",
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: float = MTIME_S,
    link: str = "",
    xattrs: Mapping[str, bytes] | None = None,
    device: tuple[int, int] = (0, 0),
) -> Entry:
    header = tarfile.TarInfo(name)
    header.type, header.size, header.mode, header.uid, header.gid, header.mtime = kind, len(data), mode, uid, gid, mtime
    header.linkname = link
    header.devmajor, header.devminor = device
    header.pax_headers = {
        f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape") for key, value in (xattrs or {}).items()
    }
    return Entry(header, data)


def file(name: str, data: bytes = b"", **options: Any) -> Entry:
    return _entry(name, tarfile.REGTYPE, data, **options)


def directory(name: str, mode: int = 0o755, **options: Any) -> Entry:
    return _entry(name, tarfile.DIRTYPE, mode=mode, **options)


def symlink(name: str, target: str, **options: Any) -> Entry:
    return _entry(name, tarfile.SYMTYPE, link=target, mode=0o777, **options)


def hardlink(name: str, target: str) -> Entry:
    return _entry(name, tarfile.LNKTYPE, link=target)


def character(name: str, major: int, minor: int, **options: Any) -> Entry:
    return _entry(name, tarfile.CHRTYPE, device=(major, minor), **options)


def block(name: str, major: int, minor: int, **options: Any) -> Entry:
    return _entry(name, tarfile.BLKTYPE, device=(major, minor), **options)


def fifo(name: str, **options: Any) -> Entry:
    return _entry(name, tarfile.FIFOTYPE, **options)


def whiteout(name: str) -> Entry:
    head, _, tail = name.rpartition("/")
    return file(f"{head}/.wh.{tail}" if head else f".wh.{tail}")


def opaque(name: str) -> Entry:
    return file(f"{name}/.wh..wh..opq" if name else ".wh..wh..opq")


def tar(*entries: Entry) -> bytes:
    """The entries as a pax tar, in their order, whatever they say."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            archive.addfile(entry.header, io.BytesIO(entry.data))
    return buffer.getvalue()


def compress(data: bytes, how: str) -> bytes:
    if how == "gzip":
        return gzip.compress(data, 1, mtime=0)
    if how == "zstd":
        return subprocess.run(["zstd", "-qc"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return data


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def host_architecture() -> str:
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


@dataclass(frozen=True)
class Image:
    """`layers` are (plain tar, compression), lowest first; `name` is what the archive calls it."""

    layers: Sequence[tuple[bytes, str]]
    name: str = ""
    architecture: str = field(default_factory=host_architecture)
    process: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the manifest that replace the right ones."""
    diff_ids: Sequence[str] | None = None

    @property
    def config(self) -> bytes:
        diff_ids = self.diff_ids if self.diff_ids is not None else [digest(layer) for layer, _ in self.layers]
        document = {
            "architecture": self.architecture,
            "os": "linux",
            "created": "2024-02-03T04:05:06.5Z",
            "config": dict(self.process),
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        }
        return json.dumps(document, sort_keys=True).encode()

    @property
    def id(self) -> str:
        return digest(self.config)


class Layout:
    """An OCI layout directory. `add` and `add_index` write images; it is whole after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs" / "sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self._manifests: list[dict[str, Any]] = []
        self._write_index()

    def blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        self.blob_path(digest(data)).write_bytes(data)
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    def blob_path(self, name: str) -> Path:
        return self.path / "blobs" / name.replace(":", "/")

    def manifest(self, image: Image) -> dict[str, Any]:
        """Writes the image's blobs; answers its descriptor, with a platform."""
        layers = [self.blob(compress(layer, how), f"{OCI}.layer.v1.tar{_SUFFIX[how]}") for layer, how in image.layers]
        document = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": self.blob(image.config, f"{OCI}.config.v1+json"),
            "layers": layers,
            **image.overrides,
        }
        descriptor = self.blob(json.dumps(document).encode(), document["mediaType"])
        return {**descriptor, "platform": {"os": "linux", "architecture": image.architecture}}

    def add(self, image: Image) -> str:
        """Answers the manifest's digest."""
        descriptor = self.manifest(image)
        del descriptor["platform"]
        return self._add(descriptor, image.name)

    def add_index(self, name: str, images: Iterable[Image], extra: Iterable[dict[str, Any]] = ()) -> str:
        """A multi-platform index; `extra` are further descriptors."""
        manifests = [*(self.manifest(image) for image in images), *extra]
        document = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": manifests}
        return self._add(self.blob(json.dumps(document).encode(), f"{OCI}.index.v1+json"), name)

    def _add(self, descriptor: dict[str, Any], name: str) -> str:
        if name:
            descriptor = {**descriptor, "annotations": {"org.opencontainers.image.ref.name": name}}
        self._manifests.append(descriptor)
        self._write_index()
        return str(descriptor["digest"])

    def _write_index(self) -> None:
        document = {"schemaVersion": 2, "manifests": self._manifests}
        (self.path / "index.json").write_text(json.dumps(document))

    def archive(self, out: Path) -> Path:
        """The same as an oci-archive."""
        with tarfile.open(out, "w") as archive:
            for path in sorted(self.path.rglob("*")):
                archive.add(path, path.relative_to(self.path), recursive=False)
        return out


def docker_archive(out: Path, images: Sequence[Image]) -> Path:
    """As `docker save` before 25 wrote it: layers in directories of their own, a repeated one as a symlink."""
    manifest = []
    first: dict[str, str] = {}
    with tarfile.open(out, "w") as archive:
        for number, image in enumerate(images):
            names = []
            for position, (layer, _) in enumerate(image.layers):
                name = f"{number}-{position}/layer.tar"
                if digest(layer) in first:
                    entry = symlink(name, f"../{first[digest(layer)]}")
                else:
                    entry = file(name, layer)
                    first[digest(layer)] = name
                archive.addfile(entry.header, io.BytesIO(entry.data))
                names.append(name)
            config = file(f"{image.id[7:]}.json", image.config)
            archive.addfile(config.header, io.BytesIO(config.data))
            tags = [image.name] if image.name else None
            manifest.append({"Config": config.header.name, "RepoTags": tags, "Layers": names})
        listing = file("manifest.json", json.dumps(manifest).encode())
        archive.addfile(listing.header, io.BytesIO(listing.data))
    return out


def rich_layers() -> list[bytes]:
    """Three layers that use everything a layer can: what is left at the end exercises every rule of OCI."""
    capability = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep, VFS_CAP_REVISION_2
    base = tar(
        directory("./", mtime=1_500_000_000),
        directory("etc"),
        file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/app:/bin/sh\n"),
        file("etc/group", b"root:x:0:\napp:x:1000:\n"),
        directory("bin"),
        file("bin/tool", b"#!/bin/sh\n" * 1000, mode=0o755),
        hardlink("bin/tool-again", "bin/tool"),
        file("bin/su", b"setuid", mode=0o4755),
        file("bin/wall", b"setgid", mode=0o2755, gid=5),
        file("bin/ping", b"capable", mode=0o755, xattrs={"security.capability": capability}),
        symlink("sh", "bin/tool", uid=7, gid=8),
        symlink("dangling", "/no/such/place"),
        directory("tmp", 0o1777),
        directory("dev"),
        character("dev/null", 1, 3, mode=0o666),
        block("dev/disk", 259, 70000, mode=0o660, gid=6),
        fifo("dev/pipe", mode=0o600, uid=12),
        directory("data", 0o700, uid=1000, gid=1000, xattrs={"user.note": b"kept"}),
        file("data/old", b"old", uid=1000, gid=1000),
        file("data/big-id", b"id", uid=3_000_000, gid=4_000_000_000),
        directory("gone"),
        file("gone/file", b"x"),
        directory("emptied"),
        file("emptied/a", b"a"),
        directory("emptied/sub"),
        file("emptied/sub/b", b"b"),
        directory("usr"),
        directory("usr/lib"),
        symlink("lib", "usr/lib"),
        file("replaced-by-directory", b"x"),
        directory("replaced-by-file"),
        file("replaced-by-file/inner", b"x"),
        file("n\u00e4me with spaces \u2713", "\u00fcnicode".encode()),
        directory("l" * 120),
        file("l" * 120 + "/" + "m" * 200, b"long names"),
        file("empty", b""),
    )
    middle = tar(
        directory("data", 0o750, uid=1000, gid=1000, mtime=1_610_000_000.1234567),
        whiteout("data/old"),
        file("data/new", b"new"),
        whiteout("gone"),
        directory("emptied", 0o711),
        opaque("emptied"),
        file("emptied/c", b"c"),
        hardlink("tool-across-layers", "bin/tool"),
        file("lib/through-symlink.so", b"elf"),
        whiteout("replaced-by-directory"),
        directory("replaced-by-directory"),
        file("replaced-by-directory/inner", b"y"),
        file("replaced-by-file", b"file now"),
        whiteout("not-there-at-all"),
    )
    top = tar(
        directory("bin"),
        file("bin/su", b"newer setuid", mode=0o4711, uid=3),
        file("bin/.wh.wall", b""),
        directory("gone", 0o755, mtime=1_620_000_000),
        file("gone/is-back", b"z"),
    )
    return [base, middle, top]


def describe_tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything of every file below `root` that an image can say: for comparing two trees."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, list[str]] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        name = str(path.relative_to(root))
        status = path.lstat()
        inodes.setdefault(status.st_ino, []).append(name)
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = digest(path.read_bytes())
        elif stat.S_ISLNK(status.st_mode):
            content = str(path.readlink())
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            content = (os.major(status.st_rdev), os.minor(status.st_rdev))
        xattrs = {
            key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
        }
        found[name] = (oct(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, content, xattrs)
    for names in inodes.values():
        for name in names:
            found[name] = (*found[name], tuple(sorted(names)))
    return found
