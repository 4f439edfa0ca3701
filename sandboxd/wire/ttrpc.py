"""ttrpc's wire format: bytes in, frames out, no I/O.

A frame is a header of 10 bytes, big-endian (u32 payload length, u32 stream id, u8 message type, u8 flags), and its
payload. Source: ttrpc PROTOCOL.md, section "Message Frame". Unary calls only: one request and one response per stream,
flags 0.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

HEADER = struct.Struct(">IIBB")
PAYLOAD_MAX_BYTES = 4 << 20
STREAM_ID_MAX = (1 << 32) - 1


class ProtocolError(Exception):
    """The peer sent what no ttrpc peer sends. The connection is of no use any more."""


class MessageType(enum.IntEnum):
    REQUEST = 1
    RESPONSE = 2
    DATA = 3


@dataclass(frozen=True, slots=True)
class Frame:
    """One message. `payload` is at most 4 MiB."""

    stream_id: int
    type: MessageType
    flags: int
    payload: bytes


class FrameDecoder:
    """Collects bytes as they come (`receive`) and hands out whole frames (`next_frame`).

    A length is checked as soon as its header is complete, before anything is kept for it, so that it holds at most what
    was received of one unfinished frame. After a ProtocolError the decoder stays broken and raises the same again.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._offset = 0
        self._error: ProtocolError | None = None

    @property
    def mid_frame(self) -> bool:
        """Whether the bytes so far end inside a frame: an end of stream now is a truncation."""
        return len(self._buffer) > self._offset

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Takes bytes; any number of them."""
        if not self._error:
            self._buffer += data

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None until more is received. Raises ProtocolError at a frame that is not allowed."""
        if self._error:
            raise self._error
        if len(self._buffer) - self._offset < HEADER.size:
            self._compact()
            return None
        length, stream_id, type_number, flags = HEADER.unpack_from(self._buffer, self._offset)
        if error := _header_error(length, stream_id, type_number):
            self._error = error
            self._buffer.clear()
            raise error
        begin = self._offset + HEADER.size
        if len(self._buffer) - begin < length:
            self._compact()
            return None
        with memoryview(self._buffer) as view:
            payload = bytes(view[begin : begin + length])
        self._offset = begin + length
        return Frame(stream_id, MessageType(type_number), flags, payload)

    def _compact(self) -> None:
        del self._buffer[: self._offset]
        self._offset = 0


def _header_error(length: int, stream_id: int, type_number: int) -> ProtocolError | None:
    if length > PAYLOAD_MAX_BYTES:
        return ProtocolError(f"message of {length} bytes; the limit is {PAYLOAD_MAX_BYTES}")
    if type_number not in (MessageType.REQUEST, MessageType.RESPONSE, MessageType.DATA):
        return ProtocolError(f"message type {type_number} is not known")
    if stream_id == 0:
        return ProtocolError("stream id 0 is not allowed")
    return None


def encode_frame(stream_id: int, message_type: MessageType, payload: bytes) -> bytes:
    """Header and payload, flags 0. Raises ProtocolError if the payload is too long for any peer to take."""
    if len(payload) > PAYLOAD_MAX_BYTES:
        raise ProtocolError(f"message of {len(payload)} bytes; the limit is {PAYLOAD_MAX_BYTES}")
    return HEADER.pack(len(payload), stream_id, message_type, 0) + payload
