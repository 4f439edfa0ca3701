"""The nftables table: everything a guest may and may not do on the network, in one page.

Two tables of one name, because a frame is checked where it enters the bridge (family bridge) and a packet where it is
routed (family ip). Both are replaced whole, in one transaction. A sandbox is an element of `guests` and of the maps of
published ports, never a rule: attaching one costs the same with a thousand others.

What holds:
- a guest sends from its own tap, MAC and IPv4 address, or not at all; no IPv6, no VLAN, nothing else but ARP
- guests reach neither each other nor the host; refused at once (TCP reset, ICMP prohibited)
- guests do not reach blocked destinations: metadata services, the host's loopback, multicast
- nobody outside reaches a guest, except through a published port
- published ports answer on the host's addresses, 127.0.0.1 included (route_localnet, on this bridge alone), and never
  from the wire for 127.0.0.0/8
- the gateway's port 53 leads to the host's resolver where guests cannot reach it by themselves, and to nothing else
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sandboxd.base.ports import ANY_ADDRESS, PortMapping
from sandboxd.net.addressing import Addressing
from sandboxd.net.settings import NetworkSettings

Command = dict[str, object]


@dataclass(frozen=True, slots=True)
class Guest:
    """One sandbox as the rules see it."""

    slot: int
    tap: str
    mac: str
    address: str
    ports: tuple[PortMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The whole of both tables."""

    settings: NetworkSettings
    addressing: Addressing
    guests: tuple[Guest, ...] = ()
    relay: ipaddress.IPv4Address | None = None

    def text(self) -> str:
        """In nft(8)'s language. Loading it replaces whatever is there under these names, elements included."""
        names = {
            "table": self.settings.table,
            "bridge": self.settings.bridge,
            "gateway": str(self.addressing.gateway),
            "subnet": str(self.addressing.subnet),
            "taps": f"{self.settings.tap_prefix}*",
            "blocked": ", ".join(self.settings.blocked_destinations) or "255.255.255.255",
            "from_guests": _from_guests(self.settings.tap_prefix),
            "guests": _elements(_guest_words(guest) for guest in self.guests),
            "published": _elements(
                _port_words(g, port) for g in self.guests for port in g.ports if port.bind == ANY_ADDRESS
            ),
            "published_at": _elements(
                _port_words(g, port) for g in self.guests for port in g.ports if port.bind != ANY_ADDRESS
            ),
            "relay": _elements(f"{protocol} : {self.relay}" for protocol in ("tcp", "udp") if self.relay),
        }
        return _BRIDGE_TABLE.format_map(names) + _IP_TABLE.format_map(names)


# `iifname` of a bridge hook is the port's name. ARP is checked twice: the frame's sender, and the one inside.
_BRIDGE_TABLE = """
table bridge {table}
delete table bridge {table}
table bridge {table} {{
  set guests {{
    type ifname . ether_addr . ipv4_addr
    {guests}
  }}
  chain ingress {{
    type filter hook prerouting priority -300; policy accept;
    {from_guests}
  }}
  chain from_guest {{
    ether type arp iifname . ether saddr . arp saddr ip @guests iifname . arp saddr ether . arp saddr ip @guests accept
    ether type ip iifname . ether saddr . ip saddr @guests accept
    counter drop
  }}
  chain between {{
    type filter hook forward priority -200; policy accept;
    iifname "{taps}" oifname "{taps}" counter drop
  }}
}}
"""

_IP_TABLE = """
table ip {table}
delete table ip {table}
table ip {table} {{
  set blocked {{
    type ipv4_addr
    flags interval
    auto-merge
    elements = {{ {blocked} }}
  }}
  map published {{
    type inet_proto . inet_service : ipv4_addr . inet_service
    {published}
  }}
  map published_at {{
    type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
    {published_at}
  }}
  map relay {{
    type inet_proto : ipv4_addr
    {relay}
  }}

  chain entry {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
    iifname "{bridge}" ip saddr != {subnet} drop
  }}
  chain publish {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname "{bridge}" ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 dnat to meta l4proto map @relay
    iifname "{bridge}" accept
    iifname != "lo" ip daddr 127.0.0.0/8 accept
    dnat ip to ip daddr . meta l4proto . th dport map @published_at
    fib daddr type local dnat ip to meta l4proto . th dport map @published
  }}
  chain publish_here {{
    type nat hook output priority -100; policy accept;
    dnat ip to ip daddr . meta l4proto . th dport map @published_at
    fib daddr type local dnat ip to meta l4proto . th dport map @published
  }}
  chain relay_in {{
    type nat hook input priority 100; policy accept;
    iifname "{bridge}" ct status dnat ct original ip daddr {gateway} ip daddr 127.0.0.0/8 snat to 127.0.0.1
  }}
  chain leave {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "{bridge}" ip saddr 127.0.0.0/8 masquerade
    oifname != "{bridge}" ip saddr {subnet} masquerade
  }}

  chain to_host {{
    type filter hook input priority filter; policy accept;
    iifname "{bridge}" jump host_from_guest
  }}
  chain routed {{
    type filter hook forward priority filter; policy accept;
    iifname "{bridge}" jump world_from_guest
    oifname "{bridge}" jump guest_from_world
  }}
  chain host_from_guest {{
    ct state invalid drop
    ct direction reply ct state established,related accept
    ct status dnat ct original ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 accept
    meta pkttype != host drop
    goto refuse
  }}
  chain world_from_guest {{
    ct state invalid drop
    oifname "{bridge}" goto refuse
    tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
    ct state established,related accept
    ct status dnat ct original ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 accept
    ip daddr @blocked goto refuse
    accept
  }}
  chain guest_from_world {{
    tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
    ct state established,related accept
    ct status dnat accept
    drop
  }}
  chain refuse {{
    meta l4proto tcp counter reject with tcp reset
    counter reject with icmp type admin-prohibited
  }}
}}
"""


def removal(settings: NetworkSettings) -> str:
    """Both tables gone, whether they were there or not."""
    return "".join(
        f"table {family} {settings.table}\ndelete table {family} {settings.table}\n" for family in ("bridge", "ip")
    )


def add(settings: NetworkSettings, guest: Guest) -> list[Command]:
    """One sandbox comes: one transaction."""
    return [_command("add", settings, *change) for change in _changes(guest)]


def delete(settings: NetworkSettings, guest: Guest) -> list[Command]:
    """One sandbox goes: one transaction, refused as a whole where an element is missing."""
    return [_command("delete", settings, *change) for change in reversed(_changes(guest))]


def relay_change(settings: NetworkSettings, relay: ipaddress.IPv4Address | None) -> list[Command]:
    """The gateway's port 53 leads elsewhere, or nowhere."""
    flush: Command = {"flush": {"map": {"family": "ip", "table": settings.table, "name": "relay"}}}
    elements: Sequence[object] = [[protocol, str(relay)] for protocol in ("tcp", "udp")] if relay else []
    return [flush, *([_command("add", settings, "ip", "relay", elements)] if elements else [])]


def listing(settings: NetworkSettings) -> list[Command]:
    """Asks for the sandboxes that the rules know."""
    return [{"list": {"set": {"family": "bridge", "table": settings.table, "name": "guests"}}}]


def taps_in(answer: dict[str, object]) -> set[str]:
    """The taps named in the answer to `listing`."""
    taps: set[str] = set()
    entries = answer.get("nftables")
    for entry in entries if isinstance(entries, list) else []:
        for element in entry.get("set", {}).get("elem", []):
            taps.add(str(element["concat"][0]))
    return taps


def _changes(guest: Guest) -> list[tuple[str, str, Sequence[object]]]:
    """(family, set, elements). Ports first: when the guest may send, it can be answered."""
    changes: list[tuple[str, str, Sequence[object]]] = []
    anywhere = [port for port in guest.ports if port.bind == ANY_ADDRESS]
    somewhere = [port for port in guest.ports if port.bind != ANY_ADDRESS]
    if anywhere:
        changes.append(("ip", "published", [[_concat(p.protocol, p.host_port), _target(guest, p)] for p in anywhere]))
    if somewhere:
        elements = [[_concat(p.bind, p.protocol, p.host_port), _target(guest, p)] for p in somewhere]
        changes.append(("ip", "published_at", elements))
    changes.append(("bridge", "guests", [_concat(guest.tap, guest.mac, guest.address)]))
    return changes


def _command(verb: str, settings: NetworkSettings, family: str, name: str, elements: Sequence[object]) -> Command:
    return {verb: {"element": {"family": family, "table": settings.table, "name": name, "elem": list(elements)}}}


def _concat(*parts: object) -> Command:
    return {"concat": list(parts)}


def _target(guest: Guest, port: PortMapping) -> Command:
    return _concat(guest.address, port.guest_port)


def _from_guests(prefix: str) -> str:
    """Our taps and no others: the prefix and a digit. (nft 1.0.6 misreads wildcards in a set of names.)"""
    return "\n    ".join(f'iifname "{prefix}{digit}*" goto from_guest' for digit in range(10))


def _elements(words: Iterable[str]) -> str:
    joined = ", ".join(words)
    return f"elements = {{ {joined} }}" if joined else ""


def _guest_words(guest: Guest) -> str:
    return f'"{guest.tap}" . {guest.mac} . {guest.address}'


def _port_words(guest: Guest, port: PortMapping) -> str:
    bind = "" if port.bind == ANY_ADDRESS else f"{port.bind} . "
    return f"{bind}{port.protocol} . {port.host_port} : {guest.address} . {port.guest_port}"
