"""The container's root file system, from the mounts that whoever creates a container hands over.

Forms (containerd's mount manager since 2.2, and our daemon):

    ext4 SRC [rw,loop], erofs SRC [ro,loop]..., format/mkdir/overlay [upperdir={{ mount 0 }}/upper,
                                                                      lowerdir={{ overlay 1 3 }}, ...]
    ext4 SRC [rw,loop]                 the disk itself is the root
    erofs SRC [ro,loop]                with root.readonly only

Every image file becomes a drive of the machine; the guest mounts it by its serial and assembles the overlay.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sandboxd.base.errors import ROOTFS_UNSUPPORTED
from sandboxd.core.oci import steps
from sandboxd.core.oci.findings import Findings
from sandboxd.core.oci.mount_options import MS_RDONLY, parse_options
from sandboxd.core.oci.paths import normalise
from sandboxd.core.oci.steps import Assembly
from sandboxd.vmm.spec import DRIVES_MAX, Drive

_OVERLAY_PREFIXES = {"format", "mkdir"}
_MKDIR = "X-containerd.mkdir.path="
_TEMPLATE = re.compile(r"\{\{-?\s*(mount|overlay)\s+(\d{1,4})(?:\s+(\d{1,4}))?\s*-?\}\}")
_SUBDIRECTORY = re.compile(r"(?:/[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}){0,8}\Z")
_OVERLAY_FLAGS = re.compile(
    r"(?:index|metacopy|redirect_dir|xino|nfs_export|uuid|verity)=[a-z]{1,10}\Z|(?:userxattr|volatile)\Z"
)
_DISK_OPTIONS = re.compile(r"(?:loop|rw|ro|noload|norecovery|discard|nodiscard|errors=[a-z-]{1,12}|data=[a-z]{1,10})\Z")
_OVERLAY_DATA_MAX = 4095
_OPTIONS_MAX = 128
_WORD_MAX = 4096


@dataclass(frozen=True, slots=True)
class RootfsMount:
    """One entry of CreateTaskRequest.rootfs (containerd.types.Mount)."""

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


class Rootfs:
    """Adds drives and steps for one container's root."""

    def __init__(self, assembly: Assembly, container_id: str, findings: Findings) -> None:
        self._assembly = assembly
        self._findings = findings
        self._serial = hashlib.sha256(container_id.encode()).hexdigest()[:14]
        self._places: list[str] = []
        self.drives: list[Drive] = []

    def add(self, mounts: Sequence[RootfsMount], read_only: bool) -> None:
        """All of them. Nothing is added once something was refused."""
        if not self._has_known_shape(mounts, read_only):
            return
        self._assembly.make_directory(self._assembly.root)
        disks, last = (mounts[:-1], mounts[-1]) if _is_overlay(mounts[-1]) else ((), mounts[-1])
        for index, mount in enumerate(disks):
            self._places.append(self._assembly.make_directory(f"{self._assembly.directory}/{index}"))
            self._add_disk(index, mount, self._places[-1])
        if _is_overlay(last):
            self._add_overlay(len(disks), last)
        else:
            self._add_disk(0, last, self._assembly.root)

    def _has_known_shape(self, mounts: Sequence[RootfsMount], read_only: bool) -> bool:
        why = _why_not(mounts, read_only)
        if why:
            forms = ", ".join(f"{mount.type} {mount.source}" for mount in mounts) or "(none)"
            self._refuse("rootfs", forms, why)
        return not why

    def _refuse(self, where: str, value: object, why: str) -> None:
        self._findings.add(where, value, why, ROOTFS_UNSUPPORTED)

    def _add_disk(self, index: int, mount: RootfsMount, place: str) -> None:
        where = f"rootfs[{index}]"
        unknown = [word for word in mount.options if not self._is_disk_option(word)]
        for word in unknown:
            self._refuse(f"{where}.options", word, "a disk of a guest knows no such option")
        source = normalise(mount.source)
        if source is None or len(mount.source) > 4096 or "\0" in mount.source:
            self._refuse(f"{where}.source", mount.source, "it has to be an absolute path of the host")
            return
        if unknown:
            return
        parsed = parse_options(mount.options)
        read_only = mount.type == "erofs" or bool(parsed.flags & MS_RDONLY)
        drive = Drive(serial=f"{self._serial}-{index}", path=Path(source), read_only=read_only)
        self.drives.append(drive)
        flags = parsed.flags | (MS_RDONLY if read_only else 0)
        data = ",".join(word for word in parsed.data if word != "loop")
        self._assembly.mount(f"block:{drive.serial}", place, mount.type, flags, data)

    @staticmethod
    def _is_disk_option(word: str) -> bool:
        if _DISK_OPTIONS.match(word):
            return True
        options = parse_options((word,))
        return not (options.data or options.refused or options.propagation or options.is_bind or options.recursive_set)

    def _add_overlay(self, index: int, mount: RootfsMount) -> None:
        where = f"rootfs[{index}].options"
        kept: list[str] = []
        for word in mount.options:
            if word.startswith(_MKDIR):
                self._make_directory(where, word)
            elif _is_layer_option(word):
                kept.append(self._expanded(where, word))
            elif _OVERLAY_FLAGS.match(word):
                kept.append(word)
            elif not self._is_disk_option(word):
                self._refuse(where, word, "an overlay in a guest knows no such option")
        data = ",".join(kept)
        if len(data) > _OVERLAY_DATA_MAX:
            self._refuse(where, f"{len(data)} bytes", f"an overlay's options have {_OVERLAY_DATA_MAX} bytes")
        if not any(word.startswith("lowerdir=") for word in kept):
            self._refuse(where, mount.options, "an overlay needs a lowerdir")
        flags = parse_options(tuple(word for word in mount.options if word in ("ro", "noatime"))).flags
        self._assembly.mount("overlay", self._assembly.root, "overlay", flags, data)

    def _make_directory(self, where: str, word: str) -> None:
        """X-containerd.mkdir.path=PATH[:MODE[:UID:GID]], the path below one of the disks."""
        path, _, rest = word.removeprefix(_MKDIR).partition(":")
        expanded = self._expanded(where, f"={path}").removeprefix("=")
        match = re.fullmatch(r"(?:(0?[0-7]{3,4})(?::(\d{1,9}):(\d{1,9}))?)?", rest)
        if match is None:
            self._refuse(where, word, "it reads PATH:MODE:UID:GID")
            return
        step = steps.directory(expanded, int(match[1] or "0755", 8))
        step.make_directory.uid = int(match[2] or 0)
        step.make_directory.gid = int(match[3] or 0)
        # Not undone: it belongs to the disk, and a second start of the same disk finds it.
        self._assembly.prepare.append(step)

    def _expanded(self, where: str, word: str) -> str:
        """The option with its templates replaced. Only paths on the container's own disks are let through."""
        key, _, value = word.partition("=")
        parts = [self._expanded_path(part) for part in value.split(":")]
        if any(part is None for part in parts):
            self._refuse(
                where, word, "its paths have to lie on the container's own disks: {{ mount N }} or {{ overlay A B }}"
            )
        return f"{key}={':'.join(part or '' for part in parts)}"

    def _expanded_path(self, path: str) -> str | None:
        match = _TEMPLATE.match(path)
        if match is None:
            return None
        name, first, last, rest = match[1], int(match[2]), match[3], path[match.end() :]
        if not _SUBDIRECTORY.match(rest) or (name == "mount") != (last is None):
            return None
        numbers = _range(first, int(last) if last else first)
        if any(number >= len(self._places) for number in numbers) or (rest and len(numbers) > 1):
            return None
        return ":".join(self._places[number] + rest for number in numbers)


def _why_not(mounts: Sequence[RootfsMount], read_only: bool) -> str:
    """Empty when the form is one that we know."""
    if not mounts:
        return "no root file system was handed over, and a directory of the host cannot be shared with a guest"
    *others, last = mounts
    if len(others) > DRIVES_MAX:
        return f"it has {len(others)} disks; a machine has room for {DRIVES_MAX}"
    if any(
        len(mount.options) > _OPTIONS_MAX or any(len(word) > _WORD_MAX for word in mount.options) for mount in mounts
    ):
        return f"a mount has at most {_OPTIONS_MAX} options of {_WORD_MAX} characters"
    if any(mount.target not in ("", "/") for mount in mounts):
        return "a mount below the root file system is not known here"
    if any(mount.type not in ("ext4", "erofs") for mount in others):
        return "its disks have to be ext4 or EROFS images"
    if _is_overlay(last):
        return ""
    if others:
        return "several disks need an overlay that joins them"
    if last.type == "erofs":
        return "" if read_only else "EROFS alone cannot be written, and root.readonly is not set"
    return "" if last.type == "ext4" else "its disks have to be ext4 or EROFS images"


def _is_overlay(mount: RootfsMount) -> bool:
    """An overlay whose directories are templates: "format/overlay", "format/mkdir/overlay"."""
    *prefixes, name = mount.type.split("/")
    return name == "overlay" and "format" in prefixes and set(prefixes) <= _OVERLAY_PREFIXES


def _is_layer_option(word: str) -> bool:
    return word.startswith(("lowerdir=", "upperdir=", "workdir="))


def _range(first: int, last: int) -> list[int]:
    """Both ends included; counting down when last is below first, as containerd's template does."""
    return list(range(first, last + 1)) if first <= last else list(range(first, last - 1, -1))
