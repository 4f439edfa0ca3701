"""Logs: from the end, by time, over a rotation, as they grow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from sandboxd.core.output_log import LogRecord, encode_records, older_file
from sandboxd.daemon import logs
from sandboxd.daemon.logs import LogFollower, LogQuery, read_log


def write(path: Path, begin: int, end: int, stream: str = "stdout") -> None:
    with path.open("ab") as file:
        for number in range(begin, end):
            file.write(encode_records(number, stream, f"line {number}\n".encode()))


def read(path: Path, **query: int) -> list[int]:
    async def collect() -> list[LogRecord]:
        return [record async for record in read_log(path, LogQuery(**query))]

    found = asyncio.run(collect())
    assert all(record.data == f"line {record.unix_ns}\n".encode() for record in found)
    return [record.unix_ns for record in found]


@pytest.fixture(params=["one file", "rotated"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "log.json"
    write(path, 1, 3000)
    if request.param == "rotated":
        path.rename(older_file(path))
    write(path, 3000, 5001)
    return path


def test_whole(path: Path) -> None:
    assert read(path) == list(range(1, 5001))


@pytest.mark.parametrize("tail", [0, 1, 7, 2001, 2002, 4999, 5000, 9999])
def test_tail(path: Path, tail: int) -> None:
    assert read(path, tail=tail) == list(range(1, 5001))[5000 - min(tail, 5000) :]


def test_times(path: Path) -> None:
    assert read(path, since_unix_ns=4990) == list(range(4990, 5001))
    assert read(path, until_unix_ns=10) == list(range(1, 11))
    assert read(path, since_unix_ns=2990, until_unix_ns=3010) == list(range(2990, 3011))
    assert read(path, tail=5, until_unix_ns=3001) == list(range(2997, 3002))
    assert read(path, tail=500, since_unix_ns=4990) == list(range(4990, 5001))


def test_a_tail_counts_lines_not_records(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    with path.open("ab") as file:
        file.write(encode_records(1, "stdout", b"one\n"))
        for piece in (b"t", b"w", b"o\n"):
            file.write(encode_records(2, "stdout", piece))
        file.write(encode_records(3, "stdout", b"unfinished"))

    async def collect(tail: int) -> bytes:
        return b"".join([record.data async for record in read_log(path, LogQuery(tail=tail))])

    assert asyncio.run(collect(1)) == b"unfinished"
    assert asyncio.run(collect(2)) == b"two\nunfinished"
    assert asyncio.run(collect(3)) == b"one\ntwo\nunfinished"


def test_no_log_and_broken_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    assert read(path) == [] and read(path, tail=3) == []
    path.write_bytes(b"not json\n{}\n" + b"x" * (logs.LINE_MAX_BYTES * 2) + b"\n")
    write(path, 1, 3)
    with path.open("ab") as file:
        file.write(b'{"time": 9, "stream": "std')
    assert read(path) == [1, 2]
    assert read(path, tail=1) == [2]


def follow(path: Path, steps: Callable[[list[int], asyncio.Future[None]], object], **query: int) -> list[int]:
    async def run() -> list[int]:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        seen: list[int] = []
        follower = LogFollower(path, LogQuery(**query))
        async for record in follower.follow(ended):
            seen.append(record.unix_ns)
            steps(seen, ended)
        follower.close()
        return seen

    return asyncio.run(asyncio.wait_for(run(), 10))


def test_follow_sees_growth_rotation_and_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    write(path, 1, 3)

    def steps(seen: list[int], ended: asyncio.Future[None]) -> None:
        if seen[-1] == 2:
            write(path, 3, 5)
        elif seen[-1] == 4:
            write(path, 5, 6)
            path.rename(older_file(path))
            write(path, 6, 8)
        elif seen[-1] == 7:
            write(path, 8, 9)
            ended.set_result(None)

    assert follow(path, steps) == list(range(1, 9))


def test_follow_from_the_tail_of_a_log_that_comes_later(tmp_path: Path) -> None:
    path = tmp_path / "log.json"

    async def run() -> list[int]:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        seen: list[int] = []
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, write, path, 1, 4)
        loop.call_later(0.1, ended.set_result, None)
        follower = LogFollower(path, LogQuery(tail=0))
        async for record in follower.follow(ended):
            seen.append(record.unix_ns)
        follower.close()
        return seen

    assert asyncio.run(asyncio.wait_for(run(), 10)) == [1, 2, 3]
