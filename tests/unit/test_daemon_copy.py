# pathlib knows no paths of bytes
# ruff: noqa: PTH101, PTH102, PTH108, PTH115, PTH116, PTH118, PTH119, PTH123, PTH208, PTH211
"""Tar streams in and out of a container. The container's files are played by a directory; the streams are real."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest

from sandboxd.api import agent_pb2
from sandboxd.api import sandboxd_pb2 as api
from sandboxd.base.errors import INTERNAL, SandboxdError
from sandboxd.daemon import copy_in, copy_out
from sandboxd.daemon.guest_files import checked_path
from sandboxd.shim.client import ShimClient

MAX_BYTES = 256 << 10


class DirectoryAsGuest:
    """Answers file requests as agent.proto says, on a directory of the host; errors as the agent words them."""

    id = "played"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[str] = []

    async def file(self, request: agent_pb2.FileRequest) -> agent_pb2.FileResponse:
        kind = request.WhichOneof("operation")
        assert kind
        self.calls.append(kind)
        path = os.path.join(os.fsencode(self.root), request.path.lstrip(b"/"))
        try:
            return cast(agent_pb2.FileResponse, getattr(self, f"_{kind}")(path, getattr(request, kind)))
        except OSError as error:
            name = __import__("errno").errorcode[error.errno or 0]
            raise SandboxdError(INTERNAL, reason=f"openat {request.path!r}: {name}") from None

    def _stat(self, path: bytes, request: agent_pb2.FileStat) -> agent_pb2.FileResponse:
        return agent_pb2.FileResponse(entries=[entry(path, os.path.basename(path), follow=request.follow)])

    def _list(self, path: bytes, request: agent_pb2.FileList) -> agent_pb2.FileResponse:
        names = sorted(os.listdir(path))
        names = [name for name in names if name > request.after]
        page = names[: min(3, request.max_entries)]
        entries = [entry(os.path.join(path, name), name) for name in page]
        return agent_pb2.FileResponse(entries=entries, eof=len(page) == len(names))

    def _read(self, path: bytes, request: agent_pb2.FileRead) -> agent_pb2.FileResponse:
        assert request.max_bytes <= MAX_BYTES
        with open(path, "rb") as file:
            file.seek(request.offset)
            return agent_pb2.FileResponse(data=file.read(request.max_bytes))

    def _write(self, path: bytes, request: agent_pb2.FileWrite) -> agent_pb2.FileResponse:
        assert len(request.data) <= MAX_BYTES
        flags = os.O_WRONLY | (os.O_CREAT | os.O_TRUNC if request.create else 0)
        fd = os.open(path, flags, request.mode)
        os.pwrite(fd, request.data, request.offset)
        os.close(fd)
        return agent_pb2.FileResponse()

    def _make(self, path: bytes, request: agent_pb2.FileMake) -> agent_pb2.FileResponse:
        if request.hardlink_of:
            origin = os.path.join(os.fsencode(self.root), request.hardlink_of.lstrip(b"/"))
            os.link(origin, path, follow_symlinks=False)
        elif stat.S_ISDIR(request.mode):
            os.mkdir(path, stat.S_IMODE(request.mode))
        elif stat.S_ISLNK(request.mode):
            os.symlink(request.symlink_target, path)
        else:
            os.mknod(path, request.mode, os.makedev(request.major, request.minor))
        return agent_pb2.FileResponse()

    def _set_attributes(self, path: bytes, request: agent_pb2.FileSetAttributes) -> agent_pb2.FileResponse:
        os.chown(path, request.uid, request.gid, follow_symlinks=False)
        if request.HasField("mode"):
            os.chmod(path, request.mode)
        os.utime(path, ns=(request.mtime_unix_ns, request.mtime_unix_ns), follow_symlinks=False)
        return agent_pb2.FileResponse()

    def _remove(self, path: bytes, request: agent_pb2.FileRemove) -> agent_pb2.FileResponse:
        os.unlink(path)
        return agent_pb2.FileResponse()


def entry(path: bytes, name: bytes, *, follow: bool = False) -> agent_pb2.FileEntry:
    status = os.stat(path, follow_symlinks=follow)
    target = os.readlink(path) if stat.S_ISLNK(status.st_mode) else b""
    return agent_pb2.FileEntry(
        name=name,
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        size=status.st_size,
        mtime_unix_ns=status.st_mtime_ns,
        symlink_target=target,
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        inode=status.st_ino,
        links=status.st_nlink,
    )


def put(guest: DirectoryAsGuest, data: bytes, *, path: str = "/t", keep_owner: bool = False, piece: int = 1000) -> int:
    async def messages() -> AsyncIterator[api.CopyInRequest]:
        for begin in range(0, len(data), piece):
            yield api.CopyInRequest(data=data[begin : begin + piece])

    target = api.CopyTarget(id="x", path=path, keep_owner=keep_owner)
    return asyncio.run(copy_in.extract(cast(ShimClient, guest), target, messages()))


def get(guest: DirectoryAsGuest, path: str, *, follow: bool = False) -> bytes:
    async def collect() -> bytes:
        return b"".join([chunk async for chunk in copy_out.archive(cast(ShimClient, guest), path, follow=follow)])

    return asyncio.run(collect())


def tar(build: Callable[[tarfile.TarFile], None]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        build(archive)
    return buffer.getvalue()


def member(name: str, content: bytes = b"", **fields: object) -> Callable[[tarfile.TarFile], None]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return lambda archive: archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def guest(tmp_path: Path) -> DirectoryAsGuest:
    (tmp_path / "guest/t").mkdir(parents=True)
    return DirectoryAsGuest(tmp_path / "guest")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub/deep").mkdir(parents=True)
    (root / "sub/big").write_bytes(os.urandom(600_000))
    (root / "empty").touch()
    (root / "sub/link").symlink_to("../empty")
    os.link(root / "sub/big", root / "sub/deep/same")
    (root / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"x")
    (root / ("long" * 50)).write_bytes(b"long")
    os.mkfifo(root / "fifo")
    (root / "setuid").touch()
    os.chown(root / "setuid", 12, 34)
    (root / "setuid").chmod(0o4751)
    os.utime(root / "sub/big", ns=(0, 1_700_000_000_123_456_789))
    os.utime(root / "sub", ns=(0, 1_600_000_000_000_000_000))
    return root


def description(root: Path) -> dict[bytes, tuple[object, ...]]:
    found = {}
    for path in root.rglob("*"):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        target = os.readlink(path) if path.is_symlink() else ""
        key = os.fsencode(path.relative_to(root))
        found[key] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content, target)
    return found


def test_a_tree_goes_in_and_comes_out_the_same(guest: DirectoryAsGuest, tree: Path, tmp_path: Path) -> None:
    packed = tar(lambda archive: archive.add(tree, arcname="tree"))
    with tarfile.open(fileobj=io.BytesIO(packed)) as reference:
        reference.extractall(tmp_path / "reference", filter="fully_trusted")
    assert put(guest, packed, keep_owner=True) == len(description(tree)) + 1
    want, got = description(tmp_path / "reference/tree"), description(guest.root / "t/tree")
    assert {path: values[:3] + values[4:] for path, values in want.items()} == {
        path: values[:3] + values[4:] for path, values in got.items()
    }
    # tarfile writes a time as a float's text: exact to a microsecond, nearly.
    for path in (b"sub", b"sub/big", b"empty", b"sub/link"):
        assert abs((tree / path.decode()).lstat().st_mtime_ns - int(str(got[path][3]))) < 1000, path
    same = (guest.root / "t/tree/sub/deep/same").stat()
    assert same.st_ino == (guest.root / "t/tree/sub/big").stat().st_ino
    assert guest.calls.count("write") < 40

    out = get(guest, "/t/tree")
    with tarfile.open(fileobj=io.BytesIO(out)) as archive:
        archive.extractall(tmp_path / "back", filter="fully_trusted")
        names = archive.getnames()
    assert names[0] == "tree" and len(names) == len(set(names)) == len(want) + 1
    back = description(tmp_path / "back/tree")
    assert {path: values[:3] + values[4:] for path, values in back.items()} == {
        path: values[:3] + values[4:] for path, values in want.items()
    }


def test_without_keep_owner_everything_is_roots(guest: DirectoryAsGuest) -> None:
    put(guest, tar(member("f", b"x", uid=5, gid=6, mode=0o640)))
    status = (guest.root / "t/f").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, 0o640)


def test_missing_parents_are_made(guest: DirectoryAsGuest) -> None:
    put(guest, tar(member("a/b/c", b"x")))
    assert (guest.root / "t/a/b/c").read_bytes() == b"x"


def test_files_are_replaced_and_links_not_followed(guest: DirectoryAsGuest, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    (guest.root / "t/f").symlink_to(outside)
    put(guest, tar(member("f", b"new")))
    assert (guest.root / "t/f").read_bytes() == b"new" and not (guest.root / "t/f").is_symlink()
    assert outside.read_text() == "untouched"


def two(*builders: Callable[[tarfile.TarFile], None]) -> bytes:
    return tar(lambda archive: [build(archive) for build in builders] and None)


LINK = member("l", type=tarfile.SYMTYPE, linkname="/")


@pytest.mark.parametrize(
    "data",
    [
        tar(member("../evil", b"x")),
        tar(member("a/../../evil", b"x")),
        tar(member("/evil", b"x")),
        two(LINK, member("l/evil", b"x")),
        two(LINK, member("./l//evil", b"x")),
        tar(member("h", type=tarfile.LNKTYPE, linkname="../../etc/passwd")),
        tar(member("h", type=tarfile.LNKTYPE, linkname="/etc/passwd")),
        two(LINK, member("h", type=tarfile.LNKTYPE, linkname="l/etc/passwd")),
        tar(member("x" * 5000, b"x")),
        tar(member("odd", type=b"Z")),
        tar(member("f", b"x" * 5000))[:2000],
        b"this is not a tar archive" * 100,
    ],
    ids=range(12),
)
def test_hostile_archives_are_refused(guest: DirectoryAsGuest, data: bytes, tmp_path: Path) -> None:
    with pytest.raises(SandboxdError) as caught:
        put(guest, data)
    assert caught.value.kind.code == "copy_refused"
    assert not list(tmp_path.rglob("evil"))


def test_a_directory_in_the_way_is_refused(guest: DirectoryAsGuest) -> None:
    (guest.root / "t/d").mkdir()
    (guest.root / "t/f").touch()
    for data in (tar(member("d", b"x")), tar(member("f", type=tarfile.DIRTYPE))):
        with pytest.raises(SandboxdError) as caught:
            put(guest, data)
        assert caught.value.kind.code == "copy_refused"
    assert (guest.root / "t/d").is_dir() and (guest.root / "t/f").is_file()


def test_the_target_must_be_a_directory(guest: DirectoryAsGuest) -> None:
    (guest.root / "t/f").touch()
    with pytest.raises(SandboxdError) as caught:
        put(guest, b"", path="/t/f")
    assert caught.value.kind.code == "copy_refused"
    with pytest.raises(SandboxdError) as caught:
        put(guest, b"", path="/none")
    assert caught.value.kind.code == "path_not_found"


@pytest.mark.parametrize("path", ["", "relative", "/a/../b", "/nul\0", "/" + "x" * 5000])
def test_paths_of_callers_are_checked(path: str) -> None:
    with pytest.raises(SandboxdError):
        checked_path(path)


def test_a_client_that_goes_away_frees_the_thread(guest: DirectoryAsGuest) -> None:
    async def run() -> None:
        async def messages() -> AsyncIterator[api.CopyInRequest]:
            yield api.CopyInRequest(data=tar(member("f", b"x" * 100_000))[:3000])
            await asyncio.get_running_loop().create_future()

        target = api.CopyTarget(id="x", path="/t")
        task = asyncio.create_task(copy_in.extract(cast(ShimClient, guest), target, messages()))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)

    asyncio.run(run())


def test_stat_path(guest: DirectoryAsGuest) -> None:
    (guest.root / "t/l").symlink_to("nowhere")

    def look(path: str) -> api.StatPathResponse:
        return asyncio.run(copy_out.stat_path(cast(ShimClient, guest), path, follow=False))

    assert look("/t/l").symlink_target == "nowhere" and stat.S_ISLNK(look("/t/l").mode)
    assert not look("/t/none").exists


def test_device_numbers_that_no_kernel_has_are_cut() -> None:
    entry = agent_pb2.FileEntry(name=b"d", mode=stat.S_IFCHR | 0o600, major=2**32 - 1, minor=2**32 - 1)
    header = copy_out._header(b"d", tarfile.CHRTYPE, entry)
    assert tarfile.TarInfo.frombuf(header.tobuf(tarfile.PAX_FORMAT), "utf-8", "strict").devmajor == 0xFFF
