"""The host's side of published ports: each is really bound, so nobody else gets it and a conflict shows at once.

The socket only holds the port: DNAT takes the packets before a socket would see them. TCP sockets listen, because a
port that is merely bound could still be taken by a server with SO_REUSEADDR; so `ss -ltn` shows them, too. When the
daemon dies the sockets go and the rules stay: published ports work on, and the next daemon binds them again.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

from sandboxd.base.errors import PORT_IN_USE, PORT_UNAVAILABLE, SandboxdError
from sandboxd.base.ports import PORTS_PER_SANDBOX_MAX, PortMapping, PortRequest

_log = logging.getLogger(__name__)
_SMALLEST_BUFFER_BYTES = 1
"""The kernel makes its minimum of it."""
_KIND = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class Reservations:
    """Sockets by slot."""

    def __init__(self) -> None:
        self._sockets: dict[int, list[socket.socket]] = {}
        self._mappings: dict[int, tuple[PortMapping, ...]] = {}

    def take(self, slot: int, requests: Sequence[PortRequest]) -> tuple[PortMapping, ...]:
        """Binds all or none. Raises `port_in_use`, `port_unavailable`."""
        if len(requests) > PORTS_PER_SANDBOX_MAX:
            reason = f"A sandbox publishes {PORTS_PER_SANDBOX_MAX} ports at most, and this one wants {len(requests)}."
            raise _unavailable(requests[0], reason)
        sockets: list[socket.socket] = []
        mappings: list[PortMapping] = []
        try:
            for request in requests:
                sockets.append(self._bind(request, mappings))
                host_port = int(sockets[-1].getsockname()[1])
                mappings.append(PortMapping(request.bind, host_port, request.guest_port, request.protocol))
        except BaseException:
            _close(sockets)
            raise
        self._sockets[slot], self._mappings[slot] = sockets, tuple(mappings)
        return self._mappings[slot]

    def retake(self, slot: int, mappings: Iterable[PortMapping]) -> None:
        """After a restart: what cannot be bound again stays published, with a warning."""
        self._mappings[slot] = tuple(mappings)
        sockets = self._sockets.setdefault(slot, [])
        for mapping in self._mappings[slot]:
            request = PortRequest(mapping.guest_port, mapping.host_port, mapping.protocol, mapping.bind)
            try:
                sockets.append(self._bind(request, ()))
            except SandboxdError as error:
                _log.warning("%s is published and not reserved: %s %s", mapping, error.message, error.cause)

    def of(self, slot: int) -> tuple[PortMapping, ...]:
        return self._mappings.get(slot, ())

    def drop(self, slot: int) -> None:
        _close(self._sockets.pop(slot, []))
        self._mappings.pop(slot, None)

    def close(self) -> None:
        for slot in list(self._mappings):
            self.drop(slot)

    def _bind(self, request: PortRequest, same_request: Sequence[PortMapping]) -> socket.socket:
        held = socket.socket(socket.AF_INET, _KIND[request.protocol] | socket.SOCK_CLOEXEC)
        try:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALLEST_BUFFER_BYTES)
            if request.protocol == "tcp":
                # As a server does: connections of a former server in TIME_WAIT are no conflict.
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((request.bind, request.host_port))
            if request.protocol == "tcp":
                held.listen(0)
        except OSError as error:
            held.close()
            raise self._translated(request, same_request, error) from error
        return held

    def _translated(self, request: PortRequest, same_request: Sequence[PortMapping], error: OSError) -> SandboxdError:
        if error.errno == errno.EADDRINUSE:
            return SandboxdError(
                PORT_IN_USE,
                port=request.host_port,
                protocol=request.protocol,
                bind=request.bind,
                guest_port=request.guest_port,
                holder=self._holder(request, same_request),
            )
        if error.errno == errno.EADDRNOTAVAIL:
            return _unavailable(request, f"{request.bind} is not an address of this host.")
        return _unavailable(request, f"The kernel says: {error.strerror}.")

    def _holder(self, request: PortRequest, same_request: Sequence[PortMapping]) -> str:
        wanted = (request.protocol, request.host_port)
        if wanted in ((mapping.protocol, mapping.host_port) for mapping in same_request):
            return "This sandbox itself, which asks for it twice,"
        if wanted in ((m.protocol, m.host_port) for mappings in self._mappings.values() for m in mappings):
            return "Another sandbox"
        return process_at(*wanted) or "Another program of this host"


def process_at(protocol: str, port: int, proc: Path = Path("/proc")) -> str | None:
    """Who has the port, like "nginx (process 42)"; None where that cannot be seen. Source: Linux, proc_net_tcp.rst."""
    inodes = {
        f"socket:[{inode}]" for table in (protocol, f"{protocol}6") for inode in _inodes(proc / "net" / table, port)
    }
    for process in proc.iterdir() if inodes else ():
        if process.name.isdecimal() and inodes & _links(process / "fd"):
            try:
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
            except OSError:
                return None
    return None


def _inodes(table: Path, port: int) -> Iterable[str]:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        words = line.split()
        listening = words[3] in ("0A", "07")  # TCP_LISTEN; a UDP socket that is not connected
        if listening and int(words[1].rpartition(":")[2], 16) == port:
            yield words[9]


def _links(directory: Path) -> set[str]:
    try:
        return {target for entry in os.scandir(directory) if (target := _link(entry.path))}
    except OSError:
        return set()


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)  # noqa: PTH115 - a socket's link is no path
    except OSError:
        return None


def _close(sockets: Iterable[socket.socket]) -> None:
    for held in sockets:
        held.close()


def _unavailable(request: PortRequest, reason: str) -> SandboxdError:
    return SandboxdError(
        PORT_UNAVAILABLE, bind=request.bind, port=request.host_port, protocol=request.protocol, reason=reason
    )
