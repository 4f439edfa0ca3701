"""The daemon as a process: one per run_dir, light until it needs to be heavy, understandable when it cannot start."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sandboxd.base.errors import SandboxdError
from sandboxd.daemon import process
from sandboxd.daemon.main import main
from sandboxd.daemon.paths import Paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path / "data", tmp_path / "run")
    paths.make()
    return paths


def held(paths: Paths) -> int:
    """The lock, as another process has it."""
    fd = os.open(paths.lock_file, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def test_a_second_one_is_refused_and_told_who_runs(paths: Paths) -> None:
    fd = held(paths)
    paths.pid_file.write_text("4711\n")
    with pytest.raises(SandboxdError) as caught, process.only_one(paths):
        pass
    assert caught.value.kind.code == "daemon_already_running"
    assert "4711" in caught.value.cause + caught.value.remedy
    os.close(fd)
    with process.only_one(paths):
        pass


def test_one_that_is_ending_is_waited_for(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = held(paths)
    timer = threading.Timer(0.2, os.close, (fd,))
    timer.start()
    with process.only_one(paths):
        timer.join()
    fd = held(paths)
    monkeypatch.setattr(process, "ENDING_TIMEOUT_S", 0.05)
    with pytest.raises(SandboxdError), process.only_one(paths):
        pass
    os.close(fd)


def test_pid_file_is_there_as_long_as_the_block(paths: Paths) -> None:
    with process.pid_file(paths):
        assert paths.pid_file.read_text() == f"{os.getpid()}\n"
    assert not paths.pid_file.exists()


def test_directories_are_private(paths: Paths) -> None:
    assert paths.run_dir.stat().st_mode & 0o777 == 0o711
    assert paths.sandboxes_run.stat().st_mode & 0o777 == 0o700
    assert paths.sandboxes_data.stat().st_mode & 0o777 == 0o700


def test_two_daemons_have_two_cgroups(tmp_path: Path) -> None:
    assert Paths(tmp_path, Path("/run/sandboxd")).cgroup == "sandboxd"
    assert Paths(tmp_path, tmp_path / "a").cgroup != Paths(tmp_path, tmp_path / "b").cgroup


def test_a_wrong_configuration_is_told_in_one_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[machine]\nmemroy = 1")
    script = f"from sandboxd.daemon.main import main; raise SystemExit(main(['--config', {str(config)!r}]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "machine.memory" in done.stderr
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0 and capsys.readouterr().out.startswith("sandboxd ")


def test_what_is_rare_is_not_loaded(tmp_path: Path) -> None:
    script = "import sys, sandboxd.daemon.daemon; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "grpc" in loaded
    assert not loaded & {"pyroute2", "click", "rich", "qemu", "prometheus_client"}


def test_a_directory_of_somebody_else_is_refused(paths: Paths) -> None:
    paths.make()
    os.chown(paths.sandboxes_data, 12345, 12345)
    with pytest.raises(SandboxdError, match="cannot use") as refused:
        paths.make()
    assert "12345" in refused.value.cause
