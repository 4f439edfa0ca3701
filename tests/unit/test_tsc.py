"""The counter's rate in a process that was forked from one that is old."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import os, time
from sandboxd.linux.tsc import baseline_missing_s, host_tsc_khz
time.sleep(baseline_missing_s())
assert baseline_missing_s() == 0
mine = host_tsc_khz()
if not os.fork():
    missing_s = baseline_missing_s()
    assert 0 < missing_s < 0.011, missing_s
    time.sleep(missing_s)
    assert abs(host_tsc_khz() - mine) <= mine // 1000, (host_tsc_khz(), mine)
    os._exit(0)
assert os.wait()[1] == 0
"""


def test_a_forked_process_measures_by_its_own_readings() -> None:
    subprocess.run([sys.executable, "-I", "-c", CODE], check=True)
