"""One daemon for all tests of real guests, with the busybox image loaded."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.house import House, running_house

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def busybox_layout() -> Path:
    subprocess.run(["make", "-s", "-C", ROOT / "images/busybox"], check=True)
    return ROOT / "images/busybox/build/busybox"


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory, busybox_layout: Path) -> Iterator[House]:
    with running_house(tmp_path_factory.mktemp("house"), name="mv") as house:
        house.ok("load", "-i", busybox_layout, "--tag", "busybox")
        yield house
