"""A file or tree of a container as a tar stream (POSIX pax), made while it is read: nothing is held but one chunk."""

from __future__ import annotations

import stat
import tarfile
from collections.abc import AsyncIterator

from sandboxd.api import agent_pb2
from sandboxd.api import sandboxd_pb2 as api
from sandboxd.base.errors import SandboxdError
from sandboxd.daemon.guest_files import GuestFiles, checked_path, errno_of, is_directory
from sandboxd.shim.launch import ShimClient

DEPTH_MAX = 512
HARD_LINKS_MAX = 100_000
"""Files with several names that are remembered; of more, each name is a file of its own."""
PERMISSIONS = 0o7777
_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
}
"""Sockets are not in it: a tar has no word for them."""
_GONE = frozenset({"ENOENT", "ENOTDIR", "ESTALE"})


async def archive(shim: ShimClient, path: str, *, follow: bool) -> AsyncIterator[bytes]:
    """The tree below `path`, its entries named by the path's last part. Raises path_not_found."""
    files = GuestFiles(shim)
    root = checked_path(path)
    top = await files.require(root, follow=follow)
    name = root.rsplit(b"/", 1)[-1] or b"."
    async for chunk in _Archive(files).tree(root, name, top):
        yield chunk
    yield bytes(2 * tarfile.BLOCKSIZE)


async def stat_path(shim: ShimClient, path: str, *, follow: bool) -> api.StatPathResponse:
    entry = await GuestFiles(shim).stat(checked_path(path), follow=follow)
    if entry is None:
        return api.StatPathResponse(exists=False)
    target = entry.symlink_target.decode("utf-8", "replace")
    return api.StatPathResponse(exists=True, mode=entry.mode, size=entry.size, symlink_target=target)


class _Archive:
    """One stream. A file with several names is in it once, and as hard links after that."""

    def __init__(self, files: GuestFiles) -> None:
        self._files = files
        self._names_by_inode: dict[int, bytes] = {}

    async def tree(self, path: bytes, name: bytes, entry: agent_pb2.FileEntry) -> AsyncIterator[bytes]:
        """Depth first, a directory before what is in it."""
        async for chunk in self._member(path, name, entry):
            yield chunk
        if not is_directory(entry):
            return
        walks = [self._children(path, name)]
        while walks:
            try:
                child_path, child_name, child = await anext(walks[-1])
            except StopAsyncIteration:
                walks.pop()
                continue
            async for chunk in self._member(child_path, child_name, child):
                yield chunk
            if is_directory(child) and len(walks) < DEPTH_MAX:
                walks.append(self._children(child_path, child_name))

    async def _children(self, path: bytes, name: bytes) -> AsyncIterator[tuple[bytes, bytes, agent_pb2.FileEntry]]:
        try:
            async for child in self._files.list(path):
                yield path.rstrip(b"/") + b"/" + child.name, name + b"/" + child.name, child
        except SandboxdError as error:
            if errno_of(error) not in _GONE:  # a directory that went meanwhile has no entries
                raise

    async def _member(self, path: bytes, name: bytes, entry: agent_pb2.FileEntry) -> AsyncIterator[bytes]:
        kind = _TYPES.get(stat.S_IFMT(entry.mode))
        if kind is None:
            return
        info = _header(name, kind, entry)
        known = self._names_by_inode.get(entry.inode) if entry.links > 1 else None
        if known is not None and kind == tarfile.REGTYPE:
            info.type, info.linkname = tarfile.LNKTYPE, _text(known)
        elif kind == tarfile.REGTYPE:
            info.size = entry.size
            if entry.links > 1 and len(self._names_by_inode) < HARD_LINKS_MAX:
                self._names_by_inode[entry.inode] = name
        # PAX: names of any length and bytes, times to the nanosecond, sizes over 8 GiB.
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if info.size:
            async for data in self._files.read(path, info.size):
                yield data
            if rest := info.size % tarfile.BLOCKSIZE:
                yield bytes(tarfile.BLOCKSIZE - rest)


def _header(name: bytes, kind: bytes, entry: agent_pb2.FileEntry) -> tarfile.TarInfo:
    info = tarfile.TarInfo(_text(name))
    info.type = kind
    info.mode = entry.mode & PERMISSIONS
    info.uid, info.gid = entry.uid, entry.gid
    seconds, nanoseconds = divmod(entry.mtime_unix_ns, 10**9)
    info.mtime = max(0, seconds)
    if nanoseconds and seconds >= 0:
        info.pax_headers = {"mtime": f"{seconds}.{nanoseconds:09d}"}
    if kind == tarfile.SYMTYPE:
        info.linkname = _text(entry.symlink_target)
    if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        # As wide as Linux has them: a guest may answer more, and a tar has no field for it.
        info.devmajor, info.devminor = entry.major & 0xFFF, entry.minor & 0xFFFFF
    return info


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
