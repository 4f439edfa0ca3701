"""One line of the doctor's report, and what a check is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from sandboxd.client.locate import Location
from sandboxd.core.config import Config

Level = Literal["ok", "warning", "error"]
MARKS = {"ok": ("✓", "32"), "warning": ("⚠", "33"), "error": ("✗", "31")}


@dataclass(frozen=True, slots=True)
class Fix:
    """What --fix can do about it, if the person agrees."""

    packages: tuple[str, ...] = ()
    guest_kernel: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """`remedy` is one line that can be pasted; empty where nothing is to be done."""

    level: Level
    title: str
    detail: str
    remedy: str = ""
    fix: Fix | None = None


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined. A check only reads."""

    config: Config
    location: Location


Check = Callable[[Patient], Iterable[Finding]]
