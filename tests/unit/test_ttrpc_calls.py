"""Client and server against each other: concurrency, order, time, and errors that cross whole."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest
from google.protobuf.message import Message

from sandboxd.aio.ttrpc import (
    CallTimeout,
    ClientConnection,
    ConnectionLost,
    Handler,
    RemoteError,
    Server,
    StatusCode,
    sandboxd_error,
    status_from_exception,
)
from sandboxd.api import agent_pb2
from sandboxd.base.errors import CATALOGUE, COMMAND_NOT_FOUND, SandboxdError
from sandboxd.wire.ttrpc import PAYLOAD_MAX_BYTES, MessageType, encode_frame


class NoMessage:
    """Bytes that no message of any type consists of."""

    def SerializeToString(self) -> bytes:
        return b"\xff"


Call = Callable[[agent_pb2.FileRead], Awaitable[agent_pb2.FileResponse]]


async def serving(path: Path, call: Call, **options: int) -> tuple[Server, ClientConnection]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    server = Server({"S": {"M": Handler(agent_pb2.FileRead, call)}}, **options)
    await server.serve(listener)
    return server, await ClientConnection.open_unix(path)


async def ask(client: ClientConnection, number: int, timeout_s: float | None = 10) -> bytes:
    request = agent_pb2.FileRead(offset=number)
    return (await client.call("S", "M", request, agent_pb2.FileResponse, timeout_s)).data


def test_calls_are_answered_in_any_order_and_begun_in_theirs(tmp_path: Path) -> None:
    begun: list[int] = []
    gates = {number: asyncio.Event() for number in range(3)}

    async def call(request: agent_pb2.FileRead) -> agent_pb2.FileResponse:
        begun.append(request.offset)
        await gates[request.offset].wait()
        return agent_pb2.FileResponse(data=b"%d" % request.offset)

    async def scenario() -> None:
        server, client = await serving(tmp_path / "s", call)
        calls = [asyncio.ensure_future(ask(client, number)) for number in range(3)]
        for number in (2, 0, 1):
            gates[number].set()
            assert await calls[number] == b"%d" % number
        assert begun == [0, 1, 2]
        await client.close()
        await server.close()

    asyncio.run(scenario())


def test_a_late_answer_of_a_timed_out_call_harms_nobody(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def call(request: agent_pb2.FileRead) -> agent_pb2.FileResponse:
        if request.offset == 0:
            await asyncio.shield(gate.wait())
        return agent_pb2.FileResponse(data=b"x")

    async def scenario() -> None:
        # The server's own deadline must not be what ends the call: the client sends none here.
        server, client = await serving(tmp_path / "s", call)
        slow = asyncio.ensure_future(client.call("S", "M", agent_pb2.FileRead(), agent_pb2.FileResponse))
        assert await ask(client, 1) == b"x"
        slow.cancel()
        gate.set()
        assert await ask(client, 1) == b"x"
        assert not client.is_closed
        await client.close()
        await server.close()

    asyncio.run(scenario())


def test_timeouts_hold_on_both_sides(tmp_path: Path) -> None:
    cancelled = asyncio.Event()

    async def call(request: agent_pb2.FileRead) -> agent_pb2.FileResponse:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async def scenario() -> None:
        server, client = await serving(tmp_path / "s", call)
        with pytest.raises(CallTimeout, match=r"within 0\.05 s") as caught:
            await ask(client, 0, 0.05)
        assert caught.value.code == StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(cancelled.wait(), 5)
        await client.close()
        await server.close()

    asyncio.run(scenario())


def test_a_connections_end_ends_its_calls_on_both_sides(tmp_path: Path) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def call(request: agent_pb2.FileRead) -> agent_pb2.FileResponse:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async def scenario() -> None:
        server, client = await serving(tmp_path / "s", call)
        waiting = asyncio.ensure_future(ask(client, 0))
        await begun.wait()
        await client.close()
        with pytest.raises(ConnectionLost):
            await waiting
        with pytest.raises(ConnectionLost):
            await ask(client, 0)
        await asyncio.wait_for(cancelled.wait(), 5)
        await server.close()

    asyncio.run(scenario())


def test_an_error_of_the_catalogue_crosses_whole(tmp_path: Path) -> None:
    original = SandboxdError(COMMAND_NOT_FOUND, command="nope", id="abc", errno="no such file")

    async def call(request: agent_pb2.FileRead) -> agent_pb2.FileResponse:
        raise original

    async def scenario() -> None:
        server, client = await serving(tmp_path / "s", call)
        with pytest.raises(RemoteError) as caught:
            await ask(client, 0)
        again = sandboxd_error(caught.value)
        assert again and again.to_json() == original.to_json() and again.kind is original.kind
        assert caught.value.code == StatusCode.NOT_FOUND
        assert "nope" in caught.value.message, "a peer without the catalogue reads a sentence"
        await client.close()
        await server.close()

    asyncio.run(scenario())


def test_every_kind_has_a_status_code() -> None:
    for kind in CATALOGUE.values():
        status = status_from_exception(SandboxdError(kind, **dict.fromkeys(kind.fields(), "x")))
        assert status.code == StatusCode[kind.grpc].value > 0


@pytest.mark.parametrize("details", [(b"\xff\xff",), (b"",), (b"\x0a\x03abc\x12\x01x",)])
def test_details_that_are_not_ours_are_passed_over(details: tuple[bytes, ...]) -> None:
    assert sandboxd_error(RemoteError(2, "x", details)) is None


def test_what_nobody_implements_and_what_is_no_message(tmp_path: Path) -> None:
    async def call(request: agent_pb2.FileRead) -> agent_pb2.FileResponse:
        return agent_pb2.FileResponse()

    async def scenario() -> None:
        server, client = await serving(tmp_path / "s", call)
        for service, method in (("S", "X"), ("X", "M"), ("", "")):
            with pytest.raises(RemoteError) as caught:
                await client.call(service, method, agent_pb2.FileRead(), agent_pb2.FileResponse)
            assert caught.value.code == StatusCode.UNIMPLEMENTED
        with pytest.raises(RemoteError) as caught:
            await client.call("S", "M", cast(Message, NoMessage()), agent_pb2.FileResponse)
        assert caught.value.code == StatusCode.INVALID_ARGUMENT
        with pytest.raises(RemoteError) as caught:
            await client.call("S", "M", agent_pb2.FileResponse(data=bytes(PAYLOAD_MAX_BYTES)), agent_pb2.FileResponse)
        assert caught.value.code == StatusCode.RESOURCE_EXHAUSTED
        await client.close()
        await server.close()

    asyncio.run(scenario())


def test_calls_in_flight_are_bounded(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def call(request: agent_pb2.FileRead) -> agent_pb2.FileResponse:
        await gate.wait()
        return agent_pb2.FileResponse(data=b"x")

    async def scenario() -> None:
        server, client = await serving(tmp_path / "s", call, in_flight_max=2)
        calls = [asyncio.ensure_future(ask(client, number)) for number in range(3)]
        with pytest.raises(RemoteError) as caught:
            await calls[2]
        assert caught.value.code == StatusCode.RESOURCE_EXHAUSTED
        gate.set()
        assert await asyncio.gather(*calls[:2]) == [b"x", b"x"]
        assert await ask(client, 3) == b"x"
        await client.close()
        await server.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("ids", [(2,), (3, 1), (1, 1)])
def test_stream_ids_have_to_be_odd_and_rise(tmp_path: Path, ids: tuple[int, ...]) -> None:
    async def call(request: agent_pb2.FileRead) -> agent_pb2.FileResponse:
        return agent_pb2.FileResponse()

    async def scenario() -> None:
        server, client = await serving(tmp_path / "s", call)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        for stream_id in ids:
            writer.write(encode_frame(stream_id, MessageType.REQUEST, b""))
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1 << 20), 5)
        writer.close()
        await client.close()
        await server.close()

    asyncio.run(scenario())
