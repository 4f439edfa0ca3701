"""What a hostile or broken host sends the guest's agent, byte by byte: it answers with an error and serves on."""

from __future__ import annotations

import os
import random
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxd.api import agent_pb2 as pb
from sandboxd.api import ttrpc_pb2
from tests.support.agent_host import AgentProcess, build_agent, cgroup2_mount, own_cgroup

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(cgroup2_mount() is None, reason="needs cgroup v2 mounted somewhere"),
]
SERVICE = "sandboxd.agent.v1.Agent"
FRAME_MAX = 4 << 20
INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 3, 5, 8, 12


class Wire:
    """Frames by hand over the agent's socket."""

    def __init__(self, agent: AgentProcess) -> None:
        self.agent = agent
        self.socket = agent.socket
        self.socket.settimeout(20)
        self._stream = 1

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def frame(self, body: bytes, stream: int = 1, kind: int = 1, length: int | None = None) -> bytes:
        return struct.pack(">IIBB", len(body) if length is None else length, stream, kind, 0) + body

    def request(self, method: str, payload: bytes, stream: int = 1, service: str = SERVICE) -> bytes:
        request = ttrpc_pb2.Request(service=service, method=method, payload=payload)
        return self.frame(request.SerializeToString(), stream)

    def receive(self) -> tuple[int, ttrpc_pb2.Response]:
        header = self._exactly(10)
        length, stream, kind, flags = struct.unpack(">IIBB", header)
        assert (kind, flags) == (2, 0)
        return stream, ttrpc_pb2.Response.FromString(self._exactly(length))

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            got = self.socket.recv(size - len(data))
            assert got, f"the agent is gone: {self.agent.said()}"
            data += got
        return bytes(data)

    def still_serves(self) -> None:
        """The next call is answered as if nothing had been."""
        self._stream += 2
        self.send(self.request("Hello", b"", self._stream))
        while True:
            stream, answer = self.receive()
            if stream == self._stream:
                break
        assert pb.HelloResponse.FromString(answer.payload).agent_version


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    work = Path(tempfile.mkdtemp(prefix="agent-"))
    with own_cgroup() as cgroup:
        agent = AgentProcess(build_agent(), work, cgroup)
        try:
            yield Wire(agent)
        finally:
            agent.socket.close()
            said = agent.end()
            shutil.rmtree(work)
        assert said == ""


def test_unknown_methods_and_services(wire: Wire) -> None:
    for method, service in (("Nothing", SERVICE), ("Hello", "other.Service"), ("", ""), ("x" * 100_000, SERVICE)):
        wire.send(wire.request(method, b"", 7, service))
        stream, answer = wire.receive()
        assert (stream, answer.status.code) == (7, UNIMPLEMENTED)
    wire.still_serves()


def test_frames_that_are_no_requests(wire: Wire) -> None:
    for kind in (0, 2, 3, 255):
        wire.send(wire.frame(b"whatever", 9, kind))
        assert wire.receive()[1].status.code == UNIMPLEMENTED
    for body in (b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05abc", b"\x00", os.urandom(1000)):
        wire.send(wire.frame(body, 11))
        assert wire.receive()[1].status.code in (INVALID_ARGUMENT, UNIMPLEMENTED)
    wire.send(wire.frame(b""))
    assert wire.receive()[1].status.code == UNIMPLEMENTED
    wire.still_serves()


def test_malformed_payloads_of_every_method(wire: Wire) -> None:
    methods = [method.name for method in pb.DESCRIPTOR.services_by_name["Agent"].methods if method.name != "Shutdown"]
    assert len(methods) == 17
    for method in methods:
        for payload in (b"\x0a\xff\xff\xff\xff\x0f", b"\x0b", b"\xff" * 64):
            wire.send(wire.request(method, payload, 13))
            assert wire.receive()[1].status.code == INVALID_ARGUMENT, method
        wire.send(wire.request(method, b"", 15))
        answer = wire.receive()[1]
        assert method == "Hello" or answer.status.code, method
    wire.still_serves()


def test_byte_by_byte_and_many_at_once(wire: Wire) -> None:
    for byte in wire.request("Hello", b"", 17):
        wire.send(bytes([byte]))
    assert wire.receive()[0] == 17
    # Each Hello begins a session anew, but the ones before were answered at once.
    wire.send(b"".join(wire.request("Hello", b"", stream) for stream in range(1, 401, 2)))
    assert [wire.receive()[0] for _ in range(200)] == list(range(1, 401, 2))


@pytest.mark.parametrize("length", [FRAME_MAX + 1, 0xFFFFFFFF])
def test_a_frame_over_the_limit_is_refused_at_once(wire: Wire, length: int) -> None:
    wire.send(wire.frame(b"", 19, length=length))
    stream, answer = wire.receive()
    assert (stream, answer.status.code) == (19, RESOURCE_EXHAUSTED)
    if length < 1 << 30:
        wire.send(bytes(length))  # and skipped without being kept
        wire.still_serves()
    else:
        left = length
        chunk = bytes(16 << 20)
        while left:
            size = min(left, len(chunk))
            wire.send(chunk[:size])
            left -= size
        wire.still_serves()


def test_a_frame_of_the_largest_size(wire: Wire) -> None:
    overhead = len(ttrpc_pb2.Request(service=SERVICE, method="Hello", payload=bytes(1 << 21)).SerializeToString()) - (
        1 << 21
    )
    body = ttrpc_pb2.Request(service=SERVICE, method="Hello", payload=bytes(FRAME_MAX - overhead)).SerializeToString()
    assert FRAME_MAX - 4 <= len(body) <= FRAME_MAX
    wire.send(wire.frame(body, 21))
    assert wire.receive()[1].status.code == INVALID_ARGUMENT
    wire.still_serves()


def test_messages_that_want_much_memory(wire: Wire) -> None:
    """Millions of empty submessages in one frame."""
    steps = b"\x0a\x00" * 2_000_000  # Plan.prepare
    plan = b"\x12" + _varint(len(steps)) + steps
    wire.send(wire.request("CreateContainer", b"\x0a\x01c" + plan, 23))
    assert wire.receive()[1].status.code
    metadata = b"\x2a\x00" * 2_000_000  # ttrpc.Request.metadata
    wire.send(wire.frame(metadata, 25))
    assert wire.receive()[1].status.code
    wire.still_serves()


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def test_a_host_that_does_not_read(wire: Wire) -> None:
    """The agent stops reading rather than keeping answers without end."""
    count = 60_000
    data = b"".join(wire.request("Nothing", b"", 1) for _ in range(count))
    sent = threading.Event()

    def send() -> None:
        wire.socket.settimeout(60)
        wire.send(data)
        sent.set()

    sender = threading.Thread(target=send)
    sender.start()
    assert not sent.wait(1), "everything was taken though nothing was read"
    for _ in range(count):
        assert wire.receive()[1].status.code == UNIMPLEMENTED
    sender.join(20)
    assert sent.is_set()
    wire.still_serves()


def test_random_bytes_of_real_requests(wire: Wire) -> None:
    """Valid requests with bytes changed; whatever they have become, each is answered once."""
    generator = random.Random(20260101)
    plan = pb.Plan(
        prepare=[pb.Step(in_root=True, make_directory=pb.MakeDirectory(path="/x", mode=0o755))],
        root="/nowhere/at/all",
        namespaces=[pb.Namespace(clone_flag=0x20000)],
        cgroup="",
        process=pb.Process(args=["/bin/true"], cwd="/", env=["A=b"]),
    )
    originals = [
        ("CreateContainer", pb.CreateContainerRequest(container_id="c", plan=plan)),
        ("Exec", pb.ExecRequest(container_id="c", exec_id="e", process=plan.process)),
        ("Activate", pb.ActivateRequest(entropy=b"short", interfaces=[pb.Interface(mac="x", addresses=["1.2.3.4/5"])])),
        ("File", pb.FileRequest(container_id="c", path=b"/x", stat=pb.FileStat())),
        ("Signal", pb.SignalRequest(container_id="c", signal=9)),
    ]
    for number in range(2000):
        method, message = generator.choice(originals)
        payload = bytearray(message.SerializeToString())
        for _ in range(generator.randint(1, 4)):
            payload[generator.randrange(len(payload))] = generator.randrange(256)
        wire.send(wire.request(method, bytes(payload), 2 * number + 1))
        stream, answer = wire.receive()
        assert stream == 2 * number + 1
        assert answer.status.code
    wire.still_serves()


def test_an_agent_ends_with_its_socket_mid_frame(tmp_path: Path) -> None:
    with own_cgroup() as cgroup:
        agent = AgentProcess(build_agent(), tmp_path, cgroup)
        agent.socket.sendall(b"\x00\x00\x10\x00half a frame")
        agent.socket.shutdown(socket.SHUT_RDWR)
        agent.socket.close()
        assert agent.end() == ""
