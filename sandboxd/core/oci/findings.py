"""What is wrong with one specification, gathered so that all of it is reported together."""

from __future__ import annotations

from dataclasses import dataclass

from sandboxd.base.errors import OCI_SPEC_INVALID, OCI_SPEC_UNSUPPORTED, ErrorKind, SandboxdError

FINDINGS_SHOWN_MAX = 20
VALUE_SHOWN_MAX = 80


@dataclass(frozen=True, slots=True)
class Finding:
    """One value that cannot be honoured: where it stands ("linux.seccomp.syscalls[3].action"), what it is, why not."""

    path: str
    value: str
    why: str
    kind: ErrorKind

    def __str__(self) -> str:
        return f"{self.path} = {self.value}: {self.why}"


class Findings:
    """A collector that compile's rooms write into; `refuse` raises one error for all of them.

    The error's kind is that of the findings when they agree, `oci_spec_invalid` when any value is invalid, else
    `oci_spec_unsupported`. Its context holds `findings`, one per line.
    """

    def __init__(self, document: str) -> None:
        self._document = document
        self._found: list[Finding] = []
        self.warnings: list[str] = []

    def invalid(self, path: str, value: object, why: str) -> None:
        """A value that the specification does not allow."""
        self.add(path, value, why, OCI_SPEC_INVALID)

    def unsupported(self, path: str, value: object, why: str) -> None:
        """A value that the specification allows and we cannot honour."""
        self.add(path, value, why, OCI_SPEC_UNSUPPORTED)

    def add(self, path: str, value: object, why: str, kind: ErrorKind) -> None:
        self._found.append(Finding(path, shorten(value), why, kind))

    def warn(self, path: str, value: object, why: str) -> None:
        """Something that the specification says must be passed over with a warning."""
        self.warnings.append(f"{path} = {shorten(value)}: {why}")

    def refuse(self) -> None:
        """Raises SandboxdError if anything was found."""
        if not self._found:
            return
        kinds = {finding.kind.code: finding.kind for finding in self._found}
        kind = _common(kinds)
        lines = [str(finding) for finding in self._found[:FINDINGS_SHOWN_MAX]]
        if len(self._found) > FINDINGS_SHOWN_MAX:
            lines.append(f"and {len(self._found) - FINDINGS_SHOWN_MAX} more")
        raise SandboxdError(kind, document=self._document, findings="\n".join(lines))


def _common(kinds: dict[str, ErrorKind]) -> ErrorKind:
    if len(kinds) == 1:
        return next(iter(kinds.values()))
    return OCI_SPEC_INVALID if OCI_SPEC_INVALID.code in kinds else OCI_SPEC_UNSUPPORTED


def shorten(value: object) -> str:
    """The value as an error quotes it: printable, at most VALUE_SHOWN_MAX characters."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    if not text:
        return '""'
    return text if len(text) <= VALUE_SHOWN_MAX else text[: VALUE_SHOWN_MAX - 1] + "…"
