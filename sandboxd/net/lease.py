"""What a sandbox gets of the network."""

from __future__ import annotations

from dataclasses import dataclass

from sandboxd.base.ports import PortMapping


@dataclass(frozen=True, slots=True)
class Lease:
    """One sandbox's place on the network. The tap is up and on the bridge; addresses and MAC are the guest's."""

    slot: int
    tap: str
    mac: str
    mtu: int
    addresses: tuple[str, ...]
    """With prefix length: "10.201.0.2/16"."""
    routes: tuple[tuple[str, str], ...]
    """(destination, gateway)."""
    dns_servers: tuple[str, ...]
    dns_search: tuple[str, ...]
    ports: tuple[PortMapping, ...]
    """As published, chosen host ports included."""
