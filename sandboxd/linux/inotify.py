"""inotify(7): what happens in a directory, as events instead of polling.

The only cffi object stays in this file; a watch is a non-blocking descriptor that an event loop can wait for.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from sandboxd.linux import _inotify

MODIFIED: Final[int] = _inotify.lib.IN_MODIFY
CREATED: Final[int] = _inotify.lib.IN_CREATE
DELETED: Final[int] = _inotify.lib.IN_DELETE
MOVED_IN: Final[int] = _inotify.lib.IN_MOVED_TO
MOVED_OUT: Final[int] = _inotify.lib.IN_MOVED_FROM
SELF_DELETED: Final[int] = _inotify.lib.IN_DELETE_SELF
SELF_MOVED: Final[int] = _inotify.lib.IN_MOVE_SELF
IGNORED: Final[int] = _inotify.lib.IN_IGNORED
OVERFLOWED: Final[int] = _inotify.lib.IN_Q_OVERFLOW

_HEADER = struct.Struct("iIII")
_READ_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Change:
    """One event of a watched directory."""

    mask: int
    name: str
    """Of the entry in the directory; empty for the directory itself."""


class DirectoryWatch:
    """A watch on one directory. `fileno()` becomes readable when something happened; `read_nowait()` says what."""

    def __init__(self, directory: Path, mask: int) -> None:
        """Raises OSError naming the directory."""
        self._fd = _inotify.lib.inotify_init1(_inotify.lib.IN_NONBLOCK | _inotify.lib.IN_CLOEXEC)
        if self._fd < 0:
            raise _error("inotify")
        path = os.fsencode(directory)
        if _inotify.lib.inotify_add_watch(self._fd, path, mask | _inotify.lib.IN_ONLYDIR) < 0:
            error = _error(str(directory))
            self.close()
            raise error

    def fileno(self) -> int:
        return self._fd

    def read_nowait(self) -> list[Change]:
        """What happened since the last call; empty when nothing did. An overflow is a Change with OVERFLOWED."""
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return []
        changes: list[Change] = []
        offset = 0
        while offset + _HEADER.size <= len(data):
            _, mask, _, length = _HEADER.unpack_from(data, offset)
            name = data[offset + _HEADER.size : offset + _HEADER.size + length].rstrip(b"\0")
            changes.append(Change(mask, os.fsdecode(name)))
            offset += _HEADER.size + length
        return changes

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> DirectoryWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _error(path: str) -> OSError:
    errno = _inotify.ffi.errno
    return OSError(errno, os.strerror(errno), path)
