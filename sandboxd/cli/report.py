"""How a failure looks: one block for people, one line of JSON for machines.

error: no sandbox web
  No sandbox has this id, a name like this, or an id that starts so.
  hint: `sandboxctl ps -a` lists all sandboxes.
"""

from __future__ import annotations

import json
import sys

from sandboxd.base.errors import SandboxdError
from sandboxd.cli.words import paint, printable_lines

WORKLOAD_VERBS = frozenset({"run", "create", "start", "exec", "attach"})
"""Their exit status may be the workload's own, so a refusal has one that no workload is likely to have: 125."""
_DAEMON_CODES = ("daemon_", "config_")
_BROKEN_CODES = frozenset({"api_mismatch", "call_timed_out", "internal", "usage"})


def report(error: SandboxdError, style: str = "text") -> None:
    """To standard error."""
    sys.stdout.flush()
    text = json.dumps(error.to_json()) if style == "json" else block(error)
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def block(error: SandboxdError) -> str:
    """The same words as the JSON's, plus where to look further when the error names a sandbox."""
    lines = [f"{paint('error:', '1;31')} {printable_lines(error.message)}"]
    lines += _indented(_sentence(error.cause))
    remedy = printable_lines(error.remedy).splitlines() or [""]
    lines += [f"  hint: {remedy[0]}", *(f"        {line}" for line in remedy[1:])]
    return "\n".join(lines)


def exit_status(error: SandboxdError, verb: str) -> int:
    """Docker's: 125 (126, 127) of what starts a command; elsewhere 1 when the thing named was refused."""
    code = error.kind.code
    if verb in WORKLOAD_VERBS or code.startswith(_DAEMON_CODES) or code in _BROKEN_CODES:
        return error.kind.exit_status
    return 1


def _sentence(text: str) -> str:
    """With a capital and a full stop, where it begins with a word and ends with one."""
    text = text.strip()
    ended = text if text[-1:] in ".:!?)" or not text else f"{text}."
    return ended[:1].upper() + ended[1:]


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in printable_lines(text).splitlines()]
