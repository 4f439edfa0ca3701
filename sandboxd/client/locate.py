"""Where the daemon is: its socket, its run directory, its configuration file.

Imports next to nothing, because `sandboxctl version` has less time than `import re` takes.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

DEFAULT_CONFIG = "/etc/sandboxd/config.toml"
DEFAULT_RUN_DIR = "/run/sandboxd"
SOCKET_NAME = "sandboxd.sock"
SOCKET_PATH_MAX_BYTES = 107
"""sun_path of unix(7), without the final NUL."""


class Location:
    """A daemon's address. Paths are absolute strings; `config` is "" when no file is involved."""

    __slots__ = ("config", "run_dir", "socket")

    def __init__(self, socket: str, config: str, run_dir: str) -> None:
        self.socket = socket
        self.config = config
        self.run_dir = run_dir

    @property
    def pid_file(self) -> str:
        return self.run_dir + "/sandboxd.pid"

    @property
    def log_file(self) -> str:
        """Standard output and error of a daemon that a client started."""
        return self.run_dir + "/sandboxd.log"


def locate(socket: str = "", config: str = "", environ: Mapping[str, str] = os.environ) -> Location:
    """Socket: argument, $SANDBOXD_SOCKET, the configuration's `socket`, RUN_DIR/sandboxd.sock.

    Configuration: argument, $SANDBOXD_CONFIG, /etc/sandboxd/config.toml. Of its keys only the two that say where the
    daemon listens are read here; all others are the daemon's to check. Errors: those of `core.config.load_config`.
    """
    named = config or environ.get("SANDBOXD_CONFIG", "")
    file = absolute(named or DEFAULT_CONFIG)
    run_dir, configured = _listens_at(file, bool(named))
    path = socket or environ.get("SANDBOXD_SOCKET", "") or configured or run_dir + "/" + SOCKET_NAME
    return Location(absolute(path.removeprefix("unix:")), file if named else "", run_dir)


def absolute(path: str) -> str:
    """Against the working directory; symbolic links stay what they are."""
    return os.path.abspath(path)  # noqa: PTH100  (pathlib costs more than all else here)


def _listens_at(file: str, must_exist: bool) -> tuple[str, str]:
    """(run_dir, socket or "") as the file has them."""
    try:
        with open(file, "rb") as handle:  # noqa: PTH123  (pathlib costs more than all else here)
            data = handle.read(1 << 20)
    except OSError:
        if must_exist:
            _refuse(file)
        return DEFAULT_RUN_DIR, ""
    if b"run_dir" not in data and b"socket" not in data:
        return DEFAULT_RUN_DIR, ""
    document = _plain(data)
    if document is None:
        document = _parse(data, file)
    run_dir, socket = document.get("run_dir", DEFAULT_RUN_DIR), document.get("socket", "")
    if not isinstance(run_dir, str) or not isinstance(socket, str) or not run_dir.startswith("/"):
        _refuse(file)
    return os.path.normpath(run_dir), socket


def _plain(data: bytes) -> dict[str, Any] | None:
    """The two keys, where they are written as nearly everybody writes them; None leaves it to the parser.

    The parser costs more than all else here. Everything before the first table is looked at, and any line that names
    one of the keys in another way than `key = "value"` is not for us.
    """
    found: dict[str, Any] = {}
    if b'"""' in data or b"'''" in data or b"\\" in data:
        return None
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError:
        return None
    for line in lines:
        text = line.strip()
        if text[:1] == "[" and text[-1:] == "]" and text[1:-1].replace("_", "a").isalpha():
            break
        if text.startswith("#") or ("run_dir" not in text and "socket" not in text):
            continue
        key, _, value = (part.strip() for part in text.partition("="))
        if key not in ("run_dir", "socket") or key in found or len(value) < 2:
            return None
        if value[0] != '"' or value[-1] != '"' or '"' in value[1:-1] or not value.isprintable():
            return None
        found[key] = value[1:-1]
    return found


def _parse(data: bytes, file: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(data.decode())
    except ValueError:
        _refuse(file)
    return {}


def _refuse(file: str) -> None:
    """Lets the configuration's own reader say what is wrong with the file."""
    from pathlib import Path

    from sandboxd.core.config import load_config

    load_config(Path(file))
