"""Room that is kept for writing down how things end, when the disk has none left."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

RESERVE_BYTES = 256 << 10
"""Some thirty transactions of a few pages each."""


class Reserve:
    """A file that takes room for as long as nobody needs it. Calls block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept = False

    def keep(self) -> None:
        """Takes the room, if it is not taken and there is any."""
        if self._kept:
            return
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(fd, 0, RESERVE_BYTES)
                self._kept = True
            finally:
                os.close(fd)
        except OSError:
            self.release()

    def release(self) -> bool:
        """Gives the room back. False: there was none."""
        kept, self._kept = self._kept, False
        with contextlib.suppress(OSError):
            self._path.unlink()
        return kept
