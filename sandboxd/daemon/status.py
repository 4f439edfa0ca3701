"""From the error catalogue to gRPC, in one place: a status by the error's kind, ErrorDetail in the trailing metadata.

The interceptor wraps every method of every service, so that no room translates errors itself. What is not from the
catalogue is a bug: logged with its traceback, answered as INTERNAL.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
import grpc.aio

from sandboxd.api import sandboxd_pb2 as api
from sandboxd.base.errors import INTERNAL, Blame, SandboxdError

DETAIL_KEY = "sandboxd-error-bin"
"""Trailing metadata that holds a serialised ErrorDetail."""
_UNGUARDED = ("grpc.health.", "grpc.reflection.", "/sandboxd.v1.System/")

_log = logging.getLogger(__name__)

Handler = Any
"""grpc's RpcMethodHandler: its stubs do not say what is in it."""


def to_detail(error: SandboxdError) -> api.ErrorDetail:
    return api.ErrorDetail(
        code=error.kind.code,
        message=error.message,
        cause=error.cause,
        remedy=error.remedy,
        context=error.context,
        retryable=error.kind.retryable,
        exit_status=error.kind.exit_status,
    )


def as_catalogued(error: Exception, where: str) -> SandboxdError:
    """The error itself, or `internal` for what nobody expected, which is logged with its traceback."""
    if isinstance(error, SandboxdError):
        if error.kind.blame in (Blame.HOST, Blame.BUG):
            _log.warning("%s: %s: %s %s", where, error.kind.code, error.message, error.cause)
        return error
    _log.error("%s failed unexpectedly", where, exc_info=error)
    return SandboxdError(INTERNAL, reason=f"{where}: {type(error).__name__}: {error}.")


async def refuse(context: grpc.aio.ServicerContext[Any, Any], error: SandboxdError) -> NoReturn:
    """Ends the call with the error."""
    await context.abort(
        grpc.StatusCode[error.kind.grpc],
        error.message,
        trailing_metadata=((DETAIL_KEY, to_detail(error).SerializeToString()),),
    )
    raise AssertionError("abort returned")


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Wraps every handler: waits until the daemon is ready, then translates what it raises."""

    def __init__(self, ready: Callable[[], Awaitable[None]]) -> None:
        self._ready = ready

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or method.startswith("/grpc."):
            return handler
        guarded = not any(part in method for part in _UNGUARDED)
        return self._wrap(handler, method, guarded)

    def _wrap(self, handler: Handler, method: str, guarded: bool) -> Handler:
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            behaviour = getattr(handler, kind)
            if behaviour is not None:
                wrap = self._stream if kind.endswith("_stream") else self._unary
                wrapped = wrap(behaviour, method, guarded)
                make = getattr(grpc, f"{kind}_rpc_method_handler")
                return make(
                    wrapped,
                    request_deserializer=handler.request_deserializer,
                    response_serializer=handler.response_serializer,
                )
        return handler

    def _unary(self, behaviour: Handler, method: str, guarded: bool) -> Handler:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                if guarded:
                    await self._ready()
                return await behaviour(request, context)
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception as error:  # the one door from everything to a status
                await refuse(context, as_catalogued(error, method))

        return call

    def _stream(self, behaviour: Handler, method: str, guarded: bool) -> Handler:
        generates = inspect.isasyncgenfunction(behaviour)

        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            try:
                if guarded:
                    await self._ready()
                if generates:
                    await _write_all(behaviour(request, context), context)
                else:
                    await behaviour(request, context)
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception as error:  # as above
                await refuse(context, as_catalogued(error, method))

        return call


async def _write_all(answers: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Writes what a generator yields; the generator is closed at once, not by the garbage collector."""
    try:
        async for answer in answers:
            await context.write(answer)
    finally:
        close = getattr(answers, "aclose", None)
        if close is not None:
            await close()
