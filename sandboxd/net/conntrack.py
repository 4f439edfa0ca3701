"""Flows that outlive their guest: the kernel's connection table is cleared of an address before another guest gets it.

Over ctnetlink by pyroute2. One walk through the table costs the kernel about 4 ms (262,144 buckets), so this is
never on the way of a start. Where there are many flows the kernel is asked to filter (5.8 and newer); every entry is
checked here again, so an older kernel is slower and no less right.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandboxd.base.errors import NETWORK_SETUP_FAILED, SandboxdError
from sandboxd.base.ports import PortMapping

IPS_DST_NAT = 1 << 5
"""linux/netfilter/nf_conntrack_common.h"""
UNFILTERED_MAX = 200
"""Flows that are read faster than the kernel walks its table twice more."""

_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}


@dataclass(frozen=True, slots=True)
class Flow:
    """One entry: `key` names it to the kernel."""

    source: str
    destination: str
    answers_from: str
    """Differs from `destination` where that was translated: the guest behind a published port."""
    protocol: int
    port: int | None
    key: Any


class Conntrack:
    """One netlink socket, used by one thread. Close it when done."""

    def __init__(self) -> None:
        from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

        self._tuple: Any = NFCTAttrTuple
        self._netlink: Any = NFCTSocket()

    def close(self) -> None:
        self._netlink.close()

    def forget_guests(self, addresses: frozenset[str]) -> int:
        """Deletes every flow from and to these guests; how many there were."""
        if not addresses:
            return 0
        return self._forget(
            lambda flow: not addresses.isdisjoint((flow.source, flow.destination, flow.answers_from)),
            [{"tuple_orig": self._tuple(saddr=address)} for address in addresses]
            + [{"tuple_orig": self._tuple(daddr=address)} for address in addresses]
            + [{"status": IPS_DST_NAT, "status_mask": IPS_DST_NAT}],
        )

    def forget_strangers(self, subnet: ipaddress.IPv4Network, addresses: frozenset[str]) -> int:
        """Deletes the flows of all guests of the subnet but these: of those that ended while no daemon ran."""
        known = {*addresses, str(subnet.network_address + 1)}

        def is_stranger(address: str) -> bool:
            return address not in known and ipaddress.IPv4Address(address) in subnet

        return self._forget(
            lambda flow: any(map(is_stranger, (flow.source, flow.destination, flow.answers_from))), [{}]
        )

    def forget_ports(self, ports: Iterable[PortMapping]) -> int:
        """Deletes flows to ports of the host: a UDP flow that began before its port was published would pass it by."""
        wanted = {(_PROTOCOLS[port.protocol], port.host_port) for port in ports}
        if not wanted:
            return 0
        filters = [{"tuple_orig": self._tuple(proto=protocol, dport=port)} for protocol, port in wanted]
        return self._forget(lambda flow: (flow.protocol, flow.port) in wanted, filters)

    def _forget(self, matches: Callable[[Flow], bool], filters: list[dict[str, object]]) -> int:
        """Deletes what matches, out of all flows or of what the filters find, whichever is less work."""
        if _count() <= UNFILTERED_MAX * len(filters):
            filters = [{}]
        try:
            found = [flow for words in filters for flow in self._flows(words) if matches(flow)]
            return sum(self._delete(flow) for flow in found)
        except (OSError, self._error()) as error:
            what = "clearing flows of an ended sandbox"
            raise SandboxdError(NETWORK_SETUP_FAILED, what=what, reason=f"ctnetlink says: {error}.") from error

    def _flows(self, kernel_filter: dict[str, object]) -> Iterable[Flow]:
        for message in self._netlink.dump(**kernel_filter):
            orig, reply = message.get_attr("CTA_TUPLE_ORIG"), message.get_attr("CTA_TUPLE_REPLY")
            if message["nfgen_family"] == socket.AF_INET and orig is not None and reply is not None:
                key = self._tuple.from_netlink(socket.AF_INET, orig)
                answer = self._tuple.from_netlink(socket.AF_INET, reply)
                yield Flow(key.saddr, key.daddr, answer.saddr, key.proto, key.dport, key)

    def _delete(self, flow: Flow) -> int:
        try:
            self._netlink.entry("del", tuple_orig=flow.key)
        except self._error() as error:
            if error.code != errno.ENOENT:  # it ended by itself in between
                raise
            return 0
        return 1

    @staticmethod
    def _error() -> Any:
        from pyroute2.netlink.exceptions import NetlinkError

        return NetlinkError


def _count() -> int:
    try:
        return int(_COUNT.read_text())
    except OSError:
        return 0
