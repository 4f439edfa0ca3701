"""The daemon's use of sandboxd.net: leases by slot, mapped to what a sandbox's spec holds.

sandboxd.net brings netlink with it, which is slow to load and not small; a daemon whose sandboxes have no network never
loads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sandboxd.base.ports import PortMapping, PortRequest
from sandboxd.core.config import Config
from sandboxd.core.spec import NetworkAttachment, Route
from sandboxd.daemon.paths import Paths
from sandboxd.daemon.records import Port

if TYPE_CHECKING:
    from sandboxd.net.lease import Lease
    from sandboxd.net.manager import NetworkManager


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
        self._config = config.network
        self._paths = paths
        self._manager: NetworkManager | None = None
        self._starting = asyncio.Lock()

    async def attach(self, slot: int, ports: Sequence[PortRequest]) -> Network:
        """Raises port_in_use, subnet_collision and what else sandboxd.net raises; then nothing is held."""
        manager = await self._started()
        return to_network(await manager.attach(slot, ports))

    async def release(self, slot: int) -> None:
        """Idempotent; a slot that never had a network is no error."""
        if self._manager:
            await self._manager.release(slot)

    async def reconcile(self, live: Mapping[int, Sequence[Port]]) -> None:
        """After a start: takes over what a predecessor left for these slots, and releases everything else.

        Does nothing on a host where there is nothing to take over or to release.
        """
        if live or self._left_behind():
            manager = await self._started()
            await manager.reconcile(set(live))

    async def close(self, *, remove: bool) -> None:
        """`remove`: bridge, taps and rules go too. Without, all of it stays for the living."""
        if remove and self._manager is None and self._left_behind():
            await self._started()
        if self._manager:
            await self._manager.close(remove=remove)
            self._manager = None

    async def subnet(self) -> str:
        """Of the bridge, once there is one; what is configured until then."""
        return str(self._manager.subnet) if self._manager else self._config.subnet

    def _left_behind(self) -> bool:
        return Path("/sys/class/net", self._config.bridge).exists()

    async def _started(self) -> NetworkManager:
        async with self._starting:
            if self._manager is None:
                manager = await asyncio.to_thread(self._make)
                await manager.start()
                self._manager = manager
        return self._manager

    def _make(self) -> NetworkManager:
        from sandboxd.net.manager import NetworkManager
        from sandboxd.net.settings import NetworkSettings

        self._paths.network_state.mkdir(mode=0o700, exist_ok=True)
        settings = NetworkSettings(
            bridge=self._config.bridge,
            subnet=self._config.subnet,
            mtu=self._config.mtu,
            tap_prefix=self._config.tap_prefix,
            dns=self._config.dns,
        )
        return NetworkManager(settings, self._paths.network_state)


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
