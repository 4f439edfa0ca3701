"""Files to and from a sandbox: docker's table of where a copy lands, and archives that want out."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxd.base.errors import SandboxdError
from sandboxd.client.archive import pack, unpack
from sandboxd.client.copy import Landing, _local_target, land

# --- where a copy lands: (source, is a directory, target, target is a directory or None, its parent exists) ---


@pytest.mark.parametrize(
    ("given_", "landing"),
    [
        (("f", False, "/d", True, True), Landing("/d", "f")),
        (("f", False, "/d/", True, True), Landing("/d", "f")),
        (("f", False, "/new", None, True), Landing("/", "new")),
        (("f", False, "/d/old", False, True), Landing("/d", "old")),
        (("d", True, "/e", True, True), Landing("/e", "d")),
        (("d/", True, "/e", True, True), Landing("/e", "d")),
        (("d/.", True, "/e", True, True), Landing("/e", None)),
        (("d", True, "/new", None, True), Landing("/", "new")),
        (("d/.", True, "/new", None, True), Landing("/", "new")),
        (("d", True, "/new/", None, True), Landing("/", "new")),
        (("/x/../y", False, "/d", True, True), Landing("/d", "y")),
        (("f", False, "new", None, True), Landing(".", "new")),
        (("f", False, ".", True, True), Landing(".", "f")),
    ],
)
def test_landing(given_: tuple[Any, ...], landing: Landing) -> None:
    assert land(*given_) == landing


@pytest.mark.parametrize(
    "given_",
    [
        ("f", False, "/new/", None, True),
        ("f", False, "/no/new", None, False),
        ("d", True, "/f", False, True),
        ("f", False, "/f/", False, True),
        ("f/.", False, "/d", True, True),
    ],
)
def test_what_docker_refuses(given_: tuple[Any, ...]) -> None:
    with pytest.raises(SandboxdError) as caught:
        land(*given_)
    assert caught.value.kind.code == "copy_target"


# --- there and back ---


def _packed(source: Path, name: str, **options: bool) -> bytes:
    out = io.BytesIO()
    pack(source, name, out.write, **{"follow": False, "keep_owner": False, **options})
    return out.getvalue()


def _unpack(data: bytes, target: Path, rename: str | None = "x", keep_owner: bool = False) -> int:
    return unpack(io.BytesIO(data).read, target, rename, keep_owner=keep_owner)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "sub/empty").mkdir(parents=True)
    (top / "sub/big").write_bytes(os.urandom(700_000))
    (top / "link").symlink_to("sub/big")
    (top / "dangling").symlink_to("/nowhere")
    os.link(top / "sub/big", top / "hard")
    (top / "run").write_text("#!/bin/sh\n")
    (top / "run").chmod(0o755)
    (top / "a name\nwith \u00e9 \udcff").write_bytes(b"")
    os.utime(top / "sub", (1, 1))
    return top


def _shape(top: Path) -> dict[str, object]:
    shape: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        info = path.lstat()
        content: object = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        shape[str(path.relative_to(top))] = (stat.S_IFMT(info.st_mode), content, info.st_nlink if path.is_file() else 0)
        if not path.is_symlink():
            shape[f"{path.relative_to(top)} mode and time"] = (info.st_mode, int(info.st_mtime))
    return shape


def test_there_and_back(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert _unpack(_packed(tree, "any"), out, "back") == 9
    assert _shape(out / "back") == _shape(tree)
    _unpack(_packed(tree, "any"), out, "back")  # again, over what is there
    assert _shape(out / "back") == _shape(tree)


def test_content_only(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(0o700)
    _unpack(_packed(tree, "."), out, None)
    assert _shape(out) == _shape(tree)
    assert stat.S_IMODE(out.stat().st_mode) == 0o700


def test_owners(tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"")
    os.chown(source, 1234, 5678)
    for keep, owner in ((True, (1234, 5678)), (False, (0, 0))):
        with tarfile.open(fileobj=io.BytesIO(_packed(source, "f", keep_owner=keep))) as tar:
            info = tar.getmembers()[0]
            assert ((info.uid, info.gid), info.uname) == (owner, "")


def test_a_file_that_shrinks_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"x" * 1000)
    really = tarfile.TarFile.gettarinfo

    def then_shrink(self: tarfile.TarFile, *given_: Any, **named: Any) -> tarfile.TarInfo:
        info = really(self, *given_, **named)
        source.write_bytes(b"y")
        return info

    monkeypatch.setattr(tarfile.TarFile, "gettarinfo", then_shrink)
    with tarfile.open(fileobj=io.BytesIO(_packed(source, "f"))) as tar:
        content = tar.extractfile("f")
        assert content and content.read() == b"y" + b"\0" * 999


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SandboxdError) as caught:
        _packed(tmp_path / "nosuch", "f")
    assert caught.value.kind.code == "local_file" and "nosuch" in caught.value.message


# --- archives that want out ---


def _tar(*entries: tuple[str, bytes, str]) -> bytes:
    """(name, type, link's target or content)"""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, text in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o6755
            if kind == tarfile.REGTYPE:
                info.size = len(text)
            else:
                info.linkname = text
            tar.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


FILE, DIR, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.fixture
def jail(tmp_path: Path) -> tuple[Path, Path]:
    """(where to unpack, what must stay as it is)"""
    target, outside = tmp_path / "in", tmp_path / "out"
    target.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("secret")
    return target, outside


@pytest.mark.parametrize(
    "entries",
    [
        [("t/../../out/secret", FILE, "evil")],
        [("t/..", DIR, "")],
        [("t/l", LINK, "../../out"), ("t/l/secret", FILE, "evil")],
        [("t/l", LINK, "OUT"), ("t/l/secret", FILE, "evil")],
        [("t/a", DIR, ""), ("t/a", LINK, "OUT"), ("t/a/secret", FILE, "evil")],
        [("t/h", HARD, "OUT/secret"), ("t/h", FILE, "evil")],
        [("t/h", HARD, "../out/secret")],
        [("t/l", LINK, "OUT/secret"), ("t/h", HARD, "t/l"), ("t/h/x", FILE, "evil")],
        [("t", FILE, "no place"), ("t/x", FILE, "x")],
        [("x" * 5000, FILE, "")],
    ],
)
def test_nothing_gets_out(jail: tuple[Path, Path], entries: list[tuple[str, bytes, str]]) -> None:
    target, outside = jail
    data = _tar(*((name, kind, text.replace("OUT", str(outside))) for name, kind, text in entries))
    for rename in ("top", None):
        with pytest.raises(SandboxdError) as caught:
            _unpack(data, target, rename)
            _unpack(data, target, rename)
        assert caught.value.kind.code in ("archive_refused", "local_file")
        assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("secret", "secret")]


def test_links_are_kept_and_not_followed(jail: tuple[Path, Path]) -> None:
    target, outside = jail
    _unpack(_tar(("t", DIR, ""), ("t/l", LINK, str(outside)), ("t/f", FILE, "x")), target)
    assert (target / "x/l").readlink() == outside
    # A second archive writes over the link, not through it.
    _unpack(_tar(("t", DIR, ""), ("t/l", FILE, "x")), target)
    assert (target / "x/l").read_text() == "x" and not (target / "x/l").is_symlink()
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_a_link_left_by_an_earlier_copy_leads_nowhere(jail: tuple[Path, Path]) -> None:
    target, outside = jail
    _unpack(_tar(("t", DIR, ""), ("t/l", LINK, str(outside))), target)
    with pytest.raises(SandboxdError) as caught:
        _unpack(_tar(("t", DIR, ""), ("t/l/secret", FILE, "evil")), target)
    assert caught.value.kind.code == "archive_refused"
    assert (outside / "secret").read_text() == "secret"


def test_a_device_of_this_host_stays(jail: tuple[Path, Path]) -> None:
    target, _ = jail
    os.mkfifo(target / "x")
    with pytest.raises(SandboxdError) as caught:
        _unpack(_tar(("t", FILE, "data")), target)
    assert caught.value.kind.code == "archive_refused"
    assert stat.S_ISFIFO((target / "x").stat().st_mode)
    for path in ("/dev/null", str(target / "x")):
        with pytest.raises(SandboxdError) as caught:
            _local_target("/f", path)
        assert caught.value.kind.code == "copy_target"


def test_a_link_to_a_file_is_written_through(jail: tuple[Path, Path]) -> None:
    target, outside = jail
    (target / "l").symlink_to(outside / "secret")
    assert _local_target("/f", str(target / "l")) == (str(outside / "secret"), False, True)
    assert _local_target("/f", str(target / "new/")) == (str(target / "new"), None, True)


def test_no_setuid_and_no_device(jail: tuple[Path, Path]) -> None:
    target, _ = jail
    count = _unpack(
        _tar(("t", DIR, ""), ("t/s", FILE, "x"), ("t/dev", tarfile.CHRTYPE, ""), ("t/fifo", tarfile.FIFOTYPE, "")),
        target,
    )
    assert count == 2
    assert stat.S_IMODE((target / "x/s").stat().st_mode) == 0o755
    assert sorted(path.name for path in (target / "x").iterdir()) == ["s"]


@pytest.mark.parametrize("cut", [1, 511, 513, 1000])
def test_a_truncated_stream_is_an_error(jail: tuple[Path, Path], cut: int) -> None:
    data = _tar(("t", FILE, "x" * 900))[:cut]
    with pytest.raises(SandboxdError) as caught:
        _unpack(data, jail[0])
    assert caught.value.kind.code == "archive_refused"


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text("ab./", min_size=1, max_size=8),
            st.sampled_from([FILE, DIR, LINK, HARD]),
            st.sampled_from(["a", "b", "..", "../..", "/", "a/b", "../out"]),
        ),
        max_size=8,
    )
)
def test_no_archive_writes_outside(tmp_path_factory: Any, entries: list[tuple[str, bytes, str]]) -> None:
    root: Path = tmp_path_factory.mktemp("fuzz")
    target, outside = root / "in", root / "out"
    target.mkdir()
    outside.mkdir()
    for _ in range(2):
        try:
            _unpack(_tar(*entries), target)
        except SandboxdError as error:
            assert error.kind.code in ("archive_refused", "local_file")
    assert sorted(path.name for path in root.iterdir()) == ["in", "out"]
    assert list(outside.iterdir()) == []


def test_read_asks_for_bounded_pieces(jail: tuple[Path, Path]) -> None:
    data = io.BytesIO(_tar(("t", FILE, "x" * 1_000_000)))
    asked: list[int] = []

    def read(count: int) -> bytes:
        asked.append(count)
        return data.read(count)

    reading: Callable[[int], bytes] = read
    unpack(reading, jail[0], "x", keep_owner=False)
    assert max(asked) <= 1 << 20
