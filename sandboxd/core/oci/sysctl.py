"""linux.sysctl to writes below /proc/sys.

Written by the container's first process in the container's namespaces, through the guest's own /proc. Settings that the
kernel keeps once for all its containers (kernel.core_pattern, vm.*) are allowed too: this kernel is the sandbox's own.
"""

from __future__ import annotations

import re

from sandboxd.api import agent_pb2 as pb
from sandboxd.core.oci import steps
from sandboxd.core.oci.findings import Findings

_NAME = re.compile(r"[A-Za-z0-9_.:*@/-]{1,255}\Z")
_VALUE_MAX = 4096


def compile_sysctls(sysctls: dict[str, str] | None, findings: Findings) -> list[pb.Step]:
    compiled = []
    for name, value in (sysctls or {}).items():
        path = _path(name)
        if path is None or len(value) > _VALUE_MAX:
            findings.invalid(
                f"linux.sysctl.{name}", value, "a setting is named like net.ipv4.ip_forward and has one page"
            )
        else:
            compiled.append(steps.write(path, value))
    return compiled


def _path(name: str) -> str | None:
    """sysctl.d(5): the first separator is the separator; the other of "." and "/" then stands for itself."""
    if not _NAME.match(name):
        return None
    first = next((char for char in name if char in "./"), None)
    if first is None:
        return None
    parts = name.split("/") if first == "/" else [part.replace("/", ".") for part in name.split(".")]
    if any(part in ("", ".", "..") for part in parts):
        return None
    return "/proc/sys/" + "/".join(parts)
