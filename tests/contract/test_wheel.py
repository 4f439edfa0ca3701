"""`pip install .` gives everything: the package, its compiled modules, the guest's agent and how an initrd is made."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_wheel_carries_the_guest(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "-q", "wheel", ROOT, "--no-deps", "-w", tmp_path], check=True, timeout=240
    )
    (wheel,) = tmp_path.glob("sandboxd-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        agent = archive.read("sandboxd/guest/data/agent")
    assert agent[:4] == b"\x7fELF"
    assert {"sandboxd/guest/initrd.py", "sandboxd/api/agent_pb2.py", "sandboxd/py.typed"} <= names
    built = {Path(name).name.split(".")[0] for name in names if name.endswith(".so")}
    wanted = {path.stem.removeprefix("_build") for path in (ROOT / "sandboxd/linux").glob("_build_*.py")}
    assert built == wanted
    assert not [name for name in names if name.startswith(("tests/", "bench/", "tools/"))]
