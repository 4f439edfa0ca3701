"""The image store: every image of this host, and the only door to them.

    ROOT/images.sqlite     what is here; ROOT/store.lock keeps a second daemon out
    ROOT/erofs/KEY.erofs   one file system per chain of layers, shared by all images that have it
    ROOT/blobs/sha256/     layers of pulled images as they came, so that one that several images share is fetched once
    ROOT/staging/          work in progress: swept at start, empty when nothing runs

A crash at any point leaves the whole image, or nothing that the next `open` would not remove.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import logging
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from sandboxd.base import errors
from sandboxd.base.clock import unix_ns
from sandboxd.base.errors import SandboxdError
from sandboxd.base.units import format_size
from sandboxd.image import archive, source
from sandboxd.image.archive import Candidate
from sandboxd.image.catalogue import Catalogue
from sandboxd.image.command import environment, run
from sandboxd.image.database import Database, Row
from sandboxd.image.manifest import Platform, host_platform, parse_config, parse_platform
from sandboxd.image.pack import Limits, Packed, content_key, pack, remove_tree, scratch_directory
from sandboxd.image.record import ImageRecord, Progress, RemovedImage
from sandboxd.image.reference import Reference, parse_reference
from sandboxd.image.registries import RegistrySettings
from sandboxd.image.shared import SharedJobs
from sandboxd.image.shelf import Shelf
from sandboxd.image.skopeo import Access, Patience, Registry

_log = logging.getLogger(__name__)
Listener = Callable[[Progress], None]


def _ignore(progress: Progress) -> None:
    pass


def _unused(image_id: str) -> list[str]:
    return []


class ImageStore:
    """One per directory and process; `open` first, `close` last. All calls from one event loop."""

    def __init__(
        self,
        root: Path,
        registries: RegistrySettings | None = None,
        *,
        limits: Limits | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._shelf = Shelf(root)
        self._registries = registries or RegistrySettings()
        self._limits = limits or Limits()
        self._patience = patience or Patience()
        self._catalogue = Catalogue(self._shelf.erofs, self._registries, ())
        self._database: Database | None = None
        self._writing = asyncio.Lock()
        self._working_count = 0
        self._pulls: SharedJobs[tuple[str, str, Access], ImageRecord] = SharedJobs()
        self._packs: SharedJobs[str, Packed] = SharedJobs()

    # --- life

    async def open(self) -> None:
        """Makes the directory where needed, and removes what a crash left. Raises image_store_locked."""
        await asyncio.to_thread(self._shelf.open)
        try:
            self._database = await asyncio.to_thread(Database, self._shelf.database)
            for leftover in await asyncio.to_thread(self._shelf.leftovers):
                await remove_tree(leftover)
            await self._reload()
            await self._forget_lost()
            await self._sweep()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends pulls that still run, and leaves nothing of them. Idempotent."""
        await self._pulls.close()
        await self._packs.close()
        async with self._writing:
            if self._database is not None:
                await asyncio.to_thread(self._database.close)
                self._database = None
        self._shelf.close()

    async def _forget_lost(self) -> None:
        """Images whose file somebody removed: better not found than a sandbox that does not boot."""
        lost = set(await asyncio.to_thread(self._shelf.missing, self._catalogue.filesystems()))
        for record in self.list():
            if record.erofs_path.stem in lost:
                _log.warning("image %s has lost its file %s and is forgotten", record.id, record.erofs_path)
                await asyncio.to_thread(self._opened.remove_image, record.id)
        await self._reload()

    # --- reading

    def list(self) -> builtins.list[ImageRecord]:
        """Every image, the one that was pulled last first."""
        return self._catalogue.records()

    def get(self, reference: str) -> ImageRecord:
        """By name (`NAME[:TAG]`, `NAME@DIGEST`), id, or an id's unambiguous beginning of four digits or more.

        Raises image_not_found, image_ambiguous, image_reference_invalid.
        """
        return self._catalogue.find(reference)[0]

    # --- pull

    async def pull(
        self,
        reference: str,
        *,
        platform: str = "",
        username: str = "",
        password: str = "",
        tls_verify: bool | None = None,
        ca_file: str = "",
        progress: Listener = _ignore,
    ) -> ImageRecord:
        """Fetches an image from its registry, which is always asked; what is here already is not fetched again.

        `platform` is `OS/ARCH[/VARIANT]`, by default this host's. Calls for the same image share one job.
        Raises the catalogue's image_* errors; then nothing is left.
        """
        parsed = self._registries.familiar(parse_reference(reference))
        located = self._registries.locate(parsed)
        wanted = parse_platform(platform)
        access = Access(username, password, tls_verify, ca_file)
        return await self._pulls.run(
            (str(parsed), str(wanted), access),
            lambda tell: self._pull(parsed, located, wanted, access, tell),
            progress,
        )

    async def _pull(
        self, reference: Reference, located: Reference, wanted: Platform, access: Access, tell: Listener
    ) -> ImageRecord:
        async with self._working() as scratch:
            registry = await asyncio.to_thread(Registry, located, self._registries, access, scratch, self._patience)
            while True:
                candidate = await source.fetch(reference, registry, wanted, self._shelf.blobs, self._is_packed, tell)
                if record := await self._adopt(candidate, str(reference), tell, keep_blobs=True):
                    return record
                # The file system that spared us the layers went before we had it: this time, fetch them.

    # --- load

    async def load(
        self, path: Path | str, *, tag: str = "", progress: Listener = _ignore
    ) -> builtins.list[ImageRecord]:
        """Every image of a docker-archive, oci-archive (plain, gzip, zstd, xz) or OCI layout directory, with its names.

        `tag` names the only image of an archive. Raises image_archive_invalid, image_truncated,
        image_wrong_architecture, and what unpacking raises; images loaded before the bad one stay.
        """
        shown = Path(path)
        extra = [parse_reference(tag)] if tag else []
        async with self._working() as scratch:
            progress(Progress("resolve", "", 0, 0))
            candidates = await self._read_archive(shown, scratch)
            if tag and len(candidates) != 1:
                reason = f"{shown} holds {len(candidates)} images, and one name cannot be given to all"
                raise SandboxdError(errors.INVALID_ARGUMENT, what="--tag", value=tag, reason=reason, command="load")
            loaded = [await self._load(candidate, extra, shown, progress) for candidate in candidates]
        # Read again: a later image of the archive may have taken a name from an earlier one.
        return [self._catalogue.by_id(image_id) for image_id in loaded]

    async def _load(
        self, candidate: Candidate, extra: builtins.list[Reference], shown: Path, progress: Listener
    ) -> str:
        references = tuple(self._registries.familiar(name) for name in (*extra, *candidate.references))
        label = str(references[0]) if references else str(shown)
        record = await self._adopt(replace(candidate, references=references), label, progress, keep_blobs=False)
        assert record is not None, "a loaded image has its layers at hand"
        return record.id

    async def _read_archive(self, shown: Path, scratch: Path) -> Sequence[Candidate]:
        def read(path: Path) -> Sequence[Candidate]:
            return archive.read_images(archive.open_container(path), shown, host_platform())

        try:
            if await asyncio.to_thread(archive.is_compressed, shown):
                return await asyncio.to_thread(read, await self._decompress(shown, scratch))
            return await asyncio.to_thread(read, shown)
        except OSError as error:
            reason = f"It cannot be read: {error.strerror}."
            raise SandboxdError(errors.IMAGE_ARCHIVE_INVALID, path=shown, reason=reason) from error

    async def _decompress(self, shown: Path, scratch: Path) -> Path:
        """By zstd(1), which knows gzip and xz, too. The kernel holds it to the size limit."""
        target = scratch / "archive.tar"
        outcome = await run(
            ["prlimit", f"--fsize={self._limits.max_bytes}", "zstd", "-dqf", "-o", str(target), "--", str(shown)],
            env=environment(scratch),
            package="zstd",
            reference=str(shown),
        )
        if "No space left" in outcome.stderr:
            raise SandboxdError(errors.IMAGE_NO_SPACE, reference=shown, path=self._shelf.root)
        if outcome.status == -signal.SIGXFSZ:
            limit = format_size(self._limits.max_bytes)
            raise SandboxdError(errors.IMAGE_TOO_LARGE, reference=shown, what="the archive, unpacked,", limit=limit)
        if outcome.status:
            reason = f"It cannot be decompressed: {outcome.last_words}"
            raise SandboxdError(errors.IMAGE_TRUNCATED, item="the archive", reference=shown, reason=reason)
        return target

    # --- remove

    async def remove(
        self,
        reference: str,
        *,
        force: bool = False,
        in_use: Callable[[str], builtins.list[str]] = _unused,
        running: Callable[[str], builtins.list[str]] = _unused,
    ) -> RemovedImage:
        """As docker's rmi: one name of several only goes itself; the last name, or an id, takes the image with it.

        `in_use(image_id)` names the sandboxes that were made from it: then image_in_use, unless `force`.
        `running(image_id)` names those of them that have a machine: then image_running, also with `force`.
        Raises image_not_found, image_in_use, image_running, image_several_references.
        """
        async with self._writing:
            record, name = self._catalogue.find(reference)
            if name and len(record.references) > 1:
                await asyncio.to_thread(self._opened.remove_names, [name])
                await self._reload()
                return RemovedImage((name,), 0)
            if len(record.references) > 1 and not force:
                names = ", ".join(record.references)
                raise SandboxdError(errors.IMAGE_SEVERAL_REFERENCES, reference=reference, references=names)
            _require_unused(reference, in_use(record.id), running(record.id), force)
            before = await self._unused_files()
            await asyncio.to_thread(self._opened.remove_image, record.id)
            await self._reload()
            freed_bytes = sum((await self._unused_files() - before).values())
            await self._sweep()
            return RemovedImage((*record.references, record.id), freed_bytes)

    # --- what all share

    @property
    def _opened(self) -> Database:
        assert self._database is not None, "the store is not open"
        return self._database

    async def _reload(self) -> None:
        rows = await asyncio.to_thread(self._opened.rows)
        self._catalogue = Catalogue(self._shelf.erofs, self._registries, rows)

    async def _unused_files(self) -> Counter[Path]:
        """Files that no image has, with their bytes."""
        return await asyncio.to_thread(self._shelf.unused, self._catalogue.filesystems(), self._catalogue.blobs())

    async def _sweep(self) -> None:
        """Removes files that no image has; not while something is being made, which may want them."""
        if not self._working_count:
            await asyncio.to_thread(self._shelf.remove, await self._unused_files())

    @contextlib.asynccontextmanager
    async def _working(self) -> AsyncIterator[Path]:
        """A scratch directory for one pull or load. The last one to end leaves no file without an image."""
        self._working_count += 1
        try:
            async with scratch_directory(self._shelf.staging) as scratch:
                yield scratch
        finally:
            self._working_count -= 1
            async with self._writing:
                if self._database is not None:
                    await self._sweep()

    def _is_packed(self, diff_ids: Sequence[str]) -> bool:
        return self._catalogue.filesystem(content_key(diff_ids)) is not None

    async def _adopt(self, candidate: Candidate, label: str, tell: Listener, *, keep_blobs: bool) -> ImageRecord | None:
        """Packs its layers unless that was done before, and makes it an image. None: it was, but is no more."""
        config = parse_config(label, candidate.config)
        key = content_key(config.rootfs.diff_ids)
        packed = self._catalogue.filesystem(key)
        if packed is None:
            if len(candidate.layers) != len(config.rootfs.diff_ids):
                return None
            packed = await self._packs.run(key, lambda tell_all: self._pack(key, candidate, label, tell_all), tell)
        row = Row(
            id=candidate.id,
            manifest_digest=candidate.manifest_digest,
            config=candidate.config,
            blobs=tuple(layer.digest for layer in candidate.layers) if keep_blobs else (),
            filesystem=key,
            size_bytes=packed.size_bytes,
            passwd=packed.passwd,
            group=packed.group,
            pulled_unix_ns=unix_ns(),
            references=tuple(dict.fromkeys(str(reference) for reference in candidate.references)),
        )
        async with self._writing:
            await asyncio.to_thread(self._opened.put, row)
            await self._reload()
            return self._catalogue.by_id(candidate.id)

    async def _pack(self, key: str, candidate: Candidate, label: str, tell: Listener) -> Packed:
        destination = self._shelf.erofs_path(key)
        return await pack(label, candidate.layers, destination, self._shelf.staging, self._limits, tell)


def _require_unused(reference: str, users: Sequence[str], running: Sequence[str], force: bool) -> None:
    found, kind = (running, errors.IMAGE_RUNNING) if running else (users, errors.IMAGE_IN_USE)
    if running or (users and not force):
        shown = ", ".join(found[:10]) + (", ..." if len(found) > 10 else "")
        raise SandboxdError(kind, reference=reference, count=len(found), sandboxes=shown, first=found[0])
