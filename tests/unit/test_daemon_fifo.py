"""Pipes: nothing is lost, nothing blocks, and both ends notice when the other goes."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sandboxd.daemon.fifo import InputPipe, OutputPipe, PipeSet


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 20))


async def collect(pipe: OutputPipe) -> bytes:
    return b"".join([chunk async for chunk in pipe.chunks()])


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_output_is_whole_and_ends(tmp_path: Path) -> None:
    data = os.urandom(3 << 20)

    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.write(data)

    async def work() -> None:
        pipe = OutputPipe(tmp_path / "out")
        reading = asyncio.create_task(collect(pipe))
        await asyncio.sleep(0.02)
        assert not reading.done()  # nobody has opened the other end yet: that is no end of file
        writer = threading.Thread(target=write, args=(pipe.path,))
        writer.start()
        assert await reading == data
        writer.join()
        pipe.close()

    run(work)


def test_what_was_written_before_anyone_reads_is_there(tmp_path: Path) -> None:
    async def work() -> None:
        pipe = OutputPipe(tmp_path / "out")
        fd = os.open(pipe.path, os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, b"early")
        os.close(fd)
        assert await collect(pipe) == b"early"
        pipe.close()

    run(work)


def test_input_waits_for_its_reader(tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    got = bytearray()

    def read(fd: int) -> None:
        while piece := os.read(fd, 10_000):
            got.extend(piece)
        os.close(fd)

    async def work() -> None:
        pipe = InputPipe(tmp_path / "in")
        fd = os.open(pipe.path, os.O_RDONLY | os.O_NONBLOCK)
        pipe.become_writer()
        os.set_blocking(fd, True)
        writing = asyncio.create_task(pipe.write(data))
        await asyncio.sleep(0.02)
        assert not writing.done()  # the pipe is full
        reader = threading.Thread(target=read, args=(fd,))
        reader.start()
        assert await writing
        pipe.close()
        await asyncio.to_thread(reader.join)
        assert bytes(got) == data

    run(work)


def test_a_reader_that_goes_away_is_noticed(tmp_path: Path) -> None:
    async def work() -> None:
        pipe = InputPipe(tmp_path / "in")
        fd = os.open(pipe.path, os.O_RDONLY | os.O_NONBLOCK)
        pipe.become_writer()
        writing = asyncio.create_task(pipe.write(bytes(1 << 20)))
        await asyncio.sleep(0.02)
        os.close(fd)
        assert await writing is False
        assert await pipe.write(b"more") is False
        gone = InputPipe(tmp_path / "gone")
        gone.become_writer()  # nobody ever opened the other end
        assert await gone.write(b"x") is False

    run(work)


def test_a_set_leaves_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        before = descriptors()
        pipes = PipeSet(tmp_path / "io", 0, stdin=True, stderr=True)
        assert sorted(path.name for path in (tmp_path / "io/0").iterdir()) == ["stderr", "stdin", "stdout"]
        assert {pipe.path.stat().st_mode & 0o777 for pipe in (pipes.stdin, pipes.stdout, pipes.stderr) if pipe} == {
            0o600
        }
        pipes.close()
        pipes.close()
        assert not (tmp_path / "io/0").exists()
        assert descriptors() == before

    run(work)


def test_a_set_does_not_bring_back_the_directory_of_one_that_has_ended(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PipeSet(tmp_path / "gone" / "io", 0, stdin=True, stderr=True)
    assert not (tmp_path / "gone").exists()
