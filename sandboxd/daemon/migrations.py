"""The schema, one step per version: entry n takes a database from version n to n + 1. Entries are only added."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sandboxd.base.errors import DAEMON_STATE_UNUSABLE, SandboxdError

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE sandboxes (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            state TEXT NOT NULL,
            config BLOB NOT NULL,
            image_id TEXT NOT NULL,
            command TEXT NOT NULL,
            created_unix_ns INTEGER NOT NULL,
            started_unix_ns INTEGER NOT NULL,
            boot_id TEXT NOT NULL,
            slot INTEGER UNIQUE,
            address TEXT NOT NULL,
            ports TEXT NOT NULL,
            exit_status INTEGER,
            exited_at_unix_ns INTEGER,
            exit_reason TEXT,
            exit_detail TEXT
        ) STRICT
        """,
        """
        CREATE TABLE events (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            unix_ns INTEGER NOT NULL,
            type TEXT NOT NULL,
            action TEXT NOT NULL,
            id TEXT NOT NULL,
            name TEXT NOT NULL,
            attributes TEXT NOT NULL
        ) STRICT
        """,
        "CREATE INDEX events_by_time ON events (unix_ns)",
    ),
)


def migrate(connection: sqlite3.Connection, path: Path, migrations: tuple[tuple[str, ...], ...] = MIGRATIONS) -> None:
    """Brings the schema to the newest version, each step in its own transaction. A newer database is refused."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        reason = f"Its schema has version {version}; this sandboxd knows versions up to {len(migrations)}."
        raise SandboxdError(DAEMON_STATE_UNUSABLE, path=path, reason=reason)
    for number, statements in enumerate(migrations[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
