"""One sandbox that exists on the host: its shim, the stages of its start, its end as a future."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from sandboxd.api import shim_pb2
from sandboxd.base.clock import monotonic_ns
from sandboxd.base.errors import SANDBOX_WRONG_STATE, SandboxdError
from sandboxd.daemon.records import Exit
from sandboxd.shim.launch import ShimClient


@dataclass(eq=False)
class Live:
    """From the claim of its slot until all that it held is released."""

    id: str
    shim: ShimClient | None = None
    stages: list[shim_pb2.Stage] = field(default_factory=list)
    """Those of the daemon, and in the end all."""
    timed_out: bool = False
    timer: asyncio.TimerHandle | None = None
    watch: asyncio.Task[None] | None = None
    ended: asyncio.Future[Exit] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Done when it has stopped and nothing of it is left on the host but its record and its log."""
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while it is started: two starts of one sandbox come one after the other."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Records how long the block took, failed or not."""
        begin_ns = monotonic_ns()
        try:
            yield
        finally:
            self.add_stage(name, begin_ns)

    def add_stage(self, name: str, begin_ns: int) -> None:
        self.stages.append(shim_pb2.Stage(name=name, process="daemon", begin_ns=begin_ns, end_ns=monotonic_ns()))

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

    async def wait_ended(self, timeout_s: float | None = None) -> bool:
        """True when it has ended within that time."""
        done, _ = await asyncio.wait({self.ended}, timeout=timeout_s)
        return bool(done)
