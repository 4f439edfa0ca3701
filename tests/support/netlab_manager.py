"""A NetworkManager behind a pipe: one JSON call per line in, one JSON answer per line out."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sandboxd.base.errors import SandboxdError
from sandboxd.base.ports import parse_port_spec
from sandboxd.net.manager import NetworkManager
from sandboxd.net.settings import NetworkSettings


class Calls:
    def __init__(self, manager: NetworkManager) -> None:
        self._manager = manager

    async def start(self) -> str | None:
        await self._manager.start()
        return self._manager.subnet

    async def attach(self, slot: int, ports: list[str]) -> dict[str, Any]:
        requests = [request for spec in ports for request in parse_port_spec(spec)]
        return dataclasses.asdict(await self._manager.attach(slot, requests))

    async def attach_cancelled(self, slot: int, ports: list[str]) -> str:
        """Cancelled while the kernel is at work; then waits until the manager is at rest."""
        task = asyncio.create_task(self.attach(slot, ports))
        await asyncio.sleep(0)
        task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        for _ in range(2):  # calls are served in order: after the attach, and after what undoes it
            await self._manager.start()
        return type(result).__name__

    async def attach_many(self, slots: list[int], ports: list[str]) -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(self.attach(slot, ports) for slot in slots)))

    async def release(self, slot: int) -> None:
        await self._manager.release(slot)

    async def release_many(self, slots: list[int]) -> None:
        await asyncio.gather(*map(self._manager.release, slots))

    async def churn(self, rounds: int) -> dict[str, list[float]]:
        """How long each attach and release takes, in ms, one after the other."""
        times: dict[str, list[float]] = {"attach": [], "release": []}
        for _ in range(rounds):
            before = time.perf_counter()
            await self._manager.attach(0, parse_port_spec("8080:80"))
            between = time.perf_counter()
            await self._manager.release(0)
            times["attach"].append((between - before) * 1e3)
            times["release"].append((time.perf_counter() - between) * 1e3)
        return times

    async def reconcile(self, live: list[int]) -> None:
        await self._manager.reconcile(set(live))

    async def close(self, remove: bool) -> None:
        await self._manager.close(remove)

    async def descriptors(self) -> int:
        return len(list(Path("/proc/self/fd").iterdir()))


async def main(state_dir: str, settings: str) -> None:
    words = {key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(settings).items()}
    calls = Calls(NetworkManager(NetworkSettings(**words), Path(state_dir)))
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        arguments = json.loads(line)
        call: Callable[..., Awaitable[Any]] = getattr(calls, arguments.pop("call"))
        try:
            answer: dict[str, Any] = {"result": await call(**arguments)}
        except SandboxdError as error:
            answer = {"error": error.to_json()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(*sys.argv[1:]), debug=True)
