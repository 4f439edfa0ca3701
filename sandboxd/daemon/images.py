"""The daemon's use of the image store: what a run needs, progress in the API's words, who uses what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sandboxd.api import sandboxd_pb2 as api
from sandboxd.base.errors import IMAGE_NOT_FOUND, INVALID_ARGUMENT, SandboxdError
from sandboxd.core.config import Config
from sandboxd.daemon.events import EventBus
from sandboxd.daemon.paths import Paths
from sandboxd.daemon.registry import Registry
from sandboxd.daemon.request import PATH_MAX_BYTES, shown
from sandboxd.image.manifest import host_platform, parse_config, require_platform
from sandboxd.image.record import ImageRecord, Progress, RemovedImage
from sandboxd.image.registries import RegistrySettings
from sandboxd.image.store import ImageStore

Listener = Callable[[api.ImageProgress], None]


class Images:
    """Images by the daemon's rules."""

    def __init__(self, config: Config, paths: Paths, registry: Registry, events: EventBus) -> None:
        settings = RegistrySettings(
            default_registry=config.images.default_registry,
            mirrors={host: list(mirrors) for host, mirrors in config.images.mirrors.items()},
            insecure=list(config.images.insecure),
        )
        self._store = ImageStore(paths.images, settings)
        self._registry = registry
        self._events = events

    async def open(self) -> None:
        await self._store.open()

    async def close(self) -> None:
        await self._store.close()

    async def for_run(self, config: api.SandboxConfig, tell: Listener | None) -> ImageRecord:
        """The image of a request, pulled as its `pull` says.

        Raises image_not_found, what a pull raises, and image_wrong_architecture for what this host cannot run.
        """
        image = await self._found_for_run(config, tell)
        require_platform(config.image, parse_config(config.image, image.config.encode()), host_platform())
        return image

    async def _found_for_run(self, config: api.SandboxConfig, tell: Listener | None) -> ImageRecord:
        if config.pull == "always":
            return await self._pull_for_run(config, tell)
        try:
            return self._store.get(config.image)
        except SandboxdError as error:
            if error.kind is not IMAGE_NOT_FOUND or config.pull == "never":
                raise
        return await self._pull_for_run(config, tell)

    async def _pull_for_run(self, config: api.SandboxConfig, tell: Listener | None) -> ImageRecord:
        request = api.PullRequest(reference=config.image, platform=config.platform)
        return await self.pull(request, tell or (lambda _: None))

    async def pull(self, request: api.PullRequest, tell: Listener) -> ImageRecord:
        image = await self._store.pull(
            request.reference,
            platform=request.platform,
            username=request.username,
            password=request.password,
            tls_verify=request.tls_verify if request.HasField("tls_verify") else None,
            ca_file=request.ca_file,
            progress=lambda progress: tell(_to_api(progress)),
        )
        self._events.publish("image", "pull", image.id, request.reference)
        return image

    async def load(self, request: api.LoadRequest, tell: Listener) -> list[ImageRecord]:
        """Every image of an archive or layout of the host."""
        path = request.path
        if not path.startswith("/") or "\0" in path or len(path.encode()) > PATH_MAX_BYTES:
            reason = "It is the absolute path of a file or directory of this host."
            raise SandboxdError(INVALID_ARGUMENT, what="path", value=shown(path), reason=reason, command="load")
        images = await self._store.load(Path(path), tag=request.tag, progress=lambda progress: tell(_to_api(progress)))
        for image in images:
            self._events.publish("image", "load", image.id, image.references[0] if image.references else "")
        return images

    def accounts(self, image_id: str) -> tuple[bytes, bytes]:
        """The image's /etc/passwd and /etc/group; empty where the image is gone."""
        try:
            image = self._store.get(image_id)
        except SandboxdError:
            return b"", b""
        return image.passwd, image.group

    def list(self) -> list[api.Image]:
        return [self.describe(image) for image in self._store.list()]

    def get(self, reference: str) -> api.Image:
        return self.describe(self._store.get(reference))

    async def remove(self, reference: str, *, force: bool) -> RemovedImage:
        image = self._store.get(reference)
        removed = await self._store.remove(
            reference, force=force, in_use=self._registry.using_image, running=self._registry.running_image
        )
        action = "delete" if image.id in removed.removed else "untag"
        self._events.publish("image", action, image.id, reference)
        return removed

    def describe(self, image: ImageRecord) -> api.Image:
        return api.Image(
            id=image.id,
            references=image.references,
            architecture=image.architecture,
            size_bytes=image.size_bytes,
            created_unix_ns=image.created_unix_ns,
            digest=image.manifest_digest,
            config_json=image.config,
            used_by=self._registry.using_image(image.id),
            pulled_unix_ns=image.pulled_unix_ns,
        )


def _to_api(progress: Progress) -> api.ImageProgress:
    return api.ImageProgress(
        stage=progress.stage,
        item=progress.item,
        done_bytes=progress.done_bytes,
        total_bytes=progress.total_bytes,
    )
