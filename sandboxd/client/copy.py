"""Files between this host and a sandbox, with docker's rules.

    target exists and is a directory   source lands in it under its own name; `source/.` lands as its content
    target does not exist              source becomes it; `target/` must exist already, unless source is a directory
    target is a file                   a file replaces it; a directory is refused

tarfile only blocks, so packing and unpacking run in a thread, one chunk at a time: whoever is slower sets the pace.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import posixpath
import stat
import tarfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sandboxd.base.errors import COPY_TARGET, PATH_NOT_FOUND, SandboxdError
from sandboxd.client.archive import pack, tar_reader, tar_writer, unpack
from sandboxd.client.local import local_file

if TYPE_CHECKING:
    from sandboxd.client.sandbox import AsyncSandbox

QUEUE_CHUNKS = 8
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Landing:
    """Where a copy goes: an existing directory, and the name in it. No name: the content lands in the directory."""

    directory: str
    name: str | None


def land(
    source: str, source_is_directory: bool, target: str, target_is_directory: bool | None, parent_exists: bool
) -> Landing:
    """Docker's table. `target_is_directory` None: there is no such path. Errors: copy_target."""
    content_only = source.endswith("/.") or source == "."
    if content_only and not source_is_directory:
        raise _refused(source, target, f"{source} is not a directory, so it has no content to copy.")
    bare = target.rstrip("/") or "/"
    if target_is_directory:
        return Landing(bare, None if content_only else _last(source))
    if target_is_directory is False:
        if source_is_directory:
            raise _refused(source, target, f"{target} is a file, and a directory cannot replace a file.")
        if target.endswith("/"):
            raise _refused(source, target, f"{bare} is a file, not a directory.")
        return Landing(posixpath.dirname(bare) or ".", posixpath.basename(bare))
    if target.endswith(("/", "/.")) and not source_is_directory:
        raise _refused(source, target, f"There is no directory {bare}.")
    bare = bare.removesuffix("/.")
    if not parent_exists:
        raise _refused(source, target, f"There is no directory {posixpath.dirname(bare) or '.'}.")
    return Landing(posixpath.dirname(bare) or ".", posixpath.basename(bare))


async def copy_in(sandbox: AsyncSandbox, source: str, target: str, *, keep_owner: bool, follow: bool) -> int:
    """See AsyncSandbox.copy_in."""
    is_directory = await asyncio.to_thread(_is_local_directory, source, follow)
    path = posixpath.join("/", target)
    existing = await sandbox.stat_path(path)
    parent = True
    if existing is None:
        parent = await sandbox.stat_path(posixpath.dirname(path.rstrip("/").removesuffix("/.")) or "/") is not None
    landing = land(source, is_directory, path, stat.S_ISDIR(existing.mode) if existing else None, parent)
    packed = _packed(Path(source), landing.name or ".", follow=follow or source.endswith("/"), keep_owner=keep_owner)
    return await sandbox.upload_tar(landing.directory, packed, keep_owner=keep_owner)


async def copy_out(sandbox: AsyncSandbox, source: str, target: str, *, keep_owner: bool, follow: bool) -> int:
    """See AsyncSandbox.copy_out."""
    path = posixpath.join("/", source)
    bare = posixpath.normpath(path)
    content_only = path.endswith("/.") or bare == "/"
    found = await sandbox.stat_path(bare, follow=follow or path.endswith("/") or content_only)
    if found is None:
        raise SandboxdError(PATH_NOT_FOUND, path=bare, id=sandbox.id, reason="There is no such file or directory.")
    target, exists_as, parent = await asyncio.to_thread(_local_target, source, target)
    landing = land(
        bare.rstrip("/") + "/." if content_only else bare,
        stat.S_ISDIR(found.mode),
        target,
        exists_as,
        parent,
    )
    chunks = sandbox.download_tar(bare, follow=follow or path.endswith("/") or content_only)
    return await _unpacked(chunks, Path(landing.directory), landing.name, keep_owner=keep_owner)


async def read_file(sandbox: AsyncSandbox, path: str) -> bytes:
    """See AsyncSandbox.read_file."""
    found = await sandbox.stat_path(path)
    if found is None or not stat.S_ISREG(found.mode):
        reason = "There is no such file." if found is None else "It is not a regular file."
        raise SandboxdError(PATH_NOT_FOUND, path=path, id=sandbox.id, reason=reason)
    chunks = sandbox.download_tar(path, follow=True)

    def first(read: Callable[[int], bytes]) -> bytes:
        with tar_reader(read) as tar:
            for info in tar:
                content = tar.extractfile(info) if info.isreg() else None
                if content:
                    data: bytes = content.read()
                    return data
        raise SandboxdError(PATH_NOT_FOUND, path=path, id=sandbox.id, reason="The sandbox sent no file.")

    return await _pulling(chunks, first)


async def write_file(sandbox: AsyncSandbox, directory: str, name: str, content: bytes, mode: int) -> None:
    """See AsyncSandbox.write_file."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(content), mode, int(time.time())

    def produce(write: Callable[[bytes], object]) -> int:
        with tar_writer(write) as tar:
            tar.addfile(info, io.BytesIO(content))
        return 1

    await sandbox.upload_tar(directory, _pushing(produce))


def _is_local_directory(source: str, follow: bool) -> bool:
    try:
        mode = (Path(source).stat() if follow or source.endswith("/") else Path(source).lstat()).st_mode
    except OSError as error:
        raise local_file(source, error) from None
    return stat.S_ISDIR(mode)


def _local_target(source: str, target: str) -> tuple[str, bool | None, bool]:
    """(the target, a link to a file resolved; is it a directory, None: there is none; is its parent one).

    Errors: copy_target for a device: /dev/null would be replaced by a file.
    """
    path = Path(target)
    if path.is_dir():
        return target, True, True
    if path.exists():
        if not path.is_file():
            raise _refused(source, target, f"{target} is neither a file nor a directory.")
        return str(path.resolve()) if path.is_symlink() else target, False, True
    return target, None, Path(target.removesuffix("/.").rstrip("/") or "/").parent.is_dir()


def _packed(source: Path, name: str, *, follow: bool, keep_owner: bool) -> AsyncIterator[bytes]:
    return _pushing(lambda write: pack(source, name, write, follow=follow, keep_owner=keep_owner))


async def _unpacked(chunks: AsyncIterator[bytes], directory: Path, name: str | None, *, keep_owner: bool) -> int:
    return await _pulling(chunks, lambda read: unpack(read, directory, name, keep_owner=keep_owner))


class _Stopped(Exception):
    """Tells the thread of a copy that nobody wants the rest."""


async def _pushing(produce: Callable[[Callable[[bytes], object]], int]) -> AsyncIterator[bytes]:
    """Runs a blocking producer in a thread and yields what it writes."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_CHUNKS)
    stopped = threading.Event()

    def write(data: bytes) -> None:
        if stopped.is_set():
            raise _Stopped
        asyncio.run_coroutine_threadsafe(queue.put(bytes(data)), loop).result()

    def work() -> None:
        try:
            with contextlib.suppress(_Stopped):
                produce(write)
        finally:
            asyncio.run_coroutine_threadsafe(queue.put(None), loop).result()

    worker = asyncio.create_task(asyncio.to_thread(work))
    try:
        while (chunk := await queue.get()) is not None:
            yield chunk
        await worker
    finally:
        stopped.set()
        while not worker.done():  # left early: take what the thread is handing over, so that it sees the end
            getter = asyncio.ensure_future(queue.get())
            await asyncio.wait({getter, worker}, return_when=asyncio.FIRST_COMPLETED)
            getter.cancel()


async def _pulling(chunks: AsyncIterator[bytes], consume: Callable[[Callable[[int], bytes]], Result]) -> Result:
    """Runs a blocking consumer in a thread; its `read(n)` returns n bytes, fewer only at the end."""
    loop = asyncio.get_running_loop()
    source = _Source(chunks)

    def read(count: int) -> bytes:
        return asyncio.run_coroutine_threadsafe(source.read(count), loop).result()

    try:
        return await asyncio.to_thread(consume, read)
    finally:
        await source.close()


class _Source:
    """Exact reads from an iterator of chunks."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._held = bytearray()
        self._reading = asyncio.Lock()
        self._closed = False

    async def read(self, count: int) -> bytes:
        async with self._reading:
            while len(self._held) < count and not self._closed:
                chunk = await anext(self._chunks, None)
                if chunk is None:
                    break
                self._held += chunk
        data = bytes(self._held[:count])
        del self._held[:count]
        return data

    async def close(self) -> None:
        """Ends the stream; a reader in the thread sees its end."""
        self._closed = True
        closing = getattr(self._chunks, "aclose", None)
        async with self._reading:
            if closing:
                await closing()


def _last(path: str) -> str | None:
    """The name that a path's end stands for; "." and ".." have one too. None for the root."""
    return posixpath.basename(posixpath.abspath(path)) or None


def _refused(source: str, target: str, reason: str) -> SandboxdError:
    return SandboxdError(COPY_TARGET, source=source, target=target, reason=reason)
