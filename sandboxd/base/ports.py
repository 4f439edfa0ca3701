"""Published ports as people write them: `80`, `8080:80`, `127.0.0.1:8080:80/udp`, `8000-8003:80-83`.

Grammar, docker's: `[[BIND:][HOST]:]GUEST[/tcp|/udp]`, where HOST and GUEST are a port or a range of the same length.
HOST empty or 0: the host chooses a free port. BIND is an IPv4 address of the host; without it, all of them.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal, TypeGuard

from sandboxd.base.errors import INVALID_ARGUMENT, SandboxdError

Protocol = Literal["tcp", "udp"]

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - what `-p` means without BIND
PORT_MAX = 65535
PORTS_PER_SANDBOX_MAX = 1024
"""Each published port holds one socket of the daemon."""

_SPEC = re.compile(
    r"(?:(?:(?P<bind>[^:\[\]/]*):)?(?P<host>[0-9]{1,5}(?:-[0-9]{1,5})?)?:)?"
    r"(?P<guest>[0-9]{1,5}(?:-[0-9]{1,5})?)(?:/(?P<protocol>[A-Za-z]{1,8}))?\Z"
)
_SHAPE = "ports read [BIND:][HOST:]GUEST[/tcp|/udp], for example 8080:80 or 127.0.0.1:8000-8003:80-83/udp"


@dataclass(frozen=True, slots=True)
class PortRequest:
    """One port to publish. `host_port` 0: any free one. `bind` is an IPv4 address of the host."""

    guest_port: int
    host_port: int = 0
    protocol: Protocol = "tcp"
    bind: str = ANY_ADDRESS


@dataclass(frozen=True, slots=True)
class PortMapping:
    """One published port: `bind:host_port` of the host leads to `guest_port` of the guest."""

    bind: str
    host_port: int
    guest_port: int
    protocol: Protocol

    def __str__(self) -> str:
        return f"{self.bind}:{self.host_port}->{self.guest_port}/{self.protocol}"


def parse_port_spec(text: str) -> tuple[PortRequest, ...]:
    """One `-p` argument: as many requests as its range is long. Raises `invalid_argument`."""
    match = _SPEC.match(text)
    if not match:
        raise _invalid(text, "IPv6 addresses cannot be published on yet" if "[" in text else _SHAPE)
    guests = _ports(text, match["guest"])
    hosts = _ports(text, match["host"]) if match["host"] else (0,) * len(guests)
    if len(hosts) != len(guests):
        raise _invalid(text, f"the ranges differ in length: {len(hosts)} host ports, {len(guests)} guest ports")
    if len(hosts) > 1 and hosts[0] == 0 and hosts[1] != 0:
        raise _invalid(text, "a range starts at port 1 or higher")
    bind, protocol = match["bind"] or "", match["protocol"] or ""
    return tuple(_request(text, guest, host, protocol, bind) for guest, host in zip(guests, hosts, strict=True))


def port_request(guest_port: int, host_port: int = 0, protocol: str = "tcp", bind: str = "") -> PortRequest:
    """The same checks for who has the parts already, as in the API's PortMapping. Raises `invalid_argument`."""
    text = f"{bind or ANY_ADDRESS}:{host_port}:{guest_port}/{protocol or 'tcp'}"
    return _request(text, guest_port, host_port, protocol, bind)


def _request(text: str, guest_port: int, host_port: int, protocol: str, bind: str) -> PortRequest:
    transport = protocol.lower() or "tcp"
    if not _known(transport):
        raise _invalid(text, "the protocol is tcp or udp")
    if not 1 <= guest_port <= PORT_MAX or not 0 <= host_port <= PORT_MAX:
        raise _invalid(text, f"ports are 1 to {PORT_MAX}; a host port of 0 lets the system choose")
    return PortRequest(guest_port, host_port, transport, _bind(text, bind))


def _known(protocol: str) -> TypeGuard[Protocol]:
    return protocol in ("tcp", "udp")


def _bind(text: str, bind: str) -> str:
    if not bind:
        return ANY_ADDRESS
    try:
        return str(ipaddress.IPv4Address(bind))
    except ValueError:
        raise _invalid(text, f"{bind[:40]!r} is not an IPv4 address of this host") from None


def _ports(text: str, words: str) -> tuple[int, ...]:
    first, _, last = words.partition("-")
    start, end = int(first), int(last or first)
    if end < start or end > PORT_MAX:
        raise _invalid(text, f"a range counts up and ends at {PORT_MAX} at most")
    if end - start >= PORTS_PER_SANDBOX_MAX:
        raise _invalid(text, f"a range holds {PORTS_PER_SANDBOX_MAX} ports at most")
    return tuple(range(start, end + 1))


def _invalid(text: str, reason: str) -> SandboxdError:
    return SandboxdError(INVALID_ARGUMENT, what="port", value=text[:60], reason=reason, command="run")
