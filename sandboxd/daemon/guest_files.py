"""File operations in a running container, as the copying rooms use them.

The guest answers, so every answer is bounded and checked here: names without slashes, lists that end, sizes as told.
"""

from __future__ import annotations

import re
import stat
from collections.abc import AsyncIterator

from sandboxd.api import agent_pb2
from sandboxd.base.errors import INVALID_ARGUMENT, PATH_NOT_FOUND, SandboxdError
from sandboxd.daemon.request import PATH_MAX_BYTES, shown
from sandboxd.shim.launch import ShimClient

CHUNK_BYTES = 256 << 10
"""The most that the agent reads or takes in one call."""
PAGE_ENTRIES = 256
ENTRIES_MAX = 1_000_000
"""Of one directory: a guest that never ends its list is not followed for ever."""
_ERRNO = re.compile(r"\bE[A-Z0-9]{2,}\b")
_MISSING = frozenset({"ENOENT", "ENOTDIR"})


def errno_of(error: SandboxdError) -> str:
    """The errno's name in an agent's error ("openat PATH: ENOENT"); "" if it holds none."""
    texts = [*error.context.values(), error.cause, error.message]
    found = [name for text in texts for name in _ERRNO.findall(text.rsplit(": ", 1)[-1])]
    return found[0] if found else ""


def checked_path(path: str, command: str = "cp") -> bytes:
    """A caller's path in a container: absolute, bounded, without `..` or NUL. Raises invalid_argument."""
    data = path.encode("utf-8", "surrogateescape")
    if not path.startswith("/") or "\0" in path or len(data) > PATH_MAX_BYTES or b".." in data.split(b"/"):
        reason = f"It is an absolute path without `..`, of at most {PATH_MAX_BYTES} bytes."
        raise SandboxdError(INVALID_ARGUMENT, what="path", value=shown(path), reason=reason, command=command)
    parts = [part for part in data.split(b"/") if part not in (b"", b".")]
    return b"/" + b"/".join(parts)


class GuestFiles:
    """The files of one container."""

    def __init__(self, shim: ShimClient) -> None:
        self._shim = shim

    async def call(self, path: bytes, **operation: object) -> agent_pb2.FileResponse:
        return await self._shim.file(agent_pb2.FileRequest(path=path, **operation))  # type: ignore[arg-type]

    async def stat(self, path: bytes, *, follow: bool) -> agent_pb2.FileEntry | None:
        """None where there is no such file."""
        try:
            answer = await self.call(path, stat=agent_pb2.FileStat(follow=follow))
        except SandboxdError as error:
            if errno_of(error) in _MISSING:
                return None
            raise
        return answer.entries[0] if answer.entries else None

    async def require(self, path: bytes, *, follow: bool) -> agent_pb2.FileEntry:
        """Raises path_not_found."""
        entry = await self.stat(path, follow=follow)
        if entry is None:
            text = shown(path.decode(errors="replace"))
            raise SandboxdError(
                PATH_NOT_FOUND, path=text, id=self._shim.id, reason="There is no such file or directory."
            )
        return entry

    async def list(self, path: bytes) -> AsyncIterator[agent_pb2.FileEntry]:
        """The entries of a directory, in the guest's order; what cannot be a name is passed over."""
        after, count = b"", 0
        while count < ENTRIES_MAX:
            page = await self.call(path, list=agent_pb2.FileList(after=after, max_entries=PAGE_ENTRIES))
            for entry in page.entries:
                count += 1
                if _is_name(entry.name):
                    yield entry
            if page.eof or not page.entries:
                return
            after = page.entries[-1].name

    async def read(self, path: bytes, size: int) -> AsyncIterator[bytes]:
        """Exactly `size` bytes of a file: cut where it grew, padded with zeros where it shrank meanwhile."""
        offset = 0
        while offset < size:
            wanted = min(CHUNK_BYTES, size - offset)
            answer = await self.call(path, read=agent_pb2.FileRead(offset=offset, max_bytes=wanted))
            data = answer.data[:wanted]
            if not data:
                break
            offset += len(data)
            yield data
        while offset < size:
            padding = bytes(min(CHUNK_BYTES, size - offset))
            offset += len(padding)
            yield padding


def _is_name(name: bytes) -> bool:
    return bool(name) and b"/" not in name and b"\0" not in name and name not in (b".", b"..")


def is_directory(entry: agent_pb2.FileEntry) -> bool:
    return stat.S_ISDIR(entry.mode)
