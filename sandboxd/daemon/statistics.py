"""Samples of what sandboxes use: the guest's own counters, and the host's of machine and shim."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from sandboxd.api import sandboxd_pb2 as api
from sandboxd.base.clock import unix_ns
from sandboxd.base.errors import SandboxdError
from sandboxd.core.lifecycle import State
from sandboxd.daemon.records import SandboxRecord
from sandboxd.daemon.sandboxes import Sandboxes
from sandboxd.daemon.stats import parse_guest

INTERVAL_S = 1.0
ANSWER_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class _Point:
    unix_ns: int
    cpu_ns: int


class Statistics:
    """Takes samples. Each stream of them knows its own last point, from which a CPU's share is computed."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    async def samples(self, ids: Sequence[str], *, stream: bool) -> AsyncIterator[api.SandboxStats]:
        """One of each (`ids` empty: of all that run), or one of each every second until none of them runs."""
        last: dict[str, _Point] = {}
        for sandbox_id in ids:
            self._sandboxes.require_running(self._sandboxes.registry.resolve(sandbox_id), "measure")
        while True:
            begin = asyncio.get_running_loop().time()
            records = self._running(ids)
            for sample in await asyncio.gather(*(self._sample(record, last) for record in records)):
                if sample:
                    yield sample
            if not stream or (ids and not records):
                return
            # A rhythm for people to look at, not a wait for something.
            await asyncio.sleep(max(0.0, begin + INTERVAL_S - asyncio.get_running_loop().time()))

    def _running(self, ids: Sequence[str]) -> list[SandboxRecord]:
        found = [record for record in self._sandboxes.registry if not ids or record.id in ids]
        return [record for record in found if record.state in (State.RUNNING, State.PAUSED)]

    async def _sample(self, record: SandboxRecord, last: dict[str, _Point]) -> api.SandboxStats | None:
        live = self._sandboxes.live(record.id)
        if live is None or live.shim is None:
            return None
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                answer = await live.shim.statistics()
        except (TimeoutError, SandboxdError):
            return None  # it is ending; whoever follows sees it gone
        guest = parse_guest(answer.guest.files)
        now = _Point(answer.guest.taken_unix_ns or unix_ns(), guest.cpu_ns)
        before = last.get(record.id, _Point(record.started_unix_ns, 0))
        last[record.id] = now
        return api.SandboxStats(
            id=record.id,
            name=record.name,
            unix_ns=now.unix_ns,
            cpu_ns=guest.cpu_ns,
            cpu_percent=_percent(before, now),
            memory_bytes=guest.memory_bytes,
            memory_limit_bytes=guest.memory_limit_bytes or record.parsed_config().memory_bytes,
            host_memory_bytes=answer.host_memory_bytes,
            host_cpu_ns=answer.host_cpu_ns,
            network_rx_bytes=guest.network_rx_bytes,
            network_tx_bytes=guest.network_tx_bytes,
            disk_used_bytes=guest.disk_used_bytes,
            disk_total_bytes=guest.disk_total_bytes,
            pids=guest.pids,
            oom_kills=guest.oom_kills,
            block_read_bytes=guest.block_read_bytes,
            block_write_bytes=guest.block_write_bytes,
        )


def _percent(before: _Point, now: _Point) -> float:
    """Of one CPU. 0 where no time has passed: the guest's clock says when, and may say anything."""
    passed_ns = now.unix_ns - before.unix_ns
    used_ns = now.cpu_ns - before.cpu_ns
    return 100.0 * used_ns / passed_ns if passed_ns > 0 and used_ns > 0 else 0.0
