"""The daemon and callers who mean no good, or are only unlucky: on real machines, with nothing left behind."""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from sandboxd.api import sandboxd_pb2 as api
from tests.support.daemon import Conversation, TestDaemon, collect, detail, make_config, running_daemon
from tests.support.house import GUEST_DIR, eventually

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.skipif(not GUEST_DIR.is_dir(), reason="no guest kernel: `make guest` fetches one")


@pytest.fixture(scope="module")
def layout() -> Path:
    subprocess.run(["make", "-s", "-C", ROOT / "images/busybox"], check=True)
    return ROOT / "images/busybox/build/busybox"


@pytest.fixture(scope="module")
def daemon(layout: Path) -> Iterator[TestDaemon]:
    with running_daemon("th") as daemon:
        daemon.load_busybox(layout)
        yield daemon


@pytest.fixture(autouse=True)
def _nothing_stays(daemon: TestDaemon) -> Iterator[None]:
    yield
    for sandbox in daemon.all():
        daemon.remove(sandbox.id)
    assert daemon.leftovers() == {}


def test_a_label_may_have_any_name(daemon: TestDaemon) -> None:
    labels = {"name": "n", "kind": "k", "action": "a", "id_": "i", "self": "s", "exitCode": "e"}
    done = daemon.run("true", labels=labels, remove=True)
    assert done.exit_status == 0
    events = [event for event in daemon.sandboxes.Events(api.EventsRequest()) if event.id == done.sandbox.id]
    assert [event.action for event in events] == ["create", "start", "die", "destroy"]
    assert events[0].attributes["name"] == "n" and events[2].attributes["exitCode"] == "0"


def test_the_image_of_a_running_sandbox_stays(daemon: TestDaemon) -> None:
    running = daemon.spawn("sleep", "1000")
    with pytest.raises(grpc.RpcError) as refused:
        daemon.images.Remove(api.RemoveImageRequest(reference="busybox", force=True))
    assert detail(refused.value).code == "image_running" and running in detail(refused.value).cause


def test_what_cannot_be_attached_leaves_no_machine(daemon: TestDaemon) -> None:
    """Out of descriptors, or a file system without room: here, a file in the place of the pipes' directory."""
    conversation = Conversation(daemon.sandboxes.Run, api.RunRequest(run=api.RunConfig(config=make_config("true"))))
    sandbox = conversation.until("sandbox").sandbox.id
    (daemon.run_dir / "sandboxes" / sandbox / "io").write_text("")
    with pytest.raises(grpc.RpcError) as refused:
        collect(conversation.answers)
    conversation.close()
    assert detail(refused.value).code == "stdio_unusable"
    assert daemon.all() == []


def test_execs_of_clients_that_vanish_are_forgotten(daemon: TestDaemon) -> None:
    sandbox = daemon.spawn("sleep", "1000")
    shim = daemon.get(sandbox).machine.shim_pid
    daemon.exec(sandbox, "true")
    before = len(list(Path(f"/proc/{shim}/fd").iterdir()))
    for delay_s in (0, 0.001, 0.003, 0.005, 0.01, 0.02) * 3:
        first = api.RunRequest()
        getattr(first, "exec").CopyFrom(api.ExecConfig(sandbox=sandbox, command=["true"], stdin=True))  # noqa: B009
        conversation = Conversation(daemon.sandboxes.Exec, first)
        time.sleep(delay_s)
        conversation.cancel()
    assert daemon.exec(sandbox, "true").exit_status == 0
    eventually(lambda: len(list(Path(f"/proc/{shim}/fd").iterdir())) <= before)


def test_attaching_to_a_silent_process_costs_nothing_that_stays(daemon: TestDaemon) -> None:
    sandbox = daemon.spawn("sleep", "1000")
    shim = daemon.get(sandbox).machine.shim_pid
    before = len(list(Path(f"/proc/{shim}/fd").iterdir()))
    for _ in range(10):
        wanted = api.AttachConfig(sandbox=sandbox)
        conversation = Conversation(daemon.sandboxes.Attach, api.RunRequest(attach=wanted))
        conversation.until("sandbox")
        conversation.cancel()
    eventually(lambda: len(list(Path(f"/proc/{shim}/fd").iterdir())) <= before)


def test_runs_leave_no_descriptor(daemon: TestDaemon) -> None:
    def descriptors() -> int:
        return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))

    daemon.run("true", remove=True)
    before = descriptors()
    for _ in range(6):
        assert daemon.run("true", remove=True).exit_status == 0
    eventually(lambda: descriptors() <= before)


@pytest.fixture
def small(tmp_path: Path, layout: Path) -> Iterator[TestDaemon]:
    """A daemon whose data_dir is a file system of 40 MB; the guest's kernel lies elsewhere."""
    data_dir = tmp_path / "small"
    data_dir.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", data_dir], check=True)
    try:
        with running_daemon("tf", start=False) as daemon:
            shutil.copytree(GUEST_DIR, daemon.root / "guest", symlinks=True)
            daemon.config.write_text(daemon.config.read_text().replace(str(daemon.data_dir), str(data_dir)))
            (data_dir / "guest").symlink_to(daemon.root / "guest")
            daemon.start()
            daemon.load_busybox(layout)
            yield daemon
    finally:
        subprocess.run(["umount", data_dir], check=True)


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))


def test_a_full_disk_keeps_nothing_from_ending(small: TestDaemon, tmp_path: Path) -> None:
    filler = tmp_path / "small" / "filler"
    options: dict[str, Any] = {"disk_bytes": 64 << 20}
    small.run("true", remove=True, **options)  # the disk's template
    sandbox = small.spawn("sh", "-c", "while true; do echo much output; done", **options)
    fill(filler)
    with pytest.raises(grpc.RpcError) as refused:
        small.spawn("true", **options)
    assert detail(refused.value).code != "internal", detail(refused.value)
    small.remove(sandbox)
    assert small.all() == []
    filler.unlink()
    assert small.run("echo", "again", remove=True, **options).stdout == b"again\n"


def test_the_daemon_takes_all_descriptors_that_it_may_have() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        with running_daemon("tl") as daemon:
            assert resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_full_run_dir_is_told_and_leaves_nothing(layout: Path) -> None:
    with running_daemon("tr", start=False) as daemon:
        daemon.run_dir.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", daemon.run_dir], check=True)
        try:
            daemon.start()
            daemon.load_busybox(layout)
            fill(daemon.run_dir / "filler")
            with pytest.raises(grpc.RpcError) as refused:
                daemon.spawn("true")
            assert detail(refused.value).code == "daemon_directory_unusable", daemon.log[-2000:]
            assert daemon.all() == [] and daemon.leftovers() == {}
            (daemon.run_dir / "filler").unlink()
            assert daemon.run("true", remove=True).exit_status == 0
            daemon.end()
        finally:
            subprocess.run(["umount", "-l", daemon.run_dir], check=True)
