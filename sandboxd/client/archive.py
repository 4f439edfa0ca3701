"""Tar streams between this host and a sandbox, with bounded memory.

`pack` makes one from files of this host. `unpack` writes one to this host and trusts none of it: no entry leaves its
directory, nothing is written through a symbolic link that came with the archive (links are made last), no device node
and no setuid bit appears.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from sandboxd.base.errors import ARCHIVE_REFUSED, SandboxdError
from sandboxd.client.local import local_file

BLOCK_BYTES = 128 << 10
NAME_MAX_BYTES = 4096
_PERMISSIONS = 0o777


def pack(source: Path, name: str, write: Callable[[bytes], object], *, follow: bool, keep_owner: bool) -> int:
    """Writes `source` as a tar stream whose first entry is called `name`; "." packs a directory's content.

    Returns the number of entries. Sockets are left out, as docker does. Errors: local_file.
    """
    count = 0
    try:
        with tar_writer(write) as tar:
            top = source.resolve(strict=True) if follow else source
            for path, entry in _walk(top, name):
                info = tar.gettarinfo(path, arcname=entry)
                if info is None:  # a socket
                    continue
                if not keep_owner:
                    info.uid = info.gid = 0
                info.uname = info.gname = ""
                _add(tar, path, info)
                count += 1
    except OSError as error:
        raise local_file(error.filename or source, error) from None
    return count


def _walk(top: Path, name: str) -> Iterator[tuple[Path, str]]:
    """(path, entry's name), parents before children, in the order of names."""
    yield top, name
    if top.is_symlink() or not top.is_dir():
        return
    for child in sorted(top.iterdir()):
        yield from _walk(child, f"{name}/{child.name}")


def _add(tar: tarfile.TarFile, path: Path, info: tarfile.TarInfo) -> None:
    if not info.isreg():
        tar.addfile(info)
        return
    with path.open("rb") as file:
        tar.addfile(info, cast("IO[bytes]", _Exactly(file, info.size)))


def unpack(read: Callable[[int], bytes], target: Path, rename: str | None, *, keep_owner: bool) -> int:
    """Writes a tar stream below `target`, an existing directory.

    The first part of every name becomes `rename`; None drops it, so that a tree's content lands in `target` itself.
    Returns the number of entries. Errors: archive_refused, local_file.
    """
    work = _Unpacking(target, rename, keep_owner)
    try:
        with tar_reader(read) as tar:
            for info in tar:
                work.entry(tar, info)
        work.finish()
    except tarfile.TarError as error:
        raise refused("the stream", f"It is not a whole tar archive: {error}.") from None
    except OSError as error:
        raise local_file(error.filename or target, error) from None
    return work.count


class _Unpacking:
    """One archive on its way to disk."""

    def __init__(self, target: Path, rename: str | None, keep_owner: bool) -> None:
        self.target = target
        self.rename = rename
        self.keep_owner = keep_owner
        self.count = 0
        self._links: dict[Path, tarfile.TarInfo] = {}
        self._directories: dict[Path, tarfile.TarInfo] = {}

    def entry(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        path = self._place(info.name)
        if path is None:
            if not info.isdir():
                raise refused(info.name, "A file has no place of its own here.")
            return
        if info.isdir():
            self._directory(path, info)
        elif info.issym():
            self._clear(path)
            self._links[path] = info
        elif info.islnk():
            self._hardlink(path, info)
        elif info.isreg():
            self._file(tar, path, info)
        else:
            return  # device nodes and FIFOs of a sandbox have no business on the host
        self.count += 1

    def finish(self) -> None:
        """Symbolic links, then the directories' times and modes, which making their content would have changed."""
        for path, info in list(self._links.items()):
            self._clear(path)
            path.symlink_to(info.linkname)
            self._own(path, info)
        for path, info in reversed(self._directories.items()):
            self._attributes(path, info)

    def _place(self, name: str) -> Path | None:
        """Where an entry goes; None for the top itself when it is dropped."""
        if len(os.fsencode(name)) > NAME_MAX_BYTES or "\0" in name:
            raise refused(name[:80], f"Its name is not one, or longer than {NAME_MAX_BYTES} bytes.")
        parts = [part for part in name.split("/") if part]
        if ".." in parts:
            raise refused(name, "Its name leads out of the directory.")
        below = [part for part in parts[1:] if part != "."]
        if self.rename is not None:
            below = [self.rename, *below]
        if not below:
            return None
        path = self.target.joinpath(*below)
        self._parents(path)
        return path

    def _parents(self, path: Path) -> None:
        """Missing directories on the way are made; one that the archive calls a link is refused."""
        for parent in reversed(path.relative_to(self.target).parents[:-1]):
            there = self.target / parent
            if there in self._links:
                raise refused(str(path.relative_to(self.target)), f"It lies below {parent}, which is a symbolic link.")
            if not there.is_dir():
                there.mkdir(0o755)
            elif there.is_symlink() and not there.resolve().is_relative_to(self.target.resolve()):
                raise refused(str(path.relative_to(self.target)), f"{there} leads out of {self.target}.")

    def _directory(self, path: Path, info: tarfile.TarInfo) -> None:
        if path.is_symlink() or not path.is_dir():
            self._clear(path)
            path.mkdir(0o700)
        self._directories[path] = info

    def _file(self, tar: tarfile.TarFile, path: Path, info: tarfile.TarInfo) -> None:
        self._clear(path)
        content = tar.extractfile(info)
        if content is None:
            raise refused(info.name, "It has no content.")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            while block := content.read(BLOCK_BYTES):
                file.write(block)
        self._attributes(path, info)

    def _hardlink(self, path: Path, info: tarfile.TarInfo) -> None:
        origin = self._place(info.linkname)
        if origin is None or origin == path:
            raise refused(info.name, "It is a hard link to nothing.")
        self._clear(path)
        if origin in self._links:
            self._links[path] = self._links[origin]
            return
        if origin.is_symlink() or not origin.is_file():
            raise refused(info.name, f"It is a hard link to {info.linkname}, which did not come before it.")
        os.link(origin, path, follow_symlinks=False)

    def _clear(self, path: Path) -> None:
        """Makes room for an entry: a file or link goes; a directory or device of this host stays, and is an error."""
        self._links.pop(path, None)
        self._directories.pop(path, None)
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            kind = "a directory" if stat.S_ISDIR(mode) else "neither a file nor a directory"
            raise refused(str(path.relative_to(self.target)), f"{path} is {kind} here.")
        path.unlink()

    def _attributes(self, path: Path, info: tarfile.TarInfo) -> None:
        self._own(path, info)
        path.chmod(info.mode & _PERMISSIONS)
        with contextlib.suppress(OverflowError, ValueError):
            os.utime(path, (info.mtime, info.mtime))

    def _own(self, path: Path, info: tarfile.TarInfo) -> None:
        if self.keep_owner:
            os.chown(path, info.uid, info.gid, follow_symlinks=False)


def tar_writer(write: Callable[[bytes], object]) -> tarfile.TarFile:
    """A tar stream whose blocks go to `write`."""
    stream: Any = _WriteOnly(write)
    return tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=BLOCK_BYTES)


def tar_reader(read: Callable[[int], bytes]) -> tarfile.TarFile:
    """A tar stream whose blocks come from `read(n)`, which may return less than n only at the end."""
    stream: Any = _ReadOnly(read)
    return tarfile.open(fileobj=stream, mode="r|", bufsize=BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class _WriteOnly:
    """The one method that tarfile's stream mode needs."""

    write: Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class _ReadOnly:
    read: Callable[[int], bytes]


class _Exactly:
    """A file of exactly `size` bytes: one that shrinks while it is read is filled up with zeros, as tar does."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def read(self, count: int = -1) -> bytes:
        wanted = self._left if count < 0 else min(count, self._left)
        data = self._file.read(wanted)
        data += b"\0" * (wanted - len(data))
        self._left -= wanted
        return data


def refused(entry: str, reason: str) -> SandboxdError:
    return SandboxdError(ARCHIVE_REFUSED, entry=entry[:200], reason=reason)
