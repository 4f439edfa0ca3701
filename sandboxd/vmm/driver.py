"""The port that every VMM driver implements. `tests/contract` runs one suite over all of them."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class VmmExit:
    """How a VMM process ended."""

    returncode: int
    """Exit status, or minus the signal's number."""
    reason: str
    """guest_shutdown (the guest powered off or reset), guest_panic, stopped (we asked), vmm_died (anything else)."""
    detail: str
    """For people: the VMM's last words and the console's tail, redacted of nothing, at most 4 KiB."""


@dataclass(frozen=True, slots=True)
class VmmStatistics:
    """What the host's kernel says of the VMM process."""

    pid: int
    rss_bytes: int
    cpu_ns: int
    extra: dict[str, int] = field(default_factory=dict)


class Vmm(Protocol):
    """One microVM's process. Made with a MachineSpec and a Confinement; not yet running.

    Calls in the wrong order raise `SandboxdError` (machine_wrong_state); after any failure of `boot` the process is
    gone and nothing of it is left.
    """

    @property
    def pid(self) -> int:
        """Of the VMM process; 0 before boot."""

    @property
    def agent(self) -> socket.socket:
        """Host end of the agent's port: a connected, non-blocking stream socket, there as soon as `boot` returned.
        Bytes written before the guest opened the port wait in it. Whoever takes it closes it."""

    async def boot(self) -> None:
        """Spawns the process and starts the vCPUs. Returns when the guest runs, and the VMM took all of its settings;
        not when the guest is up.
        """

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def kill(self) -> VmmExit:
        """SIGKILL and reap. Idempotent."""

    async def stop(self, timeout_s: float) -> VmmExit:
        """Orderly end of the process (guest not asked), then the ladder TERM, KILL."""

    async def wait(self) -> VmmExit:
        """Until the process has ended, by whatever. Any number of callers."""

    def console_tail(self, max_bytes: int = 4096) -> str:
        """The end of the guest's console, undecodable bytes replaced."""

    def statistics(self) -> VmmStatistics: ...
