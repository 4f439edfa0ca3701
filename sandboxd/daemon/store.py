"""The daemon's state on disk: SQLite in WAL mode, one connection in one thread: the event loop never waits for a disk,
and no two writers ever meet.

A commit is in the kernel's hands when it returns (synchronous=NORMAL): it survives the daemon's death. A power cut may
take the last commits, never the database's consistency; reconcile treats what it then finds as leftovers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from sandboxd.base.errors import DAEMON_STATE_NOT_WRITTEN, DAEMON_STATE_UNUSABLE, SandboxdError
from sandboxd.core.lifecycle import State
from sandboxd.daemon.migrations import migrate
from sandboxd.daemon.records import EventRecord, Exit, Port, SandboxRecord
from sandboxd.daemon.reserve import Reserve

EVENTS_KEPT = 10_000
_EVENTS_TRIM_EVERY = 256

T = TypeVar("T")
_log = logging.getLogger(__name__)

_COLUMNS = (
    "id, name, state, config, image_id, command, created_unix_ns, started_unix_ns, boot_id, slot, address, ports, "
    "exit_status, exited_at_unix_ns, exit_reason, exit_detail"
)
_UPSERT = f"INSERT OR REPLACE INTO sandboxes ({_COLUMNS}) VALUES ({', '.join('?' * 16)})"  # noqa: S608 (constants only)
_INSERT = f"INSERT INTO sandboxes ({_COLUMNS}) VALUES ({', '.join('?' * 16)})"  # noqa: S608


class Store:
    """Rows in, rows out. Calls are done in the order in which they were made, also for callers that went away.

    All raise daemon_state_not_written: no room, or a disk that fails.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._path = path
        self._connection = connection
        self._thread = thread
        self._reserve = Reserve(path.with_name(path.name + "-reserve"))
        thread.submit(self._reserve.keep)

    @classmethod
    async def open(cls, path: Path) -> Store:
        """Opens or makes the database. Raises daemon_state_unusable."""
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        try:
            connection = await asyncio.wrap_future(thread.submit(_open, path))
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(path, connection, thread)

    async def insert(self, record: SandboxRecord) -> None:
        """Adds a row; its id, name and slot must be new."""
        await self._run(lambda: self._connection.execute(_INSERT, _to_row(record)))

    async def save(self, record: SandboxRecord) -> None:
        """Replaces the row of this id."""
        await self._run(lambda: self._at_any_rate(_UPSERT, _to_row(record)))

    async def delete(self, sandbox_id: str) -> None:
        await self._run(lambda: self._at_any_rate("DELETE FROM sandboxes WHERE id = ?", (sandbox_id,)))

    async def sandboxes(self) -> list[SandboxRecord]:
        """All rows, oldest first."""

        def select() -> list[SandboxRecord]:
            rows = self._connection.execute(
                f"SELECT {_COLUMNS} FROM sandboxes ORDER BY created_unix_ns, id"  # noqa: S608 (constants only)
            )
            return [_from_row(row) for row in rows]

        return await self._run(select)

    def post_event(self, event: EventRecord) -> None:
        """Adds an event without waiting for it; a failure is logged."""
        self._thread.submit(self._append_event, event).add_done_callback(_log_failure)

    async def events(self, since_unix_ns: int) -> list[EventRecord]:
        """The kept events from then on, in order."""

        def select() -> list[EventRecord]:
            rows = self._connection.execute(
                "SELECT unix_ns, type, action, id, name, attributes FROM events WHERE unix_ns >= ? ORDER BY number",
                (since_unix_ns,),
            )
            return [
                EventRecord(at, kind, action, id_, name, json.loads(text)) for at, kind, action, id_, name, text in rows
            ]

        return await self._run(select)

    async def close(self) -> None:
        """Finishes what was asked for, then closes."""
        await self._run(self._connection.close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        # Shielded: a caller that is cancelled would take its work back from the queue, and what memory knows already
        # would never be written.
        try:
            return await asyncio.shield(asyncio.wrap_future(self._thread.submit(work)))
        except sqlite3.OperationalError as error:
            raise SandboxdError(DAEMON_STATE_NOT_WRITTEN, path=self._path, reason=f"{error}.") from error

    def _at_any_rate(self, statement: str, values: tuple[object, ...]) -> None:
        """Also on a full disk: what has ended must be written down, and what is to go must be able to go."""
        try:
            self._connection.execute(statement, values)
        except sqlite3.OperationalError:
            if not self._reserve.release():
                raise
            self._connection.execute(statement, values)
        else:
            self._reserve.keep()

    def _append_event(self, event: EventRecord) -> None:
        row = (event.unix_ns, event.type, event.action, event.id, event.name, json.dumps(event.attributes))
        cursor = self._connection.execute(
            "INSERT INTO events (unix_ns, type, action, id, name, attributes) VALUES (?, ?, ?, ?, ?, ?)", row
        )
        number = cursor.lastrowid or 0
        if number % _EVENTS_TRIM_EVERY == 0:
            self._connection.execute("DELETE FROM events WHERE number <= ?", (number - EVENTS_KEPT,))


def _open(path: Path) -> sqlite3.Connection:
    try:
        # Born private: whoever opened it before a chmod could read all that comes later.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    except (OSError, sqlite3.Error) as error:
        raise SandboxdError(DAEMON_STATE_UNUSABLE, path=path, reason=f"{error}.") from None
    try:
        path.chmod(0o600)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -512")
        migrate(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise SandboxdError(DAEMON_STATE_UNUSABLE, path=path, reason=f"{error}.") from None
    except BaseException:
        connection.close()
        raise
    return connection


def _log_failure(future: Future[None]) -> None:
    error = future.exception()
    if error is not None:
        _log.error("an event could not be stored", exc_info=error)


def _to_row(record: SandboxRecord) -> tuple[object, ...]:
    ended = record.exit
    return (
        record.id,
        record.name,
        record.state.value,
        record.config,
        record.image_id,
        json.dumps(record.command),
        record.created_unix_ns,
        record.started_unix_ns,
        record.boot_id,
        record.slot,
        record.address,
        json.dumps([asdict(port) for port in record.ports]),
        ended.exit_status if ended else None,
        ended.exited_at_unix_ns if ended else None,
        ended.reason if ended else None,
        ended.detail if ended else None,
    )


def _from_row(row: tuple[object, ...]) -> SandboxRecord:
    (sandbox_id, name, state, config, image_id, command, created, started, boot_id, slot, address, ports, *ended) = row
    status, exited_at, reason, detail = ended
    return SandboxRecord(
        id=str(sandbox_id),
        name=str(name),
        state=State(state),
        config=bytes(config),  # type: ignore[call-overload]  # a BLOB column of a STRICT table
        image_id=str(image_id),
        command=tuple(json.loads(str(command))),
        created_unix_ns=int(str(created)),
        started_unix_ns=int(str(started)),
        boot_id=str(boot_id),
        slot=None if slot is None else int(str(slot)),
        address=str(address),
        ports=tuple(Port(**port) for port in json.loads(str(ports))),
        exit=None if status is None else Exit(int(str(status)), int(str(exited_at)), str(reason), str(detail)),
    )
