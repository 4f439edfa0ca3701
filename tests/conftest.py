"""What holds for every test: nothing stays behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.leaks import Inventory

pytest_plugins = ["tests.support.debian_image"]


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Compares the host before the first test with the host after the last."""
    before = Inventory.take()
    yield
    leaked = before.leaked(Inventory.take())
    assert not leaked, f"left behind by this run: {leaked}"
