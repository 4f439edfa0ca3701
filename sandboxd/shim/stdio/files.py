"""Files as sinks: raw (`file://`) and the output log (`log://`).

Both write with plain write(2) on the event loop. A regular file's write only copies to the page cache; where the disk
is so slow that it blocks, this sandbox's own output waits, which is what back-pressure would do.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path

from sandboxd.base.clock import unix_ns
from sandboxd.core.output_log import complete_utf8, encode_batches, older_file

_log = logging.getLogger(__name__)

BATCH_BYTES = 256 << 10
"""Most that is encoded at once: a guest that writes nothing but newlines must not fill memory."""
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class FileSink:
    """Appends raw bytes to a regular file."""

    def __init__(self, path: Path) -> None:
        self._fd = _open_regular(path, os.O_WRONLY)

    async def write(self, data: bytes) -> bool:
        _write_all(self._fd, data)
        return True

    def last_call(self) -> None:
        """A file waits for nobody."""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class OutputLog:
    """The log file of one process, both streams in one; see sandboxd.core.output_log. Closed by its last sink."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._fd = _open_regular(path, os.O_RDWR)
        self._size = os.fstat(self._fd).st_size
        self._users = 0
        self._end_unfinished_line()

    def sink(self, stream: str) -> LogSink:
        """The log as the sink of `stream`: stdout or stderr."""
        self._users += 1
        return LogSink(self, stream)

    def append(self, stream: str, data: bytes) -> None:
        """Writes whole records, so that a crash leaves at most one line unfinished.

        No file gets longer than its bound, whatever comes in one piece.
        """
        for lines in encode_batches(unix_ns(), stream, data, min(self._max_bytes, BATCH_BYTES)):
            self._append(lines)

    def _append(self, lines: bytes) -> None:
        if self._size and self._size + len(lines) > self._max_bytes:
            self._rotate()
        _write_all(self._fd, lines)
        self._size += len(lines)

    def release(self) -> None:
        self._users -= 1
        if not self._users:
            os.close(self._fd)

    def _rotate(self) -> None:
        self.path.replace(older_file(self.path))
        new = _open_regular(self.path, os.O_RDWR)
        os.close(self._fd)
        self._fd, self._size = new, os.fstat(new).st_size

    def _end_unfinished_line(self) -> None:
        """Begins on a line of its own even if a predecessor was cut short in the middle of one."""
        if self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
            _write_all(self._fd, b"\n")
            self._size += 1


class LogSink:
    """One stream of an OutputLog."""

    def __init__(self, log: OutputLog, stream: str) -> None:
        self._log: OutputLog | None = log
        self._stream = stream
        self._rest = b""

    async def write(self, data: bytes) -> bool:
        if self._log is None:
            return False
        data = self._rest + data
        # A character may be cut in two by the end of a piece: its beginning waits for its end.
        end = complete_utf8(data)
        self._rest = data[end:]
        if end:
            self._log.append(self._stream, data[:end])
        return True

    def last_call(self) -> None:
        """A file waits for nobody."""

    def close(self) -> None:
        if self._log is None:
            return
        log, self._log = self._log, None
        try:
            if self._rest:
                log.append(self._stream, self._rest)
        except OSError as error:
            # On a full disk: costs these bytes, never the word on how the process ended.
            _log.warning("the end of %s could not be written: %s", log.path, error)
        finally:
            log.release()


def _open_regular(path: Path, access: int) -> int:
    """Raises OSError, EINVAL if something else than a regular file is there."""
    fd = os.open(path, (_APPEND & ~os.O_WRONLY) | access, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return fd


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
