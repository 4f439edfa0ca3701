"""What a guest writes to its console stays in bounds, whatever it writes."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from sandboxd.vmm.bounded_log import FILE_MAX_BYTES, TAIL_BYTES, BoundedLog


def test_what_was_written_is_in_the_file_and_in_the_tail(tmp_path: Path) -> None:
    async def scenario() -> None:
        ours, theirs = os.pipe()
        log = BoundedLog(tmp_path / "log")
        log.attach(ours)
        os.write(theirs, b"first\n")
        os.write(theirs, b"second\n")
        os.close(theirs)
        await log.wait_ended(5)
        assert log.tail == b"first\nsecond\n"
        log.close()
        log.close()
        assert (tmp_path / "log").read_bytes() == b"first\nsecond\n"
        assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600

    asyncio.run(scenario())


def test_a_flood_fills_neither_file_nor_memory_nor_loop(tmp_path: Path) -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        log = BoundedLog(tmp_path / "log")
        log.attach(ours.detach())
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        sent = 0
        try:
            async with asyncio.timeout(1):
                while True:
                    await loop.sock_sendall(theirs, b"x" * (64 << 10))
                    sent += 64 << 10
        except TimeoutError:
            pass
        theirs.close()
        log.close()
        assert FILE_MAX_BYTES < sent < 8 << 20, "read, yet no faster than is good"
        assert (tmp_path / "log").stat().st_size <= FILE_MAX_BYTES + TAIL_BYTES
        assert len(log.tail) == TAIL_BYTES

    asyncio.run(scenario())


def test_the_file_ends_with_what_came_last(tmp_path: Path) -> None:
    async def scenario() -> None:
        ours, theirs = os.pipe()
        log = BoundedLog(tmp_path / "log")
        log.attach(ours)
        text = b"".join(b"%08d\n" % number for number in range(FILE_MAX_BYTES // 9 + 3000))
        await asyncio.to_thread(_write_all, theirs, text)
        await log.wait_ended(30)
        log.close()
        content = (tmp_path / "log").read_bytes()
        assert content.endswith(text[-4096:]) and log.tail == text[-TAIL_BYTES:]
        assert text.find(content) > 0, "a gapless part of what was written, without its beginning"

    asyncio.run(scenario())


def _write_all(fd: int, data: bytes) -> None:
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def test_a_log_that_cannot_be_made_holds_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        ours, theirs = os.pipe()
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="link"):
            BoundedLog(tmp_path / "link").attach(ours)
        with pytest.raises(BrokenPipeError):
            os.write(theirs, b"x")
        os.close(theirs)
        assert not (tmp_path / "elsewhere").exists()

    asyncio.run(scenario())
