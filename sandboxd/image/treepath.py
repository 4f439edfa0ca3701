"""Paths inside a tree that someone else made: every step is an `openat` that follows nothing; links are walked by us.

So a path can never leave the root, whatever the tree holds. An absolute link starts again at the root, as it would in
the running container. A link that climbs above the root is refused where it is followed, and so is one that leads
nowhere: an honest layer has no reason to write through either.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

DEPTH_MAX = 256
PATH_MAX_BYTES = 4000
"""Below PATH_MAX, with room for the tools' own prefix."""
NAME_MAX_BYTES = 255
SYMLINKS_MAX = 40
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CACHE_MAX = 128


class UnsafePath(Exception):
    """A path that leads, or tries to lead, out of the root. The text is one plain phrase."""


class BadPath(Exception):
    """A path that cannot exist in the tree. The text is one plain phrase."""


@dataclass(frozen=True, slots=True)
class Directory:
    """An open directory of the tree; the descriptor is the tree's own."""

    fd: int
    inode: int


def split_path(path: bytes) -> tuple[bytes, ...]:
    """The components of an entry's path, checked; () is the root itself."""
    if b"\0" in path or not path:
        raise BadPath("its name is empty or holds a NUL")
    if path.startswith(b"/"):
        raise UnsafePath("its path is absolute")
    parts = tuple(part for part in path.split(b"/") if part not in (b"", b"."))
    if b".." in parts:
        raise UnsafePath("its path holds ..")
    if len(path) > PATH_MAX_BYTES or len(parts) > DEPTH_MAX:
        raise BadPath(f"its path is longer than {PATH_MAX_BYTES} bytes or deeper than {DEPTH_MAX} directories")
    if any(len(part) > NAME_MAX_BYTES for part in parts):
        raise BadPath(f"its name is longer than {NAME_MAX_BYTES} bytes")
    return parts


class Tree:
    """A directory tree under one root.

    `on_make(directory)` is told of every directory that a walk creates, `on_step(parent inode, name)` of every
    component of a walk that may create.
    """

    def __init__(self, root: os.PathLike[str] | str) -> None:
        self._root = self._adopt(os.open(root, _OPEN_DIRECTORY))
        self._cache: dict[tuple[tuple[bytes, ...], bool], Directory] = {}
        self.on_make: Callable[[Directory], None] = lambda directory: None
        self.on_step: Callable[[int, bytes], None] = lambda inode, name: None

    @property
    def root(self) -> Directory:
        return self._root

    def close(self) -> None:
        self.forget()
        os.close(self._root.fd)

    def forget(self) -> None:
        """Drops what is known of paths: needed after a directory or a symlink went, and before each layer."""
        for directory in self._cache.values():
            os.close(directory.fd)
        self._cache.clear()

    def trim(self, *, everything: bool) -> None:
        """Between two entries: forgets all if asked to, or if too much is held open."""
        if everything or len(self._cache) >= _CACHE_MAX:
            self.forget()

    def directory(self, parts: tuple[bytes, ...], *, make: bool) -> Directory:
        """The directory at `parts`. Valid until `forget` or `trim`. `make` creates what is missing, 0755 root.

        Raises UnsafePath, BadPath, FileNotFoundError (without `make`).
        """
        if not parts:
            return self._root
        cached = self._cache.get((parts, make))
        if cached is None:
            cached = self._cache[parts, make] = _Walk(self, make).to(parts)
        return cached

    @staticmethod
    def _adopt(fd: int) -> Directory:
        return Directory(fd, os.fstat(fd).st_ino)


class _Walk:
    """One walk from the root down. Holds the chain of open directories, so that `..` of a link needs no path."""

    def __init__(self, tree: Tree, make: bool) -> None:
        self._tree = tree
        self._make = make
        self._chain: list[Directory] = []
        self._links = 0

    def to(self, parts: tuple[bytes, ...]) -> Directory:
        try:
            # Reversed: the next component is last. `own` counts those that the caller named, the rest came from links.
            pending = list(reversed(parts))
            own = len(parts)
            while pending:
                name = pending.pop()
                from_link = len(pending) >= own
                own = min(own, len(pending))
                target = self._step(name, from_link)
                if target is not None:
                    pending += self._expand(target)
            if not self._chain:
                return Directory(os.dup(self._tree.root.fd), self._tree.root.inode)
            return self._chain.pop()
        finally:
            self._drop(0)

    def _here(self) -> Directory:
        return self._chain[-1] if self._chain else self._tree.root

    def _drop(self, length: int) -> None:
        while len(self._chain) > length:
            os.close(self._chain.pop().fd)

    def _step(self, name: bytes, from_link: bool) -> bytes | None:
        """Enters `name`; gives its target instead when it is a link."""
        if name == b"..":
            if not self._chain:
                raise UnsafePath("it is reached through a symbolic link that leads above the root")
            self._drop(len(self._chain) - 1)
            return None
        here = self._here()
        try:
            fd = os.open(name, _OPEN_DIRECTORY, dir_fd=here.fd)
        except FileNotFoundError:
            if from_link:
                raise UnsafePath("it is reached through a symbolic link that leads nowhere inside the root") from None
            if not self._make:
                raise
            os.mkdir(name, 0o755, dir_fd=here.fd)
            fd = os.open(name, _OPEN_DIRECTORY, dir_fd=here.fd)
            self._tree.on_make(Tree._adopt(fd))
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            return self._target(name, here)
        if self._make:
            self._tree.on_step(here.inode, name)
        self._chain.append(Tree._adopt(fd))
        if len(self._chain) > DEPTH_MAX:
            raise BadPath(f"its path is deeper than {DEPTH_MAX} directories")
        return None

    def _target(self, name: bytes, here: Directory) -> bytes:
        try:
            target = os.readlink(name, dir_fd=here.fd)
        except OSError:
            raise BadPath("its parent is not a directory") from None
        self._links += 1
        if self._links > SYMLINKS_MAX:
            raise UnsafePath("it is reached through a loop of symbolic links")
        return target

    def _expand(self, target: bytes) -> list[bytes]:
        if target.startswith(b"/"):
            self._drop(0)
        return [part for part in reversed(target.split(b"/")) if part not in (b"", b".")]


def read_small_file(root: os.PathLike[str] | str, path: bytes, limit_bytes: int) -> bytes:
    """A regular file of the tree, links resolved inside it; b"" where there is none, or none that is that small."""
    tree = Tree(root)
    try:
        parts = split_path(path)
        for _ in range(SYMLINKS_MAX):
            parent = tree.directory(parts[:-1], make=False)
            try:
                target = os.readlink(parts[-1], dir_fd=parent.fd)
            except OSError:
                return _read_regular(parts[-1], parent, limit_bytes)
            base = () if target.startswith(b"/") else parts[:-1]
            parts = _normalised(base, target)
            if not parts:
                return b""
        return b""
    except (UnsafePath, BadPath, OSError):
        return b""
    finally:
        tree.close()


def _normalised(base: tuple[bytes, ...], target: bytes) -> tuple[bytes, ...]:
    """`base/target` with `..` taken lexically: enough for the few files that are read this way, and it stays inside."""
    parts = list(base)
    for part in target.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return tuple(parts)


def _read_regular(name: bytes, parent: Directory, limit_bytes: int) -> bytes:
    # Looked at before it is opened: opening a device or FIFO of that name would do something. Nobody else writes here.
    status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode) or status.st_size > limit_bytes:
        return b""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.fd)
    with os.fdopen(fd, "rb") as file:
        return file.read(limit_bytes)
