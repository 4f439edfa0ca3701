"""ttrpc under attack: the codec whole and byte by byte, a client by a hostile server, a server by a hostile client."""

from __future__ import annotations

import asyncio
import socket

from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxd.aio.ttrpc import CallTimeout, ClientConnection, ConnectionLost, Handler, RemoteError, Server
from sandboxd.api import agent_pb2, ttrpc_pb2
from sandboxd.wire.ttrpc import HEADER, PAYLOAD_MAX_BYTES, Frame, FrameDecoder, MessageType, ProtocolError, encode_frame

headers = st.builds(
    lambda length, stream, kind, flags, payload: HEADER.pack(length, stream, kind, flags) + payload,
    st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=40),
)
good = st.builds(encode_frame, st.integers(1, 9), st.sampled_from(MessageType), st.binary(max_size=30))
streams = st.lists(st.one_of(headers, good, st.binary(max_size=30)), max_size=8).map(b"".join)


def run_codec(chunks: list[bytes]) -> tuple[list[Frame], str]:
    decoder, found = FrameDecoder(), []
    try:
        for chunk in chunks:
            decoder.receive(chunk)
            while frame := decoder.next_frame():
                assert len(frame.payload) <= PAYLOAD_MAX_BYTES
                found.append(frame)
    except ProtocolError as error:
        return found, str(error)
    return found, ""


@given(streams)
@settings(max_examples=500)
def test_codec_answers_the_same_whole_and_byte_by_byte(data: bytes) -> None:
    assert run_codec([data]) == run_codec([data[index : index + 1] for index in range(len(data))])


@given(streams)
@settings(max_examples=100, deadline=None)
def test_a_client_survives_any_server(data: bytes) -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            client = await ClientConnection.from_socket(ours)
            call = asyncio.ensure_future(
                client.call("A", "Hello", agent_pb2.HelloRequest(), agent_pb2.HelloResponse, timeout_s=5)
            )
            await asyncio.sleep(0)
            theirs.send(data)
            theirs.shutdown(socket.SHUT_WR)
            try:
                await call
            except ConnectionLost:
                pass
            except RemoteError as error:
                assert not isinstance(error, CallTimeout), "whatever comes, the end of the connection ends the call"
            assert await asyncio.wait_for(client.closed(), 5)

    asyncio.run(scenario())


requests = st.builds(
    lambda stream, service, method, payload, timeout: encode_frame(
        stream,
        MessageType.REQUEST,
        ttrpc_pb2.Request(service=service, method=method, payload=payload, timeout_nano=timeout).SerializeToString(),
    ),
    st.integers(1, 99),
    st.sampled_from(["A", "B", ""]),
    st.sampled_from(["Hello", "Fail", "X"]),
    st.binary(max_size=20),
    st.integers(-(2**63), 2**63 - 1),
)


@given(st.lists(st.one_of(requests, headers, st.binary(max_size=20)), max_size=8).map(b"".join))
@settings(max_examples=100, deadline=None)
def test_a_server_survives_any_client_and_serves_the_next(tmp_path_factory, data: bytes) -> None:  # type: ignore[no-untyped-def]
    async def hello(_: agent_pb2.HelloRequest) -> agent_pb2.HelloResponse:
        return agent_pb2.HelloResponse(agent_version="1")

    async def fail(_: agent_pb2.HelloRequest) -> agent_pb2.HelloResponse:
        raise ValueError("as a handler may")

    async def scenario() -> None:
        path = str(tmp_path_factory.mktemp("s") / "s")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        handlers = {"Hello": Handler(agent_pb2.HelloRequest, hello), "Fail": Handler(agent_pb2.HelloRequest, fail)}
        server = Server({"A": handlers})
        await server.serve(listener)
        hostile_read, hostile = await asyncio.open_unix_connection(path)
        hostile.write(data)
        hostile.write_eof()
        client = await ClientConnection.open_unix(path)
        answer = await client.call("A", "Hello", agent_pb2.HelloRequest(), agent_pb2.HelloResponse, timeout_s=5)
        assert answer.agent_version == "1"
        await client.close()
        await server.close()
        try:
            await asyncio.wait_for(hostile_read.read(), 5)
        except ConnectionResetError:
            pass
        hostile.close()

    asyncio.run(scenario())
