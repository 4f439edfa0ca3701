"""Moments as people write them: `10m`, `2024-05-01T12:00:00`, `1714560000.5`; and how they are printed."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from sandboxd.base.errors import SandboxdError
from sandboxd.base.units import parse_duration
from sandboxd.client.options import refusal

_SECONDS_SINCE_1970 = 10**8
"""A bare number this big is a moment, a smaller one a duration: docker's `--since` takes both."""


def parse(text: str | None, option: str) -> int:
    """Nanoseconds since the epoch; 0 for None. A duration counts back from now, a time without zone is local.

    Errors: invalid_argument.
    """
    if text is None:
        return 0
    now_ns = time.time_ns()
    number = _number(text)
    if number is not None and number >= _SECONDS_SINCE_1970:
        return int(number * 1e9)
    try:
        return max(1, now_ns - int(parse_duration(text) * 1e9))
    except SandboxdError:
        return _timestamp(text, option)


def stamp(unix_ns: int) -> str:
    """RFC 3339 in UTC with all nine digits, as docker prints it."""
    moment = datetime.fromtimestamp(unix_ns // 10**9, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{unix_ns % 10**9:09d}Z"


def _timestamp(text: str, option: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise refusal(option, text, "it reads 10m, 2024-05-01T12:00:00 or seconds since 1970", "logs") from None
    return int(moment.timestamp() * 1e6) * 1000


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
