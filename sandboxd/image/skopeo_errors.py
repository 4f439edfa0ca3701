"""What skopeo's words mean. One table; the first row that fits, from the most telling words down."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from sandboxd.base import errors
from sandboxd.base.errors import SandboxdError
from sandboxd.image.reference import Reference

_Maker = Callable[[Reference, str, Path], SandboxdError]


def _unknown(reference: Reference, said: str, scratch: Path) -> SandboxdError:
    return SandboxdError(
        errors.IMAGE_UNKNOWN,
        reference=reference,
        repository=reference.repository,
        reason=f"It knows no such name or tag: {said}",
    )


def _unreachable(reference: Reference, said: str, scratch: Path) -> SandboxdError:
    return SandboxdError(errors.REGISTRY_UNREACHABLE, registry=reference.host, reason=f"No connection: {said}")


def _authentication(reference: Reference, said: str, scratch: Path) -> SandboxdError:
    return SandboxdError(
        errors.REGISTRY_AUTHENTICATION,
        registry=reference.host,
        reference=reference,
        reason=f"It wants a user name and password that it knows: {said}",
    )


def _tls(reference: Reference, said: str, scratch: Path) -> SandboxdError:
    reason = f"Its certificate is not trusted, or it speaks plain HTTP: {said}"
    return SandboxdError(errors.REGISTRY_TLS, registry=reference.host, reference=reference, reason=reason)


def _digest(reference: Reference, said: str, scratch: Path) -> SandboxdError:
    digests = re.findall(r"sha256:[0-9a-f]{64}", said)
    actual, expected = (digests[-1], digests[-2]) if len(digests) > 1 else ("another", "the one asked for")
    return SandboxdError(
        errors.IMAGE_DIGEST_MISMATCH, reference=reference, item="a part", expected=expected, actual=actual
    )


def _truncated(reference: Reference, said: str, scratch: Path) -> SandboxdError:
    return SandboxdError(
        errors.IMAGE_TRUNCATED, reference=reference, item="a part", reason=f"The registry sent too little: {said}"
    )


def _space(reference: Reference, said: str, scratch: Path) -> SandboxdError:
    return SandboxdError(errors.IMAGE_NO_SPACE, reference=reference, path=scratch.parent.parent)


def _media_type(reference: Reference, said: str, scratch: Path) -> SandboxdError:
    return SandboxdError(errors.IMAGE_UNSUPPORTED_MEDIA_TYPE, reference=reference, reason=f"skopeo says: {said}")


def _policy(reference: Reference, said: str, scratch: Path) -> SandboxdError:
    reason = f"The host's signature policy (/etc/containers/policy.json) does not allow it: {said}"
    return SandboxdError(errors.REGISTRY_AUTHENTICATION, registry=reference.host, reference=reference, reason=reason)


_ROWS: tuple[tuple[str, _Maker], ...] = (
    (r"no space left on device|disk quota exceeded", _space),
    (r"digest did not match|does not match (provided|expected) (manifest )?digest|digest mismatch", _digest),
    (r"x509:|tls: |server gave HTTP response to HTTPS client|certificate", _tls),
    (r"unexpected EOF|wrong size|incomplete|short read|size mismatch|http: unexpected", _truncated),
    (
        r"manifest unknown|name unknown|name invalid|repository name not known|blob unknown|status 404|: Not Found",
        _unknown,
    ),
    (
        r"unauthorized|authentication required|access to the resource is denied|denied:|invalid username|status 40[13]",
        _authentication,
    ),
    (r"unsupported (manifest|media|mime)|unsupported MIME type|unknown media type|unrecognized manifest", _media_type),
    (r"signature was required|rejected by policy|Source image rejected", _policy),
    (
        r"connection refused|no such host|i/o timeout|no route to host|network is unreachable|deadline exceeded"
        r"|connection reset|server misbehaving|pinging container registry|TLS handshake timeout|EOF$",
        _unreachable,
    ),
)


def explain(stderr: str, reference: Reference, scratch: Path) -> SandboxdError | None:
    """The catalogue's error for what skopeo said, or None if it said nothing known."""
    said = _plain(stderr)
    for pattern, make in _ROWS:
        if re.search(pattern, said, re.IGNORECASE | re.MULTILINE):
            return make(reference, said[-600:], scratch)
    return None


def _plain(stderr: str) -> str:
    """The text of its log lines: `time="..." level=fatal msg="..."`, without the escapes."""
    messages = [match.replace('\\"', '"') for match in re.findall(r'msg="((?:[^"\\]|\\.)*)"', stderr)]
    return "\n".join(messages) if messages else stderr.strip()
