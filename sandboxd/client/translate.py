"""From a gRPC status to the error that the daemon raised.

The daemon puts `ErrorDetail` into the trailing metadata `sandboxd-error-bin`; here it becomes the same `SandboxdError`
again. A daemon of another version may know errors that this catalogue does not: those keep the daemon's own texts.
"""

from __future__ import annotations

import grpc
from google.protobuf.message import DecodeError

from sandboxd.api import sandboxd_pb2 as pb
from sandboxd.base.errors import (
    API_MISMATCH,
    CALL_TIMED_OUT,
    CATALOGUE,
    DAEMON_LOST,
    DAEMON_UNREACHABLE,
    INTERNAL,
    Blame,
    ErrorKind,
    SandboxdError,
)

DETAIL_KEY = "sandboxd-error-bin"


def from_rpc(
    error: grpc.RpcError, *, socket: str, call: str = "the call", limit_s: float | None = None
) -> SandboxdError:
    """The daemon's own error, or, where no detail came with the status, what the status means."""
    detail = _detail(error)
    if detail is not None:
        return from_detail(detail)
    code, text = _status(error)
    if code is grpc.StatusCode.UNAVAILABLE:
        return SandboxdError(DAEMON_LOST, socket=socket, reason=text or "no reason given")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return SandboxdError(API_MISMATCH, call=call, socket=socket, reason=text or "it does not implement the call")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return SandboxdError(CALL_TIMED_OUT, call=call, limit_s=f"{limit_s or 0:g}")
    return SandboxdError(INTERNAL, reason=f"{call}: {code.name}: {text}")


def from_detail(detail: pb.ErrorDetail) -> SandboxdError:
    """Rebuilds the error; its `kind` is the catalogue's own wherever both sides say the same."""
    kind = CATALOGUE.get(detail.code)
    context = dict(detail.context)
    if kind is not None and kind.fields() <= context.keys():
        rebuilt = SandboxdError(kind, **context)
        if (rebuilt.message, rebuilt.cause, rebuilt.remedy) == (detail.message, detail.cause, detail.remedy):
            return rebuilt
    foreign = ErrorKind(
        code=detail.code,
        message=_verbatim(detail.message),
        cause=_verbatim(detail.cause),
        remedy=_verbatim(detail.remedy),
        blame=kind.blame if kind else Blame.CALLER,
        grpc=kind.grpc if kind else "UNKNOWN",
        exit_status=detail.exit_status or 125,
        retryable=detail.retryable,
    )
    return SandboxdError(foreign, **context)


def unreachable(socket: str, reason: str) -> SandboxdError:
    return SandboxdError(DAEMON_UNREACHABLE, socket=socket, reason=reason)


def _detail(error: grpc.RpcError) -> pb.ErrorDetail | None:
    metadata = getattr(error, "trailing_metadata", lambda: None)() or ()
    for key, value in metadata:
        if key == DETAIL_KEY and isinstance(value, bytes):
            try:
                detail = pb.ErrorDetail.FromString(value)
            except DecodeError:
                return None
            return detail if detail.code and detail.message else None
    return None


def _status(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    code = getattr(error, "code", lambda: grpc.StatusCode.UNKNOWN)()
    return code, str(getattr(error, "details", lambda: "")() or "")


def _verbatim(text: str) -> str:
    """As a format string that yields `text`."""
    return text.replace("{", "{{").replace("}", "}}")
