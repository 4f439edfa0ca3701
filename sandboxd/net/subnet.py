"""Which network the sandboxes get: one that collides with nothing this host has a route or an address for."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from sandboxd.base.errors import SUBNET_COLLISION, SUBNET_NONE_FREE, SandboxdError

Network = ipaddress.IPv4Network


def candidates() -> Iterator[Network]:
    """Private networks (RFC 1918), the least used ones first.

    10.201/16 to 10.254/16 keep clear of what others take by default and may take only later: podman (10.88, 10.89),
    k3s (10.42, 10.43), Kubernetes (10.96/12, 10.244). docker's own pool (172.17 to 172.31, 192.168) comes last, from
    its end.
    """
    for second in (*range(201, 244), *range(245, 255)):
        yield Network(f"10.{second}.0.0/16")
    for second in range(31, 19, -1):
        yield Network(f"172.{second}.0.0/16")
    for third in range(240, 127, -16):
        yield Network(f"192.168.{third}.0/20")


def choose(configured: Network | None, saved: Network | None, taken: Iterable[Network]) -> Network:
    """The network to use. `taken` is everything the host has routes and addresses for, without the default route.

    A configured network that overlaps is refused (`subnet_collision`); a saved one is given up for another.
    Raises `subnet_none_free`.
    """
    used = [network for network in taken if network.prefixlen > 0]
    if configured is not None:
        refuse_collision(configured, used)
        return configured
    preferred = [saved] if saved else []
    for candidate in (*preferred, *candidates()):
        if not any(candidate.overlaps(network) for network in used):
            return candidate
    raise SandboxdError(SUBNET_NONE_FREE)


def refuse_collision(subnet: Network, taken: Iterable[Network]) -> None:
    for network in taken:
        if network.prefixlen > 0 and subnet.overlaps(network):
            other = f"the address {network.network_address}" if network.prefixlen == 32 else f"a route to {network}"
            raise SandboxdError(SUBNET_COLLISION, subnet=subnet, other=other)
