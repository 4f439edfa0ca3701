"""The network, packet by packet: a manager, guests and the world outside, each in a network namespace of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.netlab import (
    HOST_UPLINK,
    INTERNET,
    METADATA,
    OUTSIDE,
    Lab,
    ManagerError,
    ask_udp,
    fetch,
    refusal,
    run,
    send_arp,
    status,
)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab.made(tmp_path) as made:
        yield made


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = 5) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def elements(lab: Lab, family: str, kind: str, name: str) -> list[object]:
    answer = lab.nft("list", kind, family, "sandboxd", name)
    return [element for entry in answer["nftables"] for element in entry.get(kind, {}).get("elem", [])]


# --- out and in ---


def test_guests_reach_the_world_as_the_host(lab: Lab) -> None:
    manager = lab.manager()
    guest = lab.guest(manager.attach(0))
    lab.serve(lab.outside, "http 0.0.0.0 80", f"udp {INTERNET} 53")
    assert fetch(guest.namespace, INTERNET, 80) == HOST_UPLINK
    assert ask_udp(guest.namespace, INTERNET, 53) == HOST_UPLINK


def test_a_smaller_mtu_of_the_way_out_is_the_guests_mtu(lab: Lab) -> None:
    for namespace in (lab.host, lab.outside):
        run(namespace, "ip", "link", "set", "up0", "mtu", "1300")
    lease = lab.manager().attach(0)
    assert lease["mtu"] == 1300
    guest = lab.guest(lease)
    run(guest.namespace, "ip", "link", "set", "eth0", "mtu", "1300")
    lab.serve(lab.outside, "http 0.0.0.0 80")
    body = run(guest.namespace, "curl", "-s", "--max-time", "10", f"http://{INTERNET}:80/3000000")
    assert len(body) == len(HOST_UPLINK) + 3_000_000


def test_published_ports_answer_outside_on_the_host_and_on_loopback(lab: Lab) -> None:
    manager = lab.manager()
    guest = lab.guest(manager.attach(0, "8080:80", "8053:53/udp"))
    lab.serve(guest.namespace, "http 0.0.0.0 80", "udp 0.0.0.0 53")
    assert fetch(lab.outside, HOST_UPLINK, 8080) == OUTSIDE
    assert ask_udp(lab.outside, HOST_UPLINK, 8053) == OUTSIDE
    for address in (HOST_UPLINK, "127.0.0.1", guest.gateway):
        assert fetch(lab.host, address, 8080), address
        assert ask_udp(lab.host, address, 8053), address


def test_a_port_published_on_one_address_answers_there_only(lab: Lab) -> None:
    manager = lab.manager()
    guest = lab.guest(manager.attach(0, "127.0.0.1:8080:80", f"{HOST_UPLINK}:8081:80"))
    lab.serve(guest.namespace, "http 0.0.0.0 80")
    assert fetch(lab.host, "127.0.0.1", 8080)
    assert refusal(lab.outside, HOST_UPLINK, 8080) == "ConnectionRefusedError"
    assert fetch(lab.outside, HOST_UPLINK, 8081) == OUTSIDE
    assert refusal(lab.host, "127.0.0.1", 8081) == "ConnectionRefusedError"


def test_loopback_ports_are_not_reached_from_the_wire(lab: Lab) -> None:
    """A neighbour that routes 127.0.0.1 to this host."""
    manager = lab.manager()
    guest = lab.guest(manager.attach(0, "127.0.0.1:8080:80"))
    lab.serve(guest.namespace, "http 0.0.0.0 80")
    run(lab.outside, "ip", "address", "delete", "127.0.0.1/8", "dev", "lo")
    run(lab.outside, "sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1", "net.ipv4.conf.up0.route_localnet=1")
    run(lab.outside, "ip", "route", "add", "127.0.0.1/32", "via", HOST_UPLINK, "src", OUTSIDE)
    assert "via" in run(lab.outside, "ip", "route", "get", "127.0.0.1"), "the neighbour sends it our way"
    assert fetch(lab.outside, "127.0.0.1", 8080) is None
    assert fetch(lab.host, "127.0.0.1", 8080)


def test_the_host_chooses_ports_and_says_which(lab: Lab) -> None:
    manager = lab.manager()
    lease = manager.attach(0, "80", "127.0.0.1::81/udp")
    first, second = lease["ports"]
    assert (first["guest_port"], first["bind"], first["protocol"]) == (80, "0.0.0.0", "tcp")
    assert (second["guest_port"], second["bind"], second["protocol"]) == (81, "127.0.0.1", "udp")
    guest = lab.guest(lease)
    lab.serve(guest.namespace, "http 0.0.0.0 80", "udp 0.0.0.0 81")
    assert fetch(lab.outside, HOST_UPLINK, first["host_port"]) == OUTSIDE
    assert ask_udp(lab.host, "127.0.0.1", second["host_port"])


def test_nobody_outside_reaches_a_guest_by_its_own_address(lab: Lab) -> None:
    guest = lab.guest(lab.manager().attach(0, "8080:80"))
    lab.serve(guest.namespace, "http 0.0.0.0 80")
    run(lab.outside, "ip", "route", "add", "10.201.0.0/16", "via", HOST_UPLINK)
    assert fetch(lab.outside, guest.address, 80) is None
    assert fetch(lab.host, guest.address, 80), "the host itself does"


# --- what a guest may not ---


def test_guests_do_not_reach_each_other(lab: Lab) -> None:
    manager = lab.manager()
    one, two = lab.guest(manager.attach(0)), lab.guest(manager.attach(1, "8080:80"))
    lab.serve(two.namespace, "http 0.0.0.0 80")
    assert fetch(lab.host, two.address, 80)
    assert fetch(one.namespace, two.address, 80) is None
    run(one.namespace, "ip", "neigh", "replace", two.address, "lladdr", two.mac, "dev", "eth0")
    run(two.namespace, "ip", "neigh", "replace", one.address, "lladdr", one.mac, "dev", "eth0")
    assert fetch(one.namespace, two.address, 80) is None, "with ARP out of the way"
    run(one.namespace, "ip", "route", "add", f"{two.address}/32", "via", one.gateway)
    assert refusal(one.namespace, two.address, 80) == "ConnectionRefusedError", "by way of the gateway"
    assert refusal(one.namespace, HOST_UPLINK, 8080) == "ConnectionRefusedError", "by its published port"


def test_guests_do_not_reach_the_host(lab: Lab) -> None:
    guest = lab.guest(lab.manager().attach(0))
    lab.serve(lab.host, "http 0.0.0.0 8000", f"udp {HOST_UPLINK} 8000")
    assert fetch(lab.outside, HOST_UPLINK, 8000) and ask_udp(lab.outside, HOST_UPLINK, 8000), "the servers do answer"
    for address in (guest.gateway, HOST_UPLINK):
        assert refusal(guest.namespace, address, 8000) == "ConnectionRefusedError", "at once, not by a time-out"
        assert ask_udp(guest.namespace, address, 8000) is None
    run(guest.namespace, "ip", "address", "delete", "127.0.0.1/8", "dev", "lo")
    run(guest.namespace, "sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1", "net.ipv4.conf.eth0.route_localnet=1")
    run(guest.namespace, "ip", "route", "add", "127.0.0.1/32", "via", guest.gateway, "src", guest.address)
    assert fetch(guest.namespace, "127.0.0.1", 8000) is None


def test_guests_do_not_reach_metadata_services(lab: Lab) -> None:
    guest = lab.guest(lab.manager().attach(0))
    lab.serve(lab.outside, "http 0.0.0.0 80")
    assert fetch(lab.host, METADATA, 80) == HOST_UPLINK, "the service does answer"
    assert refusal(guest.namespace, METADATA, 80) == "ConnectionRefusedError"


@pytest.mark.parametrize("spoof", ["address", "mac"])
def test_a_guest_is_itself_or_silent(lab: Lab, spoof: str) -> None:
    manager = lab.manager()
    guest, other = lab.guest(manager.attach(0)), lab.guest(manager.attach(1))
    lab.serve(lab.outside, "http 0.0.0.0 80")
    assert fetch(guest.namespace, INTERNET, 80) == HOST_UPLINK
    if spoof == "mac":
        run(guest.namespace, "ip", "link", "set", "eth0", "address", "02:00:00:00:00:77")
    else:
        run(guest.namespace, "ip", "address", "add", "10.201.7.7/16", "dev", "eth0")
    with lab.counted_outside("tcp dport 80") as heard:
        assert (
            fetch(guest.namespace, INTERNET, 80, *(["--interface", "10.201.7.7"] if spoof == "address" else [])) is None
        )
        assert heard() == 0, "not even one way"
        assert fetch(other.namespace, INTERNET, 80) == HOST_UPLINK
        assert heard() > 0


@pytest.mark.parametrize("lie", ["address", "mac"])
def test_a_guest_tells_no_lies_by_arp(lab: Lab, lie: str) -> None:
    """A reply that nobody asked for, as it would redirect the host's packets. (It believes the last: no locktime.)"""
    manager = lab.manager()
    guest, other = lab.guest(manager.attach(0)), lab.guest(manager.attach(1))
    lab.serve(lab.outside, "http 0.0.0.0 80")
    assert fetch(guest.namespace, INTERNET, 80) and fetch(other.namespace, INTERNET, 80), "the host knows both"
    run(lab.host, "sysctl", "-qw", "net.ipv4.neigh.sandboxd0.locktime=0")
    victim, mac = (other, guest.mac) if lie == "address" else (guest, "02:00:00:00:00:77")
    send_arp(guest, victim.address, victim.mac)
    send_arp(guest, victim.address, mac)
    assert victim.mac in run(lab.host, "ip", "neigh", "show", victim.address)


def test_a_released_guest_is_silent(lab: Lab) -> None:
    """Even where its machine lives on and holds the tap."""
    manager = lab.manager()
    guest = lab.guest(manager.attach(0))
    lab.serve(lab.outside, "http 0.0.0.0 80")
    assert fetch(guest.namespace, INTERNET, 80)
    manager("release", slot=0)
    assert fetch(guest.namespace, INTERNET, 80) is None
    successor = lab.guest(manager.attach(0))
    assert fetch(successor.namespace, INTERNET, 80) == HOST_UPLINK, "the successor's tap is free"
    assert fetch(guest.namespace, INTERNET, 80) is None


# --- DNS ---


def test_a_resolver_on_loopback_is_led_to_and_nothing_else(lab: Lab) -> None:
    lease = lab.manager(dns=["127.0.0.1"]).attach(0)
    guest = lab.guest(lease)
    lab.serve(lab.host, "udp 127.0.0.1 53", "http 127.0.0.1 53", "http 0.0.0.0 54")
    assert lease["dns_servers"] == [guest.gateway]
    assert ask_udp(guest.namespace, guest.gateway, 53) == "127.0.0.1", "it looks like a local program's question"
    assert fetch(guest.namespace, guest.gateway, 53) == "127.0.0.1", "by TCP, too"
    assert refusal(guest.namespace, guest.gateway, 54) == "ConnectionRefusedError"
    assert refusal(guest.namespace, HOST_UPLINK, 53) == "ConnectionRefusedError"


def test_a_resolver_at_a_blocked_address_is_led_to(lab: Lab) -> None:
    """As on clouds whose metadata address is the DNS server."""
    guest = lab.guest(lab.manager(dns=[METADATA]).attach(0))
    lab.serve(lab.outside, f"udp {METADATA} 53", "http 0.0.0.0 80")
    assert ask_udp(guest.namespace, guest.gateway, 53) == HOST_UPLINK
    assert ask_udp(guest.namespace, METADATA, 53) is None
    assert refusal(guest.namespace, METADATA, 80) == "ConnectionRefusedError"


# --- ports in use ---


def test_a_port_that_a_program_has_is_refused_by_name(lab: Lab) -> None:
    lab.serve(lab.host, "http 127.0.0.1 8080", "udp 0.0.0.0 8053")
    manager = lab.manager()
    for spec in ("8080:80", "127.0.0.1:8080:80"):
        with pytest.raises(ManagerError) as caught:
            manager.attach(0, spec)
        assert caught.value.code == "port_in_use"
        assert "python" in caught.value.cause and "-p 80" in caught.value.remedy
    with pytest.raises(ManagerError, match="port_in_use"):
        manager.attach(0, "8053:53/udp")
    assert manager.attach(0, "8080:80/udp", f"{HOST_UPLINK}:8080:80")["ports"], "another protocol, another address"


def test_a_port_that_a_sandbox_has_is_refused_until_it_goes(lab: Lab) -> None:
    manager = lab.manager()
    manager.attach(0, "8080:80")
    with pytest.raises(ManagerError) as caught:
        manager.attach(1, "9090:90", "8080:80")
    assert (caught.value.code, caught.value.cause) == ("port_in_use", "Another sandbox has it.")
    assert len(elements(lab, "bridge", "set", "guests")) == 1
    manager.attach(1, "9090:90")
    manager("release", slot=0)
    manager.attach(2, "8080:80")
    with pytest.raises(ManagerError, match="asks for it twice"):
        manager.attach(3, "7070:70", "7070:71")


def test_an_address_that_is_not_the_hosts_is_refused(lab: Lab) -> None:
    with pytest.raises(ManagerError) as caught:
        lab.manager().attach(0, "203.0.113.1:8080:80")
    assert caught.value.code == "port_unavailable" and "not an address of this host" in caught.value.cause


def test_a_published_port_is_nobody_elses(lab: Lab) -> None:
    lab.manager().attach(0, "8080:80")
    code = "import socket; s=socket.socket(); s.setsockopt(1, 2, 1); s.bind(('', 8080)); s.listen()"
    assert status(lab.host, "python3", "-c", code) != 0


# --- coming and going ---


def test_many_come_and_go_and_leave_a_pool(lab: Lab) -> None:
    manager = lab.manager(pool_idle=3)
    manager("start")
    before = manager("descriptors")
    slots = list(range(20))
    leases = manager("attach_many", slots=slots, ports=["80", "53/udp"])
    assert len({lease["tap"] for lease in leases}) == len({lease["mac"] for lease in leases}) == 20
    manager("release_many", slots=slots)
    for slot in range(50):
        manager.attach(slot % 7, "8080:80")
        manager("release", slot=slot % 7)
        manager("release", slot=slot % 7)
    eventually(lambda: len(run(lab.host, "ip", "-br", "link", "show", "master", "sandboxd0").splitlines()) == 3, "pool")
    assert elements(lab, "bridge", "set", "guests") == []
    assert elements(lab, "ip", "map", "published") == []
    assert "8080" not in run(lab.host, "ss", "-Hltun")
    assert list((lab.directory / "state" / "ports").iterdir()) == []
    assert manager("descriptors") <= before + 2


def test_the_end_leaves_the_host_as_it_was(lab: Lab) -> None:
    run(lab.host, "sysctl", "-qw", "net.ipv4.conf.up0.forwarding=1", "net.ipv4.conf.all.accept_redirects=0")
    before = lab.snapshot()
    manager = lab.manager()
    guest = lab.guest(manager.attach(0, "8080:80"))
    manager("close", remove=True)
    assert "sandboxd0" in lab.snapshot()["links"], "not with a sandbox on it"
    assert fetch(lab.host, guest.address, 1) is None
    heir = lab.manager()
    heir("reconcile", live=[])
    heir("close", remove=True)
    assert lab.snapshot() == before


def test_a_start_that_fails_leaves_the_host_as_it_was(lab: Lab) -> None:
    run(lab.host, "ip", "route", "add", "10.0.0.0/8", "via", OUTSIDE)
    before = lab.snapshot()
    with pytest.raises(ManagerError) as caught:
        lab.manager(subnet="10.77.0.0/16").attach(0)
    assert caught.value.code == "subnet_collision" and "10.0.0.0/8" in caught.value.cause
    assert lab.snapshot() == before


def test_forwarding_that_was_on_stays_on_and_other_bridges_keep_it(lab: Lab) -> None:
    manager = lab.manager()
    manager("start")
    run(lab.host, "ip", "link", "add", "docker0", "type", "bridge")
    run(lab.host, "ip", "link", "set", "docker0", "up")
    manager("close", remove=True)
    assert run(lab.host, "cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
    run(lab.host, "ip", "link", "delete", "docker0")
    heir = lab.manager()
    heir("start")
    heir("close", remove=True)
    assert run(lab.host, "cat", "/proc/sys/net/ipv4/ip_forward") == "1\n", "it was on when this network was made"


def test_a_cancelled_attach_leaves_nothing(lab: Lab) -> None:
    manager = lab.manager()
    assert manager("attach_cancelled", slot=0, ports=["8080:80"]) == "CancelledError"
    assert elements(lab, "bridge", "set", "guests") == []
    assert manager.attach(0, "8080:80")["ports"]


def test_slots_that_the_subnet_has_no_address_for_are_refused(lab: Lab) -> None:
    manager = lab.manager(subnet="10.77.0.0/29")
    assert [manager.attach(slot)["addresses"][0] for slot in range(5)][-1] == "10.77.0.6/29"
    with pytest.raises(ManagerError, match="network_full"):
        manager.attach(5)


def test_the_subnet_keeps_clear_of_routes_and_stays_chosen(lab: Lab) -> None:
    run(lab.host, "ip", "route", "add", "10.201.4.0/24", "via", OUTSIDE, "table", "77")
    first = lab.manager()
    assert first("start") == "10.202.0.0/16"
    first("close", remove=True)
    run(lab.host, "ip", "route", "flush", "table", "77")
    assert lab.manager()("start") == "10.202.0.0/16"


def test_a_tap_of_another_network_is_not_taken(lab: Lab) -> None:
    lab.manager().attach(0)
    with pytest.raises(ManagerError, match="tap_prefix"):
        lab.manager(bridge="other0").attach(0)
    assert lab.manager(bridge="other0", tap_prefix="oth").attach(0)["tap"] == "oth0"


# --- daemons die, firewalls reload ---


def test_a_killed_manager_loses_nothing(lab: Lab) -> None:
    lab.serve(lab.outside, "http 0.0.0.0 80")
    first = lab.manager()
    guest = lab.guest(first.attach(0, "8080:80"))
    gone = lab.guest(first.attach(1, "9090:90"))
    lab.serve(guest.namespace, "http 0.0.0.0 80")
    first.kill()
    assert fetch(guest.namespace, INTERNET, 80) == HOST_UPLINK, "without any daemon"
    assert fetch(lab.outside, HOST_UPLINK, 8080) == OUTSIDE
    heir = lab.manager()
    heir("reconcile", live=[0])
    assert fetch(guest.namespace, INTERNET, 80) == HOST_UPLINK
    assert fetch(lab.outside, HOST_UPLINK, 8080) == OUTSIDE
    assert fetch(gone.namespace, INTERNET, 80) is None
    with pytest.raises(ManagerError, match="port_in_use"):
        heir.attach(2, "8080:80")
    assert heir.attach(1, "9090:90")["tap"] == "sbx1"
    heir("release", slot=0)
    heir("release", slot=1)
    heir("close", remove=True)
    assert "sandboxd0" not in run(lab.host, "ip", "link")


def test_a_reload_of_the_hosts_firewall_takes_nothing_away(lab: Lab) -> None:
    manager = lab.manager()
    guest = lab.guest(manager.attach(0, "8080:80"))
    lab.serve(guest.namespace, "http 0.0.0.0 80")
    lab.serve(lab.host, "http 0.0.0.0 8000")
    for wrecked in (
        ["flush", "ruleset"],
        ["flush", "table", "ip", "sandboxd"],
        ["delete", "table", "bridge", "sandboxd"],
    ):
        whole = run(lab.host, "nft", "--stateless", "list", "ruleset")
        run(lab.host, "nft", *wrecked)
        eventually(lambda: run(lab.host, "nft", "--stateless", "list", "ruleset") == whole, f"mended after {wrecked}")  # noqa: B023
        assert fetch(lab.outside, HOST_UPLINK, 8080) == OUTSIDE
        assert refusal(guest.namespace, guest.gateway, 8000) == "ConnectionRefusedError"


def test_rules_lost_while_no_daemon_ran_come_back_with_the_ports(lab: Lab) -> None:
    first = lab.manager()
    guest = lab.guest(first.attach(0, "8080:80"))
    lab.serve(guest.namespace, "http 0.0.0.0 80")
    first.kill()
    run(lab.host, "nft", "flush", "ruleset")
    assert fetch(lab.outside, HOST_UPLINK, 8080) is None
    lab.manager()("reconcile", live=[0])
    assert fetch(lab.outside, HOST_UPLINK, 8080) == OUTSIDE


def test_a_successor_inherits_no_flow(lab: Lab) -> None:
    manager = lab.manager()
    guest = lab.guest(manager.attach(0, "8053:53/udp"))
    lab.serve(guest.namespace, "udp 0.0.0.0 53")
    lab.serve(lab.outside, f"udp {INTERNET} 5353")
    assert ask_udp(lab.outside, HOST_UPLINK, 8053) and ask_udp(guest.namespace, INTERNET, 5353)
    flows = run(lab.host, "cat", "/proc/net/nf_conntrack")
    assert flows.count(guest.address) >= 2
    manager("release", slot=0)
    eventually(lambda: guest.address not in run(lab.host, "cat", "/proc/net/nf_conntrack"), "flows forgotten")


def test_a_udp_flow_from_before_the_port_was_published_finds_it(lab: Lab) -> None:
    manager = lab.manager()
    manager("start")
    run(lab.host, "nft", "add table ip other; add chain ip other x { type nat hook prerouting priority 0; }")
    assert ask_udp(lab.outside, HOST_UPLINK, 8053, source_port=4444) is None
    guest = lab.guest(manager.attach(0, "8053:53/udp"))
    lab.serve(guest.namespace, "udp 0.0.0.0 53")
    assert ask_udp(lab.outside, HOST_UPLINK, 8053, source_port=4444) == OUTSIDE


def test_ten_in_a_row_are_quick(lab: Lab) -> None:
    """Generous bounds, for a loaded machine: a tap that was made or deleted on the way would show."""
    times = lab.manager()("churn", rounds=10)
    assert sorted(times["attach"][1:])[4] < 15, times
    assert sorted(times["release"])[5] < 100, times
