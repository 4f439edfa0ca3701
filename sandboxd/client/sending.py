"""Writing to a gRPC stream whose other side may end it at any moment, without losing what it said at the end.

grpc.aio's own `write` replaces the status that the server has sent by "INTERNAL: Internal error from Core" when a write
fails because the call has just ended (grpc issue 36066, open as of grpcio 1.85). With it, `yes | sandboxctl run -i
IMAGE true` loses the exit status every other time. So the message goes to the same lower call that `write` uses, and a
failure only means that there is nothing left to write to.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

LAST_WORDS_LIMIT_S = 30.0
"""After a write failed, the status is on its way: longer than this and it will not come."""
_INTERNAL_ERROR: type[Exception] = cast("Any", grpc.aio).InternalError


async def send(call: Any, request: Message) -> bool:
    """False when the call has ended. Returns when gRPC took the message, which is the back-pressure."""
    lower = getattr(call, "_cython_call", None)
    try:
        await call.wait_for_connection()
        if call.done():
            return False
        if lower is None:  # a grpcio that is built otherwise
            await call.write(request)
        else:
            await lower.send_serialized_message(request.SerializeToString())
    except (grpc.RpcError, asyncio.InvalidStateError, _INTERNAL_ERROR):
        return False
    except asyncio.CancelledError:
        # gRPC says so too when it is the call that was cancelled, and not the task that writes.
        task = asyncio.current_task()
        if call.cancelled() and not (task and task.cancelling()):
            return False
        raise
    return True


async def end(call: Any) -> None:
    """Half-closes the call, if it still can be."""
    try:
        await call.done_writing()
    except (grpc.RpcError, asyncio.InvalidStateError, _INTERNAL_ERROR):
        return
