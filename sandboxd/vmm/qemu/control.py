"""QMP: QEMU's control channel, through QEMU's own client. Every wait for it is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

from qemu.qmp import EventListener, QMPClient, QMPError, Runstate

from sandboxd.base.errors import VMM_UNRESPONSIVE, SandboxdError
from sandboxd.vmm.qemu.errors import ControlError

COMMAND_TIMEOUT_S = 10.0

# The client logs every connection that ends as an error, ours end with the machine. What matters is raised.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL + 1)


class Control:
    """One QMP session on a connected socket."""

    def __init__(self) -> None:
        self._client = QMPClient("machine")
        self._shutdown = EventListener(("SHUTDOWN",))
        self._client.register_listener(self._shutdown)
        self._connecting = asyncio.Lock()

    async def connect(self, sock: socket.socket) -> None:
        """Greeting and negotiation: returns when QEMU's main loop runs. Raises ControlError if it hangs up instead."""
        async with self._connecting:
            try:
                await self._client.connect(sock)
            except QMPError as error:
                raise ControlError(str(error)) from error

    async def execute(self, command: str, doing: str) -> object:
        """One command without arguments. Raises vmm_unresponsive, ControlError when session or command failed."""
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                return await self._client.execute(command)
        except TimeoutError:
            raise SandboxdError(
                VMM_UNRESPONSIVE, operation=doing, limit_s=f"{COMMAND_TIMEOUT_S:g}", detail="nothing"
            ) from None
        except QMPError as error:
            raise ControlError(str(error)) from error

    async def quit_nowait(self) -> None:
        """Asks QEMU to end; whether it does, its process shows."""
        with contextlib.suppress(ControlError, SandboxdError):
            await self.execute("quit", "quit")

    def shutdown_reason_nowait(self) -> str:
        """QEMU's word for why the machine stopped ("guest-reset", "guest-shutdown", ...); empty when it said none."""
        if self._shutdown.empty():
            return ""
        data = self._shutdown.history[-1].get("data") if self._shutdown.history else None
        return str(data.get("reason", "")) if isinstance(data, dict) else ""

    async def disconnect(self, timeout_s: float) -> None:
        """Once QEMU hung up: reads what it said last, then closes. Never raises: the end is what is wanted."""
        with contextlib.suppress(QMPError, TimeoutError, EOFError, OSError):
            async with asyncio.timeout(timeout_s):
                # A connect that fails tidies up after itself, and must not be joined in that.
                async with self._connecting:
                    pass
                while self._client.runstate is Runstate.RUNNING:
                    await self._client.runstate_changed()
        if self._client.runstate is not Runstate.IDLE:
            with contextlib.suppress(QMPError, TimeoutError, EOFError, OSError):
                async with asyncio.timeout(timeout_s):
                    await self._client.disconnect()
