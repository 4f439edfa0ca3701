"""What `doctor` says of the network: without changing anything, with or without a daemon, as root or not.

the tun device      taps need it
the rules           the kernel checks the whole rule set, and forgets it
foreign firewalls   a chain that drops what it does not know drops guests too, and no rule of ours can overrule it
the subnet          one is free
DNS                 there is a server that guests can be led to
forwarding          on, or to be turned on
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sandboxd.base.errors import SandboxdError
from sandboxd.net import resolver, rules, subnet, sysctl
from sandboxd.net.addressing import Addressing
from sandboxd.net.settings import NetworkSettings, parse_subnet

_TUN = Path("/dev/net/tun")
_LEGACY_TABLES = Path("/proc/net/ip_tables_names")
_COMMAND_TIMEOUT_S = 5
_FIREWALLD = "firewalld"
"""Its table: the chains accept by policy and end in a rule that rejects."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `doctor`."""

    level: Literal["ok", "warning", "error"]
    title: str
    detail: str
    remedy: str = ""
    """A command or a configuration line; empty where nothing is to be done."""


@dataclass(frozen=True, slots=True)
class ForeignDrop:
    """A chain of somebody else that drops forwarded packets it does not know."""

    family: str
    table: str
    chain: str
    legacy: bool = False

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.chain}" + (" (iptables-legacy)" if self.legacy else "")

    def remedy(self, bridge: str, chains: frozenset[str]) -> str:
        """Lets guests pass, in the words of the tool that made the chain."""
        if self.table == _FIREWALLD:
            return f"firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload"
        if self.table != "filter" or self.chain != "FORWARD":
            insert = f"nft insert rule {self.family} {self.table} {self.chain}"
            answers = f'{insert} oifname "{bridge}" ct state established,related accept'
            published = f'{insert} oifname "{bridge}" ct status dnat accept'
            return f'{insert} iifname "{bridge}" accept && {answers} && {published}'
        tool = "iptables-legacy" if self.legacy else "iptables"
        chain = "DOCKER-USER" if "DOCKER-USER" in chains else "FORWARD"
        answers = f"{tool} -I {chain} -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT"
        return f"{tool} -I {chain} -i {bridge} -j ACCEPT && {answers}"


def diagnose(settings: NetworkSettings) -> list[Finding]:
    """All findings, in the order of the list above. Never raises for what it finds."""
    checks: tuple[Callable[[NetworkSettings], Iterator[Finding]], ...] = (
        _tun,
        _rules,
        _firewalls,
        _subnet,
        _dns,
        _forwarding,
    )
    return [finding for check in checks for finding in check(settings)]


def foreign_drops(ours: str) -> tuple[tuple[ForeignDrop, ...], frozenset[str]]:
    """Chains of others that drop by policy, and the names of all chains in iptables' filter table. For root."""
    from sandboxd.linux import nftables

    answer: Any = nftables.run([{"list": {"chains": {}}}])
    chains = [entry["chain"] for entry in answer.get("nftables", []) if "chain" in entry]
    drops = [
        ForeignDrop(chain["family"], chain["table"], chain["name"])
        for chain in chains
        if chain.get("hook") == "forward" and chain["family"] in ("ip", "inet") and chain["table"] != ours
        if chain.get("policy") == "drop" or chain["table"] == _FIREWALLD
    ]
    names = {chain["name"] for chain in chains if (chain["family"], chain["table"]) == ("ip", "filter")}
    legacy = _legacy_rules()
    if "-P FORWARD DROP" in legacy:
        drops.append(ForeignDrop("ip", "filter", "FORWARD", legacy=True))
        names.update(line.split()[1] for line in legacy if line.startswith("-N "))
    return tuple(drops), frozenset(names)


def _tun(_: NetworkSettings) -> Iterator[Finding]:
    if _TUN.exists():
        yield Finding("ok", "tun device", f"{_TUN} is there")
    else:
        yield Finding("error", "tun device", f"{_TUN} does not exist: no sandbox can have a tap", "modprobe tun")


def _rules(settings: NetworkSettings) -> Iterator[Finding]:
    try:
        from sandboxd.linux import nftables
    except ImportError as error:
        yield Finding("error", "nftables", f"libnftables does not load: {error}", "apt-get install libnftables1")
        return
    if os.geteuid() != 0:
        yield Finding("warning", "nftables", "only root can check the rules", "sudo sandboxctl doctor")
        return
    example = Addressing(next(subnet.candidates()), settings.tap_prefix)
    try:
        nftables.load(rules.RuleSet(settings, example).text(), dry=True)
    except SandboxdError as error:
        remedy = "modprobe -a nf_tables nft_masq nft_nat nft_fib_ipv4 nft_reject_ipv4 && sandboxctl doctor"
        yield Finding("error", "nftables", f"the kernel refuses the rules: {error.cause}", remedy)
    else:
        yield Finding("ok", "nftables", "the kernel takes the whole rule set")


def _firewalls(settings: NetworkSettings) -> Iterator[Finding]:
    if os.geteuid() != 0:
        return  # said by the check before
    try:
        drops, chains = foreign_drops(settings.table)
    except (SandboxdError, ImportError):
        return  # said by the check before
    for drop in drops:
        detail = f"the chain {drop} drops what it does not know, so sandboxes have no network"
        yield Finding("warning", "other firewalls", detail, drop.remedy(settings.bridge, chains))
    if not drops:
        yield Finding("ok", "other firewalls", "none drops forwarded packets by default")


def _subnet(settings: NetworkSettings) -> Iterator[Finding]:
    from sandboxd.net.links import Links

    configured = None if settings.subnet == "auto" else parse_subnet(settings.subnet)
    try:
        links = Links()
        try:
            standing = links.bridge_address(settings.bridge)
            taken = links.taken(settings.bridge)
        finally:
            links.close()
        chosen = standing.network if standing else subnet.choose(configured, None, taken)
        subnet.refuse_collision(chosen, taken)
    except SandboxdError as error:
        yield Finding("error", "subnet", f"{error.message}: {error.cause}", error.remedy)
    else:
        yield Finding("ok", "subnet", f"{chosen} is free of other routes" + (", in use" if standing else ""))


def _dns(settings: NetworkSettings) -> Iterator[Finding]:
    conf = resolver.read_host()
    servers = tuple(map(ipaddress.ip_address, settings.dns)) or conf.servers
    usable = [str(server) for server in servers if isinstance(server, ipaddress.IPv4Address)]
    if usable:
        yield Finding("ok", "DNS", f"sandboxes ask {', '.join(usable)}")
    else:
        detail = "this host names no DNS server with an IPv4 address, and sandboxes have no IPv6 yet"
        yield Finding("warning", "DNS", detail, '[network] dns = ["ADDRESS"] in the configuration')


def _forwarding(_: NetworkSettings) -> Iterator[Finding]:
    state = "on" if sysctl.forwarding() else "off: sandboxd turns it on with the first sandbox, and off after the last"
    yield Finding("ok", "IP forwarding", state)


def _legacy_rules() -> list[str]:
    """What iptables-legacy says of the filter table, where the kernel has one of that kind."""
    try:
        in_use = "filter" in _LEGACY_TABLES.read_text().split()
    except OSError:
        return []
    program = shutil.which("iptables-legacy") if in_use else None
    if program is None:
        return []
    try:
        answer = subprocess.run([program, "-S"], capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.splitlines()
