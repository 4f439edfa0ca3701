"""A guest on the network: NAT out, published ports in, and everything else refused.

The whole house sits in a network namespace of the test's own ("host"), joined to a second one ("outside") that serves
real HTTP. No packet of these tests touches the machine's own network.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.house import House, eventually, running_house

OUTSIDE, HOST = "198.51.100.2", "198.51.100.1"
SERVER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.client_address[0].encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("0.0.0.0", PORT), Handler).serve_forever()
"""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _inside(namespace: str, *command: str, timeout_s: float = 20) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["nsenter", f"--net=/run/netns/{namespace}", *command],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def _fetch(namespace: str, url: str) -> str:
    code = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=10).read().decode())"
    done = _inside(namespace, sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _server(namespace: str, port: int) -> subprocess.Popen[bytes]:
    code = SERVER.replace("PORT", str(port))
    process = subprocess.Popen(["nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-c", code])
    eventually(lambda: f":{port}" in _inside(namespace, "ss", "-Hltn").stdout)
    return process


@pytest.fixture(scope="module")
def networks() -> Iterator[None]:
    names = ("sbx-host", "sbx-outside")
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", names[0], "link", "add", "wan", "type", "veth", "peer", "name", "eth0", "netns", names[1])
        _ip("-n", names[0], "addr", "add", f"{HOST}/24", "dev", "wan")
        _ip("-n", names[1], "addr", "add", f"{OUTSIDE}/24", "dev", "eth0")
        _ip("-n", names[0], "link", "set", "wan", "up")
        _ip("-n", names[1], "link", "set", "eth0", "up")
        servers = [_server(names[1], 80), _server(names[0], 8080)]
        yield
        for server in servers:
            server.kill()
            server.wait()
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.fixture(scope="module")
def net(networks: None, tmp_path_factory: pytest.TempPathFactory, busybox_layout: Path) -> Iterator[House]:
    prefix = ("nsenter", "--net=/run/netns/sbx-host", "--")
    with running_house(tmp_path_factory.mktemp("net"), name="nt", prefix=prefix) as house:
        house.ok("load", "-i", busybox_layout, "--tag", "busybox")
        yield house


def test_guest_reaches_outside_through_nat(net: House) -> None:
    assert net.ok("run", "--rm", "busybox", "sh", "-c", _get(OUTSIDE, 80)).endswith(HOST)


def test_outside_reaches_published_port(net: House) -> None:
    script = "mkdir /www; echo from the guest > /www/index.html; exec httpd -f -p 80 -h /www"
    net.ok("run", "-d", "--name", "web", "-p", "8000:80", "-p", "127.0.0.1:8001:80", "busybox", "sh", "-c", script)
    try:
        address = net.inspect("web")["address"]
        eventually(lambda: _reached(HOST, 8000), 20)
        assert _fetch("sbx-outside", f"http://{HOST}:8000/") == "from the guest"
        assert _fetch("sbx-host", "http://127.0.0.1:8001/") == "from the guest"
        assert _fetch("sbx-host", f"http://{address}/") == "from the guest"
        net.refused("run", "-d", "-p", "8000:80", "busybox", "true", code="port_in_use")
        net.refused("run", "-d", "-p", "8080:80", "busybox", "true", code="port_in_use")
    finally:
        net.ok("rm", "-f", "web")
    assert not _reached(HOST, 8000)


def test_guest_to_guest_and_guest_to_host_are_refused(net: House) -> None:
    net.ok("run", "-d", "--name", "a", "busybox", "httpd", "-f", "-p", "80", "-h", "/etc")
    try:
        address = net.inspect("a")["address"]
        _, gateway = _default_route(net)
        for target, port in ((address, 80), (HOST, 8080), (gateway, 8080)):
            done = net.ctl("run", "--rm", "busybox", "sh", "-c", _get(target, port))
            assert done.returncode != 0, target
            assert done.stdout == b""
    finally:
        net.ok("rm", "-f", "a")


def test_network_none_sends_no_packet(net: House) -> None:
    before = _packets(net)
    script = f"ls /sys/class/net; {_get(OUTSIDE, 80)}"
    done = net.ctl("run", "--rm", "--network", "none", "busybox", "sh", "-c", script)
    assert done.returncode != 0
    out = done.stdout.decode().strip()
    assert out == "lo"
    assert _packets(net) == before


def test_no_tap_rule_or_lease_stays(net: House) -> None:
    assert net.ok("ps", "-aq") == ""
    rules = _inside("sbx-host", "nft", "list", "ruleset").stdout
    assert "8000" not in rules


def _get(address: str, port: int) -> str:
    """A shell command that prints an HTTP answer. Debian's static busybox has a wget, which crashes everywhere."""
    return f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {address} {port}"


def _reached(address: str, port: int) -> bool:
    code = f"import socket; socket.create_connection(({address!r}, {port}), timeout=1)"
    return _inside("sbx-outside", sys.executable, "-c", code).returncode == 0


def _default_route(net: House) -> tuple[str, str]:
    words = net.ok("run", "--rm", "busybox", "ip", "route", "show", "default").split()
    return words[0], words[2]


def _packets(net: House) -> dict[str, int]:
    """Packets that came out of guests: received by each tap and by the bridge, as the host's kernel counts them."""
    links = json.loads(_inside("sbx-host", "ip", "-j", "-s", "link").stdout)
    return {
        link["ifname"]: link["stats64"]["rx"]["packets"]
        for link in links
        if link["ifname"].startswith((net.network, "sbr-"))
    }
