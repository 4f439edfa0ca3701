"""The one error catalogue.

Every failure that can reach a person or a program is a `SandboxdError` with a stable code. Its four texts live in this
file and nowhere else: what failed, why in one plain sentence, and what to do about it. Texts are format strings over
the error's context; a missing key is a bug that the catalogue's test finds.

    SandboxdError
      .kind      ErrorKind: code, blame, gRPC status name, exit status
      .context   the values that the texts quote, all strings
"""

from __future__ import annotations

import enum
import string
from dataclasses import dataclass


class Blame(enum.Enum):
    """Whose doing a failure is; decides how loudly it is logged."""

    CALLER = "caller"
    GUEST = "guest"
    HOST = "host"
    BUG = "bug"


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One row of the catalogue."""

    code: str
    message: str
    cause: str
    remedy: str
    blame: Blame
    grpc: str
    """Name of the gRPC status code, e.g. "NOT_FOUND"."""
    exit_status: int = 125
    retryable: bool = False

    def fields(self) -> frozenset[str]:
        """Context keys that the texts quote."""
        texts = (self.message, self.cause, self.remedy)
        return frozenset(name for text in texts for _, name, _, _ in string.Formatter().parse(text) if name)


class SandboxdError(Exception):
    """A failure from the catalogue. `context` must hold every key that the kind's texts quote."""

    def __init__(self, kind: ErrorKind, **context: object) -> None:
        self.kind = kind
        self.context = {key: str(value) for key, value in context.items()}
        missing = kind.fields() - self.context.keys()
        if missing:
            raise TypeError(f"error {kind.code} needs {sorted(missing)}")
        super().__init__(self.message)

    @property
    def message(self) -> str:
        return self.kind.message.format_map(self.context)

    @property
    def cause(self) -> str:
        return self.kind.cause.format_map(self.context)

    @property
    def remedy(self) -> str:
        return self.kind.remedy.format_map(self.context)

    def to_json(self) -> dict[str, object]:
        """The machine's form: the same keys in the CLI's --error-format json and in gRPC status details."""
        return {
            "code": self.kind.code,
            "message": self.message,
            "cause": self.cause,
            "remedy": self.remedy,
            "context": self.context,
            "retryable": self.kind.retryable,
        }


CATALOGUE: dict[str, ErrorKind] = {}


def _kind(
    code: str,
    message: str,
    cause: str,
    remedy: str,
    *,
    blame: Blame = Blame.CALLER,
    grpc: str = "INVALID_ARGUMENT",
    exit_status: int = 125,
    retryable: bool = False,
) -> ErrorKind:
    if code in CATALOGUE:
        raise TypeError(f"error code {code} twice")
    CATALOGUE[code] = ErrorKind(code, message, cause, remedy, blame, grpc, exit_status, retryable)
    return CATALOGUE[code]


# --- general -------------------------------------------------------------------------------------------------------

INVALID_ARGUMENT = _kind(
    "invalid_argument",
    "{what} is not valid: {value}",
    "{reason}",
    "See `sandboxctl {command} --help`.",
)
INTERNAL = _kind(
    "internal",
    "sandboxd failed at something it should have done",
    "{reason}",
    "This is a bug. `sandboxctl logs ID` and the daemon's log show more; please report it.",
    blame=Blame.BUG,
    grpc="INTERNAL",
)

# --- sandboxes -----------------------------------------------------------------------------------------------------

# --- machines (vmm) ------------------------------------------------------------------------------------------------

# --- images and disks ----------------------------------------------------------------------------------------------

# --- network -------------------------------------------------------------------------------------------------------

# --- container specifications --------------------------------------------------------------------------------------

# --- daemon, configuration, client ---------------------------------------------------------------------------------
