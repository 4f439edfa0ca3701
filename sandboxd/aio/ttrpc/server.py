"""A ttrpc server on a listening unix socket."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from sandboxd.aio.ttrpc.errors import ConnectionLost, RemoteError, StatusCode, status_from_exception
from sandboxd.aio.ttrpc.messages import decode_message, encode_error, encode_response
from sandboxd.api import ttrpc_pb2
from sandboxd.base.errors import Blame, SandboxdError
from sandboxd.wire.ttrpc import Frame, FrameDecoder, MessageType, ProtocolError

IN_FLIGHT_MAX = 1024
"""Calls of one connection that may wait for their answers at the same time; more are refused."""

_log = logging.getLogger(__name__)
Q = TypeVar("Q", bound=Message)


@dataclass(frozen=True, slots=True)
class Handler(Generic[Q]):
    """One method: what it takes, and the coroutine that answers it. A raised exception becomes the answer's status."""

    request_type: type[Q]
    call: Callable[[Q], Awaitable[Message]]


Services = Mapping[str, Mapping[str, Handler[Any]]]


class Server:
    """Serves `services` (service name, method name, Handler) to every connection, calls of one connection concurrently.

    A connection's end cancels its handlers: what must finish once begun shields itself.
    """

    def __init__(self, services: Services, *, in_flight_max: int = IN_FLIGHT_MAX) -> None:
        self.services = services
        self.in_flight_max = in_flight_max
        self._connections: set[_ServerConnection] = set()
        self._server: asyncio.Server | None = None

    async def serve(self, listener: socket.socket) -> None:
        """Takes over a listening unix socket and accepts from now on; returns at once."""
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _ServerConnection(self), sock=listener)

    def add(self, connection: _ServerConnection) -> None:
        self._connections.add(connection)

    def discard(self, connection: _ServerConnection) -> None:
        self._connections.discard(connection)

    async def close(self) -> None:
        """Accepts no more; answers that are ready are written, then every connection ends. Idempotent."""
        if self._server is None:
            return
        self._server.close()
        connections = tuple(self._connections)
        for connection in connections:
            connection.close()
        await asyncio.gather(*(connection.closed.wait() for connection in connections))
        await self._server.wait_closed()


class _ServerConnection(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._decoder = FrameDecoder()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._last_stream_id = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.add(self)

    def data_received(self, data: bytes) -> None:
        self._decoder.receive(data)
        try:
            while frame := self._decoder.next_frame():
                self._take(frame)
        except ProtocolError as error:
            _log.warning("a client broke the protocol: %s", error)
            self._abort()

    def _take(self, frame: Frame) -> None:
        if frame.type is not MessageType.REQUEST:
            raise ProtocolError(f"{frame.type.name} where a request is expected")
        if frame.stream_id % 2 == 0 or frame.stream_id <= self._last_stream_id:
            raise ProtocolError(f"stream id {frame.stream_id} after {self._last_stream_id}: must be odd and rise")
        self._last_stream_id = frame.stream_id
        request = decode_message(ttrpc_pb2.Request, frame.payload)
        if len(self._tasks) >= self._server.in_flight_max:
            text = f"{self._server.in_flight_max} calls wait already"
            self._write(encode_error(frame.stream_id, _status(StatusCode.RESOURCE_EXHAUSTED, text)))
            return
        task = asyncio.get_running_loop().create_task(self._answer(frame.stream_id, request))
        self._tasks[frame.stream_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(frame.stream_id, None))

    async def _answer(self, stream_id: int, request: ttrpc_pb2.Request) -> None:
        try:
            frame = encode_response(stream_id, await self._handle(request))
        except Exception as error:  # whatever a handler raises is the caller's answer; nothing may end the connection
            _log_failure(request, error)
            frame = encode_error(stream_id, status_from_exception(error))
        self._write(frame)
        # The call counts as in flight until its answer is on the way: a client that does not read gets no more room.
        await self._writable.wait()

    async def _handle(self, request: ttrpc_pb2.Request) -> bytes:
        handler = self._server.services.get(request.service, {}).get(request.method)
        if handler is None:
            name = f"/{request.service[:80]}/{request.method[:80]}"
            raise RemoteError(StatusCode.UNIMPLEMENTED, f"{name} is not implemented")
        try:
            message = decode_message(handler.request_type, request.payload)
        except ProtocolError as error:
            raise RemoteError(StatusCode.INVALID_ARGUMENT, str(error)) from None
        async with asyncio.timeout(request.timeout_nano / 1e9 if request.timeout_nano > 0 else None):
            return (await handler.call(message)).SerializeToString()

    def _write(self, frame: bytes) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(frame)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._writable.set()
        self._server.discard(self)
        self.closed.set()

    def close(self) -> None:
        if self._transport:
            self._transport.close()

    def _abort(self) -> None:
        if self._transport:
            self._transport.abort()


def _status(code: StatusCode, message: str) -> ttrpc_pb2.Status:
    return ttrpc_pb2.Status(code=code, message=message)


def _log_failure(request: ttrpc_pb2.Request, error: Exception) -> None:
    """Only what is not the caller's or the guest's own doing is worth a line, and a bug its traceback."""
    if isinstance(error, RemoteError | ConnectionLost | TimeoutError):
        return
    if isinstance(error, SandboxdError) and error.kind.blame is not Blame.BUG:
        _log.info("%s: %s: %s", request.method, error.message, error.cause)
        return
    _log.error("%s failed", request.method, exc_info=error)
