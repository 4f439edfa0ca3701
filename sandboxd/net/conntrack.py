"""Flows that outlive their guest: the kernel's connection table is cleared of an address before another guest gets it.

Over ctnetlink by pyroute2. The kernel filters the dump where it can (5.8 and newer); every entry is checked here again,
so an older kernel is slower and no less right.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from typing import Any

from sandboxd.base.errors import NETWORK_SETUP_FAILED, SandboxdError

IPS_DST_NAT = 1 << 5
"""linux/netfilter/nf_conntrack_common.h"""
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}


class Conntrack:
    """One netlink socket, used by one thread. Close it when done."""

    def __init__(self) -> None:
        from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

        self._tuple: Any = NFCTAttrTuple
        self._netlink: Any = NFCTSocket()

    def close(self) -> None:
        self._netlink.close()

    def forget_guest(self, address: str, *, published: bool) -> int:
        """Deletes every flow from and to a guest; how many there were. `published`: it had ports on the host."""
        flows = [
            *self._matching(lambda orig, _: orig.saddr == address, tuple_orig=self._tuple(saddr=address)),
            *self._matching(lambda orig, _: orig.daddr == address, tuple_orig=self._tuple(daddr=address)),
        ]
        if published:
            nat = {"status": IPS_DST_NAT, "status_mask": IPS_DST_NAT}
            flows += self._matching(lambda _, reply: reply.saddr == address, **nat)
        return sum(map(self._delete, flows))

    def forget_port(self, protocol: str, port: int) -> int:
        """Deletes flows to a port of the host: a UDP flow that began before the port was published would pass it by."""
        number = _PROTOCOLS[protocol]
        wanted = self._tuple(proto=number, dport=port)
        return sum(
            map(
                self._delete,
                self._matching(lambda orig, _: (orig.proto, orig.dport) == (number, port), tuple_orig=wanted),
            )
        )

    def _matching(self, matches: Callable[[Any, Any], bool], **kernel_filter: object) -> list[Any]:
        """Original tuples of the flows that match."""
        try:
            return [orig for orig, reply in self._tuples(self._netlink.dump(**kernel_filter)) if matches(orig, reply)]
        except (OSError, self._error()) as error:
            raise _failed(error) from error

    def _tuples(self, messages: Iterable[Any]) -> Iterable[tuple[Any, Any]]:
        for message in messages:
            orig, reply = message.get_attr("CTA_TUPLE_ORIG"), message.get_attr("CTA_TUPLE_REPLY")
            if message["nfgen_family"] == socket.AF_INET and orig is not None and reply is not None:
                yield (self._tuple.from_netlink(socket.AF_INET, orig), self._tuple.from_netlink(socket.AF_INET, reply))

    def _delete(self, orig: Any) -> int:
        try:
            self._netlink.entry("del", tuple_orig=orig)
        except self._error() as error:
            if error.code == errno.ENOENT:  # it ended by itself in between
                return 0
            raise _failed(error) from error
        return 1

    @staticmethod
    def _error() -> Any:
        from pyroute2.netlink.exceptions import NetlinkError

        return NetlinkError


def _failed(error: Exception) -> SandboxdError:
    return SandboxdError(
        NETWORK_SETUP_FAILED, what="clearing flows of an ended sandbox", reason=f"ctnetlink says: {error}."
    )
