"""Rows survive, the schema moves forward only, and nobody waits for a lock."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from sandboxd.base.errors import SandboxdError
from sandboxd.core.lifecycle import State
from sandboxd.daemon import store as store_module
from sandboxd.daemon.migrations import MIGRATIONS, migrate
from sandboxd.daemon.records import EventRecord, Exit, Port, SandboxRecord
from sandboxd.daemon.registry import Registry
from sandboxd.daemon.store import Store


def record(sandbox_id: str = "", name: str = "", slot: int | None = None, created: int = 1) -> SandboxRecord:
    return SandboxRecord(
        sandbox_id, name, State.CREATING, b"\x00\xff", "sha256:1", ("a", "b c"), created, "boot", slot=slot
    )


def full() -> SandboxRecord:
    return replace(
        record("a" * 12, "one", 3),
        state=State.STOPPED,
        started_unix_ns=2**62,
        address="10.0.0.2",
        ports=(Port("0.0.0.0", 8080, 80, "tcp"), Port("127.0.0.1", 53, 53, "udp")),
        exit=Exit(137, 5, "vmm_died", "it said: 'gone'"),
    )


def test_rows_come_back_as_they_went(tmp_path: Path) -> None:
    async def run() -> None:
        store = await Store.open(tmp_path / "state.db")
        await store.insert(full())
        await store.insert(record("b" * 12, "two", created=0))
        await store.close()
        store = await Store.open(tmp_path / "state.db")
        assert await store.sandboxes() == [record("b" * 12, "two", created=0), full()]
        await store.save(replace(full(), slot=None))
        await store.delete("b" * 12)
        assert await store.sandboxes() == [replace(full(), slot=None)]
        await store.close()

    asyncio.run(run())
    assert (tmp_path / "state.db").stat().st_mode & 0o777 == 0o600


def test_name_and_slot_are_unique_on_disk_too(tmp_path: Path) -> None:
    async def run() -> None:
        store = await Store.open(tmp_path / "state.db")
        await store.insert(record("a", "one", 1))
        for other in (record("b", "one", 2), record("b", "two", 1), record("a", "two", 2)):
            with pytest.raises(sqlite3.IntegrityError):
                await store.insert(other)
        await store.close()

    asyncio.run(run())


def test_events_are_a_ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "EVENTS_KEPT", 100)

    async def run() -> None:
        store = await Store.open(tmp_path / "state.db")
        for number in range(1000):
            store.post_event(EventRecord(number, "sandbox", "start", "id", "name", {"n": str(number)}))
        kept = await store.events(0)
        assert 100 <= len(kept) <= 100 + 256
        assert kept[-1].attributes == {"n": "999"}
        assert [event.unix_ns for event in kept] == sorted(event.unix_ns for event in kept)
        assert [event.unix_ns for event in await store.events(998)] == [998, 999]
        await store.close()

    asyncio.run(run())


def test_many_writers_never_see_a_busy_database(tmp_path: Path) -> None:
    async def run() -> None:
        store = await Store.open(tmp_path / "state.db")
        await asyncio.gather(*(store.insert(record(f"{n:012x}", f"n{n}", n)) for n in range(300)))
        with sqlite3.connect(f"file:{tmp_path / 'state.db'}?mode=ro", uri=True) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM sandboxes").fetchone() == (300,)
            await asyncio.gather(*(store.delete(f"{n:012x}") for n in range(300)))
        reader.close()
        assert await store.sandboxes() == []
        await store.close()

    asyncio.run(run())


def test_migration_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, path)
    later = (*MIGRATIONS, ("ALTER TABLE sandboxes ADD COLUMN extra TEXT", "CREATE TABLE broken (", "SELECT 1"))
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, path, later)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    columns = {row[1] for row in connection.execute("PRAGMA table_info(sandboxes)")}
    assert "extra" not in columns
    migrate(connection, path, (*MIGRATIONS, ("ALTER TABLE sandboxes ADD COLUMN extra TEXT",)))
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)
    connection.close()


@pytest.mark.parametrize("content", ["newer", "garbage"])
def test_a_database_that_is_not_ours_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "state.db"
    if content == "newer":
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
    else:
        path.write_bytes(b"this is no database" * 100)
    with pytest.raises(SandboxdError) as caught:
        asyncio.run(Store.open(path))
    assert caught.value.kind.code == "daemon_state_unusable"


def test_registry_gives_the_lowest_slot_and_resolves(tmp_path: Path) -> None:
    async def run() -> None:
        store = await Store.open(tmp_path / "state.db")
        registry = Registry(store, 3)
        first, second, third = await asyncio.gather(*(registry.claim(record(name=name)) for name in ("x", "y", "")))
        assert [first.slot, second.slot, third.slot] == [0, 1, 2]
        assert third.name and len({first.id, second.id, third.id}) == 3
        with pytest.raises(SandboxdError) as caught:
            await registry.claim(record(name="z"))
        assert caught.value.kind.code == "too_many_sandboxes"
        await registry.change(second.id, slot=None, state=State.STOPPED)
        assert (await registry.claim(record(name="z"))).slot == 1
        with pytest.raises(SandboxdError) as caught:
            await registry.claim(record(name="y"))
        assert caught.value.kind.code == "name_in_use" and caught.value.context["id"] == second.id
        assert registry.resolve("x").id == registry.resolve(first.id[:11]).id == first.id
        for reference, code in (("nosuch", "sandbox_not_found"), ("", "sandbox_not_found")):
            with pytest.raises(SandboxdError) as caught:
                registry.resolve(reference)
            assert caught.value.kind.code == code
        again = Registry(store, 3)
        await again.load()
        assert sorted(again, key=str) == sorted(registry, key=str)
        await store.close()

    asyncio.run(run())


def test_an_ambiguous_prefix_names_its_matches(tmp_path: Path) -> None:
    async def run() -> None:
        store = await Store.open(tmp_path / "state.db")
        await store.insert(record("ab0000000000", "one", 0))
        await store.insert(record("ab1111111111", "two", 1))
        registry = Registry(store, 9)
        await registry.load()
        with pytest.raises(SandboxdError) as caught:
            registry.resolve("ab")
        assert caught.value.kind.code == "sandbox_ambiguous"
        assert "ab0000000000, ab1111111111" in caught.value.cause
        await store.close()

    asyncio.run(run())


def test_a_caller_that_goes_away_takes_nothing_back(tmp_path: Path) -> None:
    async def run() -> None:
        store = await Store.open(tmp_path / "state.db")
        registry = Registry(store, 10)
        kept = await registry.claim(record(name="kept"))
        release = threading.Event()
        slow = asyncio.ensure_future(store._run(release.wait))
        deleting = asyncio.create_task(registry.delete(kept.id))
        await asyncio.sleep(0)
        deleting.cancel()
        await asyncio.gather(deleting, return_exceptions=True)
        release.set()
        await slow
        assert await store.sandboxes() == []
        await store.close()

    asyncio.run(run())


def test_a_disk_without_room_is_told_and_forgets_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        store = await Store.open(tmp_path / "state.db")
        registry = Registry(store, 10)
        kept = await registry.claim(record(name="kept"))
        store._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(SandboxdError, match="could not be written"):
            await registry.claim(record(name="more"))
        with pytest.raises(SandboxdError, match="could not be written"):
            await registry.delete(kept.id)
        assert registry.named("kept") and not registry.named("more")
        await store.close()

    asyncio.run(run())
