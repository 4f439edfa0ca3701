"""From a slot to everything that has to be unique on the bridge, and back.

No table is kept: tap, address and MAC are functions of the slot, so whatever a crash left behind says whose it is.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from sandboxd.base.errors import NETWORK_FULL, SandboxdError

_MAC_PREFIX = (0x02, 0x5B)
"""Locally administered, unicast (IEEE 802, bit 1 of the first octet); the address makes the other four octets."""
_FIRST_HOST = 2
"""0 names the network, 1 is the gateway."""


@dataclass(frozen=True, slots=True)
class Addressing:
    subnet: ipaddress.IPv4Network
    tap_prefix: str

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        return self.subnet.network_address + 1

    @property
    def gateway_mac(self) -> str:
        return _mac(self.gateway)

    @property
    def slots(self) -> int:
        """How many guests the subnet holds: all but network, gateway and broadcast."""
        return self.subnet.num_addresses - _FIRST_HOST - 1

    def address(self, slot: int) -> ipaddress.IPv4Address:
        """Raises `network_full` for a slot that the subnet has no address for."""
        if not 0 <= slot < self.slots:
            raise SandboxdError(
                NETWORK_FULL, reason=f"The subnet {self.subnet} has {self.slots} addresses for sandboxes."
            )
        return self.subnet.network_address + _FIRST_HOST + slot

    def mac(self, slot: int) -> str:
        return _mac(self.address(slot))

    def tap(self, slot: int) -> str:
        self.address(slot)
        return f"{self.tap_prefix}{slot}"

    def slot_of_tap(self, name: str) -> int | None:
        """The slot whose tap has this name; None for any other device."""
        match = re.fullmatch(rf"{self.tap_prefix}(0|[1-9][0-9]{{0,7}})", name)
        return int(match[1]) if match else None

    def slot_of_address(self, address: ipaddress.IPv4Address) -> int | None:
        slot = int(address) - int(self.subnet.network_address) - _FIRST_HOST
        return slot if 0 <= slot < self.slots else None


def _mac(address: ipaddress.IPv4Address) -> str:
    return ":".join(f"{octet:02x}" for octet in (*_MAC_PREFIX, *address.packed))
