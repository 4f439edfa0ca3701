"""Everything a QEMU process is handed, opened by us: it has no path to anything of the sandbox's.

Descriptors are opened in one go and closed in one go; what QEMU inherits are the same numbers.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from sandboxd.base.errors import VMM_FILE_UNUSABLE, SandboxdError
from sandboxd.linux.tap import open_tap
from sandboxd.vmm.qemu.devices import PassedFd
from sandboxd.vmm.spec import Drive


class Descriptors:
    """Collects what to pass; as a context manager it closes this process's copies on every way out."""

    def __init__(self) -> None:
        self._cleanup = contextlib.ExitStack()
        self._passed: list[int] = []

    @property
    def passed(self) -> tuple[int, ...]:
        return tuple(self._passed)

    def boot_file(self, what: str, path: Path, uid: int) -> PassedFd:
        """A kernel or initrd. QEMU opens it anew through /proc/self/fd, so its mode has to let the user read it."""
        fd = self._open(what, path, os.O_RDONLY)
        status = os.fstat(fd)
        if uid and not status.st_mode & stat.S_IROTH:
            reason = f"The machine's process, user {uid}, may not read it: `chmod a+r {path}` lets it."
            raise SandboxdError(VMM_FILE_UNUSABLE, what=what, path=path, reason=reason)
        return fd

    def drive(self, drive: Drive) -> PassedFd:
        return self._open(f"drive {drive.serial}", drive.path, os.O_RDONLY if drive.read_only else os.O_RDWR)

    def tap(self, name: str) -> PassedFd:
        """Raises tap_unusable."""
        return self._pass(open_tap(name))

    def socket_pair(self) -> tuple[socket.socket, PassedFd]:
        """(our end, non-blocking; QEMU's end)."""
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            return ours, self._pass(theirs.detach())
        except BaseException:
            ours.close()
            raise

    def pipe(self) -> tuple[int, PassedFd]:
        """(our end to read; the end to write)."""
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        return ours, self._pass(theirs)

    def _open(self, what: str, path: Path, flags: int) -> PassedFd:
        try:
            fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            reason = f"Opening it says: {error.strerror}."
            raise SandboxdError(VMM_FILE_UNUSABLE, what=what, path=path, reason=reason) from error
        passed = self._pass(fd)
        kind = os.fstat(fd).st_mode
        if not stat.S_ISREG(kind):
            raise SandboxdError(VMM_FILE_UNUSABLE, what=what, path=path, reason="It is not a regular file.")
        # Non-blocking only so that opening a FIFO by mistake cannot hang.
        os.set_blocking(fd, True)
        return passed

    def _pass(self, fd: int) -> PassedFd:
        close: Callable[[int], None] = os.close
        self._cleanup.callback(close, fd)
        self._passed.append(fd)
        return PassedFd(fd)

    def __enter__(self) -> Descriptors:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()
