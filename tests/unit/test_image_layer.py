"""Layers onto a tree: OCI's rules, and every way out of the root."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from sandboxd.image.layer import Budget, LayerApplier
from sandboxd.image.layerstream import OverBudget
from sandboxd.image.tarstream import TarReader
from sandboxd.image.treepath import BadPath, Tree, UnsafePath, read_small_file, split_path
from tests.support.oci_images import (
    Entry,
    character,
    describe_tree,
    directory,
    file,
    hardlink,
    opaque,
    rich_layers,
    symlink,
    tar,
    whiteout,
)

ROOMY = (1000, 1 << 30)


def apply(root: Path, *layers: bytes, budget: tuple[int, int] = ROOMY) -> None:
    root.mkdir(exist_ok=True)
    tree = Tree(root)
    try:
        applier = LayerApplier(tree, Budget(*budget))
        for layer in layers:
            applier.apply(TarReader(io.BytesIO(layer)))
        applier.finish()
    finally:
        tree.close()


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    # A directory around the root: whatever climbs out of it shows there.
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    return outside / "root"


def untouched(root: Path) -> bool:
    return {path.name for path in root.parent.iterdir()} <= {"victim", "root"} and (
        root.parent / "victim"
    ).read_text() == "untouched"


def test_everything_a_layer_can_say(root: Path) -> None:
    apply(root, *rich_layers())
    tree = describe_tree(root)
    assert tree["bin/su"][0] == "0o104711" and tree["bin/su"][1] == 3
    assert "security.capability" in tree["bin/ping"][5]  # type: ignore[operator]
    assert tree["bin/tool"][6] == ("bin/tool", "bin/tool-again", "tool-across-layers")
    assert tree["data"][0] == "0o40750" and tree["data"][3] == 1_610_000_000_123_456_700
    assert tree["data"][5] == {}, "an entry of a directory replaces its attributes"
    assert tree["data/big-id"][1:3] == (3_000_000, 4_000_000_000)
    assert tree["dev/disk"][4] == (259, 70000)
    assert tree["."][3] == 1_500_000_000 * 10**9
    assert (root / "usr/lib/through-symlink.so").read_bytes() == b"elf"
    assert (root / "lib").is_symlink()
    assert {name for name in tree if name.startswith(("gone", "emptied", "replaced"))} == {
        *("gone", "gone/is-back", "emptied", "emptied/c"),
        *("replaced-by-directory", "replaced-by-directory/inner", "replaced-by-file"),
    }
    assert not {"bin/wall", "data/old"} & set(tree)
    assert not [name for name in tree if ".wh." in name]


@pytest.mark.parametrize("first", ["opaque", "content"])
def test_opaque_spares_its_own_layer_in_any_order(root: Path, first: str) -> None:
    lower = tar(directory("d"), directory("d/kept"), file("d/kept/old", b"x"), file("d/old", b"x"))
    content = [file("d/kept/new", b"y"), file("d/new", b"y")]
    upper = [opaque("d"), *content] if first == "opaque" else [*content, opaque("d")]
    apply(root, lower, tar(*upper))
    assert names(root) == {"d", "d/kept", "d/kept/new", "d/new"}


@pytest.mark.parametrize("first", ["whiteout", "content"])
def test_whiteout_hides_only_lower_layers(root: Path, first: str) -> None:
    lower = tar(directory("d"), file("d/old", b"x"), file("f", b"old"))
    content = [directory("d"), file("d/new", b"y"), file("f", b"new")]
    hide = [whiteout("d"), whiteout("f")]
    upper = hide + content if first == "whiteout" else content + hide
    apply(root, lower, tar(*upper))
    assert names(root) == {"d", "d/new", "f"} and (root / "f").read_bytes() == b"new"


def test_a_whiteout_marks_nothing_as_made_by_its_layer(root: Path) -> None:
    lower = tar(directory("d"), directory("d/sub"), file("d/sub/x", b""), file("d/sub/y", b""))
    apply(root, lower, tar(whiteout("d/sub/x"), opaque("d")))
    assert names(root) == {"d"}


def test_type_changes(root: Path) -> None:
    first = tar(directory("a"), file("a/x", b""), symlink("b", "a"), file("c", b""), directory("d"), file("d/y", b""))
    second = tar(
        file("a", b"file"), directory("b"), file("b/z", b""), symlink("c", "b"), file("c2", b""), hardlink("d", "a")
    )
    apply(root, first, second)
    assert names(root) == {"a", "b", "b/z", "c", "c2", "d"}
    assert (root / "c").readlink() == Path("b") and (root / "d").samefile(root / "a")


def test_a_directory_entry_replaces_a_link_to_a_directory(root: Path) -> None:
    apply(
        root,
        tar(directory("real"), file("real/x", b""), symlink("link", "real")),
        tar(directory("link"), file("link/y", b"")),
    )
    assert names(root) == {"real", "real/x", "link", "link/y"} and not (root / "link").is_symlink()


def test_a_stale_path_is_not_written_through(root: Path) -> None:
    """The directory that a path led to is replaced within one layer; the next file goes to the new one."""
    apply(
        root, tar(directory("d"), file("d/1", b""), directory("e"), file("d", b""), symlink("d", "e"), file("d/2", b""))
    )
    assert names(root) == {"d", "e", "e/2"}


def test_parents_without_entries_are_plain_and_reproducible(root: Path) -> None:
    apply(root, tar(file("a/b/c", b"x")))
    for name in ("a", "a/b", "."):
        status = (root / name).stat()
        assert (oct(status.st_mode), status.st_uid, status.st_mtime_ns) == ("0o40755", 0, 0)


def test_a_time_before_1970_is_the_epoch(root: Path) -> None:
    """EROFS, as mkfs.erofs 1.5 writes it, has none."""
    apply(root, tar(file("old", b"", mtime=-5.5), directory("d", mtime=-1e9), symlink("s", "x", mtime=-1.0)))
    assert {(root / name).lstat().st_mtime_ns for name in ("old", "d", "s")} == {0}


def test_foreign_attributes_stay_out(root: Path) -> None:
    xattrs = {"user.ours": b"1", "trusted.overlay.opaque": b"y", "security.selinux": b"x", "trusted.other": b"z"}
    apply(root, tar(file("f", b"", xattrs=xattrs), directory("d", xattrs=xattrs)))
    assert os.listxattr(root / "f") == os.listxattr(root / "d") == ["user.ours"]


HOSTILE: dict[str, tuple[Entry, ...]] = {
    "dot-dot": (file("../victim", b"pwned"),),
    "dot-dot-inside": (directory("a"), file("a/../../victim", b"pwned")),
    "absolute": (file("/etc/sandboxd-test-pwned", b"pwned"),),
    "climbing-link": (symlink("up", ".."), file("up/victim", b"pwned")),
    "deep-climbing-link": (directory("a"), symlink("a/up", "../.."), file("a/up/victim", b"pwned")),
    "climbing-through-two": (symlink("x", "y/.."), directory("y"), symlink("z", "x/.."), file("z/victim", b"pwned")),
    "absolute-link": (symlink("abs", "/sandboxd-test-nowhere"), file("abs/pwned", b"pwned")),
    "link-to-host-path": (symlink("abs", "{outside}"), file("abs/victim", b"pwned")),
    "link-loop": (symlink("a", "b"), symlink("b", "a"), file("a/x", b"pwned")),
    "hardlink-out": (hardlink("h", "../victim"),),
    "hardlink-absolute": (hardlink("h", "/etc/passwd"),),
    "hardlink-through-link": (symlink("up", ".."), hardlink("h", "up/victim")),
    "whiteout-out": (whiteout("../victim"),),
    "whiteout-parent": (file("a/.wh...", b""),),
    "whiteout-self": (file("a/.wh..", b""),),
    "whiteout-through-link": (symlink("up", ".."), whiteout("up/victim")),
    "opaque-through-link": (symlink("up", ".."), opaque("up")),
    "directory-through-link": (symlink("up", ".."), directory("up/new")),
    "device-through-link": (symlink("up", ".."), character("up/null", 1, 3)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_ways_out_of_the_root(root: Path, name: str) -> None:
    entries = list(HOSTILE[name])
    for entry in entries:
        entry.header.linkname = entry.header.linkname.replace("{outside}", str(root.parent))
    with pytest.raises(UnsafePath):
        apply(root, tar(*entries))
    assert untouched(root)
    assert not Path("/etc/sandboxd-test-pwned").exists() and not Path("/sandboxd-test-nowhere").exists()


def test_links_are_replaced_not_followed(root: Path) -> None:
    """The last component: nothing is written to what a link points to, wherever that is."""
    victim = str(root.parent / "victim")
    apply(
        root,
        tar(symlink("f", victim), symlink("d", str(root.parent)), symlink("h", victim), file("x", b"")),
        tar(file("f", b"new"), directory("d", 0o700, uid=5), hardlink("h", "x"), file("x", b"")),
    )
    assert untouched(root) and root.parent.stat().st_uid == 0
    assert (root / "f").read_bytes() == b"new" and (root / "d").is_dir() and not (root / "h").is_symlink()


def test_a_hard_link_to_a_link_keeps_the_link(root: Path) -> None:
    apply(root, tar(symlink("s", "/etc/passwd"), hardlink("t", "s")))
    assert (root / "t").is_symlink()


def test_an_absolute_link_inside_the_image_is_walked_inside(root: Path) -> None:
    apply(root, tar(directory("run"), symlink("var-run", "/run")), tar(file("var-run/x", b"in")))
    assert (root / "run/x").read_bytes() == b"in"


@pytest.mark.parametrize(
    "entries",
    [
        [hardlink("h", "nowhere")],
        [directory("d"), hardlink("h", "d")],
        [file("f", b""), file("f/below", b"")],
        [file("x" * 256, b"")],
        [file("/".join("d" * 300), b"")],
        [file("/".join(["d" * 200] * 25), b"")],
        [symlink("s", "")],
        [character("c", 5000, 0)],
        [character("c", 1, 1 << 20)],
        [file("x", b"", xattrs={"user.big": b"x" * 70000})],
    ],
    ids=[
        "no target",
        "to a directory",
        "file as parent",
        "name",
        "depth",
        "path",
        "empty link",
        "major",
        "minor",
        "xattr",
    ],
)
def test_what_cannot_be_is_refused(root: Path, entries: list[Entry]) -> None:
    with pytest.raises(BadPath):
        apply(root, tar(*entries))
    assert untouched(root)


def test_missing_directories_are_no_hard_link_target(root: Path) -> None:
    with pytest.raises(BadPath):
        apply(root, tar(hardlink("h", "no/where/at/all")))


def test_the_budget_holds(root: Path) -> None:
    with pytest.raises(OverBudget, match="files"):
        apply(root, tar(*(file(f"f{number}", b"") for number in range(11))), budget=(10, 1 << 20))
    with pytest.raises(OverBudget, match="size"):
        apply(root, tar(file("a", b"x" * 600)), tar(file("a", b"y" * 600)), budget=(10, 1000))


def test_small_files_are_read_inside_only(root: Path) -> None:
    apply(
        root,
        tar(
            directory("etc"),
            directory("real"),
            file("real/passwd", b"inside"),
            symlink("etc/passwd", "/real/passwd"),
            symlink("etc/out", "../../../victim"),
            symlink("etc/loop", "loop"),
            character("etc/device", 1, 3),
            file("etc/large", b"x" * 100),
        ),
    )
    assert read_small_file(root, b"etc/passwd", 99) == b"inside"
    for name in (b"etc/out", b"etc/loop", b"etc/device", b"etc/large", b"etc", b"none", b"../victim", b"/etc/passwd"):
        assert read_small_file(root, name, 99) == b""


@pytest.mark.parametrize("path", [b".", b"./", b"././"])
def test_the_root_itself(path: bytes) -> None:
    assert split_path(path) == ()
