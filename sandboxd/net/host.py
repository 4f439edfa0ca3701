"""The network of this host, step by step: synchronous, used by one thread, in the network namespace of that thread.

The kernel is the memory: a sandbox is on the network exactly when its tap is in the set `guests`. What a former daemon
left is found there and taken over, so nothing is lost when a daemon is killed between any two lines of this file.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from sandboxd.base.errors import INTERNAL, NETWORK_SETUP_FAILED, SandboxdError
from sandboxd.base.ports import PortMapping, PortRequest
from sandboxd.linux import nftables
from sandboxd.linux.tap import create_tap, delete_tap
from sandboxd.net import resolver, rules, subnet, sysctl
from sandboxd.net.addressing import Addressing
from sandboxd.net.conntrack import Conntrack
from sandboxd.net.diagnosis import foreign_drops
from sandboxd.net.lease import Lease
from sandboxd.net.links import Links
from sandboxd.net.reservations import Reservations
from sandboxd.net.settings import NetworkSettings, parse_subnet
from sandboxd.net.state import State

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Freed:
    """What a release leaves to the janitor."""

    addresses: dict[int, str]
    """By slot. The kernel still remembers flows of them."""
    surplus: tuple[int, ...]
    """Slots whose taps are more than the pool keeps."""


class HostNetwork:
    """Bridge, taps, rules and ports of one network. `attach`, `release` and `reconcile` start it where it has to be."""

    def __init__(self, settings: NetworkSettings, state_dir: Path) -> None:
        self._settings = settings
        self._state = State(state_dir)
        self._reservations = Reservations()
        self._guests: dict[int, rules.Guest] = {}
        self._idle: set[int] = set()
        self._condemned: set[int] = set()
        self._condemning = threading.Lock()
        self._dns = resolver.GuestDns((), ())
        self._dns_stamp: tuple[object, ...] | None = None
        self._installed: tuple[str, str] | None = None
        self._links: Links
        self._addressing: Addressing
        self._mtu = settings.mtu
        self.started = False

    @property
    def subnet(self) -> ipaddress.IPv4Network | None:
        return self._addressing.subnet if self.started else None

    def exists(self) -> bool:
        """The bridge is there, from us or from a daemon before."""
        try:
            socket.if_nametoindex(self._settings.bridge)
        except OSError:
            return False
        return True

    # --- start and end ---

    def start(self) -> None:
        """Makes the network, or takes over what is there. On failure a network that was not there is not there."""
        if self.started:
            return
        existed = self.exists()
        self._links = Links()
        try:
            known = self._known_taps()
            self._addressing = Addressing(self._choose_subnet(known), self._settings.tap_prefix)
            self._set_up_bridge()
            self._adopt(known)
            self._install()
        except BaseException:
            if not existed:
                with suppress(SandboxdError):  # what failed says more than what fails because of it
                    self._tear_down()
            self._forget()
            raise
        self.started = True
        if existed:
            self._forget_strangers()
        self._warn_of_firewalls()

    def close(self, *, remove: bool) -> None:
        """Lets go of the network; `remove` takes it down, unless sandboxes are on it."""
        if remove and not self.started and (self.exists() or self._state.standing()):
            self.start()
        if self.started and remove:
            if self._guests:
                _log.warning("%d sandboxes are on %s: it stays", len(self._guests), self._settings.bridge)
            else:
                self._tear_down()
        self._forget()

    def _forget(self) -> None:
        self._reservations.close()
        if hasattr(self, "_links"):
            self._links.close()
            del self._links
        self._guests.clear()
        self._idle.clear()
        self._installed = self._dns_stamp = None
        self.started = False

    def _choose_subnet(self, known: set[str]) -> ipaddress.IPv4Network:
        """What stands stays, unless the configuration says otherwise and nobody lives there."""
        configured = None if self._settings.subnet == "auto" else parse_subnet(self._settings.subnet)
        standing = self._links.bridge_address(self._settings.bridge)
        lived_in = bool(known) or any(port.busy for port in self._links.ports(self._settings.bridge))
        if standing and configured not in (None, standing.network) and lived_in:
            _log.warning("sandboxes run on %s: it changes to %s after the last", standing.network, configured)
        if standing and (lived_in or configured in (None, standing.network)):
            return standing.network
        saved = self._state.load().subnet
        servers = [ipaddress.ip_network(server) for server in resolver.read_host().servers]
        taken = [
            *self._links.taken(self._settings.bridge),
            *(s for s in servers if isinstance(s, ipaddress.IPv4Network)),
        ]
        return subnet.choose(configured, saved if isinstance(saved, ipaddress.IPv4Network) else None, taken)

    def _set_up_bridge(self) -> None:
        """Written down before it is done: a crash in between must not lose what the kernel settings were."""
        saved = self._state.load()
        sysctls = saved.sysctls or sysctl.record()
        self._state.save(
            saved.model_copy(update={"subnet": self._addressing.subnet, "standing": True, "sysctls": sysctls})
        )
        self._mtu = min(self._settings.mtu, self._links.uplink_mtu() or self._settings.mtu)
        address = ipaddress.IPv4Interface(f"{self._addressing.gateway}/{self._addressing.subnet.prefixlen}")
        self._links.ensure_bridge(self._settings.bridge, address, self._addressing.gateway_mac, self._mtu)
        sysctl.prepare_bridge(self._settings.bridge)
        sysctl.enable_forwarding()

    def _adopt(self, known: set[str]) -> None:
        for port in self._links.ports(self._settings.bridge):
            slot = self._addressing.slot_of_tap(port.name)
            if slot is None:
                continue
            if not port.ready:
                self._links.enslave(port.name, self._settings.bridge, self._mtu)
            if port.name in known:
                self._welcome_back(slot)
            else:
                self._idle.add(slot)

    def _welcome_back(self, slot: int) -> None:
        """A sandbox that ran before this daemon."""
        self._reservations.retake(slot, self._state.load_ports(slot))
        self._guests[slot] = self._guest(slot)
        self._idle.discard(slot)

    def _forget_strangers(self) -> None:
        """A daemon that was killed while it released a sandbox may have left its flows."""
        try:
            with closing(Conntrack()) as conntrack:
                conntrack.forget_strangers(self._addressing.subnet, self._addresses())
        except SandboxdError as error:
            _log.warning("%s: %s", error.message, error.cause)

    def _warn_of_firewalls(self) -> None:
        with suppress(SandboxdError):
            for drop in foreign_drops(self._settings.table)[0]:
                _log.warning("the chain %s drops packets of sandboxes: `sandboxctl doctor` knows a remedy", drop)

    def _tear_down(self) -> None:
        """The rules go last: nothing is ever without them."""
        for port in self._links.ports(self._settings.bridge):
            if Addressing(_ANY_SUBNET, self._settings.tap_prefix).slot_of_tap(port.name) is not None:
                self._links.delete(port.name)
        self._links.delete(self._settings.bridge)
        saved = self._state.load()
        if others := self._links.other_bridges(self._settings.bridge):
            _log.info("IP forwarding stays on: %s may need it", ", ".join(others))
        else:
            sysctl.restore(saved.sysctls)
        nftables.load(rules.removal(self._settings))
        self._state.save(saved.model_copy(update={"standing": False, "sysctls": {}}))

    # --- sandboxes ---

    def attach(self, slot: int, requests: Sequence[PortRequest]) -> Lease:
        """Puts a sandbox on the network. On failure nothing of it is left but perhaps a tap in the pool."""
        self.start()
        self._addressing.address(slot)
        if slot in self._guests:
            raise SandboxdError(INTERNAL, reason=f"Slot {slot} is on the network already.")
        self._pardon(slot)
        dns = self._current_dns()
        ports = self._reservations.take(slot, requests)
        try:
            self._ready_tap(slot)
            if ports:
                self._state.save_ports(slot, ports)
            nftables.run(rules.add(self._settings, self._guest(slot)))
            self._guests[slot] = self._guest(slot)
        except BaseException:
            self._undo_attach(slot)
            raise
        self._idle.discard(slot)
        return self._lease(slot, ports, dns)

    def release(self, slots: Iterable[int]) -> Freed:
        """Takes sandboxes off the network in one go; their taps go back to the pool. Others are passed over."""
        leaving = frozenset(slots)
        if not self.started and self.exists():
            self.start()
        guests = [self._guests.pop(slot) for slot in leaving & self._guests.keys()]
        if guests:
            self._withdraw(guests)
            self._idle.update(guest.slot for guest in guests)
        for slot in leaving:
            self._reservations.drop(slot)
            self._state.forget_ports(slot)
        return Freed({guest.slot: guest.address for guest in guests}, self._condemn_surplus())

    def reconcile(self, live: frozenset[int]) -> Freed:
        """Exactly these sandboxes are on the network."""
        if not self.started and (live or self.exists()):
            self.start()
        freed = self.release({*self._guests, *self._state.slots_with_ports()} - live)
        if missing := sorted(live - self._guests.keys()):
            _log.warning("the rules had lost the sandboxes of slots %s", missing)
            for slot in missing:
                self._welcome_back(slot)
            self._install()
        return freed

    def delete_condemned(self, slot: int) -> None:
        """Deletes a surplus tap, unless a sandbox took it meanwhile. In the janitor's thread: it takes 16-23 ms."""
        with self._condemning:
            if slot in self._condemned:
                self._condemned.discard(slot)
                delete_tap(self._addressing.tap(slot))

    def _condemn_surplus(self) -> tuple[int, ...]:
        """The lowest slots are given out first, so the highest go."""
        surplus = tuple(sorted(self._idle)[self._settings.pool_idle :])
        self._idle.difference_update(surplus)
        with self._condemning:
            self._condemned.update(surplus)
        return surplus

    def _pardon(self, slot: int) -> None:
        """Waits while the janitor has the tap in his hands: then it is gone, else it stays."""
        if slot in self._condemned:
            with self._condemning:
                self._condemned.discard(slot)

    def _ready_tap(self, slot: int) -> None:
        name, bridge = self._addressing.tap(slot), self._settings.bridge
        port = self._links.port(name, bridge)
        if port and port.foreign:
            reason = f"{name} is on another bridge: choose another prefix, [network] tap_prefix, in the configuration."
            raise SandboxdError(NETWORK_SETUP_FAILED, what=f"the tap {name}", reason=reason)
        if port and port.ready and port.mtu == self._mtu and not port.busy:
            return
        if port and port.busy:
            _log.warning("%s is still open in some process: it gets a successor", name)
            self._links.delete(name)
        create_tap(name)
        try:
            self._links.enslave(name, bridge, self._mtu)
        except BaseException:
            self._links.delete(name)
            raise
        self._idle.add(slot)

    def _undo_attach(self, slot: int) -> None:
        if guest := self._guests.pop(slot, None):
            self._withdraw([guest])
        self._reservations.drop(slot)
        self._state.forget_ports(slot)

    def _withdraw(self, guests: Sequence[rules.Guest]) -> None:
        """Where the rules are not what we think, they are written anew, without these guests."""
        try:
            nftables.run([command for guest in guests for command in rules.delete(self._settings, guest)])
        except SandboxdError as error:
            _log.warning("%s: writing the rules anew", error.cause)
            self._install()

    def _addresses(self) -> frozenset[str]:
        return frozenset(guest.address for guest in self._guests.values())

    def _guest(self, slot: int) -> rules.Guest:
        where = self._addressing
        return rules.Guest(
            slot, where.tap(slot), where.mac(slot), str(where.address(slot)), self._reservations.of(slot)
        )

    def _lease(self, slot: int, ports: tuple[PortMapping, ...], dns: resolver.GuestDns) -> Lease:
        where = self._addressing
        return Lease(
            slot=slot,
            tap=where.tap(slot),
            mac=where.mac(slot),
            mtu=self._mtu,
            addresses=(f"{where.address(slot)}/{where.subnet.prefixlen}",),
            routes=(("0.0.0.0/0", str(where.gateway)),),
            dns_servers=dns.servers,
            dns_search=dns.search,
            ports=ports,
        )

    # --- rules ---

    def verify(self) -> bool:
        """Writes the rules anew where somebody changed or removed them; whether that was so."""
        if not self.started or self._described() == self._installed:
            return False
        _log.warning("the rules of %s were changed by someone else: writing them anew", self._settings.bridge)
        self._install()
        return True

    def _install(self) -> None:
        guests = tuple(self._guests.values())
        nftables.load(rules.RuleSet(self._settings, self._addressing, guests, self._read_dns().relay).text())
        self._installed = self._described()

    def _described(self) -> tuple[str, str] | None:
        try:
            return nftables.describe("bridge", self._settings.table), nftables.describe("ip", self._settings.table)
        except SandboxdError:
            return None

    def _known_taps(self) -> set[str]:
        try:
            return rules.taps_in(nftables.run(rules.listing(self._settings)))
        except SandboxdError:  # there is no such table: nobody is on the network
            return set()

    # --- DNS ---

    def _current_dns(self) -> resolver.GuestDns:
        """Read again when the host's files change; the gateway's port 53 follows."""
        before = self._dns
        if self._dns_stamp != resolver.stamp() and self._read_dns().relay != before.relay:
            nftables.run(rules.relay_change(self._settings, self._dns.relay))
        return self._dns

    def _read_dns(self) -> resolver.GuestDns:
        self._dns_stamp = resolver.stamp()
        conf = resolver.read_host()
        if self._settings.dns:
            conf = resolver.ResolvConf(tuple(map(ipaddress.ip_address, self._settings.dns)), conf.search)
        blocked = [ipaddress.IPv4Network(block) for block in self._settings.blocked_destinations]
        own = self._links.local_addresses()
        self._dns = resolver.for_guest(
            conf, self._addressing.gateway, lambda server: server in own or any(server in block for block in blocked)
        )
        if not self._dns.servers:
            _log.warning("this host has no DNS server with an IPv4 address: sandboxes resolve no names")
        return self._dns


_ANY_SUBNET = ipaddress.IPv4Network("10.0.0.0/8")
