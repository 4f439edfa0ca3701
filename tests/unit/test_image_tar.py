"""The tar reader: agrees with tarfile and GNU tar on honest archives, and ends with TarError on everything else."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxd.image.tarstream import PAX_MAX_BYTES, TarEntry, TarError, TarReader, TarTruncated, parse_pax
from tests.support.oci_images import file, hardlink, tar

_NAMES = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=["Cs"], exclude_characters="/"),
    min_size=1,
    max_size=140,
)


def read_all(data: bytes) -> list[tuple[TarEntry, bytes]]:
    reader = TarReader(io.BytesIO(data))
    found = []
    for entry in reader:
        parts = []
        while part := reader.read(700):
            parts.append(part)
        found.append((entry, b"".join(parts)))
    return found


@st.composite
def _members(draw: st.DrawFn) -> list[tuple[tarfile.TarInfo, bytes]]:
    members = []
    for _ in range(draw(st.integers(0, 5))):
        info = tarfile.TarInfo("/".join(draw(st.lists(_NAMES, min_size=1, max_size=3))))
        info.type = draw(st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]))
        info.mode = draw(st.integers(0, 0o7777))
        info.uid, info.gid = draw(st.integers(0, 2**32 - 2)), draw(st.integers(0, 2**32 - 2))
        info.mtime = draw(st.integers(0, 2**40))
        data = draw(st.binary(max_size=1500)) if info.isreg() else b""
        info.size = len(data)
        if info.issym() or info.islnk():
            info.linkname = draw(_NAMES)
        members.append((info, data))
    return members


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
@settings(deadline=None, max_examples=60)
@given(members=_members())
def test_agrees_with_tarfile(form: int, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    found = read_all(buffer.getvalue())
    assert len(found) == len(members)
    for (entry, data), (info, expected) in zip(found, members, strict=True):
        assert entry.path.rstrip(b"/").decode() == info.name.rstrip("/")
        assert (entry.kind, entry.mode, entry.uid, entry.gid) == (info.type, info.mode, info.uid, info.gid)
        assert entry.mtime_ns == info.mtime * 10**9
        assert entry.link.decode() == info.linkname
        assert data == expected


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=3000))
def test_noise_is_refused_or_empty(noise: bytes) -> None:
    try:
        read_all(noise)
    except TarError as error:
        assert str(error)


_HONEST = tar(file("a", b"x" * 700, xattrs={"user.k": b"v"}), hardlink("b" * 150, "a"), file("c", b"y", uid=3_000_000))


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(_HONEST) - 1), st.integers(1, 255))
def test_a_changed_byte_never_hangs_or_escapes(position: int, change: int) -> None:
    data = bytearray(_HONEST)
    data[position] ^= change
    try:
        for entry, content in read_all(bytes(data)):
            assert len(content) <= entry.size <= len(data)
    except TarError as error:
        assert str(error)


def test_every_truncation_is_noticed_or_between_entries() -> None:
    data = tar(file("a", b"x" * 700, mtime=1), file("b", b"y" * 10, mtime=1))
    between, end = 512 + 1024, 512 + 1024 + 512 + 512
    assert len(data) > end + 1024 and data[end : end + 1024] == bytes(1024)
    for length in range(end + 512):
        if length in (0, between, end):
            assert len(read_all(data[:length])) == {0: 0, between: 1, end: 2}[length]
        else:
            with pytest.raises(TarTruncated):
                read_all(data[:length])


@pytest.mark.parametrize("form", ["gnu", "posix", "posix01"])
def test_sparse_files_as_gnu_tar_writes_them(tmp_path: Path, form: str) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as target:
        for index in range(40):  # more pieces than one old header holds
            target.seek(index * 65536)
            target.write(bytes([index + 1]) * 4096)
        target.truncate(60 * 65536)
    options = {
        "gnu": ["--format=gnu"],
        "posix": ["--format=posix"],
        "posix01": ["--format=posix", "--sparse-version=0.1"],
    }
    archive = tmp_path / "out.tar"
    subprocess.run(["tar", "-C", tmp_path, "-S", *options[form], "-cf", archive, "sparse"], check=True)
    ((entry, data),) = read_all(archive.read_bytes())
    assert entry.path == b"sparse" and entry.kind == b"0"
    assert entry.sparse is not None and entry.real_size == 60 * 65536
    rebuilt = bytearray(entry.real_size)
    position = 0
    for offset, length in entry.sparse.segments:
        rebuilt[offset : offset + length] = data[position : position + length]
        position += length
    assert position == len(data) < entry.real_size
    assert bytes(rebuilt) == sparse.read_bytes()


def _header(**fields: bytes) -> bytes:
    """One raw header with a right checksum and wrong everything else."""
    places = {"name": 0, "mode": 100, "uid": 108, "size": 124, "mtime": 136, "flag": 156, "magic": 257, "sparse": 386}
    places |= {"extended": 482, "real": 483}
    block = bytearray(512)
    block[0:1] = b"f"
    block[156:157] = b"0"
    block[257:265] = b"ustar\x0000"
    for name, value in fields.items():
        block[places[name] : places[name] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "data",
    [
        _header(size=b"\xff" * 12),
        _header(size=b"\x80" + b"\xff" * 11),
        _header(size=b"zzzzzzzzzzz\0"),
        _header(flag=b"x", size=b"77777777777\0"),
        _header(flag=b"L", size=b"77777777777\0"),
        _header(flag=b"x", size=b"\xff" * 12),
        _header(uid=b"\xff" * 8),
        _header(mtime=b"\x80" + b"\x7f" * 11),
        _header(flag=b"S", sparse=b"00000000010\x0000000000010\x00" * 2, real=b"00000000020\0"),
        _header(flag=b"S", extended=b"\1", real=b"00000000020\0") + b"00000000001\x0000000000000\x00" * 21 + b"\1" * 8,
        _header(flag=b"x") * 100,
    ],
    ids=lambda data: str(len(data)),
)
def test_hostile_headers(data: bytes) -> None:
    with pytest.raises(TarError):
        read_all(data)


@pytest.mark.parametrize(
    "data",
    [
        b"5 a=\n" + b"x",
        b"0 a=b\n",
        b"-5 a=b\n",
        b"99999999999999999999999 a=b\n",
        b"6 ab\n",
        b"6 a=b\n"[:-1],
        b" a=b\n",
        b"4 =\n",
    ],
)
def test_hostile_pax_records(data: bytes) -> None:
    with pytest.raises(TarError):
        parse_pax(data)


@given(st.binary(max_size=200))
def test_pax_noise(data: bytes) -> None:
    try:
        records = parse_pax(data)
    except TarError:
        return
    assert sum(len(key) + len(value) for key, value in records.items()) <= len(data)


def test_a_pax_value_may_hold_any_bytes() -> None:
    value = bytes(range(256))
    record = b" SCHILY.xattr.user.k=" + value + b"\n"
    length = len(record) + 3
    assert parse_pax(b"%d" % length + record) == {b"SCHILY.xattr.user.k": value}


def test_bounds_are_where_the_docstring_says() -> None:
    too_big = PAX_MAX_BYTES + 1
    with pytest.raises(TarError, match="limit"):
        read_all(_header(flag=b"x", size=b"%011o\0" % too_big) + bytes(too_big))


def test_gnu_tar_of_real_files(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90) / ("e" * 90) / ("f" * 90)
    deep.mkdir(parents=True)
    (deep / ("g" * 200)).write_bytes(b"deep")
    (deep / "link").symlink_to("h" * 300)
    for form in ("gnu", "posix"):
        archive = tmp_path / "out.tar"
        subprocess.run(["tar", "-C", tmp_path, f"--format={form}", "-cf", archive, "d" * 90], check=True)
        found = {entry.path: (entry, data) for entry, data in read_all(archive.read_bytes())}
        prefix = b"/".join((b"d" * 90, b"e" * 90, b"f" * 90))
        assert found[prefix + b"/" + b"g" * 200][1] == b"deep"
        assert found[prefix + b"/link"][0].link == b"h" * 300
