"""One connection to the daemon: typed calls over a unix socket, every failure translated to a `SandboxdError`.

Methods are named "Service/Method" of the package sandboxd.v1; a test holds that each exists with these message types.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, TypeVar, cast
from urllib.parse import quote

import grpc
import grpc.aio
from google.protobuf.message import Message

from sandboxd.base.errors import DAEMON_LOST, SandboxdError
from sandboxd.client import autostart, sending
from sandboxd.client.locate import Location

CALL_LIMIT_S = 60.0
"""Of calls that only ask or tell. Calls that wait for a machine, a pull or an exit are bounded by the daemon."""
MESSAGE_MAX_BYTES = 64 << 20
_PACKAGE = "/sandboxd.v1."

_EOF = cast("Any", grpc.aio).EOF  # the stubs lack it

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class Connection:
    """Opens itself at the first call; may be used by many tasks of one event loop."""

    def __init__(self, location: Location, *, start_daemon: bool) -> None:
        self.location = location
        self._start_daemon = start_daemon
        self._channel: grpc.aio.Channel | None = None
        self._opening = asyncio.Lock()

    async def unary(
        self, method: str, request: Message, response: type[Response], *, limit_s: float | None = CALL_LIMIT_S
    ) -> Response:
        """One question, one answer. `limit_s` None waits as long as the daemon does."""
        channel = await self.open()
        call: Any = channel.unary_unary(_PACKAGE + method, type(request).SerializeToString, response.FromString)
        with self.translated(method, limit_s):
            answer: Response = await call(request, timeout=limit_s)
            return answer

    async def stream(self, method: str, request: Message, response: type[Response]) -> AsyncIterator[Response]:
        """One question, many answers. Leaving the iterator ends the call."""
        channel = await self.open()
        multi: Any = channel.unary_stream(_PACKAGE + method, type(request).SerializeToString, response.FromString)
        call = multi(request)
        try:
            with self.translated(method, None):
                async for answer in call:
                    yield answer
        finally:
            call.cancel()

    async def duplex(self, method: str, request: type[Request], response: type[Response]) -> Duplex[Request, Response]:
        """Messages both ways."""
        channel = await self.open()
        multi: Any = channel.stream_stream(_PACKAGE + method, request.SerializeToString, response.FromString)
        return Duplex(multi(), method, self)

    async def upload(self, method: str, request: type[Request], response: type[Response]) -> Upload[Request, Response]:
        """Many messages, one answer."""
        channel = await self.open()
        multi: Any = channel.stream_unary(_PACKAGE + method, request.SerializeToString, response.FromString)
        return Upload(multi(), method, self)

    async def open(self) -> grpc.aio.Channel:
        """The channel; a daemon answers when this returns. Errors: daemon_unreachable, daemon_start_failed."""
        async with self._opening:
            if self._channel is None:
                # Almost always one connect(2) to a listening socket, which does not block; a start takes a thread.
                if not autostart.answers(self.location.socket):
                    await asyncio.to_thread(autostart.ensure, self.location, autostart=self._start_daemon)
                self._channel = grpc.aio.insecure_channel(_target(self.location.socket), options=_OPTIONS)
            return self._channel

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(grace=None)

    def broken(self, reason: str) -> SandboxdError:
        """The daemon broke its own protocol."""
        return SandboxdError(DAEMON_LOST, socket=self.location.socket, reason=reason)

    @contextlib.contextmanager
    def translated(self, method: str, limit_s: float | None) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            from sandboxd.client.translate import from_rpc

            raise from_rpc(error, socket=self.location.socket, call=method, limit_s=limit_s) from None


class _Sender(Generic[Request]):
    """The writing half of a call."""

    def __init__(self, call: Any, method: str, connection: Connection) -> None:
        self._call = call
        self._method = method
        self._connection = connection
        self._cancelled = False
        self._broken = False
        # gRPC takes one message at a time.
        self._writing = asyncio.Lock()

    @property
    def socket(self) -> str:
        return self._connection.location.socket

    async def write(self, request: Request) -> bool:
        """False when the other side has ended the call; what it said last is still to be read."""
        async with self._writing:
            self._broken = self._broken or not await sending.send(self._call, request)
            return not self._broken

    async def done_writing(self) -> None:
        async with self._writing:
            await sending.end(self._call)

    def cancel(self) -> None:
        self._cancelled = True
        self._call.cancel()

    @contextlib.asynccontextmanager
    async def _last_words(self) -> AsyncIterator[None]:
        """Around a read: bounded once a write failed. Errors: daemon_lost, and what the call ended with."""
        try:
            async with asyncio.timeout(sending.LAST_WORDS_LIMIT_S if self._broken else None):
                with self._connection.translated(self._method, None):
                    yield
        except TimeoutError:
            self.cancel()
            raise self._connection.broken("it took no more and said nothing more") from None


class Duplex(_Sender[Request], Generic[Request, Response]):
    """A call with messages both ways. `write` returns when the message was taken: that is the back-pressure."""

    async def read(self) -> Response | None:
        """The next message, None at the end and after `cancel`."""
        try:
            async with self._last_words():
                message = await self._call.read()
        except asyncio.CancelledError:
            # gRPC says so too when it is the call that was cancelled, and not the task that reads.
            task = asyncio.current_task()
            if self._cancelled and not (task and task.cancelling()):
                return None
            raise
        return None if message is _EOF else message


class Upload(_Sender[Request], Generic[Request, Response]):
    """A call with many messages out and one answer."""

    async def finish(self) -> Response:
        await self.done_writing()
        async with self._last_words():
            answer: Response = await self._call
        return answer


_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_MAX_BYTES),
    ("grpc.max_send_message_length", MESSAGE_MAX_BYTES),
    ("grpc.enable_http_proxy", 0),
    # A reverse lookup or a service config has no place on a unix socket.
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.default_authority", "localhost"),
)


def _target(socket: str) -> str:
    """gRPC reads targets as URIs, so a path's odd bytes are escaped."""
    return "unix:" + quote(socket, safe="/")
