"""Bad input: one catalogue entry each, and no half-made sandbox."""

from __future__ import annotations

import json
import random
import signal
import socket
from pathlib import Path

import pytest

from tests.support.house import House, eventually
from tests.support.oci_images import Image, Layout, file, hardlink, symlink, tar
from tests.support.registry import Faults, faulty_registry


def test_unknown_image(house: House) -> None:
    house.refused("run", "--pull", "never", "nosuch", "true", code="image_not_found")


def test_unreachable_registry(house: House) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        house.refused("run", f"127.0.0.1:{port}/nosuch", "true", code="registry_unreachable")


def test_memory_too_small(house: House) -> None:
    error = house.refused("run", "-m", "8M", "busybox", "true", code="memory_too_small")
    assert "MiB" in error["cause"] + error["message"]


def test_port_in_use(house: House) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        house.refused("run", "-p", f"127.0.0.1:{port}:80", "busybox", "true", code="port_in_use")


@pytest.mark.parametrize(
    "options",
    [
        ["-p", "99999:80"],
        ["-m", "lots"],
        ["--name", "a/b"],
        ["-u", "nosuchuser"],
        ["--network", "nosuch"],
        ["--cpus", "0"],
    ],
    ids=lambda options: " ".join(options),
)
def test_nonsense_is_refused(house: House, options: list[str]) -> None:
    before = house.ok("ps", "-aq")
    done = house.ctl("--error-format", "json", "run", *options, "busybox", "true")
    assert done.returncode == (126 if "nosuchuser" in options else 125)  # as docker has it
    error = json.loads(done.stderr.strip().splitlines()[-1])
    assert error["code"] not in ("internal", "") and error["remedy"]
    assert house.ok("ps", "-aq") == before


@pytest.mark.parametrize(
    "verb", [["exec", "nosuch", "true"], ["logs", "nosuch"], ["inspect", "nosuch"], ["rm", "nosuch"]]
)
def test_unknown_sandbox(house: House, verb: list[str]) -> None:
    done = house.ctl("--error-format", "json", *verb)
    assert done.returncode != 0
    assert json.loads(done.stderr.strip().splitlines()[-1])["code"] == "sandbox_not_found"


def test_config_with_an_unknown_key(house: House, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'run_dir = "{tmp_path}"\n[machine]\nmemroy = "1G"\n')
    done = house.ctl("--config", config, "--error-format", "json", "run", "busybox", "true")
    assert done.returncode == 125
    error = json.loads(done.stderr.strip().splitlines()[-1])
    assert error["code"] == "config_unknown_key" and "memory" in error["cause"]


def test_a_daemon_that_is_gone_in_the_middle(house: House) -> None:
    import subprocess

    with house.spawn(
        "--error-format", "json", "run", "--name", "mid", "busybox", "sleep", "1000", stderr=subprocess.PIPE
    ) as run:
        eventually(lambda: "running" in house.ok("ps", "--format", "json"), 30)
        house.kill_daemon()
        assert run.stderr is not None
        error = json.loads(run.stderr.read().strip().splitlines()[-1])
        assert run.wait(20) == 125
    assert error["code"] in ("daemon_unreachable", "daemon_lost")
    assert house.inspect("mid")["state"] == "running"
    house.ok("rm", "-f", "mid")


def test_an_interrupted_run_ends_the_workload(house: House) -> None:
    with house.spawn(
        "run", "--rm", "--name", "int", "busybox", "sh", "-c", "trap 'exit 9' INT; while :; do sleep 0.1; done"
    ) as run:
        eventually(lambda: "running" in house.ok("ps", "--format", "json"), 30)
        run.send_signal(signal.SIGINT)
        assert run.wait(30) == 9
    eventually(lambda: house.ok("ps", "-aq") == "")


HOSTILE_LAYERS = {
    "dot-dot": (file("../../../../tmp/sandboxd-escaped", b"x"),),
    "symlink": (symlink("door", "../../../../../../tmp"), file("door/sandboxd-escaped", b"x")),
    "hardlink": (symlink("up", ".."), hardlink("shadow", "up/../../etc/shadow")),
}


@pytest.mark.parametrize("name", HOSTILE_LAYERS)
def test_a_layer_that_reaches_out_of_the_root(house: House, tmp_path: Path, name: str) -> None:
    Layout(tmp_path / "layout").add(Image([(tar(*HOSTILE_LAYERS[name]), "gzip")], "evil:latest"))
    done = house.ctl("--error-format", "json", "load", "-i", tmp_path / "layout")
    assert done.returncode != 0
    assert json.loads(done.stderr.strip().splitlines()[-1])["code"] in ("image_layer_unsafe", "image_layer_invalid")
    assert not Path("/tmp/sandboxd-escaped").exists()
    assert "evil" not in house.ok("images")


def test_damaged_images_leave_no_sandbox(house: House, tmp_path: Path) -> None:
    layer = tar(file("noise", random.Random(1).randbytes(2_000_000)))
    layout = Layout(tmp_path / "layout")
    digest = layout.add(Image([(layer, "gzip")], "x"))
    with faulty_registry(layout.path, digest, Faults(cut_after=500_000)) as address:
        house.refused("run", f"{address}/x", "true", code="image_truncated")
    with faulty_registry(layout.path, digest, Faults()) as address:
        house.refused("run", f"{address}/x@sha256:{'1' * 64}", "true", code="image_digest_mismatch")


def test_an_image_for_another_architecture(house: House, tmp_path: Path) -> None:
    Layout(tmp_path / "layout").add(Image([(tar(file("f", b"x")), "gzip")], "foreign:latest", architecture="s390x"))
    done = house.ctl("--error-format", "json", "load", "-i", tmp_path / "layout")
    if done.returncode == 0:
        house.refused("run", "foreign", "true", code="image_wrong_architecture")
        house.ok("rmi", "foreign")
    else:
        assert json.loads(done.stderr.strip().splitlines()[-1])["code"] == "image_wrong_architecture"
