"""A layer's bytes: hashed as they lie, decompressed (gzip, zstd, plain), hashed again as the plain tar."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import threading
import zlib
from collections.abc import Callable
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 1 << 18
_OUTPUT_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = bytes.fromhex("2a4d18")
"""Bytes 1-3 of a skippable frame (RFC 8878, 3.1.2), which zstd:chunked layers may begin with."""
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x04\x22\x4d\x18": "lz4"}


class OverBudget(Exception):
    """An image larger than allowed; the text names what is too large."""


class DamagedStream(Exception):
    """The compressed data is not what its format asks for. The text is one plain phrase."""


class UnknownCompression(Exception):
    """A compression that OCI layers do not have. The text is one plain sentence."""


class HashedFile:
    """`size` bytes at `offset` of a file, hashed on the way. Thread-bound to one reader."""

    def __init__(
        self, path: str, offset: int, size: int, report: Callable[[int], None] = lambda done_bytes: None
    ) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._file = os.fdopen(fd, "rb", buffering=0)
        self._file.seek(offset)
        self._left = size
        self._size = size
        self._hash = hashlib.sha256()
        self._report = report
        self._ended = False

    @property
    def missing(self) -> int:
        """Bytes that the file turned out to be short of."""
        return self._left if self._ended else 0

    def read(self, size: int = _CHUNK_BYTES) -> bytes:
        """At most `size` bytes; b"" at the end, or where the file ends early."""
        data = self._file.read(min(size, self._left)) if self._left else b""
        if data:
            self._left -= len(data)
            self._hash.update(data)
            self._report(self._size - self._left)
        else:
            self._ended = True
        return data or b""

    def peek(self, size: int) -> bytes:
        """The bytes that the next read begins with."""
        return os.pread(self._file.fileno(), min(size, self._left), self._file.tell())

    def finish(self) -> str:
        """Reads what is left; "sha256:..." of it all."""
        while self.read():
            pass
        return "sha256:" + self._hash.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class LayerStream:
    """The plain tar of a layer, as a source for TarReader. Raises DamagedStream, UnknownCompression, OverBudget.

    At most `max_bytes` come out of it, so that a bomb ends early.
    """

    def __init__(self, file: HashedFile, max_bytes: int) -> None:
        self._decoder = _decoder_for(file)
        self._hash = hashlib.sha256()
        self._left = max_bytes
        self._buffer = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        if not self._buffer:
            self._buffer = memoryview(self._next_chunk())
        data = bytes(self._buffer[:size])
        self._buffer = self._buffer[size:]
        return data

    def _next_chunk(self) -> bytes:
        data = self._decoder.read()
        self._left -= len(data)
        if self._left < 0:
            raise OverBudget("the size unpacked")
        self._hash.update(data)
        return data

    def finish(self) -> str:
        """Reads what follows the tar's end; "sha256:..." of the whole plain stream, the layer's diff_id."""
        while self._next_chunk():
            pass
        return "sha256:" + self._hash.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._decoder.close()


def _decoder_for(file: HashedFile) -> _Plain | _Gzip | _Zstd:
    # By content, as every other runtime does: media types are often wrong about it.
    magic = file.peek(6)
    if magic.startswith(_GZIP):
        return _Gzip(file)
    if magic.startswith(_ZSTD) or (magic[1:4] == _ZSTD_SKIPPABLE and magic[0] & 0xF0 == 0x50):
        return _Zstd(file)
    for prefix, name in _OTHERS.items():
        if magic.startswith(prefix):
            raise UnknownCompression(f"A layer is compressed with {name}; OCI images have plain, gzip or zstd layers.")
    return _Plain(file)


class _Plain:
    def __init__(self, file: HashedFile) -> None:
        self._file = file

    def read(self) -> bytes:
        return self._file.read()

    def close(self) -> None:
        pass


class _Gzip:
    """RFC 1952, any number of members: layers that can be read in parts (eStargz) have thousands."""

    def __init__(self, file: HashedFile) -> None:
        self._file = file
        self._inflater = zlib.decompressobj(wbits=31)
        self._pending = b""

    def read(self) -> bytes:
        while True:
            if not self._pending:
                self._pending = self._file.read()
            if self._inflater.eof:
                # Zeros after a member are padding, which gzip itself ignores.
                self._pending = self._pending.lstrip(b"\0") or self._file.read()
                if not self._pending:
                    return b""
                if self._pending[:1] == b"\0":
                    continue
                self._inflater = zlib.decompressobj(wbits=31)
            if not self._pending:
                raise DamagedStream("its gzip data ends early")
            if data := self._inflate():
                return data

    def _inflate(self) -> bytes:
        try:
            data = self._inflater.decompress(self._pending, _OUTPUT_BYTES)
        except zlib.error as error:
            raise DamagedStream(f"its gzip data is damaged ({error})") from None
        self._pending = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
        return data

    def close(self) -> None:
        pass


class _Zstd:
    """RFC 8878, by the zstd program: Python has none before 3.14. A thread feeds it; it dies with this object."""

    def __init__(self, file: HashedFile) -> None:
        self._file = file
        self._process = subprocess.Popen(
            ["zstd", "-dcq", "--no-progress"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._feeder = threading.Thread(target=self._feed, daemon=True)
        self._feeder.start()

    def _feed(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):
            while data := self._file.read():
                pipe.write(data)
        with contextlib.suppress(BrokenPipeError):
            pipe.close()

    def read(self) -> bytes:
        assert self._process.stdout is not None
        data = os.read(self._process.stdout.fileno(), _CHUNK_BYTES)
        if not data and self._process.wait() != 0:
            assert self._process.stderr is not None
            text = self._process.stderr.read(500).decode(errors="replace").strip()
            raise DamagedStream(f"its zstd data is damaged ({text})")
        return data

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._feeder.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
