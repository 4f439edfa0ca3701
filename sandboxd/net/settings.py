"""What may be configured of the network."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from sandboxd.base.errors import INVALID_ARGUMENT, SandboxdError

PREFIX_MIN, PREFIX_MAX = 8, 29
MTU_MIN, MTU_MAX = 576, 65535

BLOCKED_DESTINATIONS = (
    "0.0.0.0/8",  # this network
    "127.0.0.0/8",  # the host's own services
    "169.254.0.0/16",  # link-local: 169.254.169.254 is the metadata service of most clouds, with credentials
    "100.100.100.200/32",  # Alibaba's metadata service
    "168.63.129.16/32",  # Azure's host agent
    "192.0.0.192/32",  # Oracle's metadata service
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast
)
"""No guest reaches these. Where one of them is the host's DNS server, port 53 is reached through the gateway."""

_BRIDGE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}\Z")
_TAP_PREFIX = re.compile(r"[a-z][a-z0-9]{0,8}\Z")


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Checked when made. Two daemons of one host need two bridges and two tap prefixes."""

    bridge: str = "sandboxd0"
    subnet: str = "auto"
    """"auto", or an IPv4 network like "10.210.0.0/16"."""
    mtu: int = 1500
    """At most; a smaller MTU of the host's way out is taken over."""
    tap_prefix: str = "sbx"
    pool_idle: int = 8
    """Taps kept ready, at most."""
    dns: tuple[str, ...] = ()
    """Instead of the host's own servers."""
    blocked_destinations: tuple[str, ...] = BLOCKED_DESTINATIONS

    def __post_init__(self) -> None:
        _require(
            _BRIDGE.match(self.bridge),
            "network.bridge",
            self.bridge,
            "must be a network device's name: 1-15 of A-Z a-z 0-9 _ . -",
        )
        _require(
            _TAP_PREFIX.match(self.tap_prefix),
            "network.tap_prefix",
            self.tap_prefix,
            "must be 1-9 of a-z 0-9, a letter first",
        )
        _require(MTU_MIN <= self.mtu <= MTU_MAX, "network.mtu", self.mtu, f"must be {MTU_MIN} to {MTU_MAX}")
        _require(
            0 <= self.pool_idle <= 1000,
            "network.pool_idle",
            self.pool_idle,
            "must be 0 to 1000: a bridge has 1023 ports",
        )
        if self.subnet != "auto":
            parse_subnet(self.subnet)
        for server in self.dns:
            _require(
                _is(ipaddress.IPv4Address, server),
                "network.dns",
                server,
                "must be IPv4 addresses: guests have no IPv6 yet",
            )
        for block in self.blocked_destinations:
            _require(_is(ipaddress.IPv4Network, block), "network.blocked_destinations", block, "must be IPv4 networks")

    @property
    def table(self) -> str:
        """The name of the nftables tables: one in family ip, one in family bridge."""
        return "sandboxd" if self.bridge == "sandboxd0" else f"sandboxd-{self.bridge}"


def parse_subnet(text: str) -> ipaddress.IPv4Network:
    """A network that guests can live in. Raises `invalid_argument`."""
    _require(
        _is(ipaddress.IPv4Network, text),
        "network.subnet",
        text,
        'must be "auto" or an IPv4 network like "10.210.0.0/16"',
    )
    subnet = ipaddress.IPv4Network(text)
    _require(
        PREFIX_MIN <= subnet.prefixlen <= PREFIX_MAX,
        "network.subnet",
        text,
        f"must be a /{PREFIX_MIN} to a /{PREFIX_MAX}",
    )
    unfit = (
        subnet.is_loopback or subnet.is_link_local or subnet.is_multicast or subnet.is_reserved or subnet.is_unspecified
    )
    _require(not unfit, "network.subnet", text, "must be a network that hosts can have addresses in")
    return subnet


def _is(kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv4Network], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _require(condition: object, what: str, value: object, reason: str) -> None:
    if not condition:
        raise SandboxdError(INVALID_ARGUMENT, what=what, value=str(value)[:60], reason=reason, command="doctor")
