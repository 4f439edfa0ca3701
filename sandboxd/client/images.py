"""Local images: `client.images`."""

from __future__ import annotations

import builtins
import os
from typing import TYPE_CHECKING

from sandboxd.api import sandboxd_pb2 as pb
from sandboxd.client.channel import Connection
from sandboxd.client.later import later
from sandboxd.client.locate import absolute
from sandboxd.client.process import OnProgress

if TYPE_CHECKING:
    from sandboxd.client import convert, model
else:
    convert, model = later("sandboxd.client.convert"), later("sandboxd.client.model")

REMOVE_LIMIT_S = 120.0


class AsyncImages:
    """`client.images` of an AsyncClient."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def pull(
        self,
        reference: str,
        *,
        platform: str = "",
        username: str = "",
        password: str = "",
        tls_verify: bool | None = None,
        ca_file: str = "",
        on_progress: OnProgress | None = None,
    ) -> model.ImageInfo:
        """Fetches an image from its registry. `ca_file` is a path of the daemon's host."""
        request = pb.PullRequest(
            reference=reference, platform=platform, username=username, password=password, ca_file=ca_file
        )
        if tls_verify is not None:
            request.tls_verify = tls_verify
        return await self._progressing("Images/Pull", request, on_progress)

    async def load(
        self, path: str | os.PathLike[str], *, tag: str = "", on_progress: OnProgress | None = None
    ) -> model.ImageInfo:
        """A docker-archive, an oci-archive or an OCI layout directory of the daemon's host."""
        request = pb.LoadRequest(path=absolute(os.fspath(path)), tag=tag)
        return await self._progressing("Images/Load", request, on_progress)

    async def list(self) -> builtins.list[model.ImageInfo]:
        answer = await self._connection.unary("Images/List", pb.ListImagesRequest(), pb.ListImagesResponse)
        return [convert.image(item) for item in answer.images]

    async def get(self, reference: str) -> model.ImageInfo:
        """By reference, id, or unambiguous start of an id."""
        return convert.image(
            await self._connection.unary("Images/Get", pb.GetImageRequest(reference=reference), pb.Image)
        )

    async def remove(self, reference: str, *, force: bool = False) -> model.ImageRemoval:
        request = pb.RemoveImageRequest(reference=reference, force=force)
        answer = await self._connection.unary("Images/Remove", request, pb.RemoveImageResponse, limit_s=REMOVE_LIMIT_S)
        return model.ImageRemoval(tuple(answer.removed), answer.freed_bytes)

    async def _progressing(
        self, method: str, request: pb.PullRequest | pb.LoadRequest, on_progress: OnProgress | None
    ) -> model.ImageInfo:
        image: model.ImageInfo | None = None
        async for message in self._connection.stream(method, request, pb.ImageProgress):
            if message.HasField("image"):
                image = convert.image(message.image)
            elif on_progress:
                on_progress(convert.progress(message))
        if image is None:
            raise self._connection.broken(f"{method} ended without an image")
        return image
