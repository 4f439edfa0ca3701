"""What a guest or a VMM writes about itself, in bounds: a hostile one must fill neither memory nor a file system."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

TAIL_BYTES = 16 << 10
FILE_MAX_BYTES = 256 << 10
_READ_BYTES = 16 << 10
_FULL_READ_PAUSE_S = 0.02
"""After a full read: at most 0.8 MB/s come in, so that a flooded console does not take the process over."""


class BoundedLog:
    """Reads a descriptor to a file of at most FILE_MAX_BYTES plus one read, and keeps the last TAIL_BYTES in memory.

    A full file is begun again with the tail. The descriptor, non-blocking, is this object's own from `attach` on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tail = bytearray()
        self._fd = -1
        self._file = -1
        self._file_bytes = 0
        self._pause: asyncio.TimerHandle | None = None
        self._ended = asyncio.get_running_loop().create_future()

    def attach(self, fd: int) -> None:
        """Begins to read. The file is made 0600. Raises OSError naming it; `fd` is closed then."""
        try:
            self._file = self._create()
        except OSError:
            os.close(fd)
            raise
        os.set_blocking(fd, False)
        self._fd = fd
        self._listen()

    @property
    def tail(self) -> bytes:
        return bytes(self._tail)

    async def wait_ended(self, timeout_s: float) -> None:
        """Until the other side closed and all was read, at most `timeout_s`."""
        await asyncio.wait([self._ended], timeout=timeout_s)

    def close(self) -> None:
        """Reads what is there already, then lets go. Idempotent."""
        if self._fd < 0:
            return
        self._forget()
        if not self._ended.done():
            self._read()
        os.close(self._fd)
        os.close(self._file)
        self._fd = self._file = -1
        self._end()

    def _create(self) -> int:
        self._file_bytes = 0
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def _listen(self) -> None:
        self._pause = None
        asyncio.get_running_loop().add_reader(self._fd, self._on_readable)

    def _forget(self) -> None:
        if self._pause:
            self._pause.cancel()
        asyncio.get_running_loop().remove_reader(self._fd)

    def _on_readable(self) -> None:
        count = self._read()
        if count == 0:
            self._forget()
            self._end()
        elif count == _READ_BYTES:
            self._forget()
            self._pause = asyncio.get_running_loop().call_later(_FULL_READ_PAUSE_S, self._listen)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _read(self) -> int:
        """Bytes read; 0 at the end, -1 when there is nothing now."""
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return -1
        except ConnectionResetError:
            return 0
        self._tail += data
        del self._tail[:-TAIL_BYTES]
        self._write(data)
        return len(data)

    def _write(self, data: bytes) -> None:
        try:
            if self._file_bytes + len(data) > FILE_MAX_BYTES:
                os.ftruncate(self._file, 0)
                os.lseek(self._file, 0, os.SEEK_SET)
                self._file_bytes, data = 0, self.tail
            os.write(self._file, data)
            self._file_bytes += len(data)
        except OSError:
            # A full disk costs the file, not the machine: the tail in memory is what errors quote.
            pass
