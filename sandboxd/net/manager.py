"""The network's door: what the daemon calls. One thread does the work, in order; deleting taps has another.

Nothing heavy is loaded before the first call that needs it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from sandboxd.base.errors import NETWORK_SETUP_FAILED, SandboxdError
from sandboxd.base.ports import PortRequest
from sandboxd.net.lease import Lease
from sandboxd.net.settings import NetworkSettings

if TYPE_CHECKING:
    from sandboxd.linux.nftables import EventSocket
    from sandboxd.net.host import HostNetwork

ANSWER_TIMEOUT_S = 30.0
"""For any one call: the kernel answers in milliseconds, a stuck RTNL lock never."""

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class NetworkManager:
    """The network of all sandboxes of one daemon. Slots are small integers that the caller gives out, lowest first.

    Every call raises `network_setup_failed` or `nftables_refused` where the host refuses.
    """

    def __init__(self, settings: NetworkSettings, state_dir: Path) -> None:
        self._settings = settings
        self._state_dir = state_dir
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._janitor = ThreadPoolExecutor(1, thread_name_prefix="taps")
        self._host_network: HostNetwork | None = None
        self._events: EventSocket | None = None
        self._deleting: dict[int, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def subnet(self) -> str | None:
        """The subnet in use, like "10.201.0.0/16"; None before the network is started."""
        network = self._host_network.subnet if self._host_network else None
        return str(network) if network else None

    async def start(self) -> None:
        """Makes the network, or takes over what a daemon before left; `attach` does it. Raises `subnet_collision`."""
        await self._bounded("starting it", self._submit(lambda: self._host().start()))
        self._watch()

    async def attach(self, slot: int, ports: Sequence[PortRequest]) -> Lease:
        """Puts the sandbox of this slot on the network.

        Raises `port_in_use`, `port_unavailable`, `network_full`; nothing is left then, nor when the call is cancelled.
        """
        if deleting := self._deleting.get(slot):
            await asyncio.shield(deleting)
        work = self._submit(lambda: self._host().attach(slot, tuple(ports)))
        try:
            lease = await self._bounded(f"attaching slot {slot}", work)
        except BaseException:
            work.add_done_callback(lambda done: self._abandon(slot, done))
            raise
        self._watch()
        return lease

    async def release(self, slot: int) -> None:
        """Takes the sandbox off the network, with its ports and flows. No error where it is not on it."""
        await self._bounded(f"releasing slot {slot}", self._submit(lambda: self._host().release(slot)))
        await self._trim()

    async def reconcile(self, live_slots: set[int]) -> None:
        """After a restart: exactly these sandboxes are on the network; what others left is released."""
        live = frozenset(live_slots)
        await self._bounded("taking it over", self._submit(lambda: self._host().reconcile(live)))
        if self._host_network and self._host_network.started:
            self._watch()
            await self._trim()

    async def close(self, remove: bool) -> None:
        """The end of this manager. `remove`: the network goes too, if no sandbox is on it."""
        self._unwatch()
        await asyncio.gather(*self._tasks, *self._deleting.values(), return_exceptions=True)
        try:
            if self._host_network or remove:
                await self._bounded("closing it", self._submit(lambda: self._host().close(remove=remove)))
        finally:
            self._worker.shutdown(wait=False)
            self._janitor.shutdown(wait=False)

    # --- the threads ---

    def _host(self) -> HostNetwork:
        """Made in the worker: this is where pyroute2 and libnftables are loaded."""
        if self._host_network is None:
            from sandboxd.net.host import HostNetwork

            self._host_network = HostNetwork(self._settings, self._state_dir)
        return self._host_network

    def _submit(self, call: Callable[[], _T]) -> asyncio.Future[_T]:
        return asyncio.get_running_loop().run_in_executor(self._worker, call)

    async def _bounded(self, what: str, work: asyncio.Future[_T]) -> _T:
        """Waits, but not for ever; the work itself is never cut short."""
        done, _ = await asyncio.wait({work}, timeout=ANSWER_TIMEOUT_S)
        if not done:
            work.add_done_callback(_report)
            reason = f"The kernel has not answered for {ANSWER_TIMEOUT_S:.0f} s."
            raise SandboxdError(NETWORK_SETUP_FAILED, what=what, reason=reason)
        return work.result()

    def _abandon(self, slot: int, attached: asyncio.Future[Lease]) -> None:
        """Nobody waits for this lease any more."""
        if not attached.cancelled() and attached.exception() is None:
            self._submit(lambda: self._host().release(slot)).add_done_callback(_report)

    async def _trim(self) -> None:
        """Deletes surplus taps, with nobody waiting."""
        loop = asyncio.get_running_loop()
        host = self._host()
        for slot in await self._submit(host.take_surplus):
            self._deleting[slot] = loop.run_in_executor(self._janitor, host.delete_tap, slot)
            self._deleting[slot].add_done_callback(_report)
            self._deleting[slot].add_done_callback(partial(self._deleted, slot))

    def _deleted(self, slot: int, _: object) -> None:
        self._deleting.pop(slot, None)

    # --- others who change the rules ---

    def _watch(self) -> None:
        """A reload of the host's firewall (`nft flush ruleset`) takes our rules too: they are back at once."""
        if self._events is not None:
            return
        from sandboxd.linux import nftables

        self._events = nftables.open_events()
        asyncio.get_running_loop().add_reader(self._events, self._heard)

    def _unwatch(self) -> None:
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events)
            self._events.close()
            self._events = None

    def _heard(self) -> None:
        from sandboxd.linux import nftables

        if self._events is None:
            return
        deleted = nftables.read_deletions(self._events)
        if deleted is True or (isinstance(deleted, set) and self._settings.table in deleted):
            self._spawn(self._verify())

    async def _verify(self) -> None:
        try:
            await self._bounded("checking the rules", self._submit(lambda: self._host().verify()))
        except SandboxdError as error:
            _log.error("the rules of %s are not in place: %s", self._settings.bridge, error.cause)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _report(done: asyncio.Future[Any]) -> None:
    """For work that nobody waits for."""
    if not done.cancelled() and (error := done.exception()):
        _log.warning("the network: %s", error)
