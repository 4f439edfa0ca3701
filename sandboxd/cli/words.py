"""Text for people: colours, ages, and strings that may hold anything, made safe for a terminal."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from datetime import datetime

_AGES = (("second", 60), ("minute", 60), ("hour", 24), ("day", 30), ("month", 12))


def coloured(stream: TextIO) -> bool:
    """Colours only on a terminal, never against NO_COLOR (no-color.org) or TERM=dumb."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str, stream: TextIO | None = None) -> str:
    """SGR `code` ("31", "1;32") around `text`, where colours are wanted."""
    return f"\x1b[{code}m{text}\x1b[0m" if coloured(stream or sys.stderr) else text


def printable(text: str) -> str:
    """Without control characters: an image's label must not move the cursor or rename the window."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def printable_lines(text: str) -> str:
    """The same, with line breaks and tabs kept."""
    return "\n".join(printable(line.expandtabs()) for line in text.splitlines())


def age(moment: datetime | None, now: datetime | None = None) -> str:
    """`5 seconds`, `3 minutes`, `2 days`; "" for None."""
    if moment is None:
        return ""
    from datetime import UTC, datetime

    left = max(0.0, ((now or datetime.now(UTC)) - moment).total_seconds())
    if left < 1:
        return "less than a second"
    for unit, size in _AGES:
        if left < size:
            return _counted(int(left), unit)
        left /= size
    return _counted(int(left), "year")


def ago(moment: datetime | None) -> str:
    return f"{age(moment)} ago" if moment else ""


def seconds(value: float) -> str:
    """`12 ms`, `3.1 s`, `2 min 5 s`."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.1f} s"
    return f"{int(value // 60)} min {int(value % 60)} s"


def shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def short_digest(digest: str) -> str:
    """The first twelve digits of `sha256:...`."""
    return digest.rpartition(":")[2][:12]


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
