"""Pumps: back-pressure, order, readers that come late, go, or do not read."""

from __future__ import annotations

import asyncio

from sandboxd.base.errors import CONTAINER_NOT_FOUND, SandboxdError
from sandboxd.core.streams import InputPump, OutputPump


class Guest:
    """Answers `read` from a list of pieces; counts how far it was asked."""

    def __init__(self, pieces: list[bytes], fails_at_end: bool = False) -> None:
        self.pieces = pieces
        self.asked = 0
        self.fails_at_end = fails_at_end

    async def read(self) -> tuple[bytes, bool]:
        await asyncio.sleep(0)
        self.asked += 1
        if self.asked > len(self.pieces):
            if self.fails_at_end:
                raise SandboxdError(CONTAINER_NOT_FOUND, id="x")
            return b"", True
        return self.pieces[self.asked - 1], False


class Collector:
    def __init__(self, gate: asyncio.Event | None = None, dies_after: int = 1 << 30) -> None:
        self.data = b""
        self.gate = gate
        self.dies_after = dies_after
        self.closed = asyncio.Event()
        self.called_last = False

    async def write(self, data: bytes) -> bool:
        if self.gate:
            opened = asyncio.ensure_future(self.gate.wait())
            closed = asyncio.ensure_future(self.closed.wait())
            await asyncio.wait((opened, closed), return_when=asyncio.FIRST_COMPLETED)
            opened.cancel()
            closed.cancel()
        if self.closed.is_set() or len(self.data) >= self.dies_after:
            return False
        self.data += data
        return True

    def last_call(self) -> None:
        self.called_last = True

    def close(self) -> None:
        self.closed.set()


class FullDisk(Collector):
    async def write(self, data: bytes) -> bool:
        raise OSError(28, "No space left on device")


def test_every_sink_gets_everything_and_bad_ones_cost_only_themselves() -> None:
    async def scenario() -> None:
        whole, dying, full = Collector(), Collector(dies_after=2), FullDisk()
        pump = OutputPump(Guest([b"ab", b"cd", b"ef"]).read, [whole, dying, full])
        await asyncio.wait_for(pump.run(), 5)
        assert whole.data == b"abcdef" and dying.data == b"ab"
        assert all(sink.closed.is_set() for sink in (whole, dying, full))
        assert pump.exhausted.is_set()

    asyncio.run(scenario())


def test_a_slow_sink_holds_the_guest_back_by_one_piece() -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        guest, slow = Guest([b"x"] * 100), Collector(gate)
        pump = OutputPump(guest.read, [slow])
        task = asyncio.ensure_future(pump.run())
        for _ in range(50):
            await asyncio.sleep(0)
        assert guest.asked == 2
        gate.set()
        await asyncio.wait_for(task, 5)
        assert slow.data == b"x" * 100

    asyncio.run(scenario())


def test_giving_up_on_blocked_readers_drains_the_rest() -> None:
    async def scenario() -> None:
        stuck, fine = Collector(asyncio.Event()), Collector()
        pump = OutputPump(Guest([b"x"] * 5).read, [stuck, fine])
        task = asyncio.ensure_future(pump.run())
        for _ in range(20):
            await asyncio.sleep(0)
        assert fine.data == b"x"
        pump.drop_blocked()
        await asyncio.wait_for(task, 5)
        assert fine.data == b"x" * 5 and stuck.data == b""

    asyncio.run(scenario())


def test_the_machines_end_ends_the_pump() -> None:
    async def scenario() -> None:
        sink = Collector()
        pump = OutputPump(Guest([b"x"], fails_at_end=True).read, [sink])
        await asyncio.wait_for(pump.run(), 5)
        assert sink.data == b"x" and sink.closed.is_set() and pump.exhausted.is_set()

    asyncio.run(scenario())


def test_without_sinks_output_is_discarded() -> None:
    async def scenario() -> None:
        guest = Guest([b"x"] * 50)
        await asyncio.wait_for(OutputPump(guest.read, []).run(), 5)
        assert guest.asked == 51

    asyncio.run(scenario())


class Script:
    """A source: gives its pieces, then waits for more until drained or closed."""

    def __init__(self, pieces: list[bytes], ends_input: bool, ends: bool = True) -> None:
        self.pieces = pieces
        self.ends_input = ends_input
        self.ends = ends
        self.drained = asyncio.Event()
        self.closed = False

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        if self.pieces:
            return self.pieces.pop(0)
        if not self.ends:
            await self.drained.wait()
        return b""

    def drain(self) -> None:
        self.drained.set()

    def close(self) -> None:
        self.closed = True
        self.drained.set()


class Receiver:
    def __init__(self, closes_after: int = 1 << 30) -> None:
        self.data = b""
        self.ended = asyncio.Event()
        self.closes_after = closes_after

    async def write(self, data: bytes, close: bool) -> bool:
        await asyncio.sleep(0)
        assert not self.ended.is_set(), "nothing comes after the end"
        self.data += data
        if close:
            self.ended.set()
        return len(self.data) < self.closes_after


def test_the_creators_input_ends_the_process_input_and_an_attached_one_does_not() -> None:
    async def scenario() -> None:
        for ends_input in (True, False):
            receiver = Receiver()
            pump = InputPump(receiver.write)
            pump.add(Script([b"ab", b"c"], ends_input))
            pump.start()
            for _ in range(50):
                await asyncio.sleep(0)
            assert receiver.data == b"abc" and receiver.ended.is_set() == ends_input
            await pump.stop()

    asyncio.run(scenario())


def test_closing_comes_after_all_data_also_before_the_start() -> None:
    async def scenario() -> None:
        for started_first in (True, False):
            receiver = Receiver()
            pump = InputPump(receiver.write)
            source = Script([b"x"] * 20, ends_input=False, ends=False)
            pump.add(source)
            if started_first:
                pump.start()
            pump.close_after_data()
            pump.close_after_data()
            assert not receiver.ended.is_set()
            if not started_first:
                pump.start()
            await asyncio.wait_for(receiver.ended.wait(), 5)
            assert receiver.data == b"x" * 20 and source.closed
            late = Script([b"late"], ends_input=False)
            pump.add(late)
            assert late.closed
            await pump.stop()

    asyncio.run(scenario())


def test_a_process_that_closed_its_input_is_fed_no_more() -> None:
    async def scenario() -> None:
        receiver = Receiver(closes_after=3)
        pump = InputPump(receiver.write)
        source = Script([b"x"] * 20, ends_input=False)
        pump.add(source)
        pump.start()
        for _ in range(50):
            await asyncio.sleep(0)
        assert receiver.data == b"xxx" and source.closed
        await pump.stop()

    asyncio.run(scenario())


def test_stop_ends_what_waits() -> None:
    async def scenario() -> None:
        receiver = Receiver()
        pump = InputPump(receiver.write)
        running, waiting = Script([], True, ends=False), Script([], True)
        pump.add(running)
        pump.start()
        await asyncio.sleep(0)
        await asyncio.wait_for(pump.stop(), 5)
        assert running.closed and not receiver.ended.is_set()
        other = InputPump(receiver.write)
        other.add(waiting)
        await asyncio.wait_for(other.stop(), 5)
        assert waiting.closed

    asyncio.run(scenario())
