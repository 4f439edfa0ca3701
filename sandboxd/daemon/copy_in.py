"""A tar stream into a directory of a container.

The stream may come from anyone: its headers are bounded by the reader, its names are checked here. No entry may name a
place outside the target, by `..`, by an absolute path, or through a symbolic link that the same stream made; beyond
that the guest's kernel confines every path to the container's root. Data goes through in pieces; nothing is held.

The reader blocks, so it has a thread; at most COPIES_AT_ONCE of them, and what is more waits its turn.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import stat
import threading
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from sandboxd.api import agent_pb2
from sandboxd.api import sandboxd_pb2 as api
from sandboxd.base.errors import COPY_REFUSED, SandboxdError
from sandboxd.daemon.guest_files import CHUNK_BYTES, GuestFiles, checked_path, errno_of, is_directory
from sandboxd.daemon.request import PATH_MAX_BYTES, shown
from sandboxd.image.tarstream import TarEntry, TarError, TarReader
from sandboxd.shim.launch import ShimClient

COPIES_AT_ONCE = 8
LATER_MAX = 100_000
"""Directories whose times are set after their content; those of more are set before."""
LINKS_MAX = 1_000_000
"""Symbolic links in one stream: each is remembered, so that nothing is written through it."""
PERMISSIONS = 0o7777
_FILE = frozenset({b"0", b"\0", b"", b"7", b"S"})
_NODES = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"6": stat.S_IFIFO}
_threads = concurrent.futures.ThreadPoolExecutor(COPIES_AT_ONCE, thread_name_prefix="copy")

T = TypeVar("T")
Parts = tuple[bytes, ...]


async def extract(shim: ShimClient, target: api.CopyTarget, messages: AsyncIterator[api.CopyInRequest]) -> int:
    """Unpacks into an existing directory; answers how many entries there were.

    Raises path_not_found, copy_refused. What was unpacked before a refusal stays, as with any tar.
    """
    files = GuestFiles(shim)
    root = checked_path(target.path)
    if not is_directory(await files.require(root, follow=True)):
        raise _refused(target.path, "It is not a directory.")
    bridge = _Bridge(messages)
    unpacking = asyncio.get_running_loop().run_in_executor(
        _threads, _Unpacker(files, bridge, root, keep_owner=target.keep_owner).run
    )
    try:
        return await asyncio.shield(unpacking)
    except TarError as error:
        raise _refused(target.path, f"The archive cannot be read: {error}.") from None
    finally:
        bridge.stop()
        await asyncio.wait({unpacking})
        if not unpacking.cancelled():
            unpacking.exception()


class _Stopped(Exception):
    """The client went away."""


class _Bridge:
    """The thread's way to the event loop: the stream's bytes, and calls."""

    def __init__(self, messages: AsyncIterator[api.CopyInRequest]) -> None:
        self._messages = messages
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._stopped = False
        self._pending: concurrent.futures.Future[Any] | None = None
        self._rest = b""

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """From the thread: runs it on the loop and waits."""
        with self._lock:
            if self._stopped:
                work.close()
                raise _Stopped
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._pending = future
        return future.result()

    def read(self, size: int, /) -> bytes:
        """As a file has it: at most `size` bytes, b"" at the end."""
        if not self._rest:
            self._rest = self.call(self._next())
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def stop(self) -> None:
        """From the loop: the thread's next call raises, the present one is cancelled."""
        with self._lock:
            self._stopped = True
            if self._pending:
                self._pending.cancel()

    async def _next(self) -> bytes:
        while (message := await anext(self._messages, None)) is not None:
            if message.WhichOneof("kind") != "data":
                raise _refused("", "After the first message only data may come.")
            if message.data:
                return message.data
        return b""


class _Unpacker:
    """One stream into one directory. Runs in a thread."""

    def __init__(self, files: GuestFiles, bridge: _Bridge, root: bytes, *, keep_owner: bool) -> None:
        self._files = files
        self._bridge = bridge
        self._root = root
        self._keep_owner = keep_owner
        self._links: set[Parts] = set()
        self._later: list[tuple[bytes, TarEntry]] = []

    def run(self) -> int:
        count = 0
        reader = TarReader(self._bridge)
        for entry in reader:
            parts = self._checked(entry.path, "")
            if parts:  # "." is the target itself, which stays as it is
                self._unpack(reader, entry, parts)
                count += 1
        for path, entry in reversed(self._later):
            self._set_attributes(path, entry)
        return count

    def _unpack(self, reader: TarReader, entry: TarEntry, parts: Parts) -> None:
        path = self._place(parts)
        if entry.kind == b"5":
            self._directory(path, entry, parts)
            return
        self._make_way(path, parts)
        if entry.kind in _FILE:
            self._with_parents(parts, lambda: self._create(path, entry))
            self._write(reader, path, entry)
        elif entry.kind == b"1":
            origin = self._place(self._checked(entry.link, "the link of "))
            self._with_parents(parts, lambda: self._make(path, stat.S_IFREG, hardlink_of=origin))
            return  # its attributes are those of the file it is
        elif entry.kind == b"2":
            self._symlink(path, entry, parts)
        elif entry.kind in _NODES:
            mode = _NODES[entry.kind] | (entry.mode & PERMISSIONS)
            device = {"major": entry.device_major, "minor": entry.device_minor}
            self._with_parents(parts, lambda: self._make(path, mode, **device))
        else:
            raise _refused(_shown(entry.path), f"Its type {entry.kind!r} is not known.")
        self._set_attributes(path, entry)

    def _checked(self, name: bytes, what: str) -> Parts:
        """The parts of an entry's name below the target. Raises copy_refused."""
        if name.startswith(b"/"):
            raise _refused(_shown(name), f"In the archive {what}an entry has an absolute path.")
        parts = tuple(part for part in name.split(b"/") if part not in (b"", b"."))
        if b".." in parts:
            raise _refused(_shown(name), f"In the archive {what}an entry leads out of the target with `..`.")
        if b"\0" in name or len(self._root) + len(name) > PATH_MAX_BYTES:
            raise _refused(_shown(name), f"A path has at most {PATH_MAX_BYTES} bytes, and no NUL.")
        for length in range(1, len(parts)):
            if parts[:length] in self._links:
                raise _refused(_shown(name), "In the archive an entry lies behind a symbolic link of the same archive.")
        return parts

    def _place(self, parts: Parts) -> bytes:
        return b"/".join((self._root.rstrip(b"/"), *parts))

    def _directory(self, path: bytes, entry: TarEntry, parts: Parts) -> None:
        try:
            self._with_parents(parts, lambda: self._make(path, stat.S_IFDIR | 0o755))
        except SandboxdError as error:
            if errno_of(error) != "EEXIST":
                raise
            found = self._bridge.call(self._files.stat(path, follow=False))
            if found and not is_directory(found):
                raise _refused(_shown(path), "There is a file where the archive has a directory.") from None
        if len(self._later) < LATER_MAX:
            self._later.append((path, entry))
        else:
            self._set_attributes(path, entry)

    def _make_way(self, path: bytes, parts: Parts) -> None:
        """Removes what is in the place, unless it is a directory: a write shall not go through an old link."""
        found = self._bridge.call(self._files.stat(path, follow=False))
        if found is None:
            return
        if is_directory(found):
            raise _refused(_shown(path), "There is a directory where the archive has a file.")
        self._bridge.call(self._files.call(path, remove=agent_pb2.FileRemove()))
        self._links.discard(parts)

    def _symlink(self, path: bytes, entry: TarEntry, parts: Parts) -> None:
        if len(self._links) >= LINKS_MAX:
            raise _refused(_shown(path), f"The archive has more than {LINKS_MAX} symbolic links.")
        self._with_parents(parts, lambda: self._make(path, stat.S_IFLNK | 0o777, symlink_target=entry.link))
        self._links.add(parts)

    def _create(self, path: bytes, entry: TarEntry) -> None:
        operation = agent_pb2.FileWrite(create=True, mode=entry.mode & PERMISSIONS)
        self._bridge.call(self._files.call(path, write=operation))

    def _write(self, reader: TarReader, path: bytes, entry: TarEntry) -> None:
        segments = entry.sparse.segments if entry.sparse else ((0, entry.size),)
        end = 0
        for begin, length in segments:
            offset = begin
            while offset < begin + length:
                data = _read_exactly(reader, min(CHUNK_BYTES, begin + length - offset))
                self._put(path, offset, data)
                offset += len(data)
            end = max(end, offset if length else 0)
        if end < entry.real_size:  # a hole at the end: its last byte makes the size
            self._put(path, entry.real_size - 1, b"\0")

    def _put(self, path: bytes, offset: int, data: bytes) -> None:
        self._bridge.call(self._files.call(path, write=agent_pb2.FileWrite(offset=offset, data=data)))

    def _make(self, path: bytes, mode: int, **more: Any) -> None:
        self._bridge.call(self._files.call(path, make=agent_pb2.FileMake(mode=mode, **more)))

    def _with_parents(self, parts: Parts, make: Any) -> None:
        """Does it; where a directory on the way is missing, makes that and does it again."""
        try:
            make()
            return
        except SandboxdError as error:
            if errno_of(error) != "ENOENT" or len(parts) < 2:
                raise
        for length in range(1, len(parts)):
            try:
                self._make(self._place(parts[:length]), stat.S_IFDIR | 0o755)
            except SandboxdError as error:
                if errno_of(error) != "EEXIST":
                    raise
        make()

    def _set_attributes(self, path: bytes, entry: TarEntry) -> None:
        owner = (entry.uid, entry.gid) if self._keep_owner else (0, 0)
        attributes = agent_pb2.FileSetAttributes(uid=owner[0], gid=owner[1], mtime_unix_ns=entry.mtime_ns)
        if entry.kind != b"2":  # Linux keeps no mode of a symbolic link
            attributes.mode = entry.mode & PERMISSIONS
        self._bridge.call(self._files.call(path, set_attributes=attributes))


def _read_exactly(reader: TarReader, size: int) -> bytes:
    """As few calls of the guest as there can be, whatever pieces the client sends."""
    pieces: list[bytes] = []
    while size:
        piece = reader.read(size)
        if not piece:
            raise TarError("it ends inside an entry")
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _shown(path: bytes) -> str:
    return shown(path.decode("utf-8", "replace"))


def _refused(path: str, reason: str) -> SandboxdError:
    return SandboxdError(COPY_REFUSED, path=path, reason=reason)
