"""The daemon's use of sandboxd.net: leases by slot, mapped to what a sandbox's spec holds.

sandboxd.net loads netlink with its first use, which takes 70 ms: `begin` does it in the background, so that no start
has to wait for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandboxd.base.ports import PortMapping, PortRequest
from sandboxd.core.config import Config
from sandboxd.core.spec import NetworkAttachment, Route
from sandboxd.daemon.paths import Paths
from sandboxd.daemon.records import Port
from sandboxd.net.lease import Lease
from sandboxd.net.manager import NetworkManager
from sandboxd.net.settings import NetworkSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Network:
    """What one sandbox got."""

    attachment: NetworkAttachment
    ports: tuple[Port, ...]

    @property
    def address(self) -> str:
        """Of the guest, without prefix length."""
        return self.attachment.addresses[0].partition("/")[0] if self.attachment.addresses else ""


class Networks:
    """Starts the network with the first sandbox that needs one."""

    def __init__(self, config: Config, paths: Paths) -> None:
        self._bridge = config.network.bridge
        self._configured_subnet = config.network.subnet
        settings = NetworkSettings(
            bridge=config.network.bridge,
            subnet=config.network.subnet,
            mtu=config.network.mtu,
            tap_prefix=config.network.tap_prefix,
            dns=config.network.dns,
        )
        self._manager = NetworkManager(settings, paths.network_state)
        self._used = False
        self._leaving: dict[int, asyncio.Task[None]] = {}
        """Slots whose release goes on after their sandbox has ended."""

    def begin(self) -> None:
        """In the background."""
        self._manager.begin()

    async def attach(self, slot: int, ports: Sequence[PortRequest]) -> Network:
        """Raises port_in_use, subnet_collision and what else sandboxd.net raises; then nothing is held."""
        self._used = True
        if leaving := self._leaving.get(slot):
            await asyncio.wait({leaving})
        return to_network(await self._manager.attach(slot, ports))

    async def release(self, slot: int) -> None:
        """Idempotent; a slot that never had a network is no error."""
        if self._used:
            await self._manager.release(slot)

    def release_soon(self, slot: int) -> None:
        """In the background, for one without ports: nothing that anybody else could want is held by it.

        Whoever gets the slot meanwhile waits in `attach`; after a crash in between, `reconcile` finds it.
        """
        task = asyncio.create_task(self.release(slot), name=f"network of slot {slot}")
        self._leaving[slot] = task
        task.add_done_callback(lambda done: self._left(slot, done))

    def _left(self, slot: int, task: asyncio.Task[None]) -> None:
        if self._leaving.get(slot) is task:
            del self._leaving[slot]
        if not task.cancelled() and (error := task.exception()):
            _log.error("slot %d: its network was not released", slot, exc_info=error)

    async def reconcile(self, live_slots: set[int]) -> None:
        """After a start: takes over what a predecessor left for these slots, and releases everything else.

        Does nothing on a host where there is nothing to take over or to release.
        """
        if live_slots or self._left_behind():
            self._used = True
            await self._manager.reconcile(live_slots)

    async def close(self, *, remove: bool) -> None:
        """`remove`: bridge, taps and rules go too. Without, all of it stays for the living."""
        if self._leaving:
            await asyncio.wait(self._leaving.values())
        await self._manager.close(remove=remove and (self._used or self._left_behind()))

    def subnet(self) -> str:
        """Of the bridge, once there is one; what is configured until then."""
        return self._manager.subnet or self._configured_subnet

    def _left_behind(self) -> bool:
        return Path("/sys/class/net", self._bridge).exists()


def to_network(lease: Lease) -> Network:
    attachment = NetworkAttachment(
        tap=lease.tap,
        mac=lease.mac,
        mtu=lease.mtu,
        addresses=lease.addresses,
        routes=tuple(Route(destination=destination, gateway=gateway) for destination, gateway in lease.routes),
        dns_servers=lease.dns_servers,
        dns_search=lease.dns_search,
    )
    return Network(attachment, _ports(lease.ports))


def _ports(mappings: Iterable[PortMapping]) -> tuple[Port, ...]:
    return tuple(Port(mapping.bind, mapping.host_port, mapping.guest_port, mapping.protocol) for mapping in mappings)
