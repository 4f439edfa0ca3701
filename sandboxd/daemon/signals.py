"""Signals as people and images write them: `SIGTERM`, `term`, `15`, `RTMIN+3`."""

from __future__ import annotations

import re
import signal

SIGNAL_MAX = 64
_REAL_TIME = re.compile(r"RT(MIN|MAX)([+-]\d{1,2})?\Z")
_RTMIN, _RTMAX = 34, 64
"""As Linux guests with glibc number them."""


def parse_signal(text: str) -> int | None:
    """Its number, 1 to 64; None if there is no such signal."""
    word = text.strip().upper().removeprefix("SIG")
    if word.isascii() and word.isdigit() and len(word) <= 2:
        number = int(word)
    elif match := _REAL_TIME.match(word):
        number = (_RTMIN if match[1] == "MIN" else _RTMAX) + int(match[2] or 0)
        if not _RTMIN <= number <= _RTMAX:
            return None
    else:
        member = signal.Signals.__members__.get(f"SIG{word}")
        number = int(member) if member is not None else 0
    return number if 1 <= number <= SIGNAL_MAX else None
