"""What the daemon needs to know of its host."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def boot_id() -> str:
    """Of this boot of the host (random(4)): what was alive under another one is gone."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
