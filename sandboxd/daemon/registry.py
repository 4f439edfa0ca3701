"""All sandboxes that the daemon knows: in memory for every question, in the store for every tomorrow.

Questions are answered without waiting. Changes touch memory first, between two awaits, so that two callers can never
both get one name or one slot; then they are written, in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sandboxd.base.errors import (
    NAME_IN_USE,
    SANDBOX_AMBIGUOUS,
    SANDBOX_NOT_FOUND,
    TOO_MANY_SANDBOXES,
    SandboxdError,
)
from sandboxd.base.ids import SandboxId, new_sandbox_id
from sandboxd.daemon.names import new_name
from sandboxd.daemon.records import SandboxRecord
from sandboxd.daemon.request import shown
from sandboxd.daemon.store import Store

_MATCHES_SHOWN = 5


class Registry:
    """Records by id. Names are unique; a slot belongs to one sandbox at a time."""

    def __init__(self, store: Store, limit: int) -> None:
        self._store = store
        self._limit = limit
        self._records: dict[str, SandboxRecord] = {}
        self._ids_by_name: dict[str, str] = {}

    async def load(self) -> None:
        for record in await self._store.sandboxes():
            self._put(record)

    def __iter__(self) -> Iterator[SandboxRecord]:
        """Oldest first."""
        return iter(list(self._records.values()))

    def __contains__(self, sandbox_id: str) -> bool:
        return sandbox_id in self._records

    def get(self, sandbox_id: str) -> SandboxRecord | None:
        """By its full id only."""
        return self._records.get(sandbox_id)

    def named(self, name: str) -> SandboxRecord | None:
        return self._records.get(self._ids_by_name.get(name, ""))

    def resolve(self, reference: str) -> SandboxRecord:
        """By id, name, or the unambiguous beginning of an id. Raises sandbox_not_found, sandbox_ambiguous."""
        exact = self._records.get(reference) or self.named(reference)
        if exact:
            return exact
        matches = [record for id_, record in self._records.items() if reference and id_.startswith(reference)]
        if not matches:
            raise SandboxdError(SANDBOX_NOT_FOUND, id=shown(reference))
        if len(matches) > 1:
            names = ", ".join(record.id for record in matches[:_MATCHES_SHOWN])
            raise SandboxdError(SANDBOX_AMBIGUOUS, id=shown(reference), matches=names)
        return matches[0]

    def using_image(self, image_id: str) -> list[str]:
        """Ids of the sandboxes that were made from this image."""
        return [record.id for record in self._records.values() if record.image_id == image_id]

    def running_image(self, image_id: str) -> list[str]:
        """Of these, the ids of those that have a machine, or are about to."""
        return [record.id for record in self._records.values() if record.image_id == image_id and record.alive]

    def slots(self) -> set[int]:
        return {record.slot for record in self._records.values() if record.slot is not None}

    def check_name(self, name: str) -> None:
        """Raises name_in_use."""
        if name and (holder := self._ids_by_name.get(name)):
            raise SandboxdError(NAME_IN_USE, name=name, id=holder)

    async def claim(self, draft: SandboxRecord) -> SandboxRecord:
        """Gives a new sandbox its id, a name if it has none, and the lowest free slot; then writes its row.

        Raises name_in_use, too_many_sandboxes.
        """
        self.check_name(draft.name)
        slots = self.slots()
        if len(slots) >= self._limit:
            raise SandboxdError(TOO_MANY_SANDBOXES, count=len(slots), limit=self._limit)
        slot = next(number for number in range(len(slots) + 1) if number not in slots)
        record = replace(draft, id=self._new_id(), name=draft.name or new_name(self._ids_by_name), slot=slot)
        self._put(record)
        try:
            await self._store.insert(record)
        except BaseException:
            self._drop(record.id)
            await self._store.delete(record.id)
            raise
        return record

    async def change(self, sandbox_id: str, **changes: Any) -> SandboxRecord:
        """New values of a record that exists."""
        record = replace(self._records[sandbox_id], **changes)
        self._records[sandbox_id] = record
        await self._store.save(record)
        return record

    async def delete(self, sandbox_id: str) -> None:
        """Idempotent. What cannot be removed from the store stays here too, and can be removed later."""
        await self._store.delete(sandbox_id)
        self._drop(sandbox_id)

    def _put(self, record: SandboxRecord) -> None:
        self._records[record.id] = record
        self._ids_by_name[record.name] = record.id

    def _drop(self, sandbox_id: str) -> None:
        record = self._records.pop(sandbox_id, None)
        if record:
            self._ids_by_name.pop(record.name, None)

    def _new_id(self) -> SandboxId:
        while True:
            fresh = new_sandbox_id()
            # A name that looks like an id keeps that id from being given, or one word could mean two sandboxes.
            if fresh not in self._records and fresh not in self._ids_by_name:
                return fresh
