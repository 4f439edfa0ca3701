"""The leak check: what of the host's state a test left behind.

`Inventory.take()` before and after; `leaked()` names everything that is new. Used around the whole test run and, with
tighter roots, around single tests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

_OURS = re.compile(r"qemu-system|sandboxd|docker-registry|virtiofsd|agent --fd")


@dataclass(frozen=True)
class Inventory:
    """Everything of the host that sandboxd may hold, each as a set of names that identify one instance."""

    processes: frozenset[str]
    links: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    namespaces: frozenset[str]
    tables: frozenset[str]
    loops: frozenset[str]
    files: frozenset[str]

    @classmethod
    def take(cls, roots: Iterable[Path] = (Path("/run/sandboxd"),)) -> Inventory:
        return cls(
            processes=frozenset(_processes()),
            links=frozenset(path.name for path in Path("/sys/class/net").iterdir()),
            mounts=frozenset(_mounts()),
            cgroups=frozenset(str(path) for path in _cgroups()),
            namespaces=frozenset(_names(Path("/run/netns"))),
            tables=frozenset(_tables()),
            loops=frozenset(_loops()),
            files=frozenset(str(path) for root in roots for path in _files(root)),
        )

    def leaked(self, after: Inventory) -> dict[str, list[str]]:
        """What `after` has and this has not, by kind; empty when clean."""
        new = {field.name: sorted(getattr(after, field.name) - getattr(self, field.name)) for field in fields(self)}
        return {kind: names for kind, names in new.items() if names}


def _processes() -> Iterable[str]:
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            stat = (path / "stat").read_text().rpartition(")")[2].split()
            cgroup = (path / "cgroup").read_text().partition("\n")[0]
        except OSError:
            continue
        if stat[0] != "Z" and _OURS.search(command) and "pytest" not in command:
            yield f"{path.name}@{stat[19]} {command[:160]} {cgroup}"


def _mounts() -> Iterable[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        yield f"{words[4]} (mount {words[0]})"


def _cgroups() -> Iterable[Path]:
    for directory, _, _ in os.walk("/sys/fs/cgroup"):  # what vanishes meanwhile is passed over
        if "sandboxd" in directory:
            yield Path(directory)


def _names(directory: Path) -> Iterable[str]:
    return [path.name for path in directory.iterdir()] if directory.is_dir() else []


def _tables() -> Iterable[str]:
    answer = subprocess.run(["nft", "-j", "list", "tables"], capture_output=True, text=True, check=True).stdout
    for entry in json.loads(answer)["nftables"]:
        if "table" in entry:
            yield f"{entry['table']['family']} {entry['table']['name']}"


def _loops() -> Iterable[str]:
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            yield f"{path.parent.parent.name} {path.read_text().strip()}"
        except OSError:
            continue


def _files(root: Path) -> Iterable[Path]:
    return root.rglob("*") if root.is_dir() else []
