"""One sandbox that exists on the host: its shim, the stages of its start, its end as a future."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from sandboxd.base.errors import SANDBOX_NOT_FOUND, SANDBOX_WRONG_STATE, SandboxdError
from sandboxd.daemon.records import Exit
from sandboxd.shim.launch import ShimClient
from sandboxd.telemetry.stages import StageRecorder


@dataclass(eq=False)
class Live:
    """From the claim of its slot until all that it held is released."""

    id: str
    shim: ShimClient | None = None
    stages: StageRecorder = field(default_factory=lambda: StageRecorder("daemon"))
    """The daemon's; when it has ended, those of the shim too."""
    timed_out: bool = False
    ended_by_us: bool = False
    """Its machine was ended from outside, because that was asked for."""
    finishing: bool = False
    timer: asyncio.TimerHandle | None = None
    ended: asyncio.Future[Exit] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Done when it has stopped and nothing of it is left on the host but its record and its log."""
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while it is started: two starts of one sandbox come one after the other."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def next_number(self) -> int:
        """Of an attachment, for the names of its pipes."""
        return next(self._numbers)

    def require_shim(self, operation: str) -> ShimClient:
        """Raises sandbox_wrong_state while the machine is still being made."""
        if self.shim is None:
            raise SandboxdError(
                SANDBOX_WRONG_STATE, operation=operation, id=self.id, state="creating", needed="created or running"
            )
        return self.shim

    async def exit(self) -> Exit:
        """How it ended. Raises sandbox_not_found when it was never whole: its making failed."""
        try:
            return await asyncio.shield(self.ended)
        except asyncio.CancelledError:
            if self.ended.cancelled():
                raise SandboxdError(SANDBOX_NOT_FOUND, id=self.id) from None
            raise

    async def wait_ended(self, timeout_s: float | None = None) -> bool:
        """True when it has ended within that time."""
        done, _ = await asyncio.wait({self.ended}, timeout=timeout_s)
        return bool(done)
