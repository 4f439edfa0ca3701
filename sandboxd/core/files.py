"""Small files that other processes read at any moment: whole or not there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Puts `data` at `path` so that a reader sees the old content, the new, or nothing; never a part.

    Not synced: these files describe processes and die with them on a power cut (they lie on tmpfs).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        temporary.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The whole file; OSError if it is longer than `max_bytes` (a file that others can write must not fill memory)."""
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(f"{path} is longer than {max_bytes} bytes")
    return data
