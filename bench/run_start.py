"""What a start costs: `python bench/run_start.py [-n RUNS]` prints JSON.

In one run, interleaved so that the machine's moods hit all alike: bare QEMU to its PID 1 with the same kernel, initrd
and command line, then `sandboxctl run --rm busybox true` end to end with its stages, then `sandboxctl version` and
`python3 -c pass`. Last, memory (kernel's own accounting, KiB) of daemon, shim and VMM under one idle sandbox.
Times are milliseconds; p50 and p95 over RUNS.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.bare_boot import boot_once  # noqa: E402  (the checkout is not a package of site-packages)
from tests.support.house import GUEST_DIR, SANDBOXCTL, House, running_house  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--runs", type=int, default=10)
    runs: int = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as scratch, running_house(Path(scratch), name="bn") as house:
        house.ok("load", "-i", ROOT / "images/busybox/build/busybox", "--tag", "busybox")
        house.ok("run", "--rm", "busybox", "true")
        json.dump(_measure(house, runs), sys.stdout, indent=2)
        print()


def _measure(house: House, runs: int) -> dict[str, Any]:
    samples: dict[str, list[float]] = {}
    stages: dict[str, list[float]] = {}
    ratios: list[float] = []
    for _ in range(runs):
        bare = boot_once(GUEST_DIR.parent)
        run = _timed(house, "run", "--rm", "--trace", house.root / "trace.json", "busybox", "true")
        ratios.append(run / bare)
        for name, value in (("bare_qemu_to_pid1", bare), ("run_busybox_true", run)):
            samples.setdefault(name, []).append(value)
        for event in json.loads((house.root / "trace.json").read_text())["traceEvents"]:
            if event["ph"] == "X":
                stages.setdefault(event["name"], []).append(event["dur"] / 1000)
        samples.setdefault("sandboxctl_version", []).append(_timed(house, "version"))
        samples.setdefault("python3_c_pass", []).append(_command([sys.executable, "-c", "pass"]))
    return {
        "runs": runs,
        "ms": {name: _summary(values) for name, values in samples.items()},
        "stages_ms": {name: _summary(values) for name, values in stages.items()},
        "ratios": {
            "run_over_bare_qemu": {**_summary(ratios), "bound": 1.6},
            "version_over_python": {
                "p50": round(_p50(samples["sandboxctl_version"]) / _p50(samples["python3_c_pass"]), 2),
                "bound": 3,
            },
        },
        "memory_kib": _memory(house),
    }


def _timed(house: House, *arguments: str | Path) -> float:
    begin = time.monotonic()
    house.ctl(*arguments, check=True)
    return (time.monotonic() - begin) * 1000


def _command(command: list[str]) -> float:
    begin = time.monotonic()
    subprocess.run(command, check=True)
    return (time.monotonic() - begin) * 1000


def _p50(values: list[float]) -> float:
    return statistics.median(values)


def _summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return {"p50": round(_p50(values), 2), "p95": round(p95, 2), "min": round(ordered[0], 2)}


def _memory(house: House) -> dict[str, dict[str, int]]:
    sandbox = house.ok("run", "-d", "busybox", "sleep", "1000")
    try:
        machine = house.inspect(sandbox)["machine"]
        pids = {"daemon": house.daemon_pid, "shim": machine["shim_pid"], "vmm": machine["vmm_pid"]}
        return {name: _process_memory(int(pid)) for name, pid in pids.items()}
    finally:
        house.ok("rm", "-f", sandbox)


def _process_memory(pid: int) -> dict[str, int]:
    """private = what would be freed if this process alone ended; pss shares shared pages fairly; peak_rss is VmHWM."""
    rollup = _fields(Path(f"/proc/{pid}/smaps_rollup"))
    private = rollup["Private_Clean"] + rollup["Private_Dirty"]
    return {"private": private, "pss": rollup["Pss"], "peak_rss": _fields(Path(f"/proc/{pid}/status"))["VmHWM"]}


def _fields(path: Path) -> dict[str, int]:
    rows = (line.split() for line in path.read_text().splitlines() if line.endswith("kB"))
    return {row[0].rstrip(":"): int(row[1]) for row in rows}


if __name__ == "__main__":
    assert SANDBOXCTL.exists(), "run `make setup` first"
    main()
