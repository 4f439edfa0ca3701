"""From words to what the daemon is asked: every option of `run`, and every refusal before anything is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from sandboxd.api import sandboxd_pb2 as api
from sandboxd.base.errors import SandboxdError
from sandboxd.cli import terminal
from sandboxd.cli.app import COMMANDS, cli
from sandboxd.cli.commands.cp import _split
from sandboxd.cli.commands.run import run
from sandboxd.cli.workload import environment, run_options
from sandboxd.client.options import build_config


def config_of(*words: str) -> api.SandboxConfig:
    """As `run` makes it of its arguments."""
    context = run.make_context("run", list(words))
    values: dict[str, Any] = dict(context.params)
    return build_config(values.pop("image"), values.pop("command"), run_options(values))


def test_every_option_arrives(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text("{}")
    config = config_of(
        *("--name", "web", "-e", "A=b=c", "-w", "/srv", "-u", "1000:100", "--entrypoint", "sh", "--hostname", "box"),
        *(
            "-l",
            "team=web",
            "-l",
            "bare",
            "-m",
            "1.5G",
            "--cpus",
            "1.5",
            "--disk",
            "64M",
            "-p",
            "127.0.0.1:8080:80/udp",
        ),
        *("--read-only", "--tmpfs", "/tmp:size=1m", "--timeout", "1m30s", "--stop-signal", "INT", "--replace"),
        *(
            "--pull",
            "never",
            "--platform",
            "linux/arm64",
            "--cap-add",
            "NET_ADMIN",
            "--cap-drop",
            "ALL",
            "--privileged",
        ),
        *("--security-opt", f"seccomp={profile}", "--security-opt", "no-new-privileges", "--sysctl", "net.a=1"),
        *(
            "--ulimit",
            "nofile=10:20",
            "--pids-limit",
            "50",
            "--vmm",
            "qemu",
            "--kernel",
            "/boot/k",
            "busybox",
            "-c",
            "x -e",
        ),
    )
    assert config == api.SandboxConfig(
        name="web",
        image="busybox",
        command=["-c", "x -e"],
        entrypoint="sh",
        env=["A=b=c"],
        working_dir="/srv",
        user="1000:100",
        hostname="box",
        labels={"team": "web", "bare": ""},
        memory_bytes=3 << 29,
        vcpus=2,
        cpus_milli=1500,
        disk_bytes=64 << 20,
        network="default",
        ports=[api.PortMapping(bind="127.0.0.1", host_port=8080, guest_port=80, protocol="udp")],
        read_only=True,
        tmpfs=["/tmp:size=1m"],
        timeout_s=90,
        stop_signal="INT",
        replace=True,
        pull="never",
        platform="linux/arm64",
        cap_add=["NET_ADMIN"],
        cap_drop=["ALL"],
        privileged=True,
        security_seccomp="{}",
        no_new_privileges=True,
        sysctls={"net.a": "1"},
        ulimits=["nofile=10:20"],
        pids_limit=50,
        vmm="qemu",
        kernel="/boot/k",
    )


def test_defaults_are_left_to_the_daemon() -> None:
    assert config_of("busybox") == api.SandboxConfig(image="busybox", network="default", pull="missing", vmm="auto")


def test_no_entrypoint_is_not_an_unknown_one() -> None:
    assert config_of("--entrypoint", "", "busybox").HasField("entrypoint")
    assert not config_of("busybox").HasField("entrypoint")


def test_what_follows_the_image_is_the_commands() -> None:
    assert list(config_of("busybox", "ls", "-l", "--rm").command) == ["ls", "-l", "--rm"]


@pytest.mark.parametrize(
    "words",
    [
        ["--name", ""],
        ["--name", "../x"],
        ["-m", "much"],
        ["--cpus", "0"],
        ["--cpus", "nan"],
        ["--cpus", "1e9"],
        ["--network", "host"],
        ["--network", "none", "-p", "80"],
        ["-p", "0"],
        ["--timeout", "soon"],
        ["--security-opt", "apparmor=x"],
        ["--security-opt", "seccomp=/nosuch"],
        ["--env-file", "/nosuch"],
        ["-e", "=x"],
        ["--label", "=x"],
        ["-e", "A=\0"],
    ],
    ids=" ".join,
)
def test_nonsense_is_refused(words: list[str]) -> None:
    with pytest.raises(SandboxdError) as caught:
        config_of(*words, "busybox", "true")
    assert caught.value.kind.code in ("invalid_argument", "local_file")
    assert caught.value.remedy


def test_environment_is_dockers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\n\nA=file\n  B=b # kept\nPASSED\nMISSING\n")
    monkeypatch.setenv("PASSED", "on")
    monkeypatch.delenv("MISSING", raising=False)
    assert environment(["A=flag", "C="], [str(file)]) == ["A=flag", "B=b # kept", "PASSED=on", "C="]
    file.write_text("BAD KEY=x\n")
    with pytest.raises(SandboxdError):
        environment([], [str(file)])


# --- terminals ---


@pytest.mark.parametrize(
    ("typed", "sent", "detached"),
    [
        ([b"ab\x10\x11cd"], b"ab", True),
        ([b"\x10", b"\x11"], b"", True),
        ([b"\x10x"], b"\x10x", False),
        ([b"\x10\x10\x11"], b"\x10", True),
        ([b"\x10"], b"", False),
    ],
)
def test_detach_keys(typed: list[bytes], sent: bytes, detached: bool) -> None:
    keys = terminal.DetachKeys(terminal.parse_detach_keys("ctrl-p,ctrl-q"))
    out, found = b"", False
    for data in typed:
        piece, found = keys.feed(data)
        out += piece
    assert (out, found) == (sent, detached)


def test_detach_key_grammar() -> None:
    assert terminal.parse_detach_keys("ctrl-a,x,ctrl-@") == b"\x01x\x00"
    assert terminal.parse_detach_keys("") == b""
    for bad in ("ctrl-", "meta-x", "ctrl-1", "é"):
        with pytest.raises(SandboxdError):
            terminal.parse_detach_keys(bad)


# --- the tree ---


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_command_has_help_with_an_example(verb: str) -> None:
    done = CliRunner().invoke(cli, [verb, "--help"])
    assert done.exit_code == 0, done.output
    assert f"sandboxctl {verb}" in done.output


def test_every_command_exists_once() -> None:
    for verb, entry in COMMANDS.items():
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None and command.name == verb, entry


@pytest.mark.parametrize(
    ("word", "split"),
    [
        ("web:/srv", ("web", "/srv")),
        ("web:", ("web", "/")),
        ("web:rel", ("web", "rel")),
        ("/a:b", None),
        ("./a:b", None),
        ("file", None),
        ("-", None),
    ],
)
def test_which_side_of_cp_is_a_sandbox(word: str, split: tuple[str, str] | None) -> None:
    assert _split(word) == split
