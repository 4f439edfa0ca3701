"""Child processes: held by pidfd, ended by one known ladder (TERM, a grace, KILL), always reaped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

_log = logging.getLogger(__name__)
TERM_GRACE_S = 2.0

Redirection = int | IO[bytes]
"""A descriptor, a file, or one of subprocess's DEVNULL and PIPE."""


class Child:
    """One child process of this one. As a context manager it is gone when the block is left.

    Spawned with vfork (CPython's subprocess without preexec_fn), every descriptor closed but 0, 1, 2 and `pass_fds`.
    """

    def __init__(self, process: subprocess.Popen[bytes], pidfd: int) -> None:
        self._process = process
        self._pidfd = pidfd
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(pidfd, self._reap)

    @classmethod
    def spawn(
        cls,
        argv: Sequence[str | Path],
        *,
        stdin: Redirection = subprocess.DEVNULL,
        stdout: Redirection = subprocess.DEVNULL,
        stderr: Redirection = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        new_session: bool = False,
    ) -> Child:
        """Starts it; blocks until the exec (about a millisecond). Raises OSError if the program cannot be executed."""
        process = subprocess.Popen(
            [str(word) for word in argv],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            env=env,
            cwd=cwd,
            start_new_session=new_session,
        )
        try:
            # The child is ours and not reaped, so its pid cannot be another's yet.
            return cls(process, os.pidfd_open(process.pid))
        except BaseException:
            process.kill()
            process.wait()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdin(self) -> IO[bytes] | None:
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes] | None:
        return self._process.stdout

    @property
    def stderr(self) -> IO[bytes] | None:
        return self._process.stderr

    @property
    def returncode(self) -> int | None:
        """Exit status, or minus the signal's number; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Its return code when it has ended. Any number of callers."""
        return await asyncio.shield(self._ended)

    def send_signal(self, number: signal.Signals) -> None:
        """To exactly this process; nothing happens if it has ended."""
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def kill(self) -> int:
        """SIGKILL, and its return code. Idempotent."""
        self.send_signal(signal.SIGKILL)
        return await self.wait()

    async def stop(self, grace_s: float = TERM_GRACE_S) -> int:
        """The ladder: TERM, up to `grace_s`, KILL with a warning. Idempotent."""
        self.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            _log.warning("process %d ignored SIGTERM for %g s and is killed", self.pid, grace_s)
            return await self.kill()

    def abandon(self) -> None:
        """Lets it live on without us: whoever inherits it reaps it. For processes that outlive this one."""
        if not self._ended.done():
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._process.returncode = 0  # Popen warns about a child that it believes to be ours and running
            self._ended.cancel()

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._ended.set_result(self._process.wait())

    async def __aenter__(self) -> Child:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
