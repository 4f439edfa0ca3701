"""config.json texts for tests: one that a microVM honours, to be changed field by field."""

from __future__ import annotations

import copy
import json
from typing import Any

from sandboxd.core.oci.compile import CompiledContainer, compile_container
from sandboxd.core.oci.hostfile import HostFile, HostFileRefused
from sandboxd.core.oci.rootfs import RootfsMount
from sandboxd.core.oci.spec import Spec, parse_spec

EROFS = RootfsMount("erofs", "/images/a.erofs", options=("ro", "loop"))
DISK = RootfsMount("ext4", "/disks/a.ext4", options=("rw", "loop"))
OVERLAY = RootfsMount(
    "format/mkdir/overlay",
    "overlay",
    options=(
        "X-containerd.mkdir.path={{ mount 0 }}/upper:0755",
        "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
        "workdir={{ mount 0 }}/work",
        "upperdir={{ mount 0 }}/upper",
        "lowerdir={{ overlay 1 1 }}",
    ),
)
WRITABLE = (DISK, EROFS, OVERLAY)
NAMESPACES = [{"type": name} for name in ("mount", "pid", "ipc", "uts", "cgroup", "network")]

_BASE: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "process": {"args": ["/bin/true"], "cwd": "/", "env": ["PATH=/bin"]},
    "root": {"path": "rootfs"},
    "linux": {"namespaces": NAMESPACES},
}


def config(**changes: Any) -> dict[str, Any]:
    """The base with values set by path, "__" between its parts: config(linux__sysctl={...}, hostname="h")."""
    result = copy.deepcopy(_BASE)
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = result
        for name in parents:
            place = place.setdefault(name, {})
        place[last] = value
    return result


def spec(**changes: Any) -> Spec:
    return parse_spec(json.dumps(config(**changes)).encode())


def no_files(path: str) -> HostFile:
    raise HostFileRefused(f"{path} is not part of this test")


def compiled(**changes: Any) -> CompiledContainer:
    return compile_container(spec(**changes), container_id="web", rootfs=WRITABLE, read_host_file=no_files)
