"""Identifiers and names, checked where they enter."""

from __future__ import annotations

import re
from typing import NewType

from sandboxd.base.errors import INVALID_ARGUMENT, SandboxdError

SandboxId = NewType("SandboxId", str)
"""12 lower-case hexadecimal digits when we make it; containerd's ids may be any `_ID`."""

NAME_MAX = 63
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,75}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")


def new_sandbox_id() -> SandboxId:
    import secrets  # here: the command line checks names and makes no ids, and this loads hashlib

    return SandboxId(secrets.token_hex(6))


def parse_id(value: str) -> SandboxId:
    """An id as containerd allows it (at most 76 of [A-Za-z0-9_.-]); safe as a file name."""
    if not _ID.match(value):
        raise SandboxdError(
            INVALID_ARGUMENT, what="id", value=value[:80], reason="ids are 1-76 of A-Z a-z 0-9 _ . -", command="run"
        )
    return SandboxId(value)


def parse_name(value: str) -> str:
    """A sandbox name as docker allows it; safe as a host name label's length and as a file name."""
    if not _NAME.match(value):
        raise SandboxdError(
            INVALID_ARGUMENT,
            what="name",
            value=value[:80],
            reason=f"names are 1-{NAME_MAX} of A-Z a-z 0-9 _ . - and start with a letter or digit",
            command="run",
        )
    return value
