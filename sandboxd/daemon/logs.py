"""Reading the output log of a sandbox: from its end, from its beginning, and as it grows.

The shim writes PATH and, at a bound, renames it to PATH.1 (sandboxd.core.output_log). Files are read in blocks in
worker threads; growth and rotation come as inotify events of the directory.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sandboxd.aio.descriptors import wait_readable
from sandboxd.core.output_log import LogRecord, decode_record, older_file
from sandboxd.linux import inotify

BLOCK_BYTES = 64 << 10
BATCH_BYTES = 256 << 10
LINE_MAX_BYTES = 256 << 10
"""Longer than the shim ever writes (16 KiB of text, escaped); what is longer is not a record."""


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which records: the last `tail` (None: all) of those between the two times (0: open)."""

    tail: int | None = None
    since_unix_ns: int = 0
    until_unix_ns: int = 0

    def wants(self, record: LogRecord) -> bool:
        if record.unix_ns < self.since_unix_ns:
            return False
        return not self.until_unix_ns or record.unix_ns <= self.until_unix_ns


async def read_log(path: Path, query: LogQuery) -> AsyncIterator[LogRecord]:
    """What is in the log now, in order."""
    tailer = LogFollower(path, query)
    try:
        async for record in tailer.read_available():
            yield record
    finally:
        tailer.close()


class LogFollower:
    """A place in a sandbox's log that only moves forward, over a rotation too."""

    def __init__(self, path: Path, query: LogQuery) -> None:
        self._path = path
        self._query = query
        self._file: BinaryIO | None = None
        self._rest = b""
        self._started = False
        self._pending: deque[Path | BinaryIO] = deque()

    async def read_available(self) -> AsyncIterator[LogRecord]:
        """All records that are there and were not read yet."""
        if not self._started:
            self._started = True
            await asyncio.to_thread(self._begin)
        while batch := await asyncio.to_thread(self._next_batch):
            for record in batch:
                if self._query.wants(record):
                    yield record

    async def follow(self, ended: asyncio.Future[Any]) -> AsyncIterator[LogRecord]:
        """What is there, then what comes, until `ended` is done and everything was read."""
        mask = inotify.MODIFIED | inotify.CREATED | inotify.MOVED_IN | inotify.MOVED_OUT | inotify.DELETED
        with inotify.DirectoryWatch(self._path.parent, mask | inotify.SELF_DELETED) as watch:
            while True:
                last = ended.done()
                watch.read_nowait()
                async for record in self.read_available():
                    yield record
                    if self._query.until_unix_ns and record.unix_ns > self._query.until_unix_ns:
                        return
                if last:
                    return
                await _either(watch.fileno(), ended)

    def close(self) -> None:
        for item in (self._file, *self._pending):
            if item is not None and not isinstance(item, Path):
                item.close()
        self._file = None
        self._pending.clear()

    def _begin(self) -> None:
        """Opens the files there are, oldest first, each at the place where the query's part begins."""
        # The newer one first: if a rotation comes between the two, the older name then leads to a file that was
        # opened already, which `_files` drops.
        newer, older = _open(self._path), _open(older_file(self._path))
        if newer and older and os.fstat(newer.fileno()).st_ino == os.fstat(older.fileno()).st_ino:
            older.close()
            older = None
        files = [file for file in (older, newer) if file]
        if self._query.tail is not None:
            files = _seek_to_tail(files, self._query)
        self._pending.extend(files)

    def _next_batch(self) -> list[LogRecord]:
        """Some records; empty when there are none now."""
        while True:
            if self._file is None and not self._open_next():
                return []
            assert self._file
            data = self._file.read(BATCH_BYTES)
            if data:
                records = list(self._records(data))
                if records:
                    return records
                continue
            if not self._at_end_of_file():
                return []

    def _open_next(self) -> bool:
        if self._pending:
            item = self._pending.popleft()
            self._file = _open(item) if isinstance(item, Path) else item
        else:
            self._file = _open(self._path)
        self._rest = b""
        return self._file is not None

    def _at_end_of_file(self) -> bool:
        """The file is read to its end. True: there is another one to go on with."""
        assert self._file
        if not self._pending and not self._was_rotated():
            return False
        # A rotation may have come between the read and the look: what was written before it is still to be read.
        if data := self._file.read(BATCH_BYTES):
            self._file.seek(-len(data), os.SEEK_CUR)
            return True
        self._file.close()
        self._file = None
        return True

    def _was_rotated(self) -> bool:
        assert self._file
        try:
            return self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False

    def _records(self, data: bytes) -> Iterator[LogRecord]:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > LINE_MAX_BYTES:
            self._rest = b""
        for line in lines:
            record = decode_record(line)
            if record is not None:
                yield record


def _open(path: Path) -> BinaryIO | None:
    try:
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb", buffering=0)
    except FileNotFoundError:
        return None


def _seek_to_tail(files: list[BinaryIO], query: LogQuery) -> list[BinaryIO]:
    """Moves to the last `tail` lines that the query wants; files before them are closed. Reads backwards, in blocks."""
    assert query.tail is not None
    left = query.tail
    kept: list[BinaryIO] = []
    for file in reversed(files):
        if left <= 0 and kept:
            file.close()
            continue
        offset, found = _tail_offset(file, left, query)
        file.seek(offset)
        left -= found
        kept.insert(0, file)
    return kept


def _tail_offset(file: BinaryIO, wanted: int, query: LogQuery) -> tuple[int, int]:
    """Where the last `wanted` output lines begin, and how many there are (at most `wanted`).

    A record is counted when it ends a line of output; a part of a line goes with the line that it begins.
    """
    end = file.seek(0, os.SEEK_END)
    offset, found = end, 0
    for begin, line in _lines_backwards(file, end):
        record = decode_record(line)
        if record is None or (query.until_unix_ns and record.unix_ns > query.until_unix_ns):
            continue
        if record.unix_ns < query.since_unix_ns:
            break
        if record.data.endswith(b"\n") or offset == end:
            if found == wanted:
                break
            found += 1
        offset = begin
    return offset, found


def _lines_backwards(file: BinaryIO, end: int) -> Iterator[tuple[int, bytes]]:
    """(offset, line without newline) of every whole line, last first."""
    rest, position = b"", end
    while position > 0:
        begin = max(0, position - BLOCK_BYTES)
        file.seek(begin)
        block = file.read(position - begin) + rest
        lines = block.split(b"\n")
        rest = lines[0]
        offset = begin + len(block)
        for line in reversed(lines[1:]):
            offset -= len(line)
            if line:
                yield offset, line
            offset -= 1
        if len(rest) > LINE_MAX_BYTES:
            return
        position = begin
    if rest:
        yield 0, rest


async def _either(fd: int, ended: asyncio.Future[Any]) -> None:
    """Until the descriptor is readable or the future is done."""
    readable = asyncio.ensure_future(wait_readable(fd))
    try:
        await asyncio.wait({readable, ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        readable.cancel()
        await asyncio.gather(readable, return_exceptions=True)
