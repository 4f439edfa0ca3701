"""What the store knows, in one SQLite file.

SQLite rather than a JSON file per image: a name moves from one image to another, and a file system belongs to several
images; both must change in one step, or a crash leaves a name that means two things. Blocking: call it in a thread, one
caller at a time.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE filesystem (
    key TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    passwd BLOB NOT NULL,
    groups BLOB NOT NULL
) STRICT;
CREATE TABLE image (
    id TEXT PRIMARY KEY,
    manifest_digest TEXT NOT NULL,
    config BLOB NOT NULL,
    blobs TEXT NOT NULL,
    filesystem TEXT NOT NULL REFERENCES filesystem(key),
    pulled_unix_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE name (
    reference TEXT PRIMARY KEY,
    image TEXT NOT NULL REFERENCES image(id) ON DELETE CASCADE
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One image as it is kept."""

    id: str
    manifest_digest: str
    config: bytes
    blobs: tuple[str, ...]
    """Digests of the layers that lie in the blob directory for it."""
    filesystem: str
    size_bytes: int
    passwd: bytes
    group: bytes
    pulled_unix_ns: int
    references: tuple[str, ...] = ()


class Database:
    def __init__(self, path: Path) -> None:
        """Opens or makes it. Durable: WAL, synced at every commit, so a pull that was answered survives a power cut."""
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        path.chmod(0o600)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if version == 0:
            self._connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")
        elif version != _SCHEMA_VERSION:
            raise RuntimeError(f"{path} is of schema version {version}; this sandboxd knows {_SCHEMA_VERSION}")

    def close(self) -> None:
        self._connection.close()

    def rows(self) -> list[Row]:
        """Every image, the newest first, its names in order."""
        names: dict[str, list[str]] = {}
        for reference, image in self._connection.execute("SELECT reference, image FROM name ORDER BY reference"):
            names.setdefault(image, []).append(reference)
        found = self._connection.execute(
            "SELECT id, manifest_digest, config, blobs, filesystem, size_bytes, passwd, groups, pulled_unix_ns"
            " FROM image JOIN filesystem ON filesystem = key ORDER BY pulled_unix_ns DESC, id"
        )
        return [
            Row(id_, digest, config, tuple(json.loads(blobs)), key, size, passwd, group, at, tuple(names.get(id_, ())))
            for id_, digest, config, blobs, key, size, passwd, group, at in found
        ]

    def put(self, row: Row) -> None:
        """Adds or renews an image; its references move to it from whatever had them."""
        with _Transaction(self._connection) as connection:
            connection.execute(
                "INSERT OR IGNORE INTO filesystem VALUES (?, ?, ?, ?)",
                (row.filesystem, row.size_bytes, row.passwd, row.group),
            )
            connection.execute(
                "INSERT INTO image VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
                " manifest_digest = iif(excluded.manifest_digest = '', manifest_digest, excluded.manifest_digest),"
                " blobs = iif(excluded.blobs = '[]', blobs, excluded.blobs), pulled_unix_ns = excluded.pulled_unix_ns",
                (
                    *(row.id, row.manifest_digest, row.config),
                    *(json.dumps(row.blobs), row.filesystem, row.pulled_unix_ns),
                ),
            )
            connection.executemany(
                "INSERT OR REPLACE INTO name VALUES (?, ?)", [(reference, row.id) for reference in row.references]
            )

    def remove_names(self, references: Sequence[str]) -> None:
        with _Transaction(self._connection) as connection:
            connection.executemany("DELETE FROM name WHERE reference = ?", [(name,) for name in references])

    def remove_image(self, image_id: str) -> None:
        """With its names, and its file system if no other image has it."""
        with _Transaction(self._connection) as connection:
            connection.execute("DELETE FROM image WHERE id = ?", (image_id,))
            connection.execute("DELETE FROM filesystem WHERE key NOT IN (SELECT filesystem FROM image)")


class _Transaction:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> sqlite3.Connection:
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._connection.execute("COMMIT" if kind is None else "ROLLBACK")
