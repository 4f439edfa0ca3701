"""Named pipes between the daemon and a shim: how a client's live input and output reach a process.

The daemon makes them, opens its ends first (so nothing that is written is lost), and lets the shim open the others.
Reads and writes wait for readiness on the event loop; no thread, no buffer of our own: what the client does not take
stays in the pipe, and what the pipe does not take keeps the client waiting. That is the back-pressure, both ways.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from sandboxd.aio.descriptors import wait_readable, wait_writable

CHUNK_BYTES = 64 << 10
_READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_HOLD_FLAGS = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE_FLAGS = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC


class OutputPipe:
    """The reading end of a process's stdout or stderr. End of file is when the shim has closed its end."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path, 0o600)
        self.path = path
        self._fd = os.open(path, _READ_FLAGS)

    async def chunks(self) -> AsyncIterator[bytes]:
        """What the process writes, 1 to CHUNK_BYTES at a time, until it has closed its end."""
        while True:
            # Waiting first: before the shim has opened its end a read would show an end of file that is none.
            await wait_readable(self._fd)
            with contextlib.suppress(BlockingIOError):
                data = os.read(self._fd, CHUNK_BYTES)
                if not data:
                    return
                yield data

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class InputPipe:
    """The writing end of a process's stdin."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path, 0o600)
        self.path = path
        # A FIFO opens for writing only when it has a reader. Until the shim is there, this end is both.
        self._fd = os.open(path, _HOLD_FLAGS)

    def become_writer(self) -> None:
        """Gives up the reading half. To be called when the shim has opened its end; then its going away is seen."""
        with contextlib.suppress(OSError):  # ENXIO: the shim has closed its end already, so every write shall fail
            writer = os.open(self.path, _WRITE_FLAGS)
            os.close(self._fd)
            self._fd = writer
            return
        self.close()

    async def write(self, data: bytes) -> bool:
        """Returns when the pipe took all of it. False: nobody reads any more."""
        view = memoryview(data)
        while view:
            if self._fd < 0:
                return False
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await wait_writable(self._fd)
            except BrokenPipeError:
                self.close()
                return False
        return True

    def close(self) -> None:
        """End of file for the process. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class PipeSet:
    """The pipes of one attachment, in a directory of their own that goes with them."""

    def __init__(self, parent: Path, number: int, *, stdin: bool, stderr: bool) -> None:
        """Raises OSError when the sandbox's run_dir is gone."""
        self._directory = parent / str(number)
        # Not with parents: the run_dir of a sandbox that has ended must not come back.
        parent.mkdir(mode=0o700, exist_ok=True)
        self._directory.mkdir(mode=0o700)
        self.stdin: InputPipe | None = None
        self.stdout: OutputPipe | None = None
        self.stderr: OutputPipe | None = None
        try:
            self.stdin = InputPipe(self._directory / "stdin") if stdin else None
            self.stdout = OutputPipe(self._directory / "stdout")
            self.stderr = OutputPipe(self._directory / "stderr") if stderr else None
        except BaseException:
            self.close()
            raise

    @staticmethod
    def path_of(pipe: InputPipe | OutputPipe | None) -> str:
        """As ShimClient.attach takes it."""
        return str(pipe.path) if pipe else ""

    def unlink(self) -> None:
        """Takes the names away once both sides have opened them. Idempotent."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def close(self) -> None:
        """Closes all ends and removes the names. Idempotent."""
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe:
                pipe.close()
        self.unlink()
