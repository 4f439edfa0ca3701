"""The part of a shim that runs on the event loop."""

from __future__ import annotations

import asyncio
import signal
import socket

from sandboxd.aio.ttrpc import Server
from sandboxd.core.sandbox import Sandbox
from sandboxd.core.spec import SandboxSpec
from sandboxd.shim.lasting import Lasting
from sandboxd.shim.names import SANDBOX_SERVICE, TASK_SERVICE, TASK_SERVICE_V3
from sandboxd.shim.sandbox_service import SandboxService
from sandboxd.shim.task_service import TaskService
from sandboxd.telemetry.stages import StageRecorder

LAST_CALLS_S = 2.0
"""How long calls that run may take when the shim is told to end."""


async def run(spec: SandboxSpec, stages: StageRecorder, listener: socket.socket) -> None:
    """Serves until Shutdown, SIGTERM or SIGINT; then kills the machine, tells every waiter, and returns."""
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    sandbox = Sandbox(spec, stages)
    lasting = Lasting()
    task = TaskService(sandbox, lasting, end).handlers()
    services = {
        TASK_SERVICE: task,
        TASK_SERVICE_V3: task,
        SANDBOX_SERVICE: SandboxService(sandbox, lasting).handlers(),
    }
    server = Server(services)
    await server.serve(listener)
    try:
        await end.wait()
    finally:
        await sandbox.stop()
        await lasting.finish(LAST_CALLS_S)
        await server.close()
