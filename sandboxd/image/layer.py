"""One layer onto a tree: the OCI image specification's "Layer Filesystem Changeset", applied entry by entry.

What is kept of an entry: type, content, owner, mode with setuid, device numbers, mtime to the nanosecond, hard links
(also to files of lower layers) and the extended attributes of `_KEPT_XATTRS`. Others belong to the host that made the
layer (SELinux labels, IMA hashes) or would be read by the overlay that the guest puts on top (trusted.overlay.*).
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from sandboxd.image.layerstream import OverBudget
from sandboxd.image.tarstream import TarEntry, TarReader
from sandboxd.image.treepath import BadPath, Directory, Tree, UnsafePath, split_path

_WHITEOUT = b".wh."
_WHITEOUT_META = b".wh..wh."
_OPAQUE = b".wh..wh..opq"
_KEPT_XATTRS = (b"user.", b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default")
_CHUNK_BYTES = 1 << 20
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DEVICE_KINDS = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"6": stat.S_IFIFO}
_MAJOR_MAX = 1 << 12
_MINOR_MAX = 1 << 20


@dataclass(slots=True)
class Budget:
    """What all layers of one image may use together."""

    entries: int
    bytes: int

    def take(self, entry: TarEntry) -> None:
        """Raises OverBudget."""
        self.entries -= 1
        self.bytes -= entry.real_size
        if self.entries < 0:
            raise OverBudget("the number of files")
        if self.bytes < 0:
            raise OverBudget("the size unpacked")


class LayerApplier:
    """Applies layers, lowest first, to one tree; `finish` after the last.

    Raises UnsafePath, BadPath, OverBudget, TarError, OSError; `entry` then names where it was.
    """

    def __init__(self, tree: Tree, budget: Budget) -> None:
        self._tree = tree
        self._budget = budget
        self._mtimes_ns: dict[int, int] = {tree.root.inode: 0}
        self._own: set[tuple[int, bytes]] = set()
        """(inode of the parent, name) of all that the present layer made or walked through; its whiteouts spare it."""
        self._stale = False
        self.entry = b""
        tree.on_make = lambda directory: self._mtimes_ns.__setitem__(directory.inode, 0)
        tree.on_step = lambda inode, name: self._own.add((inode, name))

    def apply(self, reader: TarReader) -> None:
        self._own.clear()
        self._tree.forget()
        for entry in reader:
            self.entry = entry.path
            self._budget.take(entry)
            self._tree.trim(everything=self._stale)
            self._stale = False
            self._apply_entry(entry, reader)
        self.entry = b""

    def finish(self) -> None:
        """Sets the directories' times, which everything made inside them has changed. Those without an entry get 0."""
        self._tree.forget()
        root = self._tree.root.fd
        for _, directories, _, fd in os.fwalk(b".", dir_fd=root, follow_symlinks=False):
            for name in directories:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    _set_mtime(name, self._mtimes_ns.get(status.st_ino, 0), fd)
        os.utime(root, ns=(self._mtimes_ns[self._tree.root.inode],) * 2)

    def _apply_entry(self, entry: TarEntry, reader: TarReader) -> None:
        parts = split_path(entry.path)
        if not parts:
            if entry.kind == b"5":
                self._set_directory(self._tree.root, entry)
            return
        if parts[-1].startswith(_WHITEOUT):
            self._whiteout(parts)
            return
        if any(part.startswith(_WHITEOUT_META) for part in parts):
            return  # AUFS keeps its links in there; nothing of it belongs to the image.
        parent = self._tree.directory(parts[:-1], make=True)
        self._place(entry, parts[-1], parent, reader)
        self._own.add((parent.inode, parts[-1]))

    def _place(self, entry: TarEntry, name: bytes, parent: Directory, reader: TarReader) -> None:
        if entry.kind == b"1":
            self._hard_link(entry, name, parent)
        elif entry.kind == b"5":
            self._directory(entry, name, parent)
        elif entry.kind == b"0":
            self._clear(name, parent)
            self._regular(entry, name, parent, reader)
        elif entry.kind == b"2":
            self._clear(name, parent)
            self._symlink(entry, name, parent)
        elif entry.kind in _DEVICE_KINDS:
            self._clear(name, parent)
            self._device(entry, name, parent)
        else:
            raise BadPath(f"it is of the unknown type {entry.kind!r}")

    # --- what an entry becomes

    def _regular(self, entry: TarEntry, name: bytes, parent: Directory, reader: TarReader) -> None:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent.fd)
        try:
            _copy_data(entry, reader, fd)
            # This order: a change of owner clears setuid and capabilities, a write clears both.
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            _set_xattrs(fd, entry.xattrs)
            os.utime(fd, ns=(_mtime_ns(entry),) * 2)
        finally:
            os.close(fd)

    def _directory(self, entry: TarEntry, name: bytes, parent: Directory) -> None:
        status = _lstat(name, parent)
        if status is None or not stat.S_ISDIR(status.st_mode):
            self._clear(name, parent)
            os.mkdir(name, 0o700, dir_fd=parent.fd)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.fd)
        try:
            self._set_directory(Directory(fd, os.fstat(fd).st_ino), entry)
        finally:
            os.close(fd)

    def _set_directory(self, directory: Directory, entry: TarEntry) -> None:
        os.fchown(directory.fd, entry.uid, entry.gid)
        os.fchmod(directory.fd, entry.mode)
        for old in os.listxattr(directory.fd):
            if os.fsencode(old) not in entry.xattrs and os.fsencode(old).startswith(_KEPT_XATTRS):
                os.removexattr(directory.fd, old)
        _set_xattrs(directory.fd, entry.xattrs)
        self._mtimes_ns[directory.inode] = _mtime_ns(entry)

    def _symlink(self, entry: TarEntry, name: bytes, parent: Directory) -> None:
        if not entry.link or b"\0" in entry.link:
            raise BadPath("it is a symbolic link to nothing")
        os.symlink(entry.link, name, dir_fd=parent.fd)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent.fd, follow_symlinks=False)
        _set_mtime(name, _mtime_ns(entry), parent.fd)

    def _device(self, entry: TarEntry, name: bytes, parent: Directory) -> None:
        major, minor = entry.device_major, entry.device_minor
        if not (0 <= major < _MAJOR_MAX and 0 <= minor < _MINOR_MAX):
            raise BadPath(f"its device number {major}:{minor} does not exist on Linux")
        device = 0 if entry.kind == b"6" else os.makedev(major, minor)
        os.mknod(name, _DEVICE_KINDS[entry.kind] | 0o600, device, dir_fd=parent.fd)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent.fd, follow_symlinks=False)
        # chmod follows links, but this is the node just made in a directory that only we write.
        os.chmod(name, entry.mode, dir_fd=parent.fd)
        _set_mtime(name, _mtime_ns(entry), parent.fd)

    def _hard_link(self, entry: TarEntry, name: bytes, parent: Directory) -> None:
        try:
            target = split_path(entry.link)
        except UnsafePath as error:
            raise UnsafePath(f"it is a hard link to {os.fsdecode(entry.link)}: {error}") from None
        if not target:
            raise BadPath("it is a hard link to the root")
        no_file = BadPath(f"it is a hard link to {os.fsdecode(entry.link)}, which is no file of this image")
        try:
            source = self._tree.directory(target[:-1], make=False)
        except FileNotFoundError:
            raise no_file from None
        found = _lstat(target[-1], source)
        if found is None or stat.S_ISDIR(found.st_mode):
            raise no_file
        present = _lstat(name, parent)
        if present is not None and present.st_ino == found.st_ino:
            return
        self._clear(name, parent)
        os.link(target[-1], name, src_dir_fd=source.fd, dst_dir_fd=parent.fd, follow_symlinks=False)

    # --- what an entry takes away

    def _clear(self, name: bytes, parent: Directory) -> None:
        """Removes what is at `name`, so that nothing is written through it."""
        status = _lstat(name, parent)
        if status is None:
            return
        if stat.S_ISDIR(status.st_mode):
            self._remove_below(name, parent, keep_own=False)
            os.rmdir(name, dir_fd=parent.fd)
        else:
            os.unlink(name, dir_fd=parent.fd)
        # A path that was walked before may have led through it. Not at once: `parent` is in use.
        self._stale = self._stale or not stat.S_ISREG(status.st_mode)

    def _whiteout(self, parts: tuple[bytes, ...]) -> None:
        """Hides one name of the layers below, or all of a directory. Names of this same layer stay, in any order."""
        marker = parts[-1]
        if marker.startswith(_WHITEOUT_META) and marker != _OPAQUE:
            return
        name = marker[len(_WHITEOUT) :]
        if name in (b"", b".", b".."):
            raise UnsafePath("it is a whiteout of the directory itself, or of the one above")
        try:
            parent = self._tree.directory(parts[:-1], make=False)
        except FileNotFoundError:
            return
        if marker == _OPAQUE:
            self._remove_children(parent)
            self._stale = True
        else:
            self._remove_lower(name, parent)

    def _remove_lower(self, name: bytes, parent: Directory) -> None:
        status = _lstat(name, parent)
        if status is None:
            return
        own = (parent.inode, name) in self._own
        if stat.S_ISDIR(status.st_mode):
            self._remove_below(name, parent, keep_own=own)
            self._stale = True
            if not own:
                os.rmdir(name, dir_fd=parent.fd)
        elif not own:
            os.unlink(name, dir_fd=parent.fd)
            self._stale = True

    def _remove_below(self, name: bytes, parent: Directory, *, keep_own: bool) -> None:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.fd)
        try:
            directory = Directory(fd, os.fstat(fd).st_ino)
            if keep_own:
                self._remove_children(directory)
                return
            for child in _names(directory):
                self._clear(child, directory)
        finally:
            os.close(fd)

    def _remove_children(self, directory: Directory) -> None:
        for child in _names(directory):
            self._remove_lower(child, directory)


def _names(directory: Directory) -> list[bytes]:
    return [os.fsencode(name) for name in os.listdir(directory.fd)]  # noqa: PTH208 (of a descriptor)


def _lstat(name: bytes, parent: Directory) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _set_mtime(name: bytes, mtime_ns: int, fd: int) -> None:
    os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=fd, follow_symlinks=False)


def _mtime_ns(entry: TarEntry) -> int:
    # mkfs.erofs 1.5 takes a time before 1970 for one after the year 9999; the epoch is nearer.
    return max(entry.mtime_ns, 0)


def _copy_data(entry: TarEntry, reader: TarReader, fd: int) -> None:
    if entry.sparse is None:
        while data := reader.read(_CHUNK_BYTES):
            _write(fd, data)
        return
    os.ftruncate(fd, entry.sparse.real_size)
    for offset, length in entry.sparse.segments:
        os.lseek(fd, offset, os.SEEK_SET)
        while length:
            data = reader.read(min(length, _CHUNK_BYTES))
            if not data:
                raise BadPath("it is a sparse file with less data than its map says")
            _write(fd, data)
            length -= len(data)


def _write(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def _set_xattrs(fd: int, xattrs: dict[bytes, bytes]) -> None:
    for name, value in xattrs.items():
        if not name.startswith(_KEPT_XATTRS):
            continue
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.E2BIG, errno.ERANGE, errno.EINVAL):
                raise
            # ENOSPC here is not a full disk: the attributes of one file are over the file system's own limit.
            raise BadPath(f"its extended attribute {os.fsdecode(name)} is too large or malformed") from None
