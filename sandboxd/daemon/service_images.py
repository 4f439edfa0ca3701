"""The gRPC service Images."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc.aio

from sandboxd.api import sandboxd_pb2 as api
from sandboxd.api import sandboxd_pb2_grpc as api_grpc
from sandboxd.daemon.images import Images, Listener
from sandboxd.image.record import ImageRecord

PROGRESS_BACKLOG_MAX = 256
"""Steps that a client may be behind; older ones are dropped, since each step says it all."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ImagesService(api_grpc.ImagesServicer):
    """One method per RPC of sandboxd.proto."""

    def __init__(self, images: Images) -> None:
        self._images = images

    async def Pull(self, request: api.PullRequest, context: Context) -> AsyncIterator[api.ImageProgress]:
        async def pull(tell: Listener) -> list[ImageRecord]:
            return [await self._images.pull(request, tell)]

        async for message in self._progress(pull):
            yield message

    async def Load(self, request: api.LoadRequest, context: Context) -> AsyncIterator[api.ImageProgress]:
        async for message in self._progress(lambda tell: self._images.load(request, tell)):
            yield message

    async def List(self, request: api.ListImagesRequest, context: Context) -> api.ListImagesResponse:
        return api.ListImagesResponse(images=self._images.list())

    async def Get(self, request: api.GetImageRequest, context: Context) -> api.Image:
        return self._images.get(request.reference)

    async def Remove(self, request: api.RemoveImageRequest, context: Context) -> api.RemoveImageResponse:
        removed = await self._images.remove(request.reference, force=request.force)
        return api.RemoveImageResponse(removed=removed.removed, freed_bytes=removed.freed_bytes)

    async def _progress(
        self, work: Callable[[Listener], Awaitable[list[ImageRecord]]]
    ) -> AsyncIterator[api.ImageProgress]:
        """The steps as they come, then each image. A client that goes away ends the work, unless others want it too."""
        told: asyncio.Queue[api.ImageProgress | None] = asyncio.Queue(PROGRESS_BACKLOG_MAX)

        def tell(progress: api.ImageProgress) -> None:
            if told.full():
                told.get_nowait()
            told.put_nowait(progress)

        task = asyncio.ensure_future(work(tell))
        task.add_done_callback(lambda _: _end(told))
        try:
            while (message := await told.get()) is not None:
                yield message
            for image in await task:
                yield api.ImageProgress(stage="done", image=self._images.describe(image))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _end(told: asyncio.Queue[api.ImageProgress | None]) -> None:
    if told.full():
        told.get_nowait()
    told.put_nowait(None)
