"""The yardstick: what bare QEMU needs to boot our kernel and initrd. `python bench/bare_boot.py [-n RUNS]` prints JSON.

The same machine, kernel, initrd and kernel command line as a sandbox of 512 MiB and one vCPU, but nothing of sandboxd
around it: no shim, no confinement, no QMP, no disks, no network. Measured from before QEMU's spawn on the host's clock:

    pid1      the agent began to run: the moment of its answer to Hello, less the age that it gives itself
    modules   it had loaded the kernel's modules
    hello     its answer to the first call arrived

Milliseconds; p50 and p95 over RUNS.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from sandboxd.api import agent_pb2, ttrpc_pb2
from sandboxd.guest.boot import GuestImage, prepare_guest
from sandboxd.linux.tsc import baseline_missing_s, host_tsc_khz
from sandboxd.vmm.qemu import devices
from sandboxd.vmm.qemu.devices import PassedFd
from sandboxd.vmm.spec import MachineSpec
from sandboxd.wire.ttrpc import HEADER

MEMORY_MIB = 512
TIMEOUT_S = 60.0
_REQUEST, _RESPONSE = 1, 2


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot; milliseconds from before the spawn."""

    pid1_ms: float
    modules_ms: float
    hello_ms: float


def boot_once(data_dir: Path) -> float:
    """Milliseconds from before QEMU's spawn to the start of the guest's PID 1. What `prepare_guest` raises."""
    return boot(prepare_guest(data_dir)).pid1_ms


def boot(guest: GuestImage) -> Boot:
    """One boot, and the machine is gone again. Raises TimeoutError, or RuntimeError with what QEMU said."""
    time.sleep(baseline_missing_s())
    agent, agent_theirs = socket.socketpair()
    console, console_theirs = socket.socketpair()
    with (
        agent,
        console,
        agent_theirs,
        console_theirs,
        guest.kernel.open("rb") as kernel,
        guest.initrd.open("rb") as initrd,
    ):
        agent.settimeout(TIMEOUT_S)
        inherited = [agent_theirs.fileno(), console_theirs.fileno(), kernel.fileno(), initrd.fileno()]
        command = _command(guest, *(PassedFd(fd) for fd in inherited))
        begin_ns = time.monotonic_ns()
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=inherited) as qemu:
            agent_theirs.close()
            try:
                hello = _hello(agent)
                end_ns = time.monotonic_ns()
            except EOFError:
                assert qemu.stderr
                raise RuntimeError(f"QEMU ended: {qemu.stderr.read(4096).decode(errors='replace')}") from None
            finally:
                qemu.kill()
    age_ns = hello.now_boottime_ns - hello.started_boottime_ns
    modules_age_ns = hello.now_boottime_ns - hello.modules_boottime_ns
    total_ns = end_ns - begin_ns
    return Boot((total_ns - age_ns) / 1e6, (total_ns - modules_age_ns) / 1e6, total_ns / 1e6)


def _command(guest: GuestImage, agent: PassedFd, console: PassedFd, kernel: PassedFd, initrd: PassedFd) -> list[str]:
    spec = MachineSpec(id="bare", memory_mib=MEMORY_MIB, kernel=guest.kernel, initrd=guest.initrd)
    parts: list[devices.Part] = [
        devices.Board(),
        devices.Processor(spec.acceleration, spec.vcpus),
        devices.Memory(spec.memory_mib),
        devices.Boot(kernel, initrd, devices.kernel_cmdline(spec, host_tsc_khz())),
        devices.Console(console),
        devices.AgentPort(agent),
        devices.Entropy(),
    ]
    return devices.command_line("qemu-system-x86_64", parts)


def _hello(agent: socket.socket) -> agent_pb2.HelloResponse:
    """The first call of a session, by hand. Raises EOFError when the machine ends, TimeoutError."""
    call = ttrpc_pb2.Request(service="sandboxd.agent.v1.Agent", method="Hello").SerializeToString()
    agent.sendall(HEADER.pack(len(call), 1, _REQUEST, 0) + call)
    length, _, kind, _ = HEADER.unpack(_read(agent, HEADER.size))
    answer = ttrpc_pb2.Response.FromString(_read(agent, length))
    if kind != _RESPONSE or answer.status.code:
        raise RuntimeError(f"Hello failed: {answer.status.message}")
    return agent_pb2.HelloResponse.FromString(answer.payload)


def _read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = sock.recv(size - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data


def _summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return {"p50": round(statistics.median(ordered), 1), "p95": round(p95, 1), "min": round(ordered[0], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--runs", type=int, default=10)
    parser.add_argument("--data-dir", type=Path, default=Path("/var/lib/sandboxd"))
    options = parser.parse_args()
    guest = prepare_guest(options.data_dir)
    boots = [asdict(boot(guest)) for _ in range(options.runs)]
    figures = {name: _summary([each[name] for each in boots]) for name in boots[0]}
    json.dump({"runs": options.runs, "release": guest.release, **figures}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
