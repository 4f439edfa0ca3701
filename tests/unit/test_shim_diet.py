"""What a shim loads: one runs for every sandbox, so that its diet is a promise."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import sandboxd

FORBIDDEN = ("grpc", "pyroute2", "sqlite3", "click", "rich", "prometheus_client", "ssl", "_ssl", "email", "zipfile")
ROOMS = ("sandboxd.daemon", "sandboxd.client", "sandboxd.cli", "sandboxd.net", "sandboxd.image", "sandboxd.storage")

LOADED = """
import json, sys
from sandboxd.shim.diet import leave_out
leave_out()
import sandboxd.shim.serve, sandboxd.shim.server, sandboxd.vmm.qemu
print(json.dumps({name: getattr(module, "__file__", None) for name, module in sys.modules.items()}))
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, str | None]:
    done = subprocess.run([sys.executable, "-I", "-c", LOADED], capture_output=True, check=True)
    modules: dict[str, str | None] = json.loads(done.stdout)
    return modules


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_a_shim_never_loads(loaded: dict[str, str | None], name: str) -> None:
    # A stand-in without a file is what the diet puts there.
    found = [module for module in loaded if (module == name or module.startswith(f"{name}.")) and loaded[module]]
    assert not found


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_a_shim_never_enters(loaded: dict[str, str | None], room: str) -> None:
    assert not [module for module in loaded if module == room or module.startswith(f"{room}.")]


ZYGOTE = """
import json, os, sys
from sandboxd.shim.diet import leave_out
leave_out()
import sandboxd.shim.zygote
sandboxd.shim.warm.warm_up()
print(json.dumps({name: getattr(module, "__file__", None) for name, module in sys.modules.items()}))
print(len(os.listdir("/proc/self/task")), flush=True)
import random, tempfile, uuid
for _ in range(2):
    if not os.fork():
        print(random.random(), next(tempfile._get_candidate_names()), uuid.uuid4(), flush=True)
        os._exit(0)
    os.wait()
"""


def test_a_zygote_has_all_of_a_shim_and_no_more(loaded: dict[str, str | None]) -> None:
    done = subprocess.run([sys.executable, "-I", "-c", ZYGOTE], capture_output=True, check=True, text=True)
    first, threads, *draws = done.stdout.splitlines()
    modules: dict[str, str | None] = json.loads(first)
    assert not [name for name in FORBIDDEN if modules.get(name)]
    assert not [name for name in modules if name.startswith(tuple(f"{room}." for room in ROOMS))]
    assert loaded.keys() <= modules.keys()
    assert threads == "1", "a fork copies only the thread that calls it"
    mine, others = (line.split() for line in draws)
    assert not set(mine) & set(others), "no two shims draw the same random numbers"


def test_the_entry_alone_loads_next_to_nothing() -> None:
    code = "import sys, sandboxd.shim.main; print(len([m for m in sys.modules if m.startswith('sandboxd')]))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=True, text=True)
    assert int(done.stdout) <= 3


def test_the_command_line() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-m", "sandboxd.shim", *arguments]
        return subprocess.run(command, capture_output=True, check=False, text=True)

    assert sandboxd.__version__ in run("-v").stdout
    assert run().returncode == 2 and "usage" in run().stderr
    assert run("start").returncode == 2
    done = run("serve", "/nowhere/at/all")
    assert done.returncode == 1 and "/nowhere/at/all" in done.stderr and not done.stdout
