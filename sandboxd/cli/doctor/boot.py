"""`doctor --boot`: one real start, through the daemon, timed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sandboxd.base.errors import SandboxdError
from sandboxd.cli.doctor.finding import Finding
from sandboxd.cli.words import seconds

if TYPE_CHECKING:
    from sandboxd.client.aio import AsyncClient

NOT_FOUND = 127


async def start(client: AsyncClient) -> Finding:
    """Starts `true` in the smallest local image, or whatever that image has instead of it."""
    images = [image for image in await client.images.list() if image.references]
    if not images:
        return Finding("warning", "start", "there is no local image to start", "sandboxctl pull IMAGE")
    image = min(images, key=lambda item: item.size_bytes)
    reference = image.references[0]
    begin_s = time.monotonic()
    try:
        process = await client.run_attached(reference, ["true"], pull="never", remove=True, network="none")
        async with process:
            ended = await process.wait()
    except SandboxdError as error:
        if error.kind.exit_status != NOT_FOUND:
            return Finding("error", "start", f"{error.message}: {error.cause}", error.remedy)
    else:
        if not ended.by_itself:
            return Finding(
                "error", "start", f"{reference}: {ended.reason}: {ended.detail}", "sandboxctl events --since 5m"
            )
    return Finding("ok", "start", f"{reference} from nothing to its end in {seconds(time.monotonic() - begin_s)}")
