"""The small languages of docker's options: capabilities, ulimits, tmpfs. A refusal is `invalid_argument`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sandboxd.base.errors import INVALID_ARGUMENT, SandboxdError
from sandboxd.core.oci.capabilities import NAMES
from sandboxd.core.oci.paths import normalise

DEFAULT_CAPABILITIES = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID"),
    *("CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL"),
    "CAP_AUDIT_WRITE",
)
"""docker's."""
_ALL = "ALL"
_ULIMITS = ("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio")
_ULIMIT_NAMES = frozenset((*_ULIMITS, "rttime", "sigpending", "stack", "as"))
_ULIMIT = re.compile(r"([a-z]+)=(-1|unlimited|\d{1,19})(?::(-1|unlimited|\d{1,19}))?\Z")
_INFINITY = (1 << 64) - 1
_TMPFS_DEFAULTS = ("nosuid", "nodev", "noexec")
_TMPFS_WORDS = frozenset(
    ("rw", "ro", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "atime", "noatime", "relatime", "strictatime")
)
_TMPFS_DATA = re.compile(
    r"(?:size=\d{1,15}[kmgKMG%]?|mode=[0-7]{1,4}|uid=\d{1,10}|gid=\d{1,10}|nr_inodes=\d{1,12}[kmgKMG]?)\Z"
)
_OPPOSITE = {"suid": "nosuid", "dev": "nodev", "exec": "noexec"}


def capability_set(added: Iterable[str], dropped: Iterable[str], *, privileged: bool) -> frozenset[str]:
    """docker's order: with ALL dropped only what is added remains, with ALL added everything but what is dropped."""
    add = {_capability("cap-add", word) for word in added}
    drop = {_capability("cap-drop", word) for word in dropped}
    if privileged:
        return frozenset(NAMES)
    if _ALL in add:
        kept = set(NAMES)
    elif _ALL in drop:
        kept = set()
    else:
        kept = set(DEFAULT_CAPABILITIES)
    if _ALL in drop:
        return frozenset(add - {_ALL})
    return frozenset((kept | add) - drop - {_ALL})


def in_order(capabilities: frozenset[str]) -> list[str]:
    """By their numbers, so that equal sets make equal texts."""
    return [name for name in NAMES if name in capabilities]


def parse_ulimit(text: str) -> dict[str, Any]:
    """NAME=SOFT[:HARD], -1 or "unlimited" for no limit."""
    match = _ULIMIT.match(text)
    if match is None or match[1] not in _ULIMIT_NAMES:
        raise _refusal(
            "ulimit", text, f"Ulimits read NAME=SOFT[:HARD], with one of {', '.join(sorted(_ULIMIT_NAMES))}."
        )
    soft = _limit(match[2])
    hard = _limit(match[3]) if match[3] else soft
    if soft > hard:
        raise _refusal("ulimit", text, "The soft limit is above the hard one.")
    return {"type": f"RLIMIT_{match[1].upper()}", "soft": soft, "hard": hard}


def tmpfs_mount(text: str) -> dict[str, Any]:
    """PATH[:OPTION,...] as a mount of config.json, with docker's defaults."""
    path, _, words = text.partition(":")
    target = normalise(path)
    if target is None or target == "/":
        raise _refusal("tmpfs", text, "It reads PATH[:OPTIONS] with an absolute path below the root.")
    given = [word for word in words.split(",") if word]
    for word in given:
        if word not in _TMPFS_WORDS and not _TMPFS_DATA.match(word):
            known = ", ".join(sorted(_TMPFS_WORDS))
            raise _refusal(
                "tmpfs", text, f"The option {word} is none of {known}, size=, mode=, uid=, gid=, nr_inodes=."
            )
    taken_back = {_OPPOSITE[word] for word in given if word in _OPPOSITE}
    defaults = [word for word in _TMPFS_DEFAULTS if word not in taken_back]
    return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": [*defaults, *given]}


def _capability(what: str, word: str) -> str:
    name = word.upper()
    if name == _ALL:
        return name
    name = name if name.startswith("CAP_") else f"CAP_{name}"
    if name not in NAMES:
        raise _refusal(what, word, "Capabilities are named as in capabilities(7), with or without CAP_, or ALL.")
    return name


def _limit(text: str) -> int:
    return _INFINITY if text in ("-1", "unlimited") else int(text)


def _refusal(what: str, value: str, reason: str) -> SandboxdError:
    return SandboxdError(INVALID_ARGUMENT, what=what, value=value[:80], reason=reason, command="run")
