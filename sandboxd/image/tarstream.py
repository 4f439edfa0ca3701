"""Tar, read as a stream: POSIX ustar and pax (POSIX.1-2017, pax), GNU long names, base-256 numbers and sparse files.

Own code rather than `tarfile`: what comes here is hostile, and `tarfile` reads headers of any size into memory, knows
names only as text and keeps every member. Here every header is bounded, names are bytes and nothing is kept.

    for entry in TarReader(source):    source.read(n) gives at most n bytes, b"" at the end
        reader.read(n)                 the entry's data, until b""; what is left is skipped at the next entry
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from sandboxd.image.tarsparse import SparseMap, parse_gnu_map, parse_pax_map

BLOCK = 512
PAX_MAX_BYTES = 1 << 20
"""Of one extended header: xattrs live in it, and the kernel takes 64 KiB of each."""
LONG_NAME_MAX_BYTES = 1 << 16
_SIZE_MAX = 1 << 62
_TIME_MAX_S = 1 << 40
_MAX_EXTENDED = 64
"""Extended headers in a row before one entry."""
_ZERO_BLOCK = bytes(BLOCK)
_HEADER_ONLY = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))


class TarError(Exception):
    """The stream is not a tar file that can be read. The text is one plain phrase."""


class TarTruncated(TarError):
    """The stream ends inside an entry."""


class Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One member. `kind` is the type flag; `path` and `link` are bytes as they came, unchecked."""

    path: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    """Bytes of data in the stream."""
    mtime_ns: int
    link: bytes = b""
    device_major: int = 0
    device_minor: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    sparse: SparseMap | None = None

    @property
    def real_size(self) -> int:
        """Size of the file once unpacked."""
        return self.sparse.real_size if self.sparse else self.size


class TarReader:
    """Iterates over the entries of one tar stream. Raises TarError, TarTruncated and whatever the source raises."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._left = 0
        self._padding = 0
        self._globals: dict[bytes, bytes] = {}
        self.offset = 0
        """Bytes consumed so far: at a yielded entry, where its data begins."""

    def __iter__(self) -> Iterator[TarEntry]:
        while (entry := self._next()) is not None:
            yield entry

    def read(self, size: int) -> bytes:
        """At most `size` bytes of the present entry's data; b"" at its end."""
        size = min(size, self._left)
        if size <= 0:
            return b""
        data = self._source.read(size)
        if not data:
            raise TarTruncated(f"it ends {self._left} bytes before the end of a file in it")
        self._left -= len(data)
        self.offset += len(data)
        return data

    def _read_exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._source.read(size)
            if not part:
                raise TarTruncated("it ends inside a header")
            parts.append(part)
            size -= len(part)
            self.offset += len(part)
        return b"".join(parts)

    def _skip_data(self) -> None:
        while self._left:
            self.read(1 << 20)
        self._read_exactly(self._padding)
        self._padding = 0

    def _header(self) -> bytes | None:
        """The next header block, or None at the end: a zero block, or the end of the stream between entries."""
        first = self._source.read(BLOCK)
        if not first:
            return None
        self.offset += len(first)
        block = first + self._read_exactly(BLOCK - len(first)) if len(first) < BLOCK else first
        return None if block == _ZERO_BLOCK else block

    def _next(self) -> TarEntry | None:
        self._skip_data()
        local: dict[bytes, bytes] = {}
        long_name = long_link = b""
        for _ in range(_MAX_EXTENDED):
            block = self._header()
            if block is None:
                return None
            _verify_checksum(block)
            kind, size = block[156:157], _number(block[124:136], "size")
            if kind == b"L":
                long_name = self._extension(size, LONG_NAME_MAX_BYTES).partition(b"\0")[0]
            elif kind == b"K":
                long_link = self._extension(size, LONG_NAME_MAX_BYTES).partition(b"\0")[0]
            elif kind == b"x":
                local |= parse_pax(self._extension(size, PAX_MAX_BYTES))
            elif kind == b"g":
                self._globals |= parse_pax(self._extension(size, PAX_MAX_BYTES))
            else:
                return self._entry(block, self._globals | local, long_name, long_link)
        raise TarError(f"more than {_MAX_EXTENDED} extended headers before one entry")

    def _extension(self, size: int, limit: int) -> bytes:
        if not 0 <= size <= limit:
            raise TarError(f"an extended header of {size} bytes, where the limit is {limit}")
        data = self._read_exactly(size)
        self._read_exactly(-size % BLOCK)
        return data

    def _entry(self, block: bytes, pax: dict[bytes, bytes], long_name: bytes, long_link: bytes) -> TarEntry:
        size = _pax_integer(pax, b"size", _number(block[124:136], "size"))
        if not 0 <= size <= _SIZE_MAX:
            raise TarError(f"a file of {size} bytes")
        path = pax.get(b"GNU.sparse.name") or pax.get(b"path") or long_name or _ustar_path(block)
        kind = _kind(block[156:157], path)
        # Links, devices and directories carry no data, whatever their size field says (POSIX.1-2017, ustar).
        self._left = 0 if kind in _HEADER_ONLY else size
        self._padding = -self._left % BLOCK
        sparse = self._sparse(block, kind, pax)
        return TarEntry(
            path=path,
            kind=b"0" if kind == b"S" else kind,
            mode=_number(block[100:108], "mode") & 0o7777,
            uid=_id(_pax_integer(pax, b"uid", _number(block[108:116], "uid"))),
            gid=_id(_pax_integer(pax, b"gid", _number(block[116:124], "gid"))),
            size=self._left,
            mtime_ns=_mtime_ns(pax, block),
            link=pax.get(b"linkpath") or long_link or _text(block[157:257]),
            device_major=_number(block[329:337], "device number"),
            device_minor=_number(block[337:345], "device number"),
            xattrs=_xattrs(pax),
            sparse=sparse,
        )

    def _sparse(self, block: bytes, kind: bytes, pax: dict[bytes, bytes]) -> SparseMap | None:
        try:
            if kind == b"S":
                return parse_gnu_map(block, lambda: self._read_exactly(BLOCK))
            sparse, consumed = parse_pax_map(pax, lambda: self._read_exactly(BLOCK), self._left)
            self._left -= consumed
            return sparse
        except ValueError as error:
            raise TarError(str(error)) from error


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """Records `LENGTH KEY=VALUE\\n` of a pax header."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        digits = data[position:space] if space > 0 else b""
        if not digits.isdigit():
            raise TarError("a pax header whose record has no length")
        end = position + int(digits)
        if not space + 2 < end <= len(data) or data[end - 1 : end] != b"\n":
            raise TarError("a pax header whose record has a wrong length")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise TarError("a pax header whose record has no key")
        records[key] = value
        position = end
    return records


def _verify_checksum(block: bytes) -> None:
    stored = _number(block[148:156], "checksum")
    unsigned = sum(block) - sum(block[148:156]) + 8 * 0x20
    if stored == unsigned:
        return
    # Old tars summed signed characters.
    high = sum(1 for byte in block[:148] + block[156:] if byte >= 0x80)
    if stored != unsigned - 256 * high:
        raise TarError("a header whose checksum is wrong: this is no tar file, or it is damaged")


def _number(field_bytes: bytes, what: str) -> int:
    """Octal text, or base-256 when the top bit is set (GNU)."""
    if field_bytes[0] & 0x80:
        value = int.from_bytes(field_bytes, "big") - (1 << (8 * len(field_bytes) - 1))
        # A negative number has its next bit set, too.
        return value - (1 << (8 * len(field_bytes) - 1)) if field_bytes[0] & 0x40 else value
    text = field_bytes.partition(b"\0")[0].strip()
    if not text:
        return 0
    try:
        if not text.isdigit():
            raise ValueError
        return int(text, 8)
    except ValueError:
        raise TarError(f"a header whose {what} is not a number") from None


def _pax_integer(pax: dict[bytes, bytes], key: bytes, default: int) -> int:
    text = pax.get(key)
    if text is None:
        return default
    if not text.isdigit() or len(text) > 20:
        raise TarError(f"a pax header whose {key.decode()} is not a number")
    return int(text)


def _id(value: int) -> int:
    if not 0 <= value < 0xFFFFFFFF:
        raise TarError(f"an owner of {value}")
    return value


def _mtime_ns(pax: dict[bytes, bytes], block: bytes) -> int:
    text = pax.get(b"mtime")
    if text is None:
        seconds, nanoseconds = _number(block[136:148], "time"), 0
    else:
        whole, _, fraction = text.partition(b".")
        digits = whole.removeprefix(b"-")
        if not digits.isdigit() or len(digits) > 20 or (fraction and not fraction.isdigit()):
            raise TarError("a pax header whose mtime is not a time")
        seconds, nanoseconds = int(digits), int(fraction[:9].ljust(9, b"0"))
        if whole.startswith(b"-"):
            seconds, nanoseconds = -seconds, -nanoseconds
    if abs(seconds) > _TIME_MAX_S:
        raise TarError(f"a time of {seconds} seconds")
    return seconds * 1_000_000_000 + nanoseconds


def _xattrs(pax: dict[bytes, bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for key, value in pax.items():
        if key.startswith(b"LIBARCHIVE.xattr."):
            try:
                decoded = base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
            except binascii.Error:
                raise TarError("an extended attribute that is not base64") from None
            found.setdefault(key[len(b"LIBARCHIVE.xattr.") :], decoded)
        elif key.startswith(b"SCHILY.xattr."):
            found[key[len(b"SCHILY.xattr.") :]] = value
    return found


def _text(field_bytes: bytes) -> bytes:
    return field_bytes.partition(b"\0")[0]


def _ustar_path(block: bytes) -> bytes:
    name = _text(block[0:100])
    # Only POSIX's own magic has a prefix; GNU's "ustar  " puts other things there.
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _kind(flag: bytes, path: bytes) -> bytes:
    if flag in (b"\0", b"0", b"7"):
        return b"5" if path.endswith(b"/") else b"0"
    return flag
