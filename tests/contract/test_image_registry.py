"""Pulls from a real docker-registry on loopback, and from one that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from sandboxd.base.errors import SandboxdError
from sandboxd.image import ImageRecord, ImageStore, Limits, Patience, Progress, RegistrySettings
from tests.support.oci_images import Image, Layout, digest, directory, file, host_architecture, rich_layers, tar
from tests.support.registry import PASSWORD, USERNAME, Faults, Registry, docker_registry, faulty_registry, free_port

T = TypeVar("T")
FOREIGN = "s390x" if host_architecture() != "s390x" else "amd64"
BASE = tar(directory("etc"), file("etc/passwd", b"root:x:0:0::/:/bin/sh\n"), file("base", b"b" * 300_000))


@dataclass
class Shop:
    """A store of a test's own, opened and closed around each piece of work."""

    root: Path
    settings: RegistrySettings
    limits: Limits | None = None
    patience: Patience | None = None

    def run(self, work: Callable[[ImageStore], Awaitable[T]]) -> T:
        async def main() -> T:
            store = ImageStore(self.root, self.settings, limits=self.limits, patience=self.patience)
            await store.open()
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(main())

    def refused(self, work: Callable[[ImageStore], Awaitable[object]]) -> SandboxdError:
        """The error; nothing may be left of the attempt."""
        before = self.files()
        with pytest.raises(SandboxdError) as caught:
            self.run(work)
        assert self.files() == before
        return caught.value

    def files(self) -> set[str]:
        found = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir()}
        found |= {str(path.relative_to(self.root)) for path in (self.root / "staging").glob("*")}
        return {name for name in found if not name.startswith(("images.sqlite", "store.lock"))}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "store", RegistrySettings())


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = Layout(tmp_path_factory.mktemp("images") / "layout")
    layout.add(Image([(layer, "gzip") for layer in rich_layers()], "rich", process={"Cmd": ["sh"], "User": "app"}))
    layout.add(Image([(BASE, "gzip"), (tar(file("top", b"1")), "zstd"), (tar(file("plain", b"2")), "plain")], "mixed"))
    layout.add(Image([(BASE, "gzip"), (tar(file("other", b"3")), "gzip")], "sibling"))
    layout.add(Image([(BASE, "gzip")], "foreign", architecture=FOREIGN))
    here = Image([(BASE, "gzip"), (tar(file("for-this", b"4")), "gzip")])
    attestation = {
        **layout.manifest(Image([], architecture="unknown")),
        "platform": {"os": "unknown", "architecture": "unknown"},
    }
    layout.add_index("multi", [Image([(BASE, "gzip")], architecture=FOREIGN), here], [attestation])
    layout.add_index("foreign-index", [Image([(BASE, "gzip")], architecture=FOREIGN)])
    layout.add(Image([(tar(file("../../escape", b"pwned")), "gzip")], "hostile"))
    layout.add(Image([], "empty"))
    chart = {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": digest(b"{}"), "size": 2}
    layout.blob(b"{}", chart["mediaType"])  # type: ignore[arg-type]
    layout.add(Image([(BASE, "gzip")], "artifact", overrides={"config": chart}))
    return layout


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, layout: Layout) -> Iterator[Registry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as registry:
        for name in ("rich", "mixed", "sibling", "foreign", "hostile", "empty", "artifact"):
            registry.push(layout.path, name, f"team/{name}:v1")
        for name in ("multi", "foreign-index"):
            registry.push(layout.path, name, f"team/{name}:v1", every_platform=True)
        yield registry


def test_pull_and_what_the_record_says(shop: Shop, registry: Registry, layout: Layout) -> None:
    seen: list[Progress] = []
    reference = f"{registry.address}/team/rich:v1"
    record = shop.run(lambda store: store.pull(reference, progress=seen.append))
    image = Image([(layer, "gzip") for layer in rich_layers()], process={"Cmd": ["sh"], "User": "app"})
    assert record.id == image.id and record.config.encode() == image.config
    assert record.references == (reference,)
    assert digest(layout.blob_path(record.manifest_digest).read_bytes()) == record.manifest_digest
    assert (record.cmd, record.user, record.architecture) == (("sh",), "app", host_architecture())
    assert record.created_unix_ns == 1_706_933_106_500_000_000
    assert record.size_bytes == record.erofs_path.stat().st_size and record.erofs_path.stat().st_mode & 0o777 == 0o444
    assert record.passwd.startswith(b"root:") and b"app" in record.group
    stages = [progress.stage for progress in seen]
    assert sorted(set(stages), key=stages.index) == ["resolve", "fetch", "unpack", "pack"]
    for progress in seen:
        assert progress.done_bytes >= 0 and (not progress.total_bytes or progress.done_bytes <= progress.total_bytes)
    last_fetch = [progress for progress in seen if progress.stage == "fetch"][-1]
    assert last_fetch.done_bytes == last_fetch.total_bytes > 0
    assert len({progress.item for progress in seen if progress.stage == "unpack"}) == 3
    assert not list((shop.root / "staging").iterdir())

    async def look_again(store: ImageStore) -> None:
        assert store.list() == [record]
        for name in (reference, record.id, record.id[7:19], f"{registry.address}/team/rich@{record.manifest_digest}"):
            assert store.get(name) == record
        again = await store.pull(reference)
        assert again.id == record.id and again.pulled_unix_ns > record.pulled_unix_ns

    shop.run(look_again)


def test_every_compression_and_layers_fetched_once(shop: Shop, registry: Registry) -> None:
    async def work(store: ImageStore) -> None:
        mixed = await store.pull(f"{registry.address}/team/mixed:v1")
        fetched: list[Progress] = []
        sibling = await store.pull(f"{registry.address}/team/sibling:v1", progress=fetched.append)
        first = next(progress for progress in fetched if progress.stage == "fetch")
        assert first.done_bytes > 0, "the shared layer was there from the start"
        blobs = {path.name for path in (shop.root / "blobs/sha256").iterdir()}
        assert len(blobs) == 4
        removed = await store.remove(f"{registry.address}/team/mixed:v1")
        assert removed.removed == (f"{registry.address}/team/mixed:v1", mixed.id)
        assert removed.freed_bytes > mixed.size_bytes
        left = {path.name for path in (shop.root / "blobs/sha256").iterdir()}
        assert len(left) == 2 and left < blobs
        assert sibling.erofs_path.exists() and not mixed.erofs_path.exists()

    shop.run(work)


def test_concurrent_pulls_share_one_job(shop: Shop, registry: Registry) -> None:
    async def work(store: ImageStore) -> None:
        seen: list[list[Progress]] = [[], [], []]
        records = await asyncio.gather(
            *(store.pull(f"{registry.address}/team/rich:v1", progress=one.append) for one in seen)
        )
        assert len({id(record) for record in records}) == 1
        assert seen[0] == seen[1] == seen[2] != []
        both = await asyncio.gather(
            *(store.pull(f"{registry.address}/team/{name}:v1") for name in ("mixed", "sibling"))
        )
        assert len(store.list()) == 3 and both[0].id != both[1].id

    shop.run(work)


def test_one_of_two_waiters_may_leave(shop: Shop, registry: Registry) -> None:
    async def work(store: ImageStore) -> None:
        reference = f"{registry.address}/team/mixed:v1"
        begun = asyncio.Event()
        leaving = asyncio.create_task(store.pull(reference, progress=lambda progress: begun.set()))
        staying = asyncio.create_task(store.pull(reference))
        await begun.wait()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert (await staying).references == (reference,)

    shop.run(work)


def test_a_cancelled_pull_leaves_nothing(shop: Shop, registry: Registry) -> None:
    async def work(store: ImageStore) -> None:
        for stage in ("resolve", "fetch", "unpack", "pack"):
            reached = asyncio.Event()

            def listen(progress: Progress, stage: str = stage, reached: asyncio.Event = reached) -> None:
                if progress.stage == stage:
                    reached.set()

            task = asyncio.create_task(store.pull(f"{registry.address}/team/rich:v1", progress=listen))
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert shop.files() == set() and store.list() == []

    shop.run(work)


def test_multi_platform_index(shop: Shop, registry: Registry) -> None:
    async def work(store: ImageStore) -> None:
        here = await store.pull(f"{registry.address}/team/multi:v1")
        assert here.architecture == host_architecture()
        there = await store.pull(f"{registry.address}/team/multi:v1", platform=f"linux/{FOREIGN}")
        assert there.architecture == FOREIGN
        assert store.get(here.id).references == () and there.references == (f"{registry.address}/team/multi:v1",)

    shop.run(work)


def test_by_digest_of_manifest_and_of_index(shop: Shop, registry: Registry, layout: Layout) -> None:
    index = next(
        entry["digest"]
        for entry in json.loads((layout.path / "index.json").read_text())["manifests"]
        if entry["annotations"]["org.opencontainers.image.ref.name"] == "multi"
    )

    async def work(store: ImageStore) -> None:
        by_index = await store.pull(f"{registry.address}/team/multi@{index}")
        by_manifest = await store.pull(f"{registry.address}/team/multi@{by_index.manifest_digest}")
        assert by_manifest.id == by_index.id and len(by_manifest.references) == 2
        assert store.get(f"{registry.address}/team/multi@{index}").id == by_index.id

    shop.run(work)


@pytest.mark.parametrize("name", ["foreign", "foreign-index"])
def test_wrong_architecture(shop: Shop, registry: Registry, name: str) -> None:
    error = shop.refused(lambda store: store.pull(f"{registry.address}/team/{name}:v1"))
    assert error.kind.code == "image_wrong_architecture"
    assert FOREIGN in error.cause and host_architecture() in error.message


def test_an_empty_image(shop: Shop, registry: Registry) -> None:
    record = shop.run(lambda store: store.pull(f"{registry.address}/team/empty:v1"))
    assert record.size_bytes > 0 and record.passwd == b""


def test_no_image_but_something_else(shop: Shop, registry: Registry) -> None:
    error = shop.refused(lambda store: store.pull(f"{registry.address}/team/artifact:v1"))
    assert error.kind.code == "image_unsupported_media_type" and "helm" in error.cause


def test_a_hostile_layer(shop: Shop, registry: Registry) -> None:
    error = shop.refused(lambda store: store.pull(f"{registry.address}/team/hostile:v1"))
    assert error.kind.code == "image_layer_unsafe" and "../../escape" in error.cause
    assert not list(shop.root.parent.rglob("escape"))


@pytest.mark.parametrize("name", ["team/nosuch:v1", "team/rich:nosuch", "team/rich@sha256:" + "0" * 64])
def test_unknown_image(shop: Shop, registry: Registry, name: str) -> None:
    error = shop.refused(lambda store: store.pull(f"{registry.address}/{name}"))
    assert error.kind.code == "image_unknown", (error.message, error.cause)


def test_too_large(shop: Shop, registry: Registry) -> None:
    shop.limits = Limits(max_bytes=100_000)
    error = shop.refused(lambda store: store.pull(f"{registry.address}/team/sibling:v1"))
    assert error.kind.code == "image_too_large"


def test_unreachable_registry(shop: Shop) -> None:
    address = f"127.0.0.1:{free_port()}"
    error = shop.refused(lambda store: store.pull(f"{address}/x"))
    assert error.kind.code == "registry_unreachable" and address in error.message


def test_default_registry_and_mirror(shop: Shop, registry: Registry) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    shop.settings = RegistrySettings(
        default_registry=f"{nowhere}/team", mirrors={nowhere: [f"127.0.0.1:{free_port()}", registry.address]}
    )
    record = shop.run(lambda store: store.pull("sibling:v1"))
    assert record.references == ("sibling:v1",)
    assert shop.run(lambda store: store.pull(f"{nowhere}/team/sibling:v1")).references == ("sibling:v1",)


def test_no_default_registry(shop: Shop) -> None:
    assert shop.refused(lambda store: store.pull("busybox")).kind.code == "image_no_registry"


# --- trust


def test_tls(shop: Shop, tmp_path: Path, layout: Layout) -> None:
    with docker_registry(tmp_path / "registry", tls=True) as registry:
        reference = registry.push(layout.path, "rich", "rich:v1")
        error = shop.refused(lambda store: store.pull(reference, tls_verify=True))
        assert error.kind.code == "registry_tls" and "--ca-file" in error.remedy
        record = shop.run(lambda store: store.pull(reference, tls_verify=True, ca_file=str(registry.ca_file)))
        assert shop.run(lambda store: store.pull(reference)).id == record.id, "loopback needs no trust"
        with docker_registry(tmp_path / "other") as plain:
            error = shop.refused(lambda store: store.pull(f"{plain.address}/rich:v1", tls_verify=True))
            assert error.kind.code == "registry_tls"


def test_a_ca_file_that_is_not_there(shop: Shop) -> None:
    error = shop.refused(lambda store: store.pull("127.0.0.1:1/x", ca_file="/nonexistent/ca.crt"))
    assert error.kind.code == "invalid_argument" and "/nonexistent/ca.crt" in error.message


def test_credentials(shop: Shop, tmp_path: Path, layout: Layout) -> None:
    with docker_registry(tmp_path / "registry", password=True) as registry:
        reference = registry.push(layout.path, "rich", "rich:v1")
        for username, password in (("", ""), (USERNAME, "wrong")):
            error = shop.refused(lambda store, u=username, p=password: store.pull(reference, username=u, password=p))  # type: ignore[misc]
            assert error.kind.code == "registry_authentication", (error.message, error.cause)
            assert "wrong" not in str(error.to_json())
        seen: list[str] = []

        async def pull_and_spy(store: ImageStore) -> ImageRecord:
            pull = asyncio.create_task(store.pull(reference, username=USERNAME, password=PASSWORD))
            while not pull.done():
                seen.extend(_command_lines())
                await asyncio.sleep(0.01)
            return await pull

        record = shop.run(pull_and_spy)
        assert record.references == (reference,)
        assert any("skopeo" in line for line in seen) and not any(PASSWORD in line for line in seen)
    assert not [path for path in shop.root.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]


def _command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes().decode(errors="replace") + _environment(path.parent)


def _environment(process: Path) -> str:
    with contextlib.suppress(OSError):
        return (process / "environ").read_bytes().decode(errors="replace")
    return ""


# --- damage


@pytest.fixture
def victim(tmp_path: Path, layout: Layout) -> Iterator[tuple[Registry, str, Path]]:
    """A registry of its own with one image: the registry, the reference, the file of the image's only layer."""
    single = Layout(tmp_path / "victim")
    noise = bytes(range(256)) * 4000
    single.add(Image([(tar(file("f", noise)), "gzip")], "x"))
    manifest_digest = json.loads((single.path / "index.json").read_text())["manifests"][0]["digest"]
    manifest = json.loads(single.blob_path(manifest_digest).read_text())
    with docker_registry(tmp_path / "registry") as registry:
        reference = registry.push(single.path, "x", "x:v1")
        yield registry, reference, registry.blob(manifest["layers"][0]["digest"])


def test_a_changed_layer(shop: Shop, victim: tuple[Registry, str, Path]) -> None:
    _, reference, path = victim
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    error = shop.refused(lambda store: store.pull(reference))
    assert error.kind.code == "image_digest_mismatch", (error.message, error.cause)


def test_a_truncated_layer(shop: Shop, victim: tuple[Registry, str, Path]) -> None:
    _, reference, path = victim
    path.write_bytes(path.read_bytes()[:-1000])
    error = shop.refused(lambda store: store.pull(reference))
    assert error.kind.code in ("image_truncated", "image_digest_mismatch"), (error.message, error.cause)


def _one_image(path: Path) -> tuple[Path, str]:
    import random

    layout = Layout(path)
    manifest_digest = layout.add(Image([(tar(file("f", random.Random(1).randbytes(3_000_000))), "gzip")], "x"))
    return layout.path, manifest_digest


def test_a_connection_cut_in_the_middle_of_a_layer(shop: Shop, tmp_path: Path) -> None:
    path, manifest_digest = _one_image(tmp_path / "one")
    with faulty_registry(path, manifest_digest, Faults(cut_after=1_000_000)) as address:
        error = shop.refused(lambda store: store.pull(f"{address}/x"))
    assert error.kind.code == "image_truncated" and error.kind.retryable, (error.message, error.cause)


def test_a_registry_that_falls_silent_is_given_up(shop: Shop, tmp_path: Path) -> None:
    path, manifest_digest = _one_image(tmp_path / "one")
    shop.patience = Patience(stall_s=1.0)
    seen: list[Progress] = []
    with faulty_registry(path, manifest_digest, Faults(stall_after=1_000_000)) as address:
        error = shop.refused(lambda store: store.pull(f"{address}/x", progress=seen.append))
    assert error.kind.code == "registry_unreachable" and "1000000 of" in error.cause, error.cause
    assert any(0 < progress.done_bytes < progress.total_bytes for progress in seen if progress.stage == "fetch")


def test_a_manifest_that_is_not_what_was_asked_for(shop: Shop, tmp_path: Path) -> None:
    path, manifest_digest = _one_image(tmp_path / "one")
    with faulty_registry(path, manifest_digest, Faults()) as address:
        other = "sha256:" + "1" * 64
        error = shop.refused(lambda store: store.pull(f"{address}/x@{other}"))
    assert error.kind.code == "image_digest_mismatch" and other in error.cause
