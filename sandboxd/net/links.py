"""Bridge and taps, over rtnetlink. pyroute2 (70 ms, 13 MB) is loaded by whoever needs it first."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sandboxd.base.errors import NETWORK_FULL, NETWORK_SETUP_FAILED, SandboxdError

BRIDGE_PORTS_MAX = 1023
"""net/bridge/br_private.h: BR_MAX_PORTS."""
_IFF_UP = 1
_ADDR_GEN_MODE_NONE = 1
"""linux/if_link.h: IN6_ADDR_GEN_MODE_NONE: no IPv6 link-local address, so nothing is sent."""


@dataclass(frozen=True, slots=True)
class Port:
    """A tap as it stands."""

    name: str
    mtu: int
    ready: bool
    """On the bridge, isolated and up."""
    foreign: bool
    """On another bridge."""
    busy: bool
    """Some process has it open: a tap has a carrier then."""


def load() -> None:
    """Imports pyroute2, for whoever has the time now."""
    import pyroute2  # noqa: F401


class Links:
    """One netlink socket, used by one thread. Close it when done."""

    def __init__(self) -> None:
        from pyroute2 import IPRoute

        self._netlink: Any = IPRoute()

    def close(self) -> None:
        self._netlink.close()

    def taken(self, but_bridge: str) -> list[ipaddress.IPv4Network]:
        """Every network that this host has an IPv4 route or address for, in any table, without those of one bridge."""
        own = self._index(but_bridge)
        with _failing("reading the host's routes"):
            routes = [
                _network(m, "RTA_DST", m["dst_len"])
                for m in self._netlink.get_routes(family=socket.AF_INET)
                if not _through(m, own)
            ]
            addresses = [
                _network(m, "IFA_LOCAL", m["prefixlen"])
                for m in self._netlink.get_addr(family=socket.AF_INET)
                if m["index"] != own
            ]
        return [network for network in (*routes, *addresses) if network is not None]

    def local_addresses(self) -> set[ipaddress.IPv4Address]:
        with _failing("reading the host's addresses"):
            found = [message.get("local") for message in self._netlink.get_addr(family=socket.AF_INET)]
        return {ipaddress.IPv4Address(address) for address in found if address}

    def uplink_mtu(self) -> int | None:
        """The smallest MTU of the devices that default routes lead to; None without one."""
        with _failing("reading the host's default route"):
            routes = [m for m in self._netlink.get_routes(family=socket.AF_INET) if m["dst_len"] == 0 and m.get("oif")]
            mtus = [self._netlink.get_links(message.get("oif"))[0].get("mtu") for message in routes]
        return min((int(mtu) for mtu in mtus if mtu), default=None)

    def bridge_address(self, name: str) -> ipaddress.IPv4Interface | None:
        """The first IPv4 address of the device; None where it has none or does not exist."""
        index = self._index(name)
        if index is None:
            return None
        with _failing(f"reading the addresses of {name}"):
            for message in self._netlink.get_addr(family=socket.AF_INET, index=index):
                return ipaddress.IPv4Interface(f"{message.get('local')}/{message['prefixlen']}")
        return None

    def ensure_bridge(self, name: str, address: ipaddress.IPv4Interface, mac: str, mtu: int) -> None:
        """A bridge that is up with exactly this address, made or mended. Raises `network_setup_failed`."""
        if self._index(name) is None:
            with _failing(f"making the bridge {name}"):
                self._netlink.link("add", ifname=name, kind="bridge", address=mac, br_stp_state=0, br_mcast_snooping=0)
        index = self._bridge_index(name)
        with _failing(f"setting up the bridge {name}"):
            for message in self._netlink.get_addr(family=socket.AF_INET, index=index):
                if (message.get("local"), message["prefixlen"]) != (str(address.ip), address.network.prefixlen):
                    self._netlink.addr(
                        "delete", index=index, address=message.get("local"), prefixlen=message["prefixlen"]
                    )
            self._netlink.addr("replace", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
            self._netlink.link("set", index=index, address=mac, mtu=mtu, state="up")

    def delete(self, name: str) -> None:
        """No error where there is no such device."""
        index = self._index(name)
        if index is not None:
            with _failing(f"deleting {name}"):
                self._netlink.link("delete", index=index)

    def other_bridges(self, but: str) -> list[str]:
        """Bridges of others that are up: docker's, a cluster's, another sandboxd's."""
        with _failing("listing bridges"):
            names = [
                message.get("ifname")
                for message in self._netlink.get_links(kind="bridge")
                if message["flags"] & _IFF_UP
            ]
        return [str(name) for name in names if name != but]

    def ports(self, bridge: str) -> list[Port]:
        """All ports of the bridge."""
        master = self._index(bridge)
        with _failing(f"listing the ports of {bridge}"):
            messages = self._netlink.get_links(master=master) if master is not None else []
            return [_port(message, master) for message in messages if message.get("master") == master]

    def port(self, name: str, bridge: str) -> Port | None:
        """One device as a port of the bridge; None where there is no device of this name."""
        index = self._index(name)
        if index is None:
            return None
        with _failing(f"looking at {name}"):
            return _port(self._netlink.get_links(index)[0], self._index(bridge))

    def enslave(self, tap: str, bridge: str, mtu: int) -> None:
        """The tap becomes a port that reaches no other one, silent by itself; up at last. Raises `network_full`."""
        index, master = self._index(tap), self._bridge_index(bridge)
        with _failing(f"putting {tap} on {bridge}"):
            quiet = {"attrs": [["AF_INET6", {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE]]}]]}
            self._netlink.link("set", index=index, mtu=mtu, IFLA_AF_SPEC=quiet)
            self._netlink.link("set", index=index, master=master)
            self._netlink.link("set", index=index, kind="bridge_slave", isolated=1)
            # pyroute2 passes over words it does not know, and this one must not be lost: read it back.
            if self._netlink.get_links(index)[0].get(("linkinfo", "slave_data", "isolated")) != 1:
                raise _failed(f"isolating {tap} on {bridge}", "no such setting (Linux 4.18 or newer is needed)")
            self._netlink.link("set", index=index, state="up")

    def _bridge_index(self, name: str) -> int:
        index = self._index(name)
        if index is None:
            raise SandboxdError(NETWORK_SETUP_FAILED, what=f"the bridge {name}", reason="It has gone.")
        with _failing(f"looking at {name}"):
            info = self._netlink.get_links(index)[0].get("linkinfo")
        if info is None or info.get("kind") != "bridge":
            reason = "A device of this name is no bridge: choose another name, [network] bridge, in the configuration."
            raise SandboxdError(NETWORK_SETUP_FAILED, what=f"the bridge {name}", reason=reason)
        return index

    @staticmethod
    def _index(name: str) -> int | None:
        try:
            return socket.if_nametoindex(name)
        except OSError:
            return None


def _port(message: Any, bridge: int | None) -> Port:
    master = message.get("master")
    isolated = message.get(("linkinfo", "slave_data", "isolated")) == 1
    return Port(
        name=str(message.get("ifname")),
        mtu=int(message.get("mtu")),
        ready=master == bridge and isolated and bool(message["flags"] & _IFF_UP),
        foreign=bool(master) and master != bridge,
        busy=bool(message.get("carrier")),
    )


def _through(message: Any, index: int | None) -> bool:
    return index is not None and message.get("oif") == index


def _network(message: Any, attribute: str, prefix_len: int) -> ipaddress.IPv4Network | None:
    address = message.get_attr(attribute)
    return ipaddress.IPv4Network(f"{address}/{prefix_len}", strict=False) if address else None


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """The one place where netlink's errors become ours."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        if error.code == errno.EXFULL:
            raise SandboxdError(NETWORK_FULL, reason=f"A Linux bridge has {BRIDGE_PORTS_MAX} ports at most.") from error
        raise _failed(what, error.args[1] if len(error.args) > 1 else str(error)) from error
    except OSError as error:
        raise _failed(what, error.strerror or str(error)) from error


def _failed(what: str, reason: object) -> SandboxdError:
    return SandboxdError(NETWORK_SETUP_FAILED, what=what, reason=f"The kernel says: {reason}.")
