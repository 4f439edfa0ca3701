"""The store with archives and crashes: every form is loaded, and nothing half-made survives."""

from __future__ import annotations

import asyncio
import bz2
import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from sandboxd.base.errors import SandboxdError
from sandboxd.image import ImageRecord, ImageStore, Limits
from tests.support.oci_images import (
    Image,
    Layout,
    compress,
    describe_tree,
    directory,
    docker_archive,
    file,
    host_architecture,
    rich_layers,
    symlink,
    tar,
)

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
SMALL = tar(directory("etc"), file("etc/passwd", b"root:x:0:0::/:/bin/sh\n"))
FOREIGN = "s390x" if host_architecture() != "s390x" else "amd64"


def with_store(root: Path, work: Callable[[ImageStore], Awaitable[T]], limits: Limits | None = None) -> T:
    async def main() -> T:
        store = ImageStore(root, limits=limits)
        await store.open()
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(main())


def load(root: Path, path: Path, tag: str = "") -> list[ImageRecord]:
    return with_store(root, lambda store: store.load(path, tag=tag))


def refused(root: Path, path: Path, *, tag: str = "", limits: Limits | None = None) -> SandboxdError:
    with pytest.raises(SandboxdError) as caught:
        with_store(root, lambda store: store.load(path, tag=tag), limits)
    assert leftovers(root) == set()
    return caught.value


def leftovers(root: Path) -> set[str]:
    found = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
    found |= {str(path.relative_to(root)) for path in (root / "staging").glob("*")}
    return {name for name in found if not name.startswith(("images.sqlite", "store.lock"))}


@contextlib.contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    at.mkdir()
    subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro", image, at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "layout")
    layout.add(Image([(SMALL, "gzip")], "one:v1"))
    layout.add(Image([(SMALL, "gzip"), (tar(file("two", b"2")), "zstd")], "example.test:5000/two:v2"))
    return layout


# --- forms


@pytest.mark.parametrize(
    "form", ["directory", "oci-archive", "oci-archive.gz", "oci-archive.zst", "docker", "docker.gz", "docker.xz"]
)
def test_all_forms_and_all_images_of_each(root: Path, tmp_path: Path, layout: Layout, form: str) -> None:
    images = [
        Image([(SMALL, "plain")], "one:v1"),
        Image([(SMALL, "plain"), (tar(file("two", b"2")), "plain")], "example.test:5000/two:v2"),
    ]
    path = layout.path
    if form.startswith("oci"):
        path = layout.archive(tmp_path / "archive")
    elif form.startswith("docker"):
        path = docker_archive(tmp_path / "archive", images)
    suffix = form.partition(".")[2]
    if suffix:
        tool = {"gz": "gzip", "zst": "zstd", "xz": "xz"}[suffix]
        packed = subprocess.run([tool, "-qc", path], check=True, capture_output=True).stdout
        path.write_bytes(packed)
    records = load(root, path)
    assert [record.references for record in records] == [("one:v1",), ("example.test:5000/two:v2",)]
    assert [record.id for record in records] == [image.id for image in images]
    assert records[0].passwd == b"root:x:0:0::/:/bin/sh\n"
    assert {name for name in leftovers(root) if not name.startswith("erofs/")} == set(), (
        "layers of archives are not kept"
    )


def test_tag(root: Path, tmp_path: Path, layout: Layout) -> None:
    single = Layout(tmp_path / "single")
    single.add(Image([(SMALL, "gzip")], "latest"))
    (record,) = load(root, single.path)
    assert record.references == (), "a bare tag is no name"
    (record,) = load(root, single.path, tag="mine")
    assert record.references == ("mine:latest",)
    error = refused(root / "other", layout.path, tag="x")
    assert error.kind.code == "invalid_argument" and "2 images" in error.cause


def test_a_name_moves_to_the_newest(root: Path, tmp_path: Path) -> None:
    first, second = Layout(tmp_path / "first"), Layout(tmp_path / "second")
    first.add(Image([(SMALL, "gzip")], "app:v1"))
    second.add(Image([(SMALL, "gzip")], "app:v1", process={"Cmd": ["new"]}))

    async def work(store: ImageStore) -> None:
        (old,) = await store.load(first.path)
        (new,) = await store.load(second.path)
        assert old.id != new.id and old.erofs_path == new.erofs_path, "the same layers are one file system"
        assert store.get("app:v1").id == new.id and store.get(old.id).references == ()
        removed = await store.remove(new.id)
        assert removed.freed_bytes == 0 and old.erofs_path.exists()
        assert (await store.remove(old.id[7:20])).freed_bytes == old.size_bytes and not old.erofs_path.exists()

    with_store(root, work)


def test_an_index_in_a_layout(root: Path, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    here = Image([(SMALL, "gzip")])
    layout.add_index("multi:v1", [Image([(tar(), "gzip")], architecture=FOREIGN), here])
    (record,) = load(root, layout.path)
    assert record.id == here.id and record.references == ("multi:v1",)


def test_busybox_recipe_is_reproducible_and_loads(root: Path, tmp_path: Path) -> None:
    builds = []
    for name in ("a", "b"):
        argv: list[str | Path] = [sys.executable, ROOT / "images/busybox/build.py", tmp_path / name]
        builds.append(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    assert builds[0] == builds[1]
    (record,) = load(root, tmp_path / "a")
    assert record.references == ("busybox:latest",) and record.cmd == ("sh",)
    assert any(text.startswith("PATH=") for text in record.env)
    with mounted(record.erofs_path, tmp_path / "mount") as tree:
        done = subprocess.run(
            ["chroot", tree, "/bin/sh", "-c", "ls / | wc -l && id -un"], check=True, capture_output=True
        )
        assert done.stdout.split()[1] == b"root"
        assert oct((tree / "tmp").stat().st_mode) == "0o41777"


# --- what comes out


def test_the_file_system_is_what_umoci_unpacks(root: Path, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add(Image([(layer, "gzip") for layer in rich_layers()], "rich"))
    (record,) = load(root, layout.path)
    peer = tmp_path / "peer"
    subprocess.run(["umoci", "raw", "unpack", "--image", f"{layout.path}:rich", peer], check=True, capture_output=True)
    with mounted(record.erofs_path, tmp_path / "mount") as tree:
        ours, theirs = describe_tree(tree), describe_tree(peer)
    assert ours == theirs


def test_the_same_layers_give_the_same_bytes(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add(Image([(layer, "zstd") for layer in rich_layers()], "rich"))
    (first,) = load(tmp_path / "first", layout.path)
    (second,) = load(tmp_path / "second", layout.path)
    assert first.erofs_path.name == second.erofs_path.name
    assert first.erofs_path.read_bytes() == second.erofs_path.read_bytes()
    subprocess.run(["fsck.erofs", first.erofs_path], check=True, capture_output=True)


def test_a_real_distribution(root: Path, tmp_path: Path, debian_python_layout: Path) -> None:
    (record,) = load(root, debian_python_layout)
    peer = tmp_path / "peer"
    peer.mkdir()
    manifest = json.loads((debian_python_layout / "index.json").read_text())["manifests"][0]["digest"]
    (layer,) = json.loads((debian_python_layout / "blobs" / manifest.replace(":", "/")).read_text())["layers"]
    blob = debian_python_layout / "blobs" / layer["digest"].replace(":", "/")
    options = ["--xattrs", "--xattrs-include=*", "--numeric-owner"]
    subprocess.run(["tar", "-C", peer, *options, "-xpf", blob], check=True)
    with mounted(record.erofs_path, tmp_path / "mount") as tree:
        assert describe_tree(tree) == describe_tree(peer)
        done = subprocess.run(["chroot", tree, "python3", "-c", "print(6*7)"], check=True, capture_output=True)
    assert done.stdout == b"42\n"


# --- refusals


def test_nothing_there(root: Path) -> None:
    error = refused(root, Path("/nonexistent"))
    assert error.kind.code == "image_archive_invalid" and "No such file" in error.cause


def test_not_an_archive(root: Path, tmp_path: Path) -> None:
    for name, content in (("text", b"hello world" * 100), ("tar", tar(file("a", b""))), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        assert refused(root, tmp_path / name).kind.code == "image_archive_invalid", name
    assert refused(root, Path("/etc")).kind.code == "image_archive_invalid"


@pytest.mark.parametrize("form", ["oci", "docker", "gz", "zst"])
def test_truncated_archives(root: Path, tmp_path: Path, form: str) -> None:
    layout = Layout(tmp_path / "layout")
    noise = tar(file("noise", random.Random(1).randbytes(200_000)))
    layout.add(Image([(noise, "gzip")], "x"))
    path = layout.archive(tmp_path / "archive")
    if form == "docker":
        path = docker_archive(tmp_path / "docker", [Image([(noise, "plain")], "x")])
    data = path.read_bytes()
    if form in ("gz", "zst"):
        data = compress(data, {"gz": "gzip", "zst": "zstd"}[form])
    path.write_bytes(data[: len(data) // 2])
    assert refused(root, path).kind.code == "image_truncated"


def _damage(layout: Layout, number: int, change: Callable[[bytes], bytes]) -> None:
    """Changes a layer's blob, and only it: 0 is the first layer of the first image."""
    manifest = json.loads((layout.path / "index.json").read_text())["manifests"][0]["digest"]
    layer = json.loads(layout.blob_path(manifest).read_text())["layers"][number]["digest"]
    path = layout.blob_path(layer)
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda data: data[:-10], "image_truncated"),
        (lambda data: data[:-10] + bytes(10), "image_digest_mismatch"),
        (
            lambda data: compress(tar(file("evil", b"x")), "gzip")[: len(data)].ljust(len(data), b"\0"),
            "image_digest_mismatch",
        ),
    ],
    ids=["short", "changed end", "another layer"],
)
def test_damaged_layer(root: Path, layout: Layout, change: Callable[[bytes], bytes], code: str) -> None:
    _damage(layout, 0, change)
    assert refused(root, layout.path).kind.code == code


@pytest.mark.parametrize("how", ["gzip", "zstd", "plain"])
def test_a_layer_that_is_not_its_diff_id(root: Path, tmp_path: Path, how: str) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add(Image([(SMALL, how)], "x", diff_ids=["sha256:" + "a" * 64]))
    error = refused(root, layout.path)
    assert error.kind.code == "image_digest_mismatch" and "a" * 64 in error.cause


@pytest.mark.parametrize(
    ("layer", "code"),
    [
        (tar(file("../x", b"")), "image_layer_unsafe"),
        (tar(file("/x", b"")), "image_layer_unsafe"),
        (tar(symlink("up", "../.."), file("up/x", b"")), "image_layer_unsafe"),
        (tar(file("a", b""), file("a/b", b"")), "image_layer_invalid"),
        (b"this is no tar at all" * 100, "image_layer_invalid"),
        (SMALL[:700], "image_truncated"),
    ],
    ids=["dot-dot", "absolute", "symlink", "file as directory", "no tar", "half a tar"],
)
@pytest.mark.parametrize("how", ["gzip", "plain"])
def test_bad_layers(root: Path, tmp_path: Path, layer: bytes, code: str, how: str) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add(Image([(SMALL, "gzip"), (layer, how)], "x"))
    error = refused(root, layout.path)
    assert error.kind.code == code, (error.message, error.cause)


def test_a_compression_that_oci_does_not_have(root: Path, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add(Image([(bz2.compress(SMALL), "plain")], "x"))
    error = refused(root, layout.path)
    assert error.kind.code == "image_unsupported_media_type" and "bzip2" in error.cause


def test_damaged_compression_with_a_right_digest(root: Path, tmp_path: Path) -> None:
    """The registry vouches for bytes that are no gzip, or no zstd: both are the image's fault, and said so."""
    for how, keep in (("gzip", 40), ("zstd", 40)):
        layout = Layout(tmp_path / how)
        image = Image([(SMALL, how)], "x")
        blob = compress(SMALL, how)[:keep] + b"\xff" * 64
        layer = layout.blob(blob, f"application/vnd.oci.image.layer.v1.tar+{how}")
        layout.add(Image([(SMALL, how)], "x", overrides={"layers": [layer]}))
        error = refused(root, layout.path)
        assert error.kind.code == "image_layer_invalid" and how in error.cause, (error.cause, image.id)


def test_another_architecture(root: Path, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add(Image([(SMALL, "gzip")], "x", architecture=FOREIGN))
    assert refused(root, layout.path).kind.code == "image_wrong_architecture"


@pytest.mark.parametrize("limits", [Limits(max_bytes=1_000_000), Limits(max_entries=50)], ids=["bytes", "entries"])
def test_bombs(root: Path, tmp_path: Path, limits: Limits) -> None:
    layout = Layout(tmp_path / "layout")
    files = [file(f"f{number}", bytes(40_000)) for number in range(60)]
    layout.add(Image([(tar(*files), "gzip")], "x"))
    assert refused(root, layout.path, limits=limits).kind.code == "image_too_large"


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_zeros_without_end(root: Path, tmp_path: Path, how: str) -> None:
    """A tar that is over at its first block, and goes on for long."""
    layout = Layout(tmp_path / "layout")
    layout.add(Image([(bytes(64 << 20), how)], "x"))
    error = refused(root, layout.path, limits=Limits(max_bytes=1 << 20, max_entries=100))
    assert error.kind.code == "image_too_large"


def test_an_archive_that_is_a_bomb(root: Path, tmp_path: Path) -> None:
    (tmp_path / "bomb.tar.gz").write_bytes(compress(bytes(64 << 20), "gzip"))
    error = refused(root, tmp_path / "bomb.tar.gz", limits=Limits(max_bytes=1 << 20))
    assert error.kind.code == "image_too_large"


def test_sparse_bomb(root: Path, tmp_path: Path) -> None:
    """A file that claims a tebibyte of zeros in a kilobyte of tar."""
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as target:
        target.truncate(1 << 40)
    archive = tmp_path / "layer.tar"
    subprocess.run(["tar", "-C", tmp_path, "-S", "-cf", archive, "sparse"], check=True)
    layout = Layout(tmp_path / "layout")
    layout.add(Image([(archive.read_bytes(), "gzip")], "x"))
    assert refused(root, layout.path).kind.code == "image_too_large"


@pytest.mark.parametrize("free_mib", [1, 12])
def test_disk_full(tmp_path: Path, free_mib: int) -> None:
    """At 1 MiB the unpacker meets the end, at 12 MiB mkfs.erofs does."""
    layout = Layout(tmp_path / "layout")
    layout.add(Image([(tar(file("big", bytes(8 << 20))), "gzip")], "x"))
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={free_mib}m", "tmpfs", small], check=True)
    try:
        error = refused(small / "store", layout.path)
    finally:
        subprocess.run(["umount", small], check=True)
    assert error.kind.code == "image_no_space" and str(small) in error.cause, (error.message, error.cause)


# --- names and removal


def test_remove_as_docker_does(root: Path, layout: Layout) -> None:
    async def work(store: ImageStore) -> None:
        first, second = await store.load(layout.path)
        await store.load(layout.path)
        with pytest.raises(SandboxdError) as used:
            await store.remove("one:v1", in_use=lambda image_id: ["abc", "def"] if image_id == first.id else [])
        assert used.value.kind.code == "image_in_use" and "abc, def" in used.value.cause
        forced = await store.remove("one:v1", force=True, in_use=lambda image_id: ["abc"])
        assert forced.removed == ("one:v1", first.id) and forced.freed_bytes == first.size_bytes
        with pytest.raises(SandboxdError) as gone:
            store.get("one:v1")
        assert gone.value.kind.code == "image_not_found"
        assert [record.id for record in store.list()] == [second.id]

    with_store(root, work)


def test_several_names(root: Path, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add(Image([(SMALL, "gzip")], "one:v1"))

    async def work(store: ImageStore) -> None:
        await store.load(layout.path)
        (record,) = await store.load(layout.path, tag="other:v2")
        assert record.references == ("one:v1", "other:v2")
        with pytest.raises(SandboxdError) as several:
            await store.remove(record.id)
        assert several.value.kind.code == "image_several_references"
        assert (await store.remove("other:v2", in_use=lambda image_id: ["abc"])).removed == ("other:v2",)
        assert store.get("one:v1").references == ("one:v1",)

    with_store(root, work)


def test_lookups(root: Path, layout: Layout) -> None:
    async def work(store: ImageStore) -> None:
        first, _ = await store.load(layout.path)
        for name in ("one:v1", first.id, first.id[7:], first.id[7:11]):
            assert store.get(name).id == first.id
        for name, code in (
            ("one", "image_not_found"),
            ("ffff0000ffff", "image_not_found"),
            ("A b", "image_reference_invalid"),
        ):
            with pytest.raises(SandboxdError) as caught:
                store.get(name)
            assert caught.value.kind.code == code

    with_store(root, work)


# --- crashes


_CHILD = """
import asyncio, sys
from pathlib import Path
from sandboxd.image import ImageStore
async def main():
    store = ImageStore(Path(sys.argv[1]))
    await store.open()
    await store.load(sys.argv[2], progress=lambda progress: print(progress.stage, flush=True))
    print("done", flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("stage", ["resolve", "unpack", "pack"])
def test_kill_in_the_middle(root: Path, tmp_path: Path, stage: str) -> None:
    layout = Layout(tmp_path / "layout")
    noise = random.Random(2).randbytes(1 << 20)
    layers = [tar(*(file(f"{layer}-{number}", noise) for number in range(20))) for layer in range(3)]
    layout.add(Image([(layer, "zstd") for layer in layers], "x"))
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, root, layout.path], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    with child:
        assert child.stdout is not None
        for line in child.stdout:
            assert line != "done\n", f"it was through before it could be killed in {stage}"
            if line == f"{stage}\n":
                break
        child.send_signal(signal.SIGKILL)
    assert (root / "staging").exists()
    _wait_for_helpers(str(root))

    async def look(store: ImageStore) -> None:
        assert store.list() == []
        assert leftovers(root) == set()
        await store.load(layout.path)

    with_store(root, look)


def _wait_for_helpers(root: str) -> None:
    """The programs that the dead store had started die with it, at once but not in the same instant."""
    for pid in [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]:
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            here = os.readlink(f"/proc/{pid}/cwd")  # noqa: PTH115 (a link of /proc)
            if (root in line or here.startswith(root)) and int(pid) != os.getpid():
                fd = os.pidfd_open(int(pid))
                try:
                    assert select.select([fd], [], [], 10)[0], f"process {pid} outlived its store: {line}"
                finally:
                    os.close(fd)


def test_a_second_store_is_kept_out(root: Path) -> None:
    async def work(store: ImageStore) -> None:
        with pytest.raises(SandboxdError) as caught:
            await ImageStore(root).open()
        assert caught.value.kind.code == "image_store_locked"

    with_store(root, work)
    with_store(root, lambda store: asyncio.sleep(0))


def test_leftovers_and_lost_files(root: Path, layout: Layout) -> None:
    first, second = load(root, layout.path)
    first.erofs_path.unlink()
    (root / "erofs" / ("f" * 64 + ".erofs")).write_bytes(b"orphan")
    (root / "blobs/sha256" / ("f" * 64)).write_bytes(b"orphan")
    (root / "staging/half").mkdir()
    (root / "staging/half/file").write_bytes(b"x")

    async def look(store: ImageStore) -> None:
        assert [record.id for record in store.list()] == [second.id]
        assert leftovers(root) == {f"erofs/{second.erofs_path.name}"}

    with_store(root, look)


def test_the_store_is_private_but_for_the_images(root: Path, layout: Layout) -> None:
    (first, _) = load(root, layout.path)
    modes = {
        name: oct((root / name).stat().st_mode & 0o777) for name in (".", "erofs", "blobs", "staging", "images.sqlite")
    }
    assert modes == {".": "0o711", "erofs": "0o711", "blobs": "0o700", "staging": "0o700", "images.sqlite": "0o600"}
    assert oct(first.erofs_path.stat().st_mode & 0o777) == "0o444"
