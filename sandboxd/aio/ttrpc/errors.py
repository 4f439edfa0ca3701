"""What a ttrpc call can end with, and the one table between our errors and ttrpc's status codes.

A SandboxdError crosses the wire whole: its code and context ride in Status.details as a `sandboxd.v1.ErrorDetail`
inside a google.protobuf.Any, so that the caller raises the same error again. Other peers read code and message.
"""

from __future__ import annotations

import enum

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from sandboxd.api import sandboxd_pb2, ttrpc_pb2
from sandboxd.base.errors import CATALOGUE, SandboxdError

MESSAGE_MAX_CHARS = 8 << 10
"""Of a status message: what a guest or library says is cut here."""


class StatusCode(enum.IntEnum):
    """gRPC's status codes, which ttrpc shares (grpc doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RemoteError(Exception):
    """The peer answered a call with a failure. `code` is a StatusCode's number, or another that the peer made up."""

    def __init__(self, code: int, message: str, details: tuple[bytes, ...] = ()) -> None:
        super().__init__(f"{message} (status {code})")
        self.code = code
        self.message = message
        self.details = details
        """google.protobuf.Any messages, undecoded."""


class CallTimeout(RemoteError):
    """No answer within the caller's bound."""

    def __init__(self, method: str, timeout_s: float) -> None:
        super().__init__(StatusCode.DEADLINE_EXCEEDED, f"{method} was not answered within {timeout_s:g} s")


class ConnectionLost(Exception):
    """The connection ended before the call was answered; whether the call took effect is not known."""


def status_from_exception(error: BaseException) -> ttrpc_pb2.Status:
    """The answer for a handler's exception. An unexpected one becomes UNKNOWN with its class and text."""
    if isinstance(error, SandboxdError):
        return _status_from_catalogue(error)
    if isinstance(error, RemoteError):
        return ttrpc_pb2.Status(code=error.code, message=error.message[:MESSAGE_MAX_CHARS], details=error.details)
    if isinstance(error, TimeoutError):
        return ttrpc_pb2.Status(code=StatusCode.DEADLINE_EXCEEDED, message="the caller's time was up")
    if isinstance(error, ConnectionLost):
        return ttrpc_pb2.Status(code=StatusCode.UNAVAILABLE, message=str(error)[:MESSAGE_MAX_CHARS])
    text = f"{type(error).__name__}: {error}"
    return ttrpc_pb2.Status(code=StatusCode.UNKNOWN, message=text[:MESSAGE_MAX_CHARS])


def _status_from_catalogue(error: SandboxdError) -> ttrpc_pb2.Status:
    detail = sandboxd_pb2.ErrorDetail(
        code=error.kind.code,
        message=error.message,
        cause=error.cause,
        remedy=error.remedy,
        context=error.context,
        retryable=error.kind.retryable,
        exit_status=error.kind.exit_status,
    )
    packed = Any(type_url=detail.DESCRIPTOR.full_name, value=detail.SerializeToString())
    # One line for peers without the catalogue: containerd shows it in `ctr` and `kubectl describe pod`.
    message = f"{error.message}: {error.cause} {error.remedy}"[:MESSAGE_MAX_CHARS]
    return ttrpc_pb2.Status(code=StatusCode[error.kind.grpc], message=message, details=[packed.SerializeToString()])


def sandboxd_error(error: RemoteError) -> SandboxdError | None:
    """The SandboxdError that the peer raised, if the failure carries one that this version knows."""
    for packed in error.details:
        detail = _error_detail(packed)
        kind = CATALOGUE.get(detail.code) if detail else None
        if detail and kind and kind.fields() <= detail.context.keys():
            return SandboxdError(kind, **detail.context)
    return None


def _error_detail(packed: bytes) -> sandboxd_pb2.ErrorDetail | None:
    try:
        message = Any.FromString(packed)
        if message.type_url.rpartition("/")[2] != sandboxd_pb2.ErrorDetail.DESCRIPTOR.full_name:
            return None
        return sandboxd_pb2.ErrorDetail.FromString(message.value)
    except DecodeError:
        return None
