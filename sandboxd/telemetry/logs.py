"""Structured logs: one line per event on stderr, `time level logger message key=value ...` or JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal

LINE_MAX_CHARS = 4096
"""A guest's or a caller's words end up in messages: they fill no disk and forge no lines."""


class _Formatter(logging.Formatter):
    def __init__(self, style: Literal["text", "json"], fields: dict[str, str]) -> None:
        super().__init__()
        self._json = style == "json"
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        when = f"{seconds}.{int(record.msecs):03d}Z"
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        values = {"time": when, "level": record.levelname.lower(), "logger": record.name, **self._fields}
        if self._json:
            return json.dumps({**values, "message": message[:LINE_MAX_CHARS]})
        fields = [f"{key}={value}" for key, value in self._fields.items()]
        head = " ".join((when, record.levelname.lower(), record.name, *fields))
        return f"{head} {_one_line(message[:LINE_MAX_CHARS])}"


def _one_line(text: str) -> str:
    """Control characters shown, not obeyed; further lines indented, so that a record begins at column 0."""
    shown = "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)
    return shown.replace("\n", "\n    ")


def set_up_logging(level: str = "info", style: Literal["text", "json"] = "text", **fields: str) -> None:
    """Sends this process's logs to stderr. `fields` are in every line (sandbox="..."). May be called again."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(style, fields))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
