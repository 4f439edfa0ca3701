"""What the command line loads before it does anything: its start-up has a budget."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandboxd import __version__

HEAVY = {"grpc", "google.protobuf", "pydantic", "pydantic_core", "rich", "pyroute2", "sqlite3", "asyncio", "cffi"}


@pytest.fixture(autouse=True)
def _the_default_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration that names another one costs a TOML parser."""
    for name in ("SANDBOXD_CONFIG", "SANDBOXD_SOCKET"):
        monkeypatch.delenv(name, raising=False)


def modules_of(*words: str) -> set[str]:
    code = (
        "import sys; from sandboxd.cli.main import main; status = main(sys.argv[1:]);"
        "sys.stderr.write('\\0' + ' '.join(sys.modules)); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=30, check=True)
    return set(done.stderr.rpartition("\0")[2].split())


def test_version_loads_next_to_nothing() -> None:
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(' '.join(sys.modules))"], capture_output=True, text=True, check=True
    )
    extra = modules_of("version") - set(bare.stdout.split())
    allowed = {"sandboxd", "sandboxd.cli", "sandboxd.cli.main", "sandboxd.cli.version"}
    assert extra <= allowed | {"sandboxd.client", "sandboxd.client.locate", "__future__"}


@pytest.mark.parametrize("words", [["--help"], ["completion", "bash"], ["completion", "zsh"], ["completion", "fish"]])
def test_help_and_completion_load_no_heavy_thing(words: list[str]) -> None:
    loaded = modules_of(*words)
    assert not loaded & (HEAVY - {"asyncio"}), loaded & HEAVY
    assert "click" in loaded


def test_version_of_another_daemon_needs_no_parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'run_dir = "{tmp_path}"\n\n[network]\nbridge = "x"\n')
    monkeypatch.setenv("SANDBOXD_CONFIG", str(config))
    assert not modules_of("version") & {"tomllib", "re", "typing"}


def test_a_command_loads_no_more_than_its_request_needs(tmp_path: Path) -> None:
    """It is refused just before it would be sent: there is no daemon."""
    code = (
        "import sys; from sandboxd.cli.main import main; status = main(sys.argv[1:]);"
        "print(' '.join(sys.modules)); sys.exit(status)"
    )
    words = ["--socket", str(tmp_path / "none"), "--no-autostart", "run", "busybox", "true"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=30, check=False)
    loaded = set(done.stdout.split())
    assert done.returncode == 125 and "grpc.aio" in loaded
    later = {"sandboxd.client.model", "sandboxd.client.sandbox", "sandboxd.cli.timings", "sandboxd.cli.conversation"}
    needless = {"ssl", "google.protobuf.text_format", "sandboxd.base.ports", "secrets", "rich", "tarfile"}
    assert not loaded & (later | needless)


def test_help_loads_no_command() -> None:
    assert not [name for name in modules_of("--help") if name.startswith("sandboxd.cli.commands")]


def test_import_of_the_package_loads_nothing() -> None:
    code = "import sys, sandboxd; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & (HEAVY | {"sandboxd.client"})


def test_version_within_three_times_python_itself() -> None:
    """The promise of the README. Interleaved, and the best of many: the machine may be busy."""
    ours, bare = [], []
    script = str(Path(sys.executable).parent / "sandboxctl")
    for _ in range(15):
        ours.append(_seconds([script, "version"]))
        bare.append(_seconds([sys.executable, "-c", "pass"]))
    assert min(ours) < 3 * min(bare)


def _seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - begin


def test_version_of_client_and_daemon(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    run_dir = tmp_path / "run"
    config.write_text(f'run_dir = "{run_dir}"\n')
    assert _version(config) == {"client": __version__, "daemon": None, "daemon_pid": None}
    run_dir.mkdir()
    # Only a process that is a sandboxd counts: a stale pid file may name anybody.
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()", "sandboxd"], stdin=subprocess.PIPE
    ) as it:
        (run_dir / "sandboxd.pid").write_text(f"{it.pid}\n")
        (run_dir / "sandboxd.version").write_text("9.9.9\n")
        assert _version(config) == {"client": __version__, "daemon": "9.9.9", "daemon_pid": it.pid}
        plain = _ctl(config, "version").splitlines()
        assert plain == [f"sandboxctl {__version__}", f"sandboxd   9.9.9 (process {it.pid})"]
    assert _version(config)["daemon_pid"] is None
    (run_dir / "sandboxd.pid").write_text("1\n")
    assert _version(config)["daemon_pid"] is None


def _ctl(config: Path, *words: str) -> str:
    command = [sys.executable, "-m", "sandboxd.cli.main", "--config", str(config), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _version(config: Path) -> dict[str, object]:
    answer: dict[str, object] = json.loads(_ctl(config, "version", "--format", "json"))
    return answer
