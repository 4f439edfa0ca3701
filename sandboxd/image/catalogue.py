"""What the store holds, as a frozen view in memory: every question about images is answered from it without I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sandboxd.base.errors import IMAGE_AMBIGUOUS, IMAGE_NOT_FOUND, SandboxdError
from sandboxd.image.database import Row
from sandboxd.image.manifest import parse_config
from sandboxd.image.pack import Packed
from sandboxd.image.record import ImageRecord
from sandboxd.image.reference import Reference, parse_reference
from sandboxd.image.registries import RegistrySettings

_ID_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})\Z")


class Catalogue:
    """Made anew after each change of the database; never changed."""

    def __init__(self, erofs: Path, registries: RegistrySettings, rows: Sequence[Row]) -> None:
        self._registries = registries
        self._rows = tuple(rows)
        self._records = {row.id: _record(row, erofs) for row in rows}
        self._names = {name: row.id for row in rows for name in row.references}

    def records(self) -> list[ImageRecord]:
        return list(self._records.values())

    def by_id(self, image_id: str) -> ImageRecord:
        return self._records[image_id]

    def find(self, text: str) -> tuple[ImageRecord, str]:
        """The image, and the name that was meant; "" when it was found otherwise. Names go before ids.

        Raises image_not_found, image_ambiguous, image_reference_invalid.
        """
        prefix = _ID_PREFIX.match(text)
        try:
            reference = self._registries.familiar(parse_reference(text))
        except SandboxdError:
            if prefix is None:
                raise
        else:
            if (name := str(reference)) in self._names:
                return self._records[self._names[name]], name
            if reference.digest and (record := self._by_manifest(reference)):
                return record, ""
        if prefix:
            return self._by_prefix(text, prefix[1]), ""
        raise SandboxdError(IMAGE_NOT_FOUND, reference=text)

    def _by_manifest(self, wanted: Reference) -> ImageRecord | None:
        for record in self._records.values():
            repositories = {parse_reference(name).repository for name in record.references}
            if record.manifest_digest == wanted.digest and wanted.repository in repositories:
                return record
        return None

    def _by_prefix(self, text: str, prefix: str) -> ImageRecord:
        matches = [record for id_, record in self._records.items() if id_.startswith(f"sha256:{prefix}")]
        if not matches:
            raise SandboxdError(IMAGE_NOT_FOUND, reference=text)
        if len(matches) > 1:
            shown = ", ".join(record.id[7:19] for record in matches[:5])
            raise SandboxdError(IMAGE_AMBIGUOUS, reference=text, count=len(matches), matches=shown)
        return matches[0]

    def filesystem(self, key: str) -> Packed | None:
        """What is known of a packed file system; None where no image has it."""
        for row in self._rows:
            if row.filesystem == key:
                return Packed(row.size_bytes, row.passwd, row.group)
        return None

    def filesystems(self) -> frozenset[str]:
        return frozenset(row.filesystem for row in self._rows)

    def blobs(self) -> frozenset[str]:
        """Digests of all layers that some image was pulled with."""
        return frozenset(digest for row in self._rows for digest in row.blobs)


def _record(row: Row, erofs: Path) -> ImageRecord:
    config = parse_config(row.id, row.config)
    process = config.process
    return ImageRecord(
        id=row.id,
        references=row.references,
        manifest_digest=row.manifest_digest,
        architecture=config.architecture,
        created_unix_ns=config.created_unix_ns(),
        pulled_unix_ns=row.pulled_unix_ns,
        size_bytes=row.size_bytes,
        erofs_path=erofs / f"{row.filesystem}.erofs",
        config=row.config.decode(),
        entrypoint=tuple(process.Entrypoint or ()),
        cmd=tuple(process.Cmd or ()),
        env=tuple(process.Env or ()),
        working_dir=process.WorkingDir or "",
        user=process.User or "",
        stop_signal=process.StopSignal or "",
        volumes=tuple(process.Volumes or ()),
        exposed_ports=tuple(process.ExposedPorts or ()),
        labels=dict(process.Labels or {}),
        passwd=row.passwd,
        group=row.group,
    )
