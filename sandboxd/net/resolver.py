"""DNS taken from the host: which servers a guest is told, and how it reaches one that only the host can reach.

A guest cannot reach the host's loopback, the host's own addresses, or blocked ones (on some clouds the metadata
address is the DNS server). Such a server is offered as the gateway's address: port 53 of the gateway, and nothing else
of it, is led to the server. systemd-resolved's stub (127.0.0.53) answers local programs only, so its list of real
servers is read.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

RESOLV_CONF = Path("/etc/resolv.conf")
RESOLVED_UPSTREAM = Path("/run/systemd/resolve/resolv.conf")

FILE_MAX_BYTES = 64 << 10
SERVERS_MAX = 3
"""glibc reads no more (MAXNS)."""
SEARCH_MAX = 6
"""glibc before 2.26 reads no more (MAXDNSRCH)."""
SEARCH_MAX_CHARS = 256

_DOMAIN = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?\Z")


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """What a resolv.conf says, as far as it is well-formed."""

    servers: tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...] = ()
    search: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GuestDns:
    """What a guest is told, and where the gateway's port 53 leads (None: nowhere)."""

    servers: tuple[str, ...]
    search: tuple[str, ...]
    relay: ipaddress.IPv4Address | None = None


def parse(text: str) -> ResolvConf:
    """resolv.conf(5): `nameserver`, `search`, `domain`; of the latter two the last one. Anything odd is passed over."""
    servers: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    search: tuple[str, ...] = ()
    for line in text.splitlines():
        keyword, *values = line.split() or [""]
        if keyword == "nameserver" and values:
            server = _server(values[0])
            if server and server not in servers:
                servers.append(server)
        elif keyword in ("search", "domain"):
            search = _search(values[:1] if keyword == "domain" else values)
    return ResolvConf(tuple(servers[:SERVERS_MAX]), search)


def for_guest(
    conf: ResolvConf, gateway: ipaddress.IPv4Address, unreachable: Callable[[ipaddress.IPv4Address], bool]
) -> GuestDns:
    """`unreachable` tells which addresses a guest cannot reach by itself. Without any IPv4 server: none."""
    usable = [
        server for server in conf.servers if isinstance(server, ipaddress.IPv4Address) and not server.is_unspecified
    ]
    direct = [str(server) for server in usable if not unreachable(server)]
    if direct or not usable:
        return GuestDns(tuple(direct), conf.search)
    return GuestDns((str(gateway),), conf.search, relay=usable[0])


def read_host(resolv_conf: Path = RESOLV_CONF, upstream: Path = RESOLVED_UPSTREAM) -> ResolvConf:
    """The host's servers; behind systemd-resolved's stub, the real ones. A file that cannot be read says nothing."""
    conf = parse(_read(resolv_conf))
    if conf.servers and all(server.is_loopback for server in conf.servers) and (real := parse(_read(upstream))).servers:
        return ResolvConf(real.servers, real.search or conf.search)
    return conf


def stamp(resolv_conf: Path = RESOLV_CONF, upstream: Path = RESOLVED_UPSTREAM) -> tuple[object, ...]:
    """Differs after either file changed."""
    return (_identity(resolv_conf), _identity(upstream))


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read(path: Path) -> str:
    """At most FILE_MAX_BYTES; never hangs on a FIFO somebody put there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, FILE_MAX_BYTES).decode(errors="replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def _server(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def _search(values: list[str]) -> tuple[str, ...]:
    domains: list[str] = []
    for value in values:
        fits = sum(map(len, domains)) + len(domains) + len(value) <= SEARCH_MAX_CHARS
        if len(domains) < SEARCH_MAX and fits and _DOMAIN.match(value) and value not in domains:
            domains.append(value)
    return tuple(domains)
