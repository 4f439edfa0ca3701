"""A sandbox's bundle: config.json and the three files that every container finds in /etc."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sandboxd.core.spec import NetworkAttachment

CONFIG = "config.json"
_BIND_OPTIONS = ["rbind", "rprivate"]
_LOCAL_NAMES = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def write_bundle(directory: Path, config: Mapping[str, Any], hostname: str, network: NetworkAttachment | None) -> None:
    """Writes the bundle anew; `config` is the OCI spec, to which the binds of the three files are added."""
    directory.mkdir(mode=0o700, parents=True)
    files = {
        "resolv.conf": resolv_conf(network),
        "hosts": hosts(hostname, network),
        "hostname": hostname + "\n",
    }
    for name, text in files.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o644)
    binds = [
        {"destination": f"/etc/{name}", "type": "bind", "source": str(directory / name), "options": _BIND_OPTIONS}
        for name in files
    ]
    whole = {**config, "mounts": [*config.get("mounts", []), *binds]}
    (directory / CONFIG).write_text(json.dumps(whole))


def read_config(directory: Path) -> dict[str, Any]:
    """The OCI spec of a bundle that this daemon, or one before it, wrote."""
    config: dict[str, Any] = json.loads((directory / CONFIG).read_text())
    return config


def resolv_conf(network: NetworkAttachment | None) -> str:
    if network is None:
        return "# This sandbox has no network.\n"
    lines = [f"nameserver {server}" for server in network.dns_servers]
    if network.dns_search:
        lines.append(f"search {' '.join(network.dns_search)}")
    return "".join(line + "\n" for line in lines)


def hosts(hostname: str, network: NetworkAttachment | None) -> str:
    if network is None or not network.addresses:
        return _LOCAL_NAMES
    address = network.addresses[0].partition("/")[0]
    short = hostname.partition(".")[0]
    names = hostname if short == hostname else f"{hostname} {short}"
    return f"{_LOCAL_NAMES}{address}\t{names}\n"
