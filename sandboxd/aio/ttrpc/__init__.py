"""ttrpc over asyncio: the client (the guest's agent, a shim) and the server (a shim's socket)."""

from sandboxd.aio.ttrpc.client import ClientConnection
from sandboxd.aio.ttrpc.errors import (
    CallTimeout,
    ConnectionLost,
    RemoteError,
    StatusCode,
    sandboxd_error,
    status_from_exception,
)
from sandboxd.aio.ttrpc.server import IN_FLIGHT_MAX, Handler, Server, Services

__all__ = [
    "IN_FLIGHT_MAX",
    "CallTimeout",
    "ClientConnection",
    "ConnectionLost",
    "Handler",
    "RemoteError",
    "Server",
    "Services",
    "StatusCode",
    "sandboxd_error",
    "status_from_exception",
]
