"""The kernel settings that routing for guests needs, and the way back.

net.ipv4.ip_forward is the host's, not ours: it is turned on where it is off, and turned off again when the network
goes, with what the kernel changes along with it (ip-sysctl: forwarding of every device, accept_redirects).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from sandboxd.base.errors import NETWORK_SETUP_FAILED, SandboxdError

_IPV4 = Path("/proc/sys/net/ipv4")
_FORWARD = _IPV4 / "ip_forward"


def forwarding() -> bool:
    return _read(_FORWARD) == "1"


def record() -> dict[str, str]:
    """What turning forwarding on will change, as it is now: path to value; empty where it is on already."""
    if forwarding():
        return {}
    touched = (path for name in ("forwarding", "accept_redirects") for path in (_IPV4 / "conf").glob(f"*/{name}"))
    return {str(_FORWARD): "0", **{str(path): value for path in touched if (value := _read(path)) is not None}}


def enable_forwarding() -> None:
    """Raises `network_setup_failed`."""
    if not forwarding():
        _write(_FORWARD, "1")


def prepare_bridge(name: str) -> None:
    """The bridge's own settings: it routes, 127.0.0.1 may be published, no IPv6. Raises `network_setup_failed`."""
    for path, value in _bridge(name):
        if path.exists() and _read(path) != value:
            _write(path, value)


def restore(recorded: Mapping[str, str]) -> None:
    """Back to a `record`, for devices that are still there. ip_forward comes first: it resets the others."""
    for path, value in sorted(recorded.items(), key=lambda item: item[0] != str(_FORWARD)):
        target = Path(path)
        if target.is_relative_to(_IPV4) and target.exists() and _read(target) != value:
            _write(target, value)


def _bridge(name: str) -> Iterator[tuple[Path, str]]:
    own = _IPV4 / "conf" / name
    yield own / "forwarding", "1"
    yield own / "route_localnet", "1"
    yield own / "send_redirects", "0"
    yield own / "accept_redirects", "0"
    yield Path("/proc/sys/net/ipv6/conf") / name / "disable_ipv6", "1"


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _write(path: Path, value: str) -> None:
    try:
        path.write_text(value)
    except OSError as error:
        raise SandboxdError(
            NETWORK_SETUP_FAILED, what=f"setting {path} to {value}", reason=f"The kernel says: {error.strerror}."
        ) from error
