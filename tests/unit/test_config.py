"""The configuration's door."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandboxd.base.errors import SandboxdError
from sandboxd.core.config import Config, config_path, effective, known_keys, load_config, parse_config

FILE = Path("/etc/sandboxd/config.toml")


def refused(text: str) -> SandboxdError:
    with pytest.raises(SandboxdError) as caught:
        parse_config(text, FILE)
    return caught.value


def test_no_file_means_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SANDBOXD_CONFIG", raising=False)
    monkeypatch.setattr("sandboxd.core.config.DEFAULT_PATH", tmp_path / "none")
    config = load_config()
    assert config == Config() and config.path is None
    assert config.socket_path == Path("/run/sandboxd/sandboxd.sock")
    assert (config.machine.memory_bytes, config.machine.vcpus, config.machine.disk_bytes) == (512 << 20, 1, 4 << 30)


def test_every_key_can_be_set_and_is_in_base_units() -> None:
    config = parse_config(
        """
        data_dir = "/d"
        run_dir = "/r"
        socket = "/s.sock"
        [machine]
        memory = "1.5G"
        vcpus = 2
        disk = 100
        kernel = "/boot/k"
        driver = "qemu"
        boot_timeout = "1m30s"
        [network]
        bridge = "br9"
        subnet = "10.9.0.0/16"
        dns = ["10.0.0.53"]
        mtu = 1400
        tap_prefix = "t"
        [images]
        default_registry = "registry.example"
        mirrors = { "registry.example" = ["mirror.example:5000/cache"] }
        insecure = ["127.0.0.1:5000"]
        [log]
        max_bytes = "1M"
        [limits]
        sandboxes = 7
        starts = 3
        """,
        FILE,
    )
    assert config.machine.memory_bytes == 3 << 29
    assert config.machine.disk_bytes == 100 << 20  # a bare number is MiB
    assert config.machine.boot_timeout_s == 90
    assert config.images.mirrors["registry.example"] == ("mirror.example:5000/cache",)
    assert config.socket_path == Path("/s.sock")
    assert {setting.source for setting in effective(config)} == {str(FILE)}
    assert {setting.key for setting in effective(config)} <= set(known_keys())


def test_effective_says_where_a_value_came_from() -> None:
    settings = {setting.key: setting for setting in effective(parse_config("[machine]\nvcpus = 2", FILE))}
    assert (settings["machine.vcpus"].value, settings["machine.vcpus"].source) == (2, str(FILE))
    assert (settings["machine.memory"].value, settings["machine.memory"].source) == (512 << 20, "default")
    assert settings["socket"].value == "/run/sandboxd/sandboxd.sock"


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("[machine]\nmemroy = 1", "machine.memroy", "machine.memory"),
        ("data_dri = '/x'", "data_dri", "data_dir"),
        ("memory = '1G'", "memory", "machine.memory"),
        ("[netwrok]\nmtu = 1", "netwrok", "network"),
    ],
)
def test_unknown_key_names_the_nearest(text: str, key: str, nearest: str) -> None:
    error = refused(text)
    assert error.kind.code == "config_unknown_key"
    assert error.context["key"] == key
    assert f"nearest known key is {nearest}." in error.cause


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[machine]\nmemory = '10M'", ["machine.memory", "'10M'", "at least 64 MiB"]),
        ("[machine]\nmemory = 'lots'", ["machine.memory", "'lots'", "512M"]),
        ("[machine]\nvcpus = 0", ["machine.vcpus", "at least 1"]),
        ("[machine]\nvcpus = '2'", ["machine.vcpus", "integer"]),
        ("[machine]\nvcpus = true", ["machine.vcpus", "integer"]),
        ("[machine]\nboot_timeout = '0s'", ["machine.boot_timeout", "above 0"]),
        ("[machine]\ndriver = 'xen'", ["machine.driver", "'qemu'"]),
        ("run_dir = 'run'", ["run_dir", "absolute"]),
        ("run_dir = '/a/../b'", ["run_dir", ".."]),
        (f"run_dir = '/{'x' * 80}'", ["run_dir", "70 bytes"]),
        ("[network]\nsubnet = '10.0.0.1/8'", ["network.subnet", "auto"]),
        ("[network]\nsubnet = '10.0.0.0/30'", ["network.subnet", "8 to 29"]),
        ("[network]\ndns = ['one']", ["network.dns", "IP address"]),
        ("[network]\nbridge = 'a b'", ["network.bridge"]),
        ("network = 3", ["network", "table"]),
        ("[images]\nmirrors = 3", ["images.mirrors", "table"]),
        ("x = [", ["not TOML"]),
    ],
)
def test_wrong_value_names_path_value_and_limit(text: str, words: list[str]) -> None:
    error = refused(text)
    assert error.kind.code == "config_invalid"
    assert all(word in error.cause for word in words), error.cause
    assert str(FILE) in error.message + error.remedy


def test_all_errors_of_one_file_come_together() -> None:
    error = refused("data_dri = '/x'\n[machine]\nmemory = '1M'\nvcpus = 0\n")
    assert error.kind.code == "config_unknown_key"
    assert all(word in error.cause for word in ("data_dri", "machine.memory", "machine.vcpus"))


def test_a_named_file_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SandboxdError) as caught:
        load_config(tmp_path / "none.toml")
    assert caught.value.kind.code == "config_unreadable"
    monkeypatch.setenv("SANDBOXD_CONFIG", str(tmp_path / "named.toml"))
    assert config_path() == tmp_path / "named.toml"
    (tmp_path / "named.toml").write_text("[limits]\nsandboxes = 3")
    assert load_config().limits.sandboxes == 3


def test_hostile_files(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SandboxdError, match="not valid"):
        load_config(path)
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(SandboxdError, match="cannot be read"):
        load_config(path)
    assert len(refused(f"x = '{'y' * 10000}'").cause) < 300
