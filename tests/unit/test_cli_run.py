"""`run`, `exec` and `attach` as a person and a script meet them: streams, signals, terminals, exit statuses."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.fake_daemon import FakeDaemon, fake_daemon
from tests.support.house import eventually
from tests.support.terminal import on_terminal

CTL = [sys.executable, "-m", "sandboxd.cli.main"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with fake_daemon(tmp_path) as daemon:
        yield daemon


def environ(daemon: FakeDaemon) -> Mapping[str, str]:
    return {**os.environ, "SANDBOXD_SOCKET": daemon.socket, "TERM": "xterm"}


def ctl(daemon: FakeDaemon, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*CTL, *words], input=stdin, capture_output=True, env=environ(daemon), timeout=30, check=False
    )


def spawn(daemon: FakeDaemon, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*CTL, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ(daemon)
    )


# --- streams ---


def test_output_and_exit_status(daemon: FakeDaemon) -> None:
    done = ctl(daemon, "run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    config = daemon.sandboxes.runs[0].config
    assert (config.terminal, config.stdin, config.remove) == (False, False, True)
    assert daemon.sandboxes.runs[0].client_begin_ns > 0


def test_big_input_and_output_are_whole(daemon: FakeDaemon) -> None:
    data = os.urandom(1 << 20) * 8
    done = ctl(daemon, "run", "-i", "busybox", "cat", stdin=data)
    assert (done.returncode, hashlib.sha256(done.stdout).digest()) == (0, hashlib.sha256(data).digest())


def test_input_that_nobody_reads_does_not_hang(daemon: FakeDaemon) -> None:
    done = ctl(daemon, "run", "-i", "busybox", "sh", "-c", "exec <&-; exit 4", stdin=b"x" * (4 << 20))
    assert done.returncode == 4


@pytest.mark.parametrize("redirection", ["</dev/null", "</etc/passwd", "<&-"])
def test_every_kind_of_input_ends(daemon: FakeDaemon, redirection: str) -> None:
    script = f"{' '.join(CTL)} run -i busybox cat {redirection}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, env=environ(daemon), timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (Path("/etc/passwd").read_bytes() if "passwd" in redirection else b"")


def test_a_reader_that_leaves(daemon: FakeDaemon) -> None:
    script = f"{' '.join(CTL)} run --rm busybox yes | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, env=environ(daemon), timeout=30, check=False)
    assert done.stdout == b"y\n141\n"
    assert done.stderr == b""
    assert signal.SIGKILL in daemon.sandboxes.signals  # --rm: nobody could ever reach it again


# --- exit statuses and errors ---


def test_errors_of_the_daemon(daemon: FakeDaemon) -> None:
    done = ctl(daemon, "run", "error/name_in_use", "true")
    assert done.returncode == 125
    lines = done.stderr.decode().splitlines()
    assert lines[0] == "error: the name something is in use"
    assert lines[1].startswith("  ") and lines[2].startswith("  hint: ")
    done = ctl(daemon, "--error-format", "json", "run", "error/name_in_use", "true")
    assert json.loads(done.stderr)["code"] == "name_in_use"


def test_what_the_command_line_refuses_never_reaches_the_daemon(daemon: FakeDaemon) -> None:
    for words in (
        ["-p", "99999:80"],
        ["-m", "lots"],
        ["--name", "a/b"],
        ["--cpus", "0"],
        ["--network", "x"],
        ["--nope"],
    ):
        done = ctl(daemon, "--error-format", "json", "run", *words, "busybox")
        assert done.returncode == 125, words
        assert json.loads(done.stderr)["remedy"]
    assert daemon.sandboxes.runs == []


def test_a_machine_that_is_lost_is_called_so(daemon: FakeDaemon) -> None:
    done = ctl(daemon, "run", "--label", "reason=vmm_died", "busybox", "sh", "-c", "exit 137")
    assert done.returncode == 137
    assert b"vmm_died" in done.stderr and b"sandboxctl inspect" in done.stderr


def test_the_daemon_goes_away(daemon: FakeDaemon) -> None:
    with spawn(daemon, "--error-format", "json", "run", "busybox", "sleep", "100") as process:
        eventually(lambda: any(box.process for box in daemon.sandboxes.boxes.values()))
        daemon.stop()
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 125
    assert json.loads(stderr)["code"] == "daemon_lost"


# --- signals ---


def test_signals_go_to_the_command(daemon: FakeDaemon) -> None:
    script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    with spawn(daemon, "run", "busybox", "sh", "-c", script) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 9


def test_three_interrupts_leave_a_command_that_does_not_care(daemon: FakeDaemon) -> None:
    script = "trap '' INT; echo ready; exec sleep 100"
    with spawn(daemon, "run", "busybox", "sh", "-c", script) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == b"ready\n"
        for count in (1, 2):
            process.send_signal(signal.SIGINT)
            eventually(lambda count=count: daemon.sandboxes.signals.count(signal.SIGINT) == count)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert b"sandboxctl kill" in process.stderr.read()


def test_an_interrupt_during_a_pull_cancels_it(daemon: FakeDaemon) -> None:
    with spawn(daemon, "run", "--progress", "plain", "slow", "true") as process:
        assert process.stderr
        assert b"Fetching" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    eventually(lambda: daemon.sandboxes.cancelled_pulls == 1)
    assert daemon.sandboxes.boxes == {}


# --- terminals ---


def test_a_terminal_is_found_out_by_itself(daemon: FakeDaemon) -> None:
    with on_terminal([*CTL, "run", "--rm", "busybox", "sh"], environ(daemon), (91, 33)) as terminal:
        terminal.send(b"stty size; tty | cut -c1-8\n")
        terminal.expect(b"33 91\r\n/dev/pts\r\n")
        assert terminal.raw
        terminal.send(b"exit 5\n")
        assert terminal.end() == 5
        assert not terminal.raw


def test_the_window_size_follows(daemon: FakeDaemon) -> None:
    script = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done"
    with on_terminal([*CTL, "run", "-it", "busybox", "bash", "-c", script], environ(daemon)) as terminal:
        terminal.expect(b"ready")
        terminal.resize(100, 40)
        terminal.expect(b"40 100")
        assert terminal.end() == 0


def test_ctrl_c_is_the_commands_own(daemon: FakeDaemon) -> None:
    script = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    with on_terminal([*CTL, "run", "-it", "busybox", "bash", "-c", script], environ(daemon)) as terminal:
        terminal.expect(b"ready")
        eventually(lambda: terminal.raw)
        terminal.send(b"\x03")
        terminal.expect(b"caught")
        assert terminal.end() == 3
    assert signal.SIGINT not in daemon.sandboxes.signals  # the terminal inside made it


def test_detaching(daemon: FakeDaemon) -> None:
    with on_terminal([*CTL, "run", "-it", "busybox", "cat"], environ(daemon)) as terminal:
        terminal.send(b"one\r")
        terminal.expect(b"one\r\none")
        terminal.send(b"\x10")
        terminal.send(b"\x11")
        assert terminal.end() == 0
        assert not terminal.raw
    box = next(iter(daemon.sandboxes.boxes.values()))
    assert box.process and box.process.returncode is None


def test_the_terminal_is_itself_again_when_the_daemon_dies(daemon: FakeDaemon) -> None:
    with on_terminal([*CTL, "run", "-it", "busybox", "cat"], environ(daemon)) as terminal:
        eventually(lambda: terminal.raw)
        daemon.stop()
        assert terminal.end() == 125
        assert not terminal.raw
        assert b"error:" in terminal.shown


def test_a_killed_client_leaves_the_terminal_as_it_was(daemon: FakeDaemon) -> None:
    """SIGHUP, SIGTERM: forwarded, and after the command's end everything is put back."""
    with on_terminal([*CTL, "run", "-it", "busybox", "cat"], environ(daemon)) as terminal:
        eventually(lambda: terminal.raw)
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 143
        assert not terminal.raw


def test_no_tty_on_a_terminal(daemon: FakeDaemon) -> None:
    with on_terminal([*CTL, "run", "-T", "busybox", "tty"], environ(daemon)) as terminal:
        assert terminal.end() == 1
        assert b"not a tty" in terminal.shown


def test_it_without_a_terminal(daemon: FakeDaemon) -> None:
    done = ctl(daemon, "--error-format", "json", "run", "-it", "busybox", "true")
    assert done.returncode == 125
    assert json.loads(done.stderr)["code"] == "no_terminal"


# --- run -d, exec, attach, timings ---


def test_detached(daemon: FakeDaemon) -> None:
    done = ctl(daemon, "run", "-d", "--name", "web", "-p", "80", "-p", "8080:81", "busybox", "sleep", "100")
    assert (done.returncode, done.stdout) == (0, b"000000000001\n")
    assert done.stderr == b"port 0.0.0.0:32768->80/tcp\n"
    assert ctl(daemon, "run", "-d", "-q", "-p", "80", "busybox", "sleep", "100").stderr == b""


def test_exec(daemon: FakeDaemon) -> None:
    ctl(daemon, "run", "-d", "--name", "web", "busybox", "sleep", "100")
    done = ctl(
        daemon, "exec", "-i", "-e", "A=b", "-w", "/tmp", "-u", "1:2", "web", "sh", "-c", "cat; exit 3", stdin=b"in"
    )
    assert (done.returncode, done.stdout) == (3, b"in")
    wanted = daemon.sandboxes.execs[0]
    assert (list(wanted.env), wanted.working_dir, wanted.user) == (["A=b"], "/tmp", "1:2")
    assert ctl(daemon, "exec", "nosuch", "true").returncode == 125


def test_timings_and_trace(daemon: FakeDaemon, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    done = ctl(daemon, "run", "--timings", "--trace", str(trace), "busybox", "true")
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"}
    assert {"python", "imports", "connect", "kernel"} <= names
    assert all(name.encode() in done.stderr for name in names)
    assert b"\x1b" not in done.stderr


def test_a_pull_is_reported_and_receipted(daemon: FakeDaemon) -> None:
    done = ctl(daemon, "run", "pulled", "echo", "x")
    assert done.stdout == b"x\n"
    lines = done.stderr.decode().splitlines()
    assert lines[0] == "pulled: Fetching abc123 (1000 B)" and lines[1].startswith("✓ Pulled pulled  1000 B  ")
    assert ctl(daemon, "run", "-q", "pulled", "true").stderr == b""


def test_bars_on_a_terminal_are_gone_at_the_end(daemon: FakeDaemon) -> None:
    with on_terminal([*CTL, "pull", "busybox"], {**environ(daemon), "NO_COLOR": ""}) as terminal:
        assert terminal.end() == 0
    shown = terminal.shown.decode()
    assert "\x1b[?25l" in shown and shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert "Pulled busybox  4 MiB" in shown.splitlines()[-1]


def test_an_interrupted_pull_shows_the_cursor_again(daemon: FakeDaemon) -> None:
    with on_terminal([*CTL, "run", "slow", "true"], {**environ(daemon), "NO_COLOR": ""}) as terminal:
        terminal.expect(b"\x1b[?25l")
        begin = time.monotonic()
        terminal.send(b"\x03")
        assert terminal.end() == 130
        assert time.monotonic() - begin < 5
    assert "\x1b[?25h" in terminal.shown.decode()
