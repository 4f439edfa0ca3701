"""What a person calls an image: `[HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST]`.

Grammar: the distribution project's `reference` (lower-case path components, tag of at most 128, name of at most 255).
The first component is a host when it has a dot, a colon, an upper-case letter or is `localhost`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from sandboxd.base.errors import IMAGE_REFERENCE_INVALID, SandboxdError

NAME_MAX = 255
DEFAULT_TAG = "latest"

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?\Z")
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference. `host` is empty for a name without a registry; `tag` is empty only beside a digest."""

    host: str
    path: str
    tag: str
    digest: str

    @property
    def repository(self) -> str:
        """`HOST/NAME`, or `NAME`."""
        return f"{self.host}/{self.path}" if self.host else self.path

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"


def is_digest(text: str) -> bool:
    """`sha256:` and 64 lower-case hexadecimal digits."""
    return bool(_DIGEST.match(text))


def parse_reference(text: str) -> Reference:
    """Parses what a person typed; the tag defaults to `latest` where there is neither tag nor digest."""
    if not text or len(text) > 512:
        raise _invalid(text, "it is empty" if not text else "it is longer than 512 characters")
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _invalid(text, "what follows @ must be sha256: and 64 lower-case hexadecimal digits")
    host, rest = _split_host(rest)
    path, colon, tag = rest.partition(":")
    if colon and not _TAG.match(tag):
        raise _invalid(text, "a tag is 1-128 of A-Z a-z 0-9 _ . - and starts with none of . -")
    if host and not _is_host(host):
        raise _invalid(text, f"{host} is not a host name with an optional port")
    if not _PATH.match(path):
        raise _invalid(text, "a name is lower-case letters and digits, separated by one . _ __ - or /")
    if len(host) + 1 + len(path) > NAME_MAX:
        raise _invalid(text, f"its name is longer than {NAME_MAX} characters")
    return Reference(host, path, tag or ("" if digest else DEFAULT_TAG), digest)


def _split_host(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    looks_like_host = "." in first or ":" in first or first == "localhost" or first != first.lower()
    return (first, rest) if slash and looks_like_host else ("", text)


def _is_host(host: str) -> bool:
    return bool(_HOST.match(host)) and int(_port(host) or 1) in range(1, 65536)


def _port(host: str) -> str:
    tail = host.rpartition("]")[2]
    return tail.partition(":")[2]


def is_loopback(host: str) -> bool:
    """Whether `HOST[:PORT]` is this machine itself: plain HTTP is allowed there, as docker does."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _invalid(text: str, reason: str) -> SandboxdError:
    return SandboxdError(IMAGE_REFERENCE_INVALID, reference=text[:80] or '""', reason=reason)
