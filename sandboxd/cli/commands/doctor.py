"""`doctor`."""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from sandboxd.base.errors import SandboxdError
from sandboxd.cli import output
from sandboxd.cli.doctor import fix, guest, host, programs
from sandboxd.cli.doctor.finding import MARKS, Check, Finding, Patient
from sandboxd.cli.shared import format_option, settings, with_client
from sandboxd.cli.words import paint, printable
from sandboxd.client.locate import locate
from sandboxd.core.config import Config, load_config

CHECKS: tuple[Check, ...] = (
    host.user,
    programs.check,
    host.virtualisation,
    guest.boot_files,
    host.control_groups,
    host.room,
    host.network,
    guest.daemon,
)


@click.command()
@click.option("--fix", "wants_fix", is_flag=True, help="Offer to repair what can be repaired.")
@click.option("-y", "--yes", is_flag=True, help="With --fix: agree to everything.")
@click.option("--boot", is_flag=True, help="Time a real start too, through the daemon.")
@format_option
def doctor(wants_fix: bool, yes: bool, boot: bool, style: str) -> int:
    """Check this host: what is there, what is missing, and the one line that would change it.

    Works without network and without a daemon. Exit status 1 if anything is wrong (✗).

    \b
    sandboxctl doctor
    sandboxctl doctor --fix
    sandboxctl doctor --format json
    """
    table = style in ("", "table")
    patient, findings = _patient()
    for finding in itertools.chain(list(findings), _examined(patient, boot)):
        if finding not in findings:
            findings.append(finding)
        if table:
            # As it is found: the probe guest takes a moment.
            output.put(line(finding))
            sys.stdout.flush()
    if wants_fix and fix.fix(findings, patient, lambda question: yes or _agreed(question)):
        findings = list(_examined(patient, boot))
        if table:
            output.put("\nagain:\n" + "".join(line(finding) for finding in findings))
    _conclude(findings, style)
    return 1 if any(finding.level == "error" for finding in findings) else 0


def _patient() -> tuple[Patient, list[Finding]]:
    """A configuration that is refused is a finding; the rest is examined with the defaults."""
    chosen = settings()
    try:
        config = load_config(Path(chosen.config) if chosen.config else None)
        return Patient(config, locate(chosen.socket, chosen.config)), []
    except SandboxdError as error:
        finding = Finding("error", "configuration", f"{error.message}: {error.cause}", error.remedy)
        return Patient(Config(), locate(environ={})), [finding]


def _examined(patient: Patient, boot: bool) -> Iterable[Finding]:
    for check in CHECKS:
        yield from _safely(check, patient)
    if boot:
        from sandboxd.cli.doctor.boot import start

        try:
            yield with_client(start)
        except SandboxdError as error:
            yield Finding("error", "start", f"{error.message}: {error.cause}", error.remedy)


def _safely(check: Check, patient: Patient) -> Iterable[Finding]:
    """One check that breaks must not hide the others: on a broken host that is what doctor is for."""
    try:
        yield from check(patient)
    except Exception as error:
        title = check.__name__.replace("_", " ")
        yield Finding(
            "error",
            title,
            f"could not be checked: {type(error).__name__}: {error}",
            "SANDBOXD_DEBUG=1 sandboxctl doctor",
        )


def line(finding: Finding) -> str:
    """`✓ title  detail`, and its remedy below."""
    mark, colour = MARKS[finding.level]
    text = f"{paint(mark, colour, sys.stdout)} {finding.title:<18}  {printable(finding.detail)}\n"
    return text + (f"  {'':<18}  → {printable(finding.remedy)}\n" if finding.remedy and finding.level != "ok" else "")


def _conclude(findings: Sequence[Finding], style: str) -> None:
    totals: Counter[str] = Counter(finding.level for finding in findings)
    if style in ("", "table"):
        words = ", ".join(
            f"{totals[level]} {word}" for level, word in (("ok", "good"), ("warning", "to know"), ("error", "wrong"))
        )
        output.put(f"\n{words}\n")
        return
    checks = [
        {"level": item.level, "title": item.title, "detail": item.detail, "remedy": item.remedy} for item in findings
    ]
    document: dict[str, object] = {"checks": checks, "totals": {level: totals[level] for level in MARKS}}
    if style == "json":
        output.put(json.dumps(document, indent=2) + "\n")
    elif style == "yaml":
        output.put("".join(output.yaml(document)))
    else:
        output.show_documents(checks, style)


def _agreed(question: str) -> bool:
    """Only a person can agree: without a terminal the answer is no."""
    if not sys.stdin.isatty():
        sys.stderr.write(f"{question} Not without a terminal; --yes agrees.\n")
        return False
    return click.confirm(question, err=True)
