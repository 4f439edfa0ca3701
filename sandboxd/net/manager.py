"""The network's door: what the daemon calls. One thread does the work, in order; what is slow, another, the janitor's.

Nothing heavy is loaded before the first call that needs it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sandboxd.base.errors import NETWORK_SETUP_FAILED, SandboxdError
from sandboxd.base.ports import PortRequest
from sandboxd.net.lease import Lease
from sandboxd.net.settings import NetworkSettings

if TYPE_CHECKING:
    from sandboxd.linux.nftables import EventSocket
    from sandboxd.net.conntrack import Conntrack
    from sandboxd.net.host import Freed, HostNetwork

ANSWER_TIMEOUT_S = 30.0
"""For any one call: the kernel answers in milliseconds, a stuck RTNL lock never."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class NetworkManager:
    """The network of all sandboxes of one daemon. Slots are small integers that the caller gives out, lowest first.

    Every call raises `network_setup_failed` or `nftables_refused` where the host refuses.
    """

    def __init__(self, settings: NetworkSettings, state_dir: Path) -> None:
        self._settings = settings
        self._state_dir = state_dir
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._janitor = ThreadPoolExecutor(1, thread_name_prefix="network-janitor")
        self._host_network: HostNetwork | None = None
        self._flows: Conntrack | None = None
        self._events: EventSocket | None = None
        self._releasing = asyncio.Lock()
        self._leaving: set[int] = set()
        self._cleaning: dict[int, asyncio.Future[int]] = {}
        """Slots that the janitor is not done with."""
        self._errands: set[asyncio.Future[Any]] = set()
        """Work that nobody waits for, but `close`."""

    @property
    def subnet(self) -> str | None:
        """The subnet in use, like "10.201.0.0/16"; None before the network is started."""
        network = self._host_network.subnet if self._host_network else None
        return str(network) if network else None

    async def start(self) -> None:
        """Makes the network, or takes over what a daemon before left; `attach` does it. Raises `subnet_collision`."""
        await self._bounded("starting it", self._on_worker(lambda host: host.start()))
        self._watch()

    def begin(self) -> None:
        """Loads in the background what the first `attach` needs; touches nothing of the host."""
        self._errand(asyncio.get_running_loop().run_in_executor(self._worker, self._load))

    async def attach(self, slot: int, ports: Sequence[PortRequest]) -> Lease:
        """Puts the sandbox of this slot on the network.

        Raises `port_in_use`, `port_unavailable`, `network_full`; nothing is left then, nor when the call is cancelled.
        """
        if cleaning := self._cleaning.get(slot):
            await asyncio.wait({cleaning}, timeout=ANSWER_TIMEOUT_S)
        work = self._on_worker(lambda host: host.attach(slot, tuple(ports)))
        try:
            lease = await self._bounded(f"attaching slot {slot}", work)
        except BaseException:
            work.add_done_callback(partial(self._abandon, slot))
            raise
        self._watch()
        if udp := [port for port in lease.ports if port.protocol == "udp"]:
            self._errand(self._on_flows(lambda flows: flows.forget_ports(udp)))
        return lease

    async def release(self, slot: int) -> None:
        """Takes the sandbox off the network, with its ports and flows. No error where it is not on it.

        Whoever comes while a release is under way goes with the next one: a transaction that deletes costs 10-20 ms,
        however many go.
        """
        self._leaving.add(slot)
        async with self._releasing:
            if slot not in self._leaving:
                return
            slots, self._leaving = self._leaving, set()
            work = self._on_worker(lambda host: host.release(slots))
            work.add_done_callback(self._released)
            await self._bounded(f"releasing slots {sorted(slots)}", work)

    async def reconcile(self, live_slots: set[int]) -> None:
        """After a restart: exactly these sandboxes are on the network; what others left is released."""
        live = frozenset(live_slots)
        work = self._on_worker(lambda host: host.reconcile(live))
        work.add_done_callback(self._released)
        await self._bounded("taking it over", work)
        if self._host_network and self._host_network.started:
            self._watch()

    async def close(self, remove: bool) -> None:
        """The end of this manager. `remove`: the network goes too, if no sandbox is on it."""
        self._unwatch()
        try:
            while pending := {*self._errands, *self._cleaning.values()}:
                await self._bounded("finishing what is under way", asyncio.ensure_future(asyncio.wait(pending)))
            if self._host_network or remove:
                await self._bounded("closing it", self._on_worker(lambda host: host.close(remove=remove)))
            if self._flows:
                await self._bounded("closing it", self._on_flows(lambda flows: flows.close()))
        finally:
            self._worker.shutdown(wait=False)
            self._janitor.shutdown(wait=False)

    # --- the threads ---

    def _on_worker(self, call: Callable[[HostNetwork], _T]) -> asyncio.Future[_T]:
        return asyncio.get_running_loop().run_in_executor(self._worker, lambda: call(self._host()))

    def _on_flows(self, call: Callable[[Conntrack], _T]) -> asyncio.Future[_T]:
        return asyncio.get_running_loop().run_in_executor(self._janitor, lambda: call(self._conntrack()))

    def _host(self) -> HostNetwork:
        """Made in the worker: this is where libnftables and pydantic are loaded, and pyroute2 when it starts."""
        if self._host_network is None:
            try:
                from sandboxd.net.host import HostNetwork
            except ImportError as error:
                raise SandboxdError(NETWORK_SETUP_FAILED, what="loading libnftables", reason=f"{error}.") from error
            self._host_network = HostNetwork(self._settings, self._state_dir)
        return self._host_network

    def _load(self) -> None:
        self._host()
        from sandboxd.net import links

        links.load()

    def _conntrack(self) -> Conntrack:
        """Made in the janitor's thread."""
        if self._flows is None:
            from sandboxd.net.conntrack import Conntrack

            self._flows = Conntrack()
        return self._flows

    async def _bounded(self, what: str, work: asyncio.Future[_T]) -> _T:
        """Waits, but not for ever; the work itself is never cut short."""
        done, _ = await asyncio.wait({work}, timeout=ANSWER_TIMEOUT_S)
        if not done:
            self._errand(work)
            reason = f"The kernel has not answered for {ANSWER_TIMEOUT_S:.0f} s."
            raise SandboxdError(NETWORK_SETUP_FAILED, what=what, reason=reason)
        return work.result()

    def _errand(self, work: asyncio.Future[Any]) -> None:
        self._errands.add(work)
        work.add_done_callback(self._errands.discard)
        work.add_done_callback(_report)

    # --- what follows a release ---

    def _abandon(self, slot: int, attached: asyncio.Future[Lease]) -> None:
        """Nobody waits for this lease any more."""
        if not attached.cancelled() and attached.exception() is None:
            work = self._on_worker(lambda host: host.release([slot]))
            work.add_done_callback(self._released)
            self._errand(work)

    def _released(self, work: asyncio.Future[Freed]) -> None:
        """The janitor clears the flows and deletes surplus taps; until the flows are gone their slots wait."""
        if work.cancelled() or work.exception() is not None:
            return
        freed = work.result()
        if freed.addresses:
            addresses = frozenset(freed.addresses.values())
            self._clean(freed.addresses, self._on_flows(lambda flows: flows.forget_guests(addresses)))
        for slot in freed.surplus:
            loop = asyncio.get_running_loop()
            self._errand(loop.run_in_executor(self._janitor, self._host().delete_condemned, slot))

    def _clean(self, slots: Iterable[int], work: asyncio.Future[int]) -> None:
        """These slots wait for this work; of several for one slot, the last."""
        for slot in slots:
            self._cleaning[slot] = work
            work.add_done_callback(partial(self._cleaned, slot))
        work.add_done_callback(_report)

    def _cleaned(self, slot: int, work: asyncio.Future[int]) -> None:
        if self._cleaning.get(slot) is work:
            del self._cleaning[slot]

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
        if deleted is None or self._settings.table in deleted:
            self._errand(self._on_worker(lambda host: host.verify()))


def _report(done: asyncio.Future[Any]) -> None:
    """For work that nobody waits for."""
    if not done.cancelled() and (error := done.exception()):
        cause = error.cause if isinstance(error, SandboxdError) else ""
        _log.warning("the network: %s %s", error, cause)
