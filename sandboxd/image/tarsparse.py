"""Maps of sparse files in tar: GNU's old format and its pax formats 0.1 and 1.0 (GNU tar manual, "Sparse Formats")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

BLOCK = 512
SEGMENTS_MAX = 65536
_SIZE_MAX = 1 << 62


@dataclass(frozen=True, slots=True)
class SparseMap:
    """`segments` are (offset, length) in ascending order; everything between them up to `real_size` is zero."""

    real_size: int
    segments: tuple[tuple[int, int], ...]


def _checked(real_size: int, segments: list[tuple[int, int]]) -> SparseMap:
    position = 0
    for offset, length in segments:
        if offset < position or length < 0 or offset + length > real_size:
            raise ValueError("a sparse file whose map is out of order or beyond its end")
        position = offset + length
    if not 0 <= real_size <= _SIZE_MAX:
        raise ValueError(f"a sparse file of {real_size} bytes")
    return SparseMap(real_size, tuple(segment for segment in segments if segment[1]))


def _octal(text: bytes) -> int:
    if text[:1] and text[0] & 0x80:
        return int.from_bytes(bytes([text[0] & 0x7F]) + text[1:], "big")
    digits = text.partition(b"\0")[0].strip()
    if not digits:
        return 0
    if not digits.isdigit():
        raise ValueError("a sparse file whose map is not made of numbers")
    return int(digits, 8)


def parse_gnu_map(header: bytes, next_block: Callable[[], bytes]) -> SparseMap:
    """The map in a header of type S and in the extension blocks after it."""
    segments = _pairs(header[386:482])
    extended = header[482]
    while extended:
        block = next_block()
        segments += _pairs(block[:504])
        if len(segments) > SEGMENTS_MAX:
            raise ValueError(f"a sparse file of more than {SEGMENTS_MAX} parts")
        extended = block[504]
    return _checked(_octal(header[483:495]), segments)


def _pairs(data: bytes) -> list[tuple[int, int]]:
    pairs = []
    for start in range(0, len(data), 24):
        if not data[start]:
            break
        pairs.append((_octal(data[start : start + 12]), _octal(data[start + 12 : start + 24])))
    return pairs


def parse_pax_map(
    pax: dict[bytes, bytes], next_block: Callable[[], bytes], data_bytes: int
) -> tuple[SparseMap | None, int]:
    """The map that pax keys announce, or None; and how many bytes of data the map itself took (format 1.0)."""
    if pax.get(b"GNU.sparse.major") == b"1":
        numbers, consumed = _leading_numbers(next_block, data_bytes)
        real_size = _decimal(pax.get(b"GNU.sparse.realsize", b""))
        return _checked(real_size, list(zip(numbers[::2], numbers[1::2], strict=True))), consumed
    if b"GNU.sparse.map" in pax:
        numbers = [_decimal(text) for text in pax[b"GNU.sparse.map"].split(b",") if text]
        if len(numbers) % 2 or len(numbers) > 2 * SEGMENTS_MAX:
            raise ValueError("a sparse file whose map has a wrong length")
        return _checked(
            _decimal(pax.get(b"GNU.sparse.size", b"")), list(zip(numbers[::2], numbers[1::2], strict=True))
        ), 0
    if b"GNU.sparse.numblocks" in pax:
        raise ValueError("a sparse file in pax format 0.0, which no tar has written since 2006")
    return None, 0


def _leading_numbers(next_block: Callable[[], bytes], data_bytes: int) -> tuple[list[int], int]:
    """Format 1.0: the data begins with decimal lines: the count, then offset and length of each, padded to a block."""
    consumed = 0
    lines: list[bytes] = []
    rest = b""
    wanted = 1
    while len(lines) < wanted:
        if consumed + BLOCK > data_bytes:
            raise ValueError("a sparse file whose map is longer than its data")
        *complete, rest = (rest + next_block()).split(b"\n")
        consumed += BLOCK
        lines += complete
        if lines and wanted == 1:
            count = _decimal(lines[0])
            if count > SEGMENTS_MAX:
                raise ValueError(f"a sparse file of more than {SEGMENTS_MAX} parts")
            wanted = 1 + 2 * count
    return [_decimal(line) for line in lines[1:wanted]], consumed


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise ValueError("a sparse file whose map is not made of numbers")
    return int(text)
