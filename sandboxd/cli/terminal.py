"""The terminal that a command runs on: raw mode that is always undone, its size, and the keys that detach."""

from __future__ import annotations

import atexit
import contextlib
import os
import termios
import tty
from collections.abc import Iterator

from sandboxd.client.options import refusal

DETACH_KEYS = "ctrl-p,ctrl-q"


def is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def size(descriptor: int = 1) -> tuple[int, int]:
    """(columns, rows); (0, 0) when it has none."""
    try:
        columns, rows = os.get_terminal_size(descriptor)
    except OSError:
        return 0, 0
    return columns, rows


class RawMode:
    """Raw mode of one terminal. `leave` may be called any number of times; the end of the process calls it too."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._saved: list[object] | None = None

    def enter(self) -> None:
        if self._saved is None:
            self._saved = list(termios.tcgetattr(self._descriptor))
            atexit.register(self.leave)
        tty.setraw(self._descriptor, termios.TCSADRAIN)

    def leave(self) -> None:
        saved, self._saved = self._saved, None
        if saved is not None:
            atexit.unregister(self.leave)
            with contextlib.suppress(termios.error, OSError):  # hung up: there is nothing left to restore
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, saved)  # type: ignore[arg-type]

    def again(self) -> None:
        """After a stop and continue (SIGCONT), when a shell has put its own mode back."""
        if self._saved is not None:
            tty.setraw(self._descriptor, termios.TCSADRAIN)

    @contextlib.contextmanager
    def undone(self) -> Iterator[RawMode]:
        """Leaves raw mode at the end, if it was entered."""
        try:
            yield self
        finally:
            self.leave()


class DetachKeys:
    """Finds the key sequence in what is typed. What only looks like its beginning goes through late, not lost."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what to send on, whether the sequence is complete)."""
        out = bytearray()
        for byte in data:
            if self._sequence and byte == self._sequence[self._matched]:
                self._matched += 1
                if self._matched == len(self._sequence):
                    return bytes(out), True
                continue
            out += self._sequence[: self._matched]
            self._matched = 0
            if self._sequence and byte == self._sequence[0]:
                self._matched = 1
            else:
                out.append(byte)
        return bytes(out), False


def parse_detach_keys(text: str) -> bytes:
    """Docker's grammar: keys like `a` or `ctrl-x`, separated by commas. "" detaches by no key.

    Errors: invalid_argument.
    """
    return bytes(_key(word, text) for word in text.split(",")) if text else b""


def _key(word: str, text: str) -> int:
    name = word.lower().removeprefix("ctrl-")
    if len(name) == 1 and name.isascii():
        if name == word.lower():
            return ord(word)
        if name.isalpha() or name in "@[\\]^_":
            return ord(name.upper()) ^ 0x40
    raise refusal("--detach-keys", text, "keys read a or ctrl-x, separated by commas")
