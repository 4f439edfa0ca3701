"""`doctor --fix`: what can be done about findings, each asked for before it is done."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence

from sandboxd.base.errors import SandboxdError
from sandboxd.cli.doctor.finding import Finding, Patient
from sandboxd.cli.report import report

Ask = Callable[[str], bool]


def fix(findings: Sequence[Finding], patient: Patient, ask: Ask) -> bool:
    """True when something was done, so that looking again makes sense."""
    fixes = [finding.fix for finding in findings if finding.fix and finding.level != "ok"]
    packages = sorted({package for item in fixes for package in item.packages})
    # Packages first: fetching the kernel needs some of them.
    done = bool(packages) and ask(f"Install {', '.join(packages)} with apt?") and _install(packages)
    if any(item.guest_kernel for item in fixes) and ask("Fetch the guest's kernel with apt (27 MB)?"):
        done = _fetch_kernel(patient) or done
    return done


def _install(packages: Sequence[str]) -> bool:
    if shutil.which("apt-get") is None:
        sys.stderr.write(f"there is no apt here; install these by your distribution's means: {' '.join(packages)}\n")
        return False
    argv = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    # Its output is for the person; standard output is the report's.
    return subprocess.run(argv, stdout=sys.stderr, check=False).returncode == 0


def _fetch_kernel(patient: Patient) -> bool:
    from sandboxd.guest.boot import prepare_guest
    from sandboxd.guest.kernel import fetch_kernel

    try:
        fetch_kernel(patient.config.data_dir, lambda line: print(line, file=sys.stderr))
        prepare_guest(patient.config.data_dir)
    except SandboxdError as error:
        report(error)
        return False
    return True
