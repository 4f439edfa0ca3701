"""A sandbox in the words of a table, and as the document of `--format`."""

from __future__ import annotations

from sandboxd.cli import output
from sandboxd.cli.words import age, ago
from sandboxd.client.model import SandboxInfo


def status(info: SandboxInfo) -> str:
    """`Up 3 minutes`, `Exited (0) 5 seconds ago`, `Lost (vmm_died) ...`: docker's phrases."""
    if info.state == "running":
        return f"Up {age(info.started_at)}".rstrip()
    if info.state == "stopped" and info.exit:
        word = "Exited" if info.exit.by_itself else f"Ended by {info.exit.reason}"
        return f"{word} ({info.exit.exit_status}) {ago(info.exit.at)}".rstrip()
    return info.state.capitalize()


def ports(info: SandboxInfo) -> str:
    return ", ".join(str(port) for port in info.ports)


def command(info: SandboxInfo) -> str:
    return " ".join(info.command)


def document(info: SandboxInfo) -> dict[str, object]:
    """The record's fields, plus `status` as the table has it."""
    return {**output.document(info), "status": status(info)}
