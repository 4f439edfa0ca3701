"""The frame codec: what it takes, what it refuses, however the bytes arrive."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.wire.ttrpc import (
    HEADER,
    PAYLOAD_MAX_BYTES,
    Frame,
    FrameDecoder,
    MessageType,
    ProtocolError,
    encode_frame,
)

frames = st.builds(
    Frame,
    stream_id=st.integers(1, 2**32 - 1),
    type=st.sampled_from(MessageType),
    flags=st.just(0),
    payload=st.binary(max_size=300),
)


def decode(data: bytes, cuts: list[int]) -> list[Frame]:
    decoder, found, begin = FrameDecoder(), [], 0
    for end in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        decoder.receive(data[begin:end])
        begin = end
        while frame := decoder.next_frame():
            found.append(frame)
    assert not decoder.mid_frame
    return found


@given(st.lists(frames, max_size=6), st.lists(st.integers(0, 10_000), max_size=8))
def test_frames_survive_any_cutting(sent: list[Frame], cuts: list[int]) -> None:
    data = b"".join(encode_frame(frame.stream_id, frame.type, frame.payload) for frame in sent)
    assert decode(data, cuts) == sent


def test_header_is_what_the_protocol_says() -> None:
    # ttrpc PROTOCOL.md: 4 bytes length, 4 bytes stream, 1 byte type, 1 byte flags, network byte order.
    assert encode_frame(3, MessageType.RESPONSE, b"ab") == b"\x00\x00\x00\x02\x00\x00\x00\x03\x02\x00ab"


def test_a_part_of_a_frame_is_not_a_frame() -> None:
    decoder = FrameDecoder()
    data = encode_frame(1, MessageType.REQUEST, b"abc")
    for byte in data[:-1]:
        decoder.receive(bytes([byte]))
        assert decoder.next_frame() is None
        assert decoder.mid_frame
    decoder.receive(data[-1:])
    assert decoder.next_frame() == Frame(1, MessageType.REQUEST, 0, b"abc")


@pytest.mark.parametrize(
    ("length", "stream_id", "type_number", "words"),
    [
        (PAYLOAD_MAX_BYTES + 1, 1, 1, "the limit is"),
        (0xFFFFFFFF, 1, 1, "the limit is"),
        (0, 1, 9, "type 9"),
        (0, 1, 0, "type 0"),
        (0, 0, 1, "stream id 0"),
    ],
)
def test_bad_headers_are_refused_before_their_payload(
    length: int, stream_id: int, type_number: int, words: str
) -> None:
    decoder = FrameDecoder()
    decoder.receive(encode_frame(1, MessageType.REQUEST, b"good"))
    decoder.receive(struct.pack(">IIBB", length, stream_id, type_number, 0))
    assert decoder.next_frame() == Frame(1, MessageType.REQUEST, 0, b"good")
    for _ in range(2):
        with pytest.raises(ProtocolError, match=words):
            decoder.next_frame()
    decoder.receive(b"x" * 100)
    assert not decoder.mid_frame, "a broken decoder keeps nothing"


def test_the_longest_payload_passes_and_one_more_byte_does_not() -> None:
    data = encode_frame(1, MessageType.DATA, bytes(PAYLOAD_MAX_BYTES))
    assert len(data) == HEADER.size + PAYLOAD_MAX_BYTES
    decoder = FrameDecoder()
    decoder.receive(data)
    frame = decoder.next_frame()
    assert frame is not None and len(frame.payload) == PAYLOAD_MAX_BYTES
    with pytest.raises(ProtocolError):
        encode_frame(1, MessageType.DATA, bytes(PAYLOAD_MAX_BYTES + 1))
