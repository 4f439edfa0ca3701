"""Anyone may die at any moment: the daemon, a shim, a VMM, the host. What was promised holds, nothing stays behind."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandboxd.api import sandboxd_pb2 as api
from sandboxd.daemon.paths import Paths
from tests.support.daemon import Conversation, TestDaemon, make_config, running_daemon, wait_until_dead
from tests.support.house import GUEST_DIR

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.skipif(not GUEST_DIR.is_dir(), reason="no guest kernel: `make guest` fetches one")


@pytest.fixture(scope="module")
def daemon() -> Iterator[TestDaemon]:
    subprocess.run(["make", "-s", "-C", ROOT / "images/busybox"], check=True)
    with running_daemon("tc") as daemon:
        daemon.load_busybox(ROOT / "images/busybox/build/busybox")
        yield daemon


@pytest.fixture(autouse=True)
def _nothing_stays(daemon: TestDaemon) -> Iterator[None]:
    yield
    if daemon.process is None:
        daemon.start()
    for sandbox in daemon.all():
        daemon.remove(sandbox.id)
    assert daemon.leftovers() == {}


def until(what: Callable[[], object], timeout_s: float = 15) -> float:
    begin = time.monotonic()
    while not what():
        assert time.monotonic() - begin < timeout_s
        time.sleep(0.02)
    return time.monotonic() - begin


@pytest.mark.parametrize(
    ("victim", "reason"), [("vmm_pid", "vmm_died"), ("shim_pid", "shim_died")], ids=["VMM", "shim"]
)
def test_killed_from_outside(daemon: TestDaemon, victim: str, reason: str) -> None:
    sandbox = daemon.spawn("sleep", "1000", network="default")
    machine = daemon.get(sandbox).machine
    waiting = daemon.sandboxes.Wait.future(api.WaitRequest(id=sandbox))
    attached = Conversation(daemon.sandboxes.Attach, api.RunRequest(attach=api.AttachConfig(sandbox=sandbox)))
    attached.until("sandbox")
    begin = time.monotonic()
    os.kill(getattr(machine, victim), signal.SIGKILL)
    exit_ = waiting.result(timeout=10)
    assert time.monotonic() - begin < 1
    assert (exit_.exit_status, exit_.reason) == (137, reason)
    assert exit_.detail
    assert attached.until("exit").exit.reason == reason
    attached.close()
    assert daemon.leftovers() == {}
    wait_until_dead(machine.vmm_pid)
    wait_until_dead(machine.shim_pid)


def test_killed_shim_with_remove_is_removed(daemon: TestDaemon) -> None:
    sandbox = daemon.spawn("sleep", "1000", remove=True)
    os.kill(daemon.get(sandbox).machine.shim_pid, signal.SIGKILL)
    until(lambda: not daemon.all())
    assert daemon.leftovers() == {} and not list((daemon.data_dir / "sandboxes").iterdir())


def test_daemon_killed_and_back(daemon: TestDaemon) -> None:
    """One lives on, one ends meanwhile, one is to be removed, one runs out of time, one was never started."""
    script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"
    lives = daemon.spawn("sh", "-c", script, network="default", ports=[api.PortMapping(guest_port=80)])
    made = daemon.sandboxes.Create(api.CreateRequest(config=make_config("echo", "made"))).id
    late = daemon.spawn("sleep", "1000", timeout_s=20.0)
    ends = daemon.spawn("sh", "-c", "echo ending; sleep 7; exit 42")
    goes = daemon.spawn("sleep", "3", remove=True)
    before = daemon.get(lives)
    daemon.end(signal.SIGKILL)
    exits = Paths(daemon.data_dir, daemon.run_dir)
    until(lambda: (exits.run_of(ends) / "exit.json").exists() and (exits.run_of(goes) / "exit.json").exists(), 30)
    daemon.start()
    after = daemon.get(lives)
    assert after == before and after.machine.shim_pid == before.machine.shim_pid
    assert daemon.wait(ends) == (42, "exited")
    assert daemon.logs(ends) == b"ending\n"
    assert goes not in {sandbox.id for sandbox in daemon.all()}
    numbers = [int(line) for line in daemon.logs(lives).split()]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) > 10
    assert daemon.exec(lives, "echo", "reached").stdout == b"reached\n"
    daemon.sandboxes.Start(api.StartRequest(id=made))
    assert daemon.wait(made) == (0, "exited") and daemon.logs(made) == b"made\n"
    assert daemon.wait(late) == (137, "timeout")
    assert daemon.sandboxes.Stop(api.StopRequest(id=lives, timeout_s=0)).exit.exit_status == 137


def test_terminated_daemon_leaves_sandboxes_alone(daemon: TestDaemon) -> None:
    sandbox = daemon.spawn("sleep", "1000")
    pids = daemon.get(sandbox).machine
    assert daemon.end(signal.SIGTERM) == 0
    assert not (daemon.run_dir / "sandboxd.pid").exists() and not (daemon.run_dir / "sandboxd.sock").exists()
    daemon.start()
    assert daemon.get(sandbox).machine == pids


def test_daemon_and_shim_killed_together(daemon: TestDaemon) -> None:
    sandbox = daemon.spawn("sleep", "1000", network="default")
    machine = daemon.get(sandbox).machine
    daemon.end(signal.SIGKILL)
    os.kill(machine.shim_pid, signal.SIGKILL)
    wait_until_dead(machine.vmm_pid)
    daemon.start()
    assert daemon.get(sandbox).exit.reason == "shim_died"
    assert daemon.leftovers() == {}


def test_daemon_killed_while_it_makes_one(daemon: TestDaemon) -> None:
    config = make_config("sleep", "1000", network="default")
    run = Conversation(daemon.sandboxes.Run, api.RunRequest(run=api.RunConfig(config=config)))
    run.until("sandbox")
    until(lambda: list((daemon.run_dir / "sandboxes").glob("*/shim.json")))
    daemon.end(signal.SIGKILL)
    run.close()
    daemon.start()
    assert daemon.all() == [] and daemon.leftovers() == {}
    assert not list((daemon.data_dir / "sandboxes").iterdir())


def test_power_cut(daemon: TestDaemon) -> None:
    """/run is lost, the boot's id is another one; the disk has what it had."""
    sandbox = daemon.spawn("sleep", "1000")
    machine = daemon.get(sandbox).machine
    daemon.end(signal.SIGKILL)
    os.kill(machine.shim_pid, signal.SIGKILL)
    wait_until_dead(machine.vmm_pid)
    with sqlite3.connect(daemon.data_dir / "state.db") as database:
        database.execute("UPDATE sandboxes SET boot_id = 'another'")
    database.close()
    subprocess.run(["rm", "-rf", daemon.run_dir], check=True)
    daemon.start()
    stopped = daemon.get(sandbox)
    assert (stopped.state, stopped.exit.reason) == (api.STATE_STOPPED, "host_rebooted")
    # The cgroup would be gone with the host; here it is an orphan that reconcile removes.
    assert daemon.leftovers() == {}


def test_leftovers_without_a_row_are_removed(daemon: TestDaemon) -> None:
    sandbox = daemon.spawn("sleep", "1000", network="default")
    machine = daemon.get(sandbox).machine
    daemon.end(signal.SIGKILL)
    with sqlite3.connect(daemon.data_dir / "state.db") as database:
        database.execute("DELETE FROM sandboxes")
    database.close()
    daemon.start()
    wait_until_dead(machine.shim_pid)
    wait_until_dead(machine.vmm_pid)
    assert daemon.leftovers() == {} and not list((daemon.data_dir / "sandboxes").iterdir())


def test_the_last_one_out_takes_the_network_along(daemon: TestDaemon) -> None:
    sandbox = daemon.spawn("sleep", "1000", network="default")
    bridge = Path(f"/sys/class/net/br-{daemon.name}")
    assert bridge.exists() and daemon.get(sandbox).address
    assert daemon.end() == 0
    assert bridge.exists()
    daemon.start()
    daemon.remove(sandbox)
    assert daemon.end() == 0
    links = {path.name for path in Path("/sys/class/net").iterdir()}
    daemon.start()
    assert bridge.name not in links and not any(name.startswith(daemon.name) for name in links)
    parent = Paths(daemon.data_dir, daemon.run_dir).cgroup
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{parent}"))
