"""Sizes and durations as people write them: `512M`, `1G`, bare = MiB; `30s`, `5m`, `1h`, bare = seconds."""

from __future__ import annotations

import re

from sandboxd.base.errors import INVALID_ARGUMENT, SandboxdError

MIB = 1 << 20

_SIZE = re.compile(r"(\d{1,12})(?:\.(\d{1,3}))?\s*([bkmgt]?)(i?b)?\Z", re.IGNORECASE)
_SIZE_FACTOR = {"b": 1, "k": 1 << 10, "": MIB, "m": MIB, "g": 1 << 30, "t": 1 << 40}
_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,8})m)?(?:(\d{1,10}(?:\.\d{1,3})?)s?)?\Z")


def parse_size(value: str, what: str = "size") -> int:
    """Bytes. Binary multiples; a bare number is MiB."""
    match = _SIZE.match(value.strip())
    if not match:
        raise SandboxdError(
            INVALID_ARGUMENT,
            what=what,
            value=value[:40],
            reason="sizes read 512M, 1.5G or 4T; bare = MiB",
            command="run",
        )
    whole, fraction, unit, _ = match.groups()
    number = float(f"{whole}.{fraction or 0}")
    return int(number * _SIZE_FACTOR[unit.lower()])


def parse_duration(value: str, what: str = "duration") -> float:
    """Seconds. `1h30m`, `5m`, `30s`, `1.5`."""
    text = value.strip()
    match = _DURATION.match(text)
    if not match or not text:
        raise SandboxdError(
            INVALID_ARGUMENT, what=what, value=value[:40], reason="durations read 30s, 5m or 1h30m", command="run"
        )
    hours, minutes, seconds = match.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds or 0)


def format_size(size_bytes: int) -> str:
    """`1.5 GiB`: three significant digits for people."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{_significant(size)} {unit}" if unit != "B" else f"{size_bytes} B"
        size /= 1024
    return f"{_significant(size)} TiB"


def _significant(value: float) -> str:
    """Three significant digits, never in powers of ten: 1023, 1.5."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
