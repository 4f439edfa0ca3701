"""Calls and answers as frames: the two messages of ttrpc's protocol around a service's own."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from sandboxd.api import ttrpc_pb2
from sandboxd.wire.ttrpc import MessageType, ProtocolError, encode_frame

M = TypeVar("M", bound=Message)


def encode_request(stream_id: int, service: str, method: str, payload: bytes, timeout_ns: int = 0) -> bytes:
    """A whole request frame. `timeout_ns` 0: none."""
    request = ttrpc_pb2.Request(service=service, method=method, payload=payload, timeout_nano=timeout_ns)
    return encode_frame(stream_id, MessageType.REQUEST, request.SerializeToString())


def encode_response(stream_id: int, payload: bytes) -> bytes:
    """A whole answer frame of a call that succeeded."""
    return encode_frame(stream_id, MessageType.RESPONSE, ttrpc_pb2.Response(payload=payload).SerializeToString())


def encode_error(stream_id: int, status: ttrpc_pb2.Status) -> bytes:
    """A whole answer frame of a call that failed."""
    return encode_frame(stream_id, MessageType.RESPONSE, ttrpc_pb2.Response(status=status).SerializeToString())


def decode_message(message_type: type[M], payload: bytes) -> M:
    """`payload` as a message of that type. Raises ProtocolError if it is none."""
    try:
        return message_type.FromString(payload)
    except DecodeError as error:
        raise ProtocolError(f"not a {message_type.DESCRIPTOR.full_name}: {error}") from None
