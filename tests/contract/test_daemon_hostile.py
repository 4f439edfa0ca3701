"""The daemon and callers who mean no good, or are only unlucky: on real machines, with nothing left behind."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxd.api import sandboxd_pb2 as api
from tests.support.daemon import TestDaemon, running_daemon
from tests.support.house import GUEST_DIR

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
