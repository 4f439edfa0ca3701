"""The log of a container's output: one JSON object per line, written by the shim (`log://PATH`), read by anyone.

    {"time": 1731000000000000000, "stream": "stdout", "log": "text\\n"}
    {"time": 1731000000000000000, "stream": "stderr", "log": "/wD+", "encoding": "base64"}

`time` is Unix time in nanoseconds when the shim read the bytes. `log` holds one line with its newline, or a part of one
(no newline at its end: the next record of the same stream goes on with it). Bytes that are not UTF-8 come as base64.
Concatenated in order, the records of a stream are exactly what the process wrote. At `log_max_bytes` the file is
renamed to PATH.1, the older PATH.1 is dropped, and PATH begins anew. A line that is not whole (a crash in the middle)
is to be passed over.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass
from json.encoder import encode_basestring
from pathlib import Path

PIECE_MAX_BYTES = 16 << 10
"""Of one record's bytes: a longer line is split."""
OLDER_SUFFIX = ".1"
_UTF8_TAIL_MAX_BYTES = 3


@dataclass(frozen=True, slots=True)
class LogRecord:
    """Bytes that a process wrote, with the time when they were read."""

    unix_ns: int
    stream: str
    """stdout or stderr."""
    data: bytes


def older_file(path: Path) -> Path:
    """Where the records before the last rotation are."""
    return path.with_name(path.name + OLDER_SUFFIX)


def encode_records(unix_ns: int, stream: str, data: bytes) -> bytes:
    """`data` as whole lines of the log."""
    return b"".join(encode_batches(unix_ns, stream, data, len(data)))


def encode_batches(unix_ns: int, stream: str, data: bytes, batch_bytes: int) -> Iterator[bytes]:
    """The same in parts of whole lines, each no longer than `batch_bytes` or one line.

    A line of the log is up to 80 times as long as what it holds: all of them at once are for whoever wrote them.
    """
    head = f'{{"time": {unix_ns}, "stream": "{stream}", "log": '
    lines: list[str] = []
    length = 0
    for piece in _pieces(data):
        line = _encode_piece(head, piece)
        if lines and length + len(line) > batch_bytes:
            yield "".join(lines).encode()
            lines, length = [], 0
        lines.append(line)
        length += len(line)
    if lines:
        yield "".join(lines).encode()


def _pieces(data: bytes) -> Iterator[bytes]:
    for line in data.splitlines(keepends=True) if b"\r" not in data else _lines(data):
        begin = 0
        while len(line) - begin > PIECE_MAX_BYTES:
            end = begin + complete_utf8(line[begin : begin + PIECE_MAX_BYTES])
            yield line[begin:end]
            begin = end
        yield line[begin:]


def _lines(data: bytes) -> Iterator[bytes]:
    """Lines by newline only: bytes.splitlines also splits at a carriage return, which progress bars are made of."""
    begin = 0
    while (end := data.find(b"\n", begin) + 1) > 0:
        yield data[begin:end]
        begin = end
    if begin < len(data):
        yield data[begin:]


def _encode_piece(head: str, piece: bytes) -> str:
    try:
        return f"{head}{encode_basestring(piece.decode())}}}\n"
    except UnicodeDecodeError:
        return f'{head}"{base64.b64encode(piece).decode()}", "encoding": "base64"}}\n'


def complete_utf8(data: bytes) -> int:
    """How many bytes of `data` to take now, so that a character that may go on in the next bytes is not cut in two."""
    for tail in range(1, min(_UTF8_TAIL_MAX_BYTES, len(data)) + 1):
        byte = data[-tail]
        if byte & 0xC0 == 0x80:
            continue
        length = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
        return len(data) - tail if length > tail else len(data)
    return len(data)


def decode_record(line: bytes) -> LogRecord | None:
    """One line of the log; None if it is not a whole record."""
    try:
        values = json.loads(line)
        text = values["log"]
        data = base64.b64decode(text, validate=True) if values.get("encoding") == "base64" else text.encode()
        stream = values["stream"]
        if stream not in ("stdout", "stderr"):
            return None
        return LogRecord(int(values["time"]), stream, data)
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        return None
