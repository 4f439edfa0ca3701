"""A program on a terminal of its own, for tests: type, wait for what it shows, resize, look at the terminal's mode."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence

LIMIT_S = 20.0


class Terminal:
    """The outer side of a pseudo terminal and the program on its inner side."""

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str], size: tuple[int, int] = (80, 24)) -> None:
        self._master, slave = pty.openpty()
        self.resize(*size)
        # setsid(1) makes it the controlling terminal, so that keys become signals as they do for people.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *arguments], stdin=slave, stdout=slave, stderr=slave, env=dict(environ)
        )
        self._slave = slave
        self.shown = b""

    def send(self, data: bytes) -> None:
        os.write(self._master, data)

    def expect(self, wanted: bytes, limit_s: float = LIMIT_S) -> bytes:
        """Waits until `wanted` was shown; what was shown before it and itself is used up."""
        deadline = time.monotonic() + limit_s
        while wanted not in self.shown:
            if not self._read(deadline):
                raise AssertionError(f"{wanted!r} was not shown; shown was {self.shown!r}")
        before, _, self.shown = self.shown.partition(wanted)
        return before + wanted

    def end(self, limit_s: float = LIMIT_S) -> int:
        """Waits for the program's end; its exit status."""
        status = self.process.wait(limit_s)
        with contextlib.suppress(OSError):
            while select.select([self._master], [], [], 0.05)[0]:
                self.shown += os.read(self._master, 65536)
        return status

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    @property
    def raw(self) -> bool:
        """No line editing and no echo."""
        return not termios.tcgetattr(self._slave)[3] & (termios.ICANON | termios.ECHO)

    def _read(self, deadline: float) -> bool:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self._master], [], [], left)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False
        self.shown += data
        return bool(data)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)


@contextlib.contextmanager
def on_terminal(
    arguments: Sequence[str], environ: Mapping[str, str], size: tuple[int, int] = (80, 24)
) -> Iterator[Terminal]:
    terminal = Terminal(arguments, environ, size)
    try:
        yield terminal
    finally:
        terminal.close()
