"""`sandboxctl run` as a docker user expects it, in real guests."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.house import House


def test_output_and_exit_status(house: House) -> None:
    done = house.ctl("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def _killed(signal: int) -> list[str]:
    """By a child: a pid namespace's first process takes no deadly signal from inside."""
    return ["sh", "-c", f"sh -c 'kill -{signal} $$'; exit $?"]


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["nosuch"], 127),
        (["/etc/passwd"], 126),
        (_killed(9), 137),
        (_killed(15), 143),
    ],
)
def test_docker_exit_codes(house: House, command: list[str], status: int) -> None:
    assert house.ctl("run", "--rm", "busybox", *command).returncode == status


def test_it_is_a_machine_of_its_own(house: House) -> None:
    guest = house.ok("run", "--rm", "busybox", "uname", "-r")
    assert guest != os.uname().release
    boot_ids = {house.ok("run", "--rm", "busybox", "cat", "/proc/sys/kernel/random/boot_id") for _ in range(2)}
    assert len(boot_ids) == 2


def test_options_reach_the_workload(house: House, tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    env_file.write_text("# comment\nFROM_FILE=yes\n")
    script = (
        "echo $A $FROM_FILE; pwd; id -u; id -g; hostname; cat /etc/hostname; touch /x 2>/dev/null || echo read-only"
    )
    options = ["-e", "A=b", "--env-file", env_file, "-w", "/tmp", "-u", "1000:100", "--hostname", "box", "--read-only"]
    out = house.ok("run", "--rm", *options, "--entrypoint", "sh", "busybox", "-c", script)
    assert out.splitlines() == ["b yes", "/tmp", "1000", "100", "box", "box", "read-only"]


def test_size_of_the_machine(house: House) -> None:
    script = "nproc; grep MemTotal /proc/meminfo; df -m / | tail -1"
    out = house.ok("run", "--rm", "-m", "256M", "--cpus", "2", "--disk", "64M", "busybox", "sh", "-c", script).split(
        "\n"
    )
    assert out[0] == "2"
    assert 150_000 < int(out[1].split()[1]) < 256 * 1024
    assert 30 < int(out[2].split()[1]) <= 64


def test_a_full_disk_is_the_guests_own_trouble(house: House) -> None:
    script = "dd if=/dev/zero of=/big bs=1M count=100 2>&1; echo status $?; rm /big; echo again > /small && cat /small"
    done = house.ctl("run", "--rm", "--disk", "32M", "busybox", "sh", "-c", script)
    assert b"No space left" in done.stdout
    assert done.stdout.endswith(b"status 1\nagain\n")


def test_standard_input_streams(house: House) -> None:
    done = house.ctl("run", "--rm", "-i", "busybox", "cat", stdin=b"a\nb\n")
    assert (done.returncode, done.stdout) == (0, b"a\nb\n")
    assert house.ok("run", "--rm", "busybox", "cat") == ""


def test_big_standard_input_and_output_are_whole(house: House) -> None:
    data = os.urandom(1 << 20) * 24
    done = house.ctl(
        "run", "--rm", "-i", "busybox", "sh", "-c", "tee /tmp/copy | sha256sum >&2; cat /tmp/copy", stdin=data
    )
    assert done.returncode == 0
    assert done.stderr.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_a_slow_reader_loses_nothing(house: House) -> None:
    count = 200_000
    with house.spawn("run", "--rm", "busybox", "seq", str(count), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.read(10)
        lines = (first + process.stdout.read()).split()
    assert process.returncode == 0
    assert lines == [str(n).encode() for n in range(1, count + 1)]


def test_timeout_ends_it(house: House) -> None:
    done = house.ctl("run", "--rm", "--timeout", "6s", "busybox", "sleep", "300")
    assert done.returncode == 137
    assert b"timeout" in done.stderr.lower()


def test_timings_and_trace(house: House, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    done = house.ctl("run", "--rm", "--timings", "--trace", trace, "busybox", "true", check=True)
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"]
    names = {event["name"] for event in events}
    assert len(names) >= 6, names
    for name in names:
        assert name.encode() in done.stderr


def test_detached_life(house: House) -> None:
    sandbox = house.ok(
        "run", "-d", "--name", "life", "--label", "a=b", "busybox", "sh", "-c", "echo hello; exec sleep 1000"
    )
    assert house.inspect("life")["id"] == sandbox
    assert [row["name"] for row in json.loads(house.ok("ps", "--format", "json"))] == ["life"]
    assert house.ctl("exec", "life", "sh", "-c", "echo in; exit 3").returncode == 3
    assert house.ctl("exec", "life", "nosuch").returncode == 127
    assert house.ok("exec", "-i", "life", "cat", stdin=b"x") == "x"
    assert house.ok("logs", "life") == "hello"
    house.refused("run", "-d", "--name", "life", "busybox", "true", code="name_in_use")
    house.refused("rm", "life", code="sandbox_running", exit_status=1)
    stats = json.loads(house.ok("stats", "--no-stream", "--format", "json", "life"))[0]
    assert int(stats["memory_bytes"]) > 0
    house.ok("stop", "-t", "1", "life")
    assert house.inspect("life")["state"] == "stopped"
    assert house.ok("wait", "life") == "137"
    assert house.ok("logs", "life") == "hello"
    house.ok("rm", "life")
    assert house.ok("ps", "-aq") == ""


def test_copy_in_and_out(house: House, tmp_path: Path) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").write_bytes(os.urandom(3 << 20))
    (tmp_path / "tree/link").symlink_to("sub/file")
    house.ok("run", "-d", "--name", "copy", "busybox", "sleep", "1000")
    try:
        house.ok("cp", tmp_path / "tree", "copy:/new")
        want = hashlib.sha256((tmp_path / "tree/sub/file").read_bytes()).hexdigest()
        assert house.ok("exec", "copy", "sha256sum", "/new/sub/file").split()[0] == want
        house.ok("cp", "copy:/new", tmp_path / "back")
        assert (tmp_path / "back/sub/file").read_bytes() == (tmp_path / "tree/sub/file").read_bytes()
        assert str((tmp_path / "back/link").readlink()) == "sub/file"
    finally:
        house.ok("rm", "-f", "copy")


def test_memory_limit_kills_inside_the_guest(house: House) -> None:
    script = "x=a; while true; do x=$x$x; done"
    house.ok("run", "-d", "--name", "oom", "-m", "160M", "busybox", "sh", "-c", script)
    try:
        assert house.ok("wait", "oom") == "137"
        assert house.inspect("oom")["exit"]["reason"] == "oom_killed"
    finally:
        house.ok("rm", "-f", "oom")
