"""A ttrpc client over one stream socket."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from sandboxd.aio.ttrpc.errors import CallTimeout, ConnectionLost, RemoteError, StatusCode
from sandboxd.aio.ttrpc.messages import decode_message, encode_request
from sandboxd.api import ttrpc_pb2
from sandboxd.wire.ttrpc import STREAM_ID_MAX, Frame, FrameDecoder, MessageType, ProtocolError

M = TypeVar("M", bound=Message)


class ClientConnection:
    """Calls to one peer: any number at once, written in the order they were made, answered in any order.

    The peer may be hostile: an answer to no call, or a frame that is none, ends the connection with
    ConnectionLost for all.
    """

    def __init__(self, protocol: _ClientProtocol) -> None:
        self._protocol = protocol

    @classmethod
    async def from_socket(cls, sock: socket.socket) -> ClientConnection:
        """Takes over a connected stream socket."""
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        if sock.family == socket.AF_UNIX:
            _, protocol = await loop.create_unix_connection(_ClientProtocol, sock=sock)
        else:
            _, protocol = await loop.create_connection(_ClientProtocol, sock=sock)
        return cls(protocol)

    @classmethod
    async def open_unix(cls, path: str | Path) -> ClientConnection:
        """Connects to a listening unix socket. Raises OSError as connect(2) does."""
        _, protocol = await asyncio.get_running_loop().create_unix_connection(_ClientProtocol, str(path))
        return cls(protocol)

    @property
    def is_closed(self) -> bool:
        return self._protocol.closed.done()

    async def closed(self) -> str:
        """Waits until the connection has ended, by whatever; answers why, for people."""
        return await asyncio.shield(self._protocol.closed)

    async def call(
        self, service: str, method: str, request: Message, response_type: type[M], timeout_s: float | None = None
    ) -> M:
        """One unary call. The request is written before this first suspends.

        Raises RemoteError for a failure that the peer answered, CallTimeout (a RemoteError) after `timeout_s`,
        ConnectionLost if the connection is or gets closed. A cancelled call's answer is ignored when it comes.
        """
        answer = self._protocol.send(service, method, request.SerializeToString(), timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                response = await answer
        except TimeoutError:
            raise CallTimeout(method, timeout_s or 0) from None
        if response.status.code:
            raise RemoteError(response.status.code, response.status.message, tuple(response.status.details))
        try:
            return decode_message(response_type, response.payload)
        except ProtocolError as error:
            self._protocol.fail(str(error))
            raise ConnectionLost(str(error)) from None

    async def close(self) -> None:
        """Ends the connection; calls in flight raise ConnectionLost. Idempotent."""
        self._protocol.fail("closed by this side")
        await self.closed()


class _ClientProtocol(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._decoder = FrameDecoder()
        self._next_stream_id = 1
        self._pending: dict[int, asyncio.Future[ttrpc_pb2.Response]] = {}
        self._reason = ""
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def send(
        self, service: str, method: str, payload: bytes, timeout_s: float | None
    ) -> asyncio.Future[ttrpc_pb2.Response]:
        if self._transport is None or self._reason:
            raise ConnectionLost(f"{method}: the connection is closed: {self._reason}")
        stream_id = self._next_stream_id
        if stream_id > STREAM_ID_MAX:
            self.fail("stream ids are used up")
            raise ConnectionLost("stream ids are used up")
        try:
            frame = encode_request(stream_id, service, method, payload, int((timeout_s or 0) * 1e9))
        except ProtocolError as error:
            raise RemoteError(StatusCode.RESOURCE_EXHAUSTED, f"{method}: {error}") from None
        answer: asyncio.Future[ttrpc_pb2.Response] = asyncio.get_running_loop().create_future()
        self._next_stream_id += 2
        # Stays until the answer comes, also of a cancelled call: its answer must not look like one to no call.
        self._pending[stream_id] = answer
        self._transport.write(frame)
        return answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._reason:
            return
        self._decoder.receive(data)
        try:
            while frame := self._decoder.next_frame():
                self._take(frame)
        except ProtocolError as error:
            self.fail(f"the peer broke the protocol: {error}")

    def _take(self, frame: Frame) -> None:
        answer = self._pending.get(frame.stream_id)
        if answer is None or frame.type is not MessageType.RESPONSE:
            raise ProtocolError(f"{frame.type.name} on stream {frame.stream_id} answers no call")
        response = decode_message(ttrpc_pb2.Response, frame.payload)
        # Only now: until it is answered, a broken connection has to find it among those that wait.
        del self._pending[frame.stream_id]
        if not answer.done():
            answer.set_result(response)

    def fail(self, reason: str) -> None:
        """Ends everything at once; the first reason stands."""
        self._reason = self._reason or reason
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(ConnectionLost(self._reason))
                answer.exception()  # retrieved: a caller that was cancelled does not ask any more
        self._pending.clear()
        if self._transport:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        end = "the peer closed the connection" + (" inside a message" if self._decoder.mid_frame else "")
        self.fail(f"{error}" if error else end)
        if not self.closed.done():
            self.closed.set_result(self._reason)
