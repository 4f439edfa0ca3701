"""From a reference to an image that lies complete on this host: resolve, check, fetch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sandboxd.base.errors import IMAGE_MANIFEST_INVALID, SandboxdError
from sandboxd.image.archive import Candidate
from sandboxd.image.manifest import (
    Manifest,
    Platform,
    choose,
    digest_of,
    parse_config,
    parse_manifest,
    require_digest,
    require_platform,
)
from sandboxd.image.record import Progress
from sandboxd.image.reference import Reference
from sandboxd.image.skopeo import Registry
from sandboxd.image.unpack import LayerJob

_INDEX_DEPTH_MAX = 4


async def fetch(
    reference: Reference,
    registry: Registry,
    wanted: Platform,
    blobs: Path,
    is_packed: Callable[[list[str]], bool],
    progress: Callable[[Progress], None],
) -> Candidate:
    """The image, its layers below `blobs`. Layers are left where they are when `is_packed(diff_ids)` says that the file
    system exists already: then nothing but manifest and config is fetched, and `layers` is empty.

    Every document is checked against its digest, here; layers are when they are unpacked.
    """
    shown = str(reference)
    progress(Progress("resolve", "", 0, 0))
    digest, manifest = await _resolve(shown, registry, reference.digest, wanted)
    data = await registry.config(digest)
    require_digest(shown, "the config", data, manifest.config.digest)
    config = parse_config(shown, data, len(manifest.layers))
    require_platform(shown, config, wanted)
    if is_packed(config.rootfs.diff_ids):
        return Candidate(manifest.config.digest, digest, data, (), (reference,))
    await registry.fetch(
        digest, manifest.layers, wanted, blobs, lambda done, total: progress(Progress("fetch", "", done, total))
    )
    layers = tuple(
        LayerJob(str(blobs / layer.digest.replace(":", "/")), 0, layer.size, layer.digest, diff_id)
        for layer, diff_id in zip(manifest.layers, config.rootfs.diff_ids, strict=True)
    )
    return Candidate(manifest.config.digest, digest, data, layers, (reference,))


async def _resolve(shown: str, registry: Registry, digest: str, wanted: Platform) -> tuple[str, Manifest]:
    """Digest and manifest of the image for `wanted`, through an index if there is one."""
    for _ in range(_INDEX_DEPTH_MAX):
        data = await registry.manifest(digest)
        if digest:
            require_digest(shown, "the manifest", data, digest)
        parsed = parse_manifest(shown, data)
        if isinstance(parsed, Manifest):
            return digest_of(data), parsed
        digest = choose(shown, parsed, wanted).digest
    raise SandboxdError(
        IMAGE_MANIFEST_INVALID, reference=shown, item="the index", reason="Its indexes are nested too deeply."
    )
