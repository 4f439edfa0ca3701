"""System programs that sandboxd calls: there, and new enough."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from sandboxd.cli.doctor.finding import Finding, Fix, Patient

LIMIT_S = 10.0
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_NUMBERS = (re.compile(r"(\d+)\.(\d+)"), re.compile(r"version (\d+)()"))
"""kmod counts whole numbers."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program, Debian's package of it, and what is impossible without it."""

    name: str
    package: str
    use: str
    version: tuple[str, ...] = ("--version",)
    oldest: tuple[int, int] | None = None
    """Older ones lack an option that is used."""


PROGRAMS = (
    Program("qemu-system-x86_64", "qemu-system-x86", "no machine can be started", oldest=(7, 0)),
    Program("skopeo", "skopeo", "no image can be pulled", oldest=(1, 4)),
    Program("mkfs.erofs", "erofs-utils", "no image can be packed", version=("-V",), oldest=(1, 5)),
    Program("mke2fs", "e2fsprogs", "no disk can be made", version=("-V",), oldest=(1, 46)),
    Program("zstd", "zstd", "no zstd layer or kernel can be unpacked"),
    Program("setpriv", "util-linux", "no process can be confined", oldest=(2, 33)),
    Program("depmod", "kmod", "no initrd can be made"),
)


def check(_: Patient) -> Iterable[Finding]:
    for program in PROGRAMS:
        yield examine(program)


def examine(program: Program) -> Finding:
    path = shutil.which(program.name) or shutil.which(program.name, path=_SBIN)
    remedy = f"apt-get install {program.package}"
    fix = Fix(packages=(program.package,))
    if path is None:
        return Finding("error", program.name, f"not installed: {program.use}", remedy, fix)
    found = _version(path, program)
    if found is None:
        return Finding("warning", program.name, f"{path} does not tell its version", remedy)
    text = ".".join(map(str, found))
    if program.oldest and found < program.oldest:
        oldest = ".".join(map(str, program.oldest))
        return Finding("error", program.name, f"version {text} is older than {oldest}", remedy, fix)
    return Finding("ok", program.name, text)


def _version(path: str, program: Program) -> tuple[int, int] | None:
    try:
        done = subprocess.run([path, *program.version], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    text = done.stdout + done.stderr  # mke2fs tells its version on standard error
    found = [match for pattern in _NUMBERS if (match := pattern.search(text))]
    return (int(found[0][1]), int(found[0][2] or 0)) if found else None
