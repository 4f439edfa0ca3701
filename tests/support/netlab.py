"""A network to test the network in: a host, a host outside, guests; each is a network namespace.

The manager runs in a process of its own in the host's namespace. A guest is a namespace with a tap of its own,
joined in user space to the sandbox's tap, which is opened as a VMM opens it: every frame passes through it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
HOST_UPLINK = "192.0.2.1"
OUTSIDE = "192.0.2.9"
INTERNET = "198.51.100.7"
"""An address that the host reaches by its default route only."""
METADATA = "169.254.169.254"
"""The host outside answers here too, so that only a rule can refuse it."""
WAIT_S = 20


def in_namespace(namespace: str, *command: str) -> list[str]:
    return ["ip", "netns", "exec", namespace, *command]


def run(namespace: str, *command: str, check: bool = True, stdin: str | None = None) -> str:
    done = subprocess.run(
        in_namespace(namespace, *command), capture_output=True, text=True, timeout=WAIT_S, input=stdin, check=False
    )
    assert not check or done.returncode == 0, f"{command}: {done.returncode} {done.stdout} {done.stderr}"
    return done.stdout


def status(namespace: str, *command: str) -> int:
    """Only whether it worked."""
    return subprocess.run(
        in_namespace(namespace, *command), capture_output=True, timeout=WAIT_S, check=False
    ).returncode


class ManagerError(Exception):
    """A SandboxdError of the manager's process."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer)
        self.code: str = answer["code"]
        self.cause: str = answer["cause"]
        self.remedy: str = answer["remedy"]


class Manager:
    """A NetworkManager in a process of its own."""

    def __init__(self, namespace: str, state_dir: Path, settings: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "tests.support.netlab_manager", str(state_dir), json.dumps(settings)]
        self._process = subprocess.Popen(
            in_namespace(namespace, *command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def __call__(self, call: str, **arguments: Any) -> Any:
        """Calls the manager: start, attach, release, reconcile, close, ..."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"call": call, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the manager died during {call}"
        answer = json.loads(line)
        if "error" in answer:
            raise ManagerError(answer["error"])
        return answer["result"]

    def attach(self, slot: int, *ports: str) -> dict[str, Any]:
        return dict(self("attach", slot=slot, ports=ports))

    def kill(self) -> None:
        """As the OOM killer does."""
        self._process.kill()
        self.end()

    def end(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(WAIT_S)
        self._process.stdout.close()


@dataclass(frozen=True)
class Guest:
    namespace: str
    address: str
    gateway: str
    mac: str
    pid: int


class Lab:
    """Use `Lab.made`."""

    def __init__(self, base: str, directory: Path, stack: ExitStack) -> None:
        self.host = f"{base}h"
        self.outside = f"{base}o"
        self._base = base
        self.directory = directory
        self._stack = stack
        self._guests = 0

    @classmethod
    @contextmanager
    def made(cls, directory: Path) -> Iterator[Lab]:
        with ExitStack() as stack:
            lab = cls(f"sbxlab{os.getpid()}", directory, stack)
            lab._connect()
            yield lab

    def _connect(self) -> None:
        for namespace in (self.host, self.outside):
            self._namespace(namespace)
        for line in (
            f"link add up0 type veth peer name up0 netns {self.outside}",
            "link set up0 addrgenmode none",  # IPv6 addresses come late, and a snapshot would show it
            f"address add {HOST_UPLINK}/24 dev up0",
            "link set up0 up",
        ):
            run(self.host, "ip", *line.split())
        for line in (
            "link set up0 addrgenmode none",
            f"address add {OUTSIDE}/24 dev up0",
            f"address add {INTERNET}/32 dev up0",
            f"address add {METADATA}/32 dev up0",
            "link set up0 up",
        ):
            run(self.outside, "ip", *line.split())
        run(self.host, "ip", "route", "add", "default", "via", OUTSIDE)

    def _namespace(self, name: str) -> None:
        subprocess.run(["ip", "netns", "add", name], check=True)
        self._stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=True)
        run(name, "ip", "link", "set", "lo", "up")

    def manager(self, **settings: Any) -> Manager:
        """A manager on the host. Several, one after the other, share their state."""
        manager = Manager(self.host, self.directory / "state", {"dns": ["192.0.2.53"], **settings})
        self._stack.callback(manager.end)
        return manager

    def guest(self, lease: dict[str, Any]) -> Guest:
        """Boots a guest on the lease's tap."""
        self._guests += 1
        namespace = f"{self._base}g{self._guests}"
        self._namespace(namespace)
        command = [sys.executable, "-m", "tests.support.netlab_guest", lease["tap"], namespace]
        process = subprocess.Popen(in_namespace(self.host, *command), stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self._stack.callback(_end, process)
        assert process.stdout and process.stdout.readline() == "up\n"
        gateway = lease["routes"][0][1]
        for line in (
            f"link set eth0 address {lease['mac']} mtu {lease['mtu']} up",
            f"address add {lease['addresses'][0]} dev eth0",
            f"route add default via {gateway}",
        ):
            run(namespace, "ip", *line.split())
        return Guest(namespace, lease["addresses"][0].partition("/")[0], gateway, lease["mac"], process.pid)

    def serve(self, namespace: str, *where: str) -> None:
        """A server that answers with its caller's address: "http ADDRESS PORT" or "udp ADDRESS PORT"."""
        for words in where:
            command = in_namespace(namespace, sys.executable, "-m", "tests.support.netlab_server", *words.split())
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            self._stack.callback(_end, process)
            assert process.stdout and process.stdout.readline() == "ready\n"

    @contextmanager
    def counted_outside(self, match: str) -> Iterator[Callable[[], int]]:
        """How many packets of the host reach the world outside, so far."""
        run(
            self.outside, "nft", "add table ip seen; add chain ip seen x { type filter hook prerouting priority -300; }"
        )
        run(self.outside, "nft", f"add rule ip seen x {match} counter")

        def heard() -> int:
            listed = json.loads(run(self.outside, "nft", "-j", "list", "chain", "ip", "seen", "x"))["nftables"]
            return int(listed[-1]["rule"]["expr"][-1]["counter"]["packets"])

        yield heard
        run(self.outside, "nft", "delete", "table", "ip", "seen")

    def nft(self, *command: str) -> dict[str, Any]:
        return dict(json.loads(run(self.host, "nft", "-j", *command)))

    def snapshot(self) -> dict[str, str]:
        """Everything of the host's network that a manager could touch."""
        return {
            "links": _without_counters(run(self.host, "ip", "-json", "link")),
            "addresses": _without_counters(run(self.host, "ip", "-json", "address")),
            "routes": run(self.host, "ip", "route", "show", "table", "all"),
            "rules": run(self.host, "nft", "list", "ruleset"),
            "sysctls": run(self.host, "sh", "-c", f"grep -r . {_SYSCTLS} 2>/dev/null | sort", check=False),
            "listeners": run(self.host, "ss", "-Hltun"),
        }


_SYSCTLS = "/proc/sys/net/ipv4/conf /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf /proc/sys/net/bridge"


def fetch(namespace: str, address: str, port: int, *options: str) -> str | None:
    """The address that the HTTP server there sees; None where nobody answers within 6 s."""
    url = f"http://{address}:{port}/"
    done = subprocess.run(
        in_namespace(namespace, "curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "6", *options, url),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    return done.stdout if done.returncode == 0 else None


def refusal(namespace: str, address: str, port: int) -> str:
    """What a TCP connect there ends with: "ConnectionRefusedError", "TimeoutError", ..., or "connected"."""
    code = (
        "import socket,sys\n"
        "try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 6); print('connected')\n"
        "except OSError as error: print(type(error).__name__)"
    )
    return run(namespace, sys.executable, "-c", code, address, str(port)).strip()


def ask_udp(namespace: str, address: str, port: int, source_port: int = 0) -> str | None:
    """The address that the UDP server there sees; None where nobody answers within 3 s."""
    code = (
        "import socket,sys\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', int(sys.argv[3]))); s.settimeout(3)\n"
        "s.connect((sys.argv[1], int(sys.argv[2])))\n"
        "try: s.send(b'?'); print(s.recv(100).decode())\n"
        "except OSError: print('')"
    )
    return run(namespace, sys.executable, "-c", code, address, str(port), str(source_port)).strip() or None


def send_arp(guest: Guest, address: str, mac: str) -> None:
    """An ARP reply (RFC 826) from the guest to its gateway: `address` is at `mac`. The frame names its true sender."""
    code = (
        "import socket,sys\n"
        "octets = lambda mac: bytes.fromhex(mac.replace(':', ''))\n"
        "true, gateway, address, mac = sys.argv[1:]\n"
        "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0x0806))\n"
        "s.send(b'\\xff' * 6 + octets(true) + bytes.fromhex('0806000108000604' '0002') + octets(mac)\n"
        "       + socket.inet_aton(address) + b'\\xff' * 6 + socket.inet_aton(gateway))\n"
    )
    run(guest.namespace, sys.executable, "-c", code, guest.mac, guest.gateway, address, mac)


def _without_counters(text: str) -> str:
    keep = ("ifname", "flags", "mtu", "master", "address", "addr_info", "operstate")
    links: Sequence[dict[str, Any]] = json.loads(text)
    return json.dumps([{key: link.get(key) for key in keep} for link in links], indent=1)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(WAIT_S)
    assert process.stdout
    process.stdout.close()
