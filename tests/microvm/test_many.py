"""Many at once, and many in a row, leave nothing behind."""

from __future__ import annotations

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.house import House

AT_ONCE = 20
IN_A_ROW = int(os.environ.get("SANDBOXD_TEST_RUNS", "200"))


def test_twenty_at_once(house: House) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ids = list(
            pool.map(
                lambda n: house.ok("run", "-d", "-m", "128M", "busybox", "sleep", "1000", timeout_s=300), range(AT_ONCE)
            )
        )
        assert len(set(ids)) == AT_ONCE
        addresses = [house.inspect(sandbox)["address"] for sandbox in ids]
        assert len(set(addresses)) == AT_ONCE
        assert list(pool.map(lambda sandbox: house.ok("exec", sandbox, "echo", sandbox), ids)) == ids
        house.ok("rm", "-f", *ids)
    assert house.ok("ps", "-aq") == ""


def test_two_hundred_in_a_row(house: House) -> None:
    """In two lanes, because the machine has two cores."""
    lane = ["run", "--rm", "-m", "128M", "busybox", "true"]
    house.ok(*lane)
    before, rows, taps = house.inventory(), _rows(house), _taps(house)
    with ThreadPoolExecutor(2) as pool:
        statuses = list(pool.map(lambda _: house.ctl(*lane).returncode, range(IN_A_ROW)))
    assert statuses == [0] * IN_A_ROW
    assert before.leaked(house.inventory()) == {}
    assert _rows(house) == rows
    assert len(_taps(house) - taps) <= 1, "two lanes may pool one tap more than one did"


def _taps(house: House) -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith(house.network)}


def _rows(house: House) -> int:
    with sqlite3.connect(f"file:{house.data_dir / 'state.db'}?mode=ro", uri=True) as connection:
        return int(connection.execute("SELECT count(*) FROM sandboxes").fetchone()[0])
