"""What of the network needs no network: addresses, subnets, resolv.conf, rules as text, state, netlink's events."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import textwrap
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.base.errors import (
    INVALID_ARGUMENT,
    NETWORK_FULL,
    SUBNET_COLLISION,
    SUBNET_NONE_FREE,
    SandboxdError,
)
from sandboxd.base.ports import PortMapping
from sandboxd.linux.nftables import deletions
from sandboxd.net import resolver, rules, subnet
from sandboxd.net.addressing import Addressing
from sandboxd.net.diagnosis import ForeignDrop
from sandboxd.net.reservations import process_at
from sandboxd.net.settings import NetworkSettings
from sandboxd.net.state import SavedNetwork, State, boot_id

NET = Addressing(IPv4Network("10.201.0.0/16"), "sbx")


# --- addresses ---


@given(st.integers(0, 65532))
def test_a_slot_is_found_again_from_all_that_is_made_of_it(slot: int) -> None:
    assert NET.slot_of_tap(NET.tap(slot)) == slot
    assert NET.address(slot) in NET.subnet and NET.address(slot) not in (NET.gateway, NET.subnet.broadcast_address)
    octets = bytes.fromhex(NET.mac(slot).replace(":", ""))
    assert octets[0] & 3 == 2, "locally administered, unicast"
    assert IPv4Address(octets[2:]) == NET.address(slot)
    assert len(NET.tap(slot)) <= 15


@pytest.mark.parametrize("slot", [-1, 65533])
def test_slots_end_with_the_subnet(slot: int) -> None:
    with pytest.raises(SandboxdError) as caught:
        NET.address(slot)
    assert caught.value.kind is NETWORK_FULL


@pytest.mark.parametrize("name", ["sbx", "sbx01", "sbx-1", "sbx1x", "xsbx1", "sbx١", "eth0", "sbx123456789"])  # noqa: RUF001
def test_other_devices_are_nobodys_tap(name: str) -> None:
    assert NET.slot_of_tap(name) is None


# --- subnets ---


def test_candidates_are_private_and_do_not_overlap() -> None:
    networks = list(subnet.candidates())
    assert all(network.is_private and network.prefixlen <= 20 for network in networks)
    assert not any(a.overlaps(b) for i, a in enumerate(networks) for b in networks[i + 1 :])


def test_the_default_route_collides_with_nothing() -> None:
    assert subnet.choose(None, None, [IPv4Network("0.0.0.0/0")]) == next(subnet.candidates())


@pytest.mark.parametrize("taken", ["10.0.0.0/8", "10.201.0.0/16", "10.201.77.1/32", "10.200.0.0/14"])
def test_what_overlaps_is_passed_over(taken: str) -> None:
    network = IPv4Network(taken)
    assert not subnet.choose(None, None, [network]).overlaps(network)


def test_a_saved_choice_is_kept_while_it_can_be() -> None:
    saved = IPv4Network("172.31.0.0/16")
    assert subnet.choose(None, saved, []) == saved
    assert subnet.choose(None, saved, [IPv4Network("172.16.0.0/12")]) == next(subnet.candidates())


def test_a_configured_subnet_that_collides_is_refused_with_what_it_collides_with() -> None:
    with pytest.raises(SandboxdError) as caught:
        subnet.choose(IPv4Network("192.168.1.0/24"), None, [IPv4Network("192.168.1.7/32")])
    assert caught.value.kind is SUBNET_COLLISION and "the address 192.168.1.7" in caught.value.cause


def test_a_host_that_routes_everything_has_none_free() -> None:
    taken = [IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16")]
    with pytest.raises(SandboxdError) as caught:
        subnet.choose(None, None, taken)
    assert caught.value.kind is SUBNET_NONE_FREE


@pytest.mark.parametrize(
    "wrong",
    [
        {"subnet": "10.0.0.1/16"},
        {"subnet": "10.0.0.0/30"},
        {"subnet": "127.0.0.0/8"},
        {"subnet": "224.0.0.0/8"},
        {"subnet": "fd00::/64"},
        {"bridge": "a" * 16},
        {"bridge": 'x";drop'},
        {"bridge": ".."},
        {"tap_prefix": "Sbx"},
        {"tap_prefix": "sbx*"},
        {"tap_prefix": ""},
        {"mtu": 100},
        {"pool_idle": -1},
        {"dns": ("::1",)},
        {"dns": ("example",)},
        {"blocked_destinations": ("10.0.0.1/8",)},
    ],
)
def test_settings_that_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SandboxdError) as caught:
        NetworkSettings(**wrong)  # type: ignore[arg-type]
    assert caught.value.kind is INVALID_ARGUMENT and next(iter(wrong)) in caught.value.message


# --- DNS ---


def test_resolv_conf_as_hosts_write_it() -> None:
    conf = resolver.parse(
        "# made by hand\n; and by others\nnameserver 192.0.2.1\nnameserver   2001:db8::1%eth0\n\tnameserver 192.0.2.1\n"
        "domain example.org\nsearch a.example b.example\noptions edns0 trust-ad\nnameserver\nnameserver x\nsortlist 1\n"
    )
    assert conf == resolver.ResolvConf((ip_address("192.0.2.1"), ip_address("2001:db8::1")), ("a.example", "b.example"))


def test_no_more_is_taken_than_a_guest_reads() -> None:
    servers = "".join(f"nameserver 192.0.2.{n}\n" for n in range(200))
    conf = resolver.parse(servers + "search " + " ".join(f"d{n}.example" for n in range(50)))
    assert (len(conf.servers), len(conf.search)) == (resolver.SERVERS_MAX, resolver.SEARCH_MAX)
    assert resolver.parse("search " + "a" * 300).search == ()


@given(st.text())
def test_any_text_is_a_resolv_conf_of_plain_words(text: str) -> None:
    conf = resolver.parse(text)
    assert len(conf.servers) <= resolver.SERVERS_MAX
    assert all(part.isascii() and not set(part) & set(" \t\n\"'\\#;") for part in conf.search)


def test_the_stubs_real_servers_are_read(tmp_path: Path) -> None:
    stub, real = tmp_path / "resolv.conf", tmp_path / "upstream"
    stub.write_text("nameserver 127.0.0.53\nsearch lan\n")
    real.write_text("nameserver 192.0.2.53\n")
    assert resolver.read_host(stub, real) == resolver.ResolvConf((ip_address("192.0.2.53"),), ("lan",))
    before = resolver.stamp(stub, real)
    real.unlink()
    assert resolver.stamp(stub, real) != before
    assert resolver.read_host(stub, real).servers == (ip_address("127.0.0.53"),)


def test_a_resolv_conf_that_never_ends_or_starts_is_no_danger(tmp_path: Path) -> None:
    fifo = tmp_path / "resolv.conf"
    os.mkfifo(fifo)
    assert resolver.read_host(fifo, tmp_path / "none") == resolver.ResolvConf()
    huge = tmp_path / "huge"
    huge.write_text("#" * resolver.FILE_MAX_BYTES + "\nnameserver 192.0.2.1\n")
    assert resolver.read_host(huge, tmp_path / "none") == resolver.ResolvConf()


def _for_guest(*servers: str) -> resolver.GuestDns:
    conf = resolver.ResolvConf(tuple(map(ip_address, servers)), ("lan",))
    return resolver.for_guest(conf, NET.gateway, lambda server: server.is_loopback or server.is_link_local)


def test_a_guest_is_told_what_it_can_reach() -> None:
    assert _for_guest("192.0.2.1", "127.0.0.1", "::1") == resolver.GuestDns(("192.0.2.1",), ("lan",))
    gateway = (str(NET.gateway),)
    assert _for_guest("127.0.0.1") == resolver.GuestDns(gateway, ("lan",), relay=IPv4Address("127.0.0.1"))
    assert _for_guest("::1", "169.254.169.254") == resolver.GuestDns(
        gateway, ("lan",), relay=IPv4Address("169.254.169.254")
    )
    assert _for_guest("::1", "0.0.0.0") == resolver.GuestDns((), ("lan",))


# --- rules ---

WEB = PortMapping("0.0.0.0", 8080, 80, "tcp")
LOCAL = PortMapping("127.0.0.1", 53, 5353, "udp")


def _guest(*ports: PortMapping) -> rules.Guest:
    return rules.Guest(3, NET.tap(3), NET.mac(3), str(NET.address(3)), ports)


def test_the_rules_hold_every_guest_as_elements() -> None:
    text = rules.RuleSet(NetworkSettings(), NET, (_guest(WEB, LOCAL),), IPv4Address("127.0.0.1")).text()
    assert 'elements = { "sbx3" . 02:5b:0a:c9:00:05 . 10.201.0.5 }' in text
    assert "elements = { tcp . 8080 : 10.201.0.5 . 80 }" in text
    assert "elements = { 127.0.0.1 . udp . 53 : 10.201.0.5 . 5353 }" in text
    assert "elements = { tcp : 127.0.0.1, udp : 127.0.0.1 }" in text


def test_a_guest_comes_and_goes_by_the_same_elements() -> None:
    settings = NetworkSettings()
    added = [command["add"] for command in rules.add(settings, _guest(WEB, LOCAL))]
    deleted = [command["delete"] for command in rules.delete(settings, _guest(WEB, LOCAL))]
    assert added == deleted[::-1]
    assert [element["element"]["name"] for element in added] == ["published", "published_at", "guests"]  # type: ignore[index]
    assert len(rules.add(settings, _guest())) == 1


def test_two_networks_have_two_tables() -> None:
    assert NetworkSettings().table == "sandboxd"
    assert NetworkSettings(bridge="other0").table == "sandboxd-other0"


def test_the_remedy_speaks_the_words_of_the_firewall() -> None:
    docker = ForeignDrop("ip", "filter", "FORWARD")
    assert docker.remedy("b0", frozenset({"DOCKER-USER"})).startswith("iptables -I DOCKER-USER -i b0 -j ACCEPT")
    assert docker.remedy("b0", frozenset()).startswith("iptables -I FORWARD ")
    assert ForeignDrop("ip", "filter", "FORWARD", legacy=True).remedy("b0", frozenset()).startswith("iptables-legacy ")
    assert ForeignDrop("inet", "mine", "fwd").remedy("b0", frozenset()).startswith("nft insert rule inet mine fwd ")
    assert "firewall-cmd" in ForeignDrop("inet", "firewalld", "filter_FORWARD").remedy("b0", frozenset())


# --- state ---


def test_what_is_saved_is_found_again(tmp_path: Path) -> None:
    state = State(tmp_path / "net")
    assert (state.load().subnet, state.standing(), list(state.slots_with_ports())) == (None, False, [])
    saved = SavedNetwork(boot_id=boot_id(), standing=True, subnet=NET.subnet, sysctls={"/proc/x": "0"})
    state.save(saved)
    state.save_ports(7, (WEB, LOCAL))
    assert State(tmp_path / "net").load() == saved
    assert state.load_ports(7) == (WEB, LOCAL) and list(state.slots_with_ports()) == [7]
    state.forget_ports(7)
    state.forget_ports(7)
    assert state.load_ports(7) == () and not list(state.slots_with_ports())


def test_settings_of_another_boot_are_forgotten_and_the_subnet_is_not(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.save(SavedNetwork(boot_id="another", standing=True, subnet=NET.subnet, sysctls={"/proc/x": "0"}))
    loaded = state.load()
    assert (loaded.subnet, loaded.standing, loaded.sysctls) == (NET.subnet, False, {})


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"unknown": 1}', b'{"subnet": "x"}', b"\xff"])
def test_state_that_does_not_read_is_as_good_as_none(tmp_path: Path, text: bytes) -> None:
    state = State(tmp_path)
    (tmp_path / "network.json").write_bytes(text)
    (tmp_path / "ports").mkdir()
    (tmp_path / "ports" / "3.json").write_bytes(text)
    assert state.load().subnet is None and state.load_ports(3) == ()


# --- who has a port ---


def test_the_holder_of_a_port_is_named(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    row = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1\n"
    (tmp_path / "net" / "tcp").write_text(header + row)
    (tmp_path / "42" / "fd").mkdir(parents=True)
    (tmp_path / "42" / "comm").write_text("nginx\n")
    (tmp_path / "42" / "fd" / "3").symlink_to("socket:[4242]")
    assert process_at("tcp", 8080, tmp_path) == "nginx (process 42)"
    assert process_at("tcp", 8081, tmp_path) is None
    assert process_at("udp", 8080, tmp_path) is None


# --- netlink ---


def test_what_is_loaded_ahead_touches_nothing(tmp_path: Path) -> None:
    """In a process of its own: what the first sandbox needs is loaded, and there is still no network."""
    script = textwrap.dedent(f"""
        import asyncio, os, sys
        from pathlib import Path
        from sandboxd.net.manager import NetworkManager
        from sandboxd.net.settings import NetworkSettings

        async def main():
            manager = NetworkManager(NetworkSettings(bridge="sbr-ahead", tap_prefix="sah"), Path({str(tmp_path)!r}))
            assert "pyroute2" not in sys.modules
            manager.begin()
            await manager.close(remove=False)
            assert {{"pyroute2", "sandboxd.net.host"}} <= sys.modules.keys()
            assert not os.path.exists("/sys/class/net/sbr-ahead") and not os.listdir({str(tmp_path)!r})

        asyncio.run(main())
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def _event(kind: int, table: str, subsystem: int = 10) -> bytes:
    name = table.encode() + b"\0"
    attribute = struct.pack("=HH", 4 + len(name), 1) + name + b"\0" * (-len(name) % 4)
    return struct.pack("=IHHII", 20 + len(attribute), subsystem << 8 | kind, 0, 0, 0) + b"\2\0\0\0" + attribute


def test_events_name_the_tables_that_lost_something() -> None:
    datagram = _event(2, "sandboxd") + _event(0, "new") + _event(8, "other") + _event(2, "x", subsystem=1)
    assert list(deletions(datagram)) == ["sandboxd", "other"]


@given(st.binary(max_size=200), st.integers(0, 60))
def test_events_may_be_cut_or_garbage(noise: bytes, cut: int) -> None:
    list(deletions(_event(2, "sandboxd") + noise))
    assert set(deletions(_event(2, "sandboxd")[:cut])) <= {"sandboxd"}
