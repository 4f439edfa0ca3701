"""Any process can die at any instruction: what is promised stays, the rest is cleaned up and called what it is."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.house import House, eventually


@pytest.fixture
def clean(house: House) -> Iterator[None]:
    """Around one crash: nothing of it stays. The first run makes what the daemon keeps (bridge, one tap)."""
    house.ok("run", "--rm", "busybox", "true")
    before = house.inventory()
    yield
    ids = house.ok("ps", "-aq").split()
    if ids:
        house.ok("rm", "-f", *ids)
    eventually(lambda: not before.leaked(house.inventory()))


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _start(house: House, *command: str) -> str:
    return house.ok("run", "-d", "busybox", *command)


def test_vmm_killed(house: House, clean: None) -> None:
    sandbox = _start(house, "sleep", "1000")
    machine = house.inspect(sandbox)["machine"]
    os.kill(machine["vmm_pid"], signal.SIGKILL)
    assert eventually(lambda: house.inspect(sandbox)["state"] == "stopped") < 2
    exit_ = house.inspect(sandbox)["exit"]
    assert (exit_["reason"], exit_["exit_status"]) == ("vmm_died", 137)
    eventually(lambda: not _alive(machine["shim_pid"]))


def test_shim_killed(house: House, clean: None) -> None:
    sandbox = _start(house, "sleep", "1000")
    machine = house.inspect(sandbox)["machine"]
    os.kill(machine["shim_pid"], signal.SIGKILL)
    assert eventually(lambda: house.inspect(sandbox)["state"] == "stopped") < 2
    assert house.inspect(sandbox)["exit"]["reason"] == "shim_died"
    eventually(lambda: not _alive(machine["vmm_pid"]))


def test_daemon_killed_loses_no_sandbox(house: House, clean: None) -> None:
    lives = _start(house, "sh", "-c", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.2; done")
    ends = _start(house, "sh", "-c", "echo ending; sleep 3; exit 42")
    old = house.daemon_pid
    house.kill_daemon()
    eventually(lambda: _exit_recorded(house, ends), 20)
    assert house.inspect(lives)["state"] == "running"
    assert house.daemon_pid != old
    assert house.ok("wait", ends) == "42"
    assert house.ok("logs", ends) == "ending"
    numbers = [int(line) for line in house.ok("logs", lives).split()]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) > 10
    assert house.ok("exec", lives, "echo", "reached") == "reached"
    house.ok("stop", "-t", "0", lives)


def _exit_recorded(house: House, sandbox: str) -> bool:
    """Without asking the daemon: there is none."""
    return any(house.run_dir.rglob(f"*{sandbox}*/exit.json"))


def test_daemon_and_shim_killed_together(house: House, clean: None) -> None:
    sandbox = _start(house, "sleep", "1000")
    machine = house.inspect(sandbox)["machine"]
    house.kill_daemon()
    os.kill(machine["shim_pid"], signal.SIGKILL)
    assert house.inspect(sandbox)["exit"]["reason"] == "shim_died"
    eventually(lambda: not _alive(machine["vmm_pid"]))  # killed it is; init may take a moment to reap it


def test_client_killed_half_way(house: House, clean: None) -> None:
    with house.spawn("run", "--rm", "--name", "half", "busybox", "sleep", "1000") as process:
        eventually(lambda: "half" in house.ok("ps", "-a"), 20)
        process.kill()
    eventually(lambda: house.ctl("rm", "-f", "half").returncode in (0, 1), 20)
