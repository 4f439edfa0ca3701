"""The mount table of this process's namespace (proc(5), /proc/PID/mountinfo)."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8


def mount_points() -> tuple[str, ...]:
    """Every mount point, in the order they were mounted."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return tuple(unescape(line.split(" ")[4]) for line in lines)


def unescape(text: str) -> str:
    """The kernel writes space, tab, newline and backslash of a path as three octal digits."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def unmount_below(directory: Path) -> tuple[str, ...]:
    """Detaches every mount on `directory` or below it, the newest first, and answers which. Raises OSError."""
    prefix = f"{directory}/"
    found = [point for point in mount_points() if point == str(directory) or point.startswith(prefix)]
    for point in reversed(found):
        _umount2(point, MNT_DETACH | UMOUNT_NOFOLLOW)
    return tuple(found)


def _umount2(path: str, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), flags):
        number = ctypes.get_errno()
        raise OSError(number, f"umount2: {os.strerror(number)}", path)
