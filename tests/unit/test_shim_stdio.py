"""The door for stdio names, FIFOs and files, without a guest."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from sandboxd.base.errors import SandboxdError
from sandboxd.core.output_log import LogRecord, decode_record, older_file
from sandboxd.core.streams import Sink
from sandboxd.shim.names import ATTACH_ONLY
from sandboxd.shim.stdio import StdioRequest, open_attached, open_stdio
from sandboxd.shim.stdio.fifo import FifoSink, FifoSource
from sandboxd.shim.stdio.files import OutputLog

LOG_MAX_BYTES = 4096


def go(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario

    asyncio.run(bounded())


def make_fifo(directory: Path, name: str = "fifo") -> Path:
    path = directory / name
    os.mkfifo(path)
    return path


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def records(path: Path) -> list[LogRecord]:
    found = [decode_record(line) for line in path.read_bytes().splitlines()]
    return [record for record in found if record]


async def read_later(path_or_fd: Path | int, size: int) -> bytes:
    """Reads in a thread, slowly begun, as another process would."""

    def read() -> bytes:
        fd = path_or_fd if isinstance(path_or_fd, int) else os.open(path_or_fd, os.O_RDONLY)
        os.set_blocking(fd, True)
        data = b""
        while len(data) < size and (piece := os.read(fd, 1 << 20)):
            data += piece
        os.close(fd)
        return data

    return await asyncio.to_thread(read)


def test_a_patient_sink_waits_for_a_reader_that_comes_late(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = make_fifo(tmp_path)
        sink = FifoSink(path, patient=True)
        data = os.urandom(3 << 20)
        writing = asyncio.ensure_future(sink.write(data))
        await asyncio.sleep(0.01)
        assert not writing.done()
        assert await read_later(path, len(data)) == data
        assert await writing
        sink.close()
        sink.close()

    go(scenario())


def test_after_the_last_call_a_fifo_without_reader_is_given_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        sink = FifoSink(make_fifo(tmp_path), patient=True)
        writing = asyncio.ensure_future(sink.write(bytes(3 << 20)))
        await asyncio.sleep(0.01)
        sink.last_call()
        assert await writing is False
        sink.close()

    go(scenario())


def test_after_the_last_call_a_reader_still_gets_everything(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = make_fifo(tmp_path)
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        sink = FifoSink(path, patient=True)
        data = os.urandom(3 << 20)
        writing = asyncio.ensure_future(sink.write(data))
        await asyncio.sleep(0.01)
        sink.last_call()
        assert await read_later(fd, len(data)) == data
        assert await writing
        sink.close()

    go(scenario())


def test_an_impatient_sink_needs_its_reader_and_ends_with_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = make_fifo(tmp_path)
        with pytest.raises(OSError, match="No such device"):
            FifoSink(path, patient=False)
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        sink = FifoSink(path, patient=False)
        assert await sink.write(b"abc")
        writing = asyncio.ensure_future(sink.write(bytes(3 << 20)))
        await asyncio.sleep(0.01)
        os.close(fd)
        assert await writing is False
        sink.close()

    go(scenario())


def test_closing_wakes_a_write_that_waits(tmp_path: Path) -> None:
    async def scenario() -> None:
        sink = FifoSink(make_fifo(tmp_path), patient=True)
        writing = asyncio.ensure_future(sink.write(bytes(3 << 20)))
        await asyncio.sleep(0.01)
        sink.close()
        assert await writing is False

    go(scenario())


def test_a_source_ends_with_its_last_writer_and_not_before_the_first(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = make_fifo(tmp_path)
        source = FifoSource(path, ends_input=True)
        reading = asyncio.ensure_future(source.read())
        await asyncio.sleep(0.01)
        assert not reading.done(), "nobody has written yet: that is not the end"
        fd = os.open(path, os.O_WRONLY)
        os.write(fd, b"one")
        assert await reading == b"one"
        reading = asyncio.ensure_future(source.read())
        await asyncio.sleep(0.01)
        os.close(fd)
        assert await reading == b""
        source.close()

    go(scenario())


def test_draining_takes_what_is_there_and_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        for data in (b"", b"rest"):
            path = make_fifo(tmp_path, f"f{len(data)}")
            source = FifoSource(path, ends_input=False)
            fd = os.open(path, os.O_WRONLY)
            waiting = asyncio.ensure_future(source.read()) if not data else None
            await asyncio.sleep(0)
            os.write(fd, data)
            source.drain()
            if waiting:
                assert await waiting == b""
            else:
                assert await source.read() == data and await source.read() == b""
            os.close(fd)
            source.close()

    go(scenario())


def test_the_log_rotates_keeps_one_older_file_and_loses_no_byte_between(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "log.json"
        log = OutputLog(path, LOG_MAX_BYTES)
        out, err = log.sink("stdout"), log.sink("stderr")
        for number in range(60):
            await out.write(b"line %d\n" % number)
            await err.write(b"oops\n")
        assert path.stat().st_size <= LOG_MAX_BYTES and older_file(path).stat().st_size <= LOG_MAX_BYTES
        kept = [record.data for file in (older_file(path), path) for record in records(file)]
        lines = [data for data in kept if data != b"oops\n"]
        assert lines == [b"line %d\n" % number for number in range(60 - len(lines), 60)]
        assert sorted(file.name for file in tmp_path.iterdir()) == ["log.json", "log.json.1"]
        out.close()
        assert await err.write(b"still open\n")
        err.close()
        assert await err.write(b"x") is False

    go(scenario())


def test_the_log_cuts_no_character_and_hides_no_byte(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = OutputLog(tmp_path / "log.json", LOG_MAX_BYTES)
        sink = log.sink("stdout")
        text = "a\u00e9\u4e2d\U0001f600\n".encode()
        for index in range(len(text)):
            await sink.write(text[index : index + 1])
        await sink.write(b"\xff\xfe\n\xf0\x9f")
        sink.close()
        found = records(log.path)
        assert b"".join(record.data for record in found) == text + b"\xff\xfe\n\xf0\x9f"
        assert b"base64" not in log.path.read_bytes().splitlines()[0]

    go(scenario())


def test_a_log_that_was_cut_short_goes_on_with_a_line_of_its_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "log.json"
        path.write_bytes(b'{"time": 1, "stream": "stdout", "log": "whole\\n"}\n{"time": 2, "str')
        sink = OutputLog(path, LOG_MAX_BYTES).sink("stdout")
        await sink.write(b"next\n")
        sink.close()
        assert [record.data for record in records(path)] == [b"whole\n", b"next\n"]

    go(scenario())


@pytest.mark.parametrize(
    ("stdin", "stdout"),
    [
        ("", "relative"),
        ("", "/missing/fifo"),
        ("", "binary:///bin/sh"),
        ("", "file://relative"),
        ("", "file:///dev/null"),
        ("", "attach://"),
        ("", "log:///a\0b"),
        ("", "/" + "x" * 5000),
        ("file:///etc/passwd", ""),
        ("/etc/passwd", ""),
        ("/missing", ""),
    ],
)
def test_names_that_are_refused_open_nothing(tmp_path: Path, stdin: str, stdout: str) -> None:
    async def scenario() -> None:
        before = open_fds()
        good = make_fifo(tmp_path)
        with pytest.raises(SandboxdError) as caught:
            open_stdio(StdioRequest(stdin or str(good), stdout, f"log://{tmp_path}/log", False), LOG_MAX_BYTES)
        assert caught.value.kind.code == "stdio_unusable"
        assert open_fds() == before

    go(scenario())


def test_a_link_or_a_fifo_in_the_logs_place_is_not_written(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("")
    (tmp_path / "link").symlink_to(victim)
    for name in ("link", make_fifo(tmp_path).name):
        for scheme in ("log", "file"):
            with pytest.raises(SandboxdError):
                open_stdio(StdioRequest("", f"{scheme}://{tmp_path / name}", "", False), LOG_MAX_BYTES)


def test_what_is_opened_for_what_is_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        before = open_fds()
        log = f"log://{tmp_path}/log"
        io = open_stdio(StdioRequest(ATTACH_ONLY, log, log, False), LOG_MAX_BYTES)
        assert (io.has_stdin, io.terminal, len(io.stdin), len(io.stdout), len(io.stderr)) == (True, False, 0, 1, 1)
        assert open_fds() == before + 1, "one file for both streams"
        io.close()
        assert open_fds() == before
        io = open_stdio(StdioRequest("", log, log, True), LOG_MAX_BYTES)
        assert (io.has_stdin, io.terminal, len(io.stderr)) == (False, True, 0), "a terminal has one output"
        io.close()
        fifo = str(make_fifo(tmp_path))
        with pytest.raises(SandboxdError, match="cannot use"):
            open_attached(fifo, fifo + "x", "")
        assert open_fds() == before

    go(scenario())


def test_an_impatient_sink_lets_go_when_its_reader_does_though_nothing_is_written(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = make_fifo(tmp_path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        before = open_fds()
        sink = FifoSink(path, patient=False)
        os.close(reader)
        while open_fds() >= before:
            await asyncio.sleep(0)
        assert not await sink.write(b"late")

    go(scenario())


def test_the_log_keeps_its_bound_whatever_comes_in_one_piece(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    log = OutputLog(path, LOG_MAX_BYTES)
    sink = log.sink("stdout")
    go(_write(sink, b"\n" * 10_000))
    sink.close()
    assert path.stat().st_size <= LOG_MAX_BYTES and older_file(path).stat().st_size <= LOG_MAX_BYTES
    assert records(path) and {record.data for record in records(path)} == {b"\n"}


def test_a_full_disk_at_the_end_is_no_ones_failure() -> None:
    full = OutputLog.__new__(OutputLog)
    full.path, full._max_bytes, full._size, full._users = Path("/dev/full"), LOG_MAX_BYTES, 0, 0
    full._fd = os.open("/dev/full", os.O_WRONLY)
    sink = full.sink("stdout")
    before = open_fds()
    go(_write(sink, b"\xe2\x82"))  # half a character waits for its other half
    sink.close()
    assert open_fds() == before - 1


async def _write(sink: Sink, data: bytes) -> None:
    assert await sink.write(data)
