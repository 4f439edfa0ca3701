"""The states of a machine's process, as a table; nothing else knows which step may follow which."""

from __future__ import annotations

import enum

from sandboxd.base.errors import MACHINE_WRONG_STATE, SandboxdError


class State(enum.Enum):
    NEW = "new"
    BOOTING = "booting"
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"


ALLOWED: dict[str, frozenset[State]] = {
    "boot": frozenset({State.NEW}),
    "pause": frozenset({State.RUNNING}),
    "resume": frozenset({State.PAUSED}),
    "stop": frozenset({State.BOOTING, State.RUNNING, State.PAUSED, State.ENDED}),
    "kill": frozenset({State.BOOTING, State.RUNNING, State.PAUSED, State.ENDED}),
    "wait": frozenset({State.BOOTING, State.RUNNING, State.PAUSED, State.ENDED}),
    "reach": frozenset({State.BOOTING, State.RUNNING, State.PAUSED, State.ENDED}),
}
"""Which operation is allowed in which states. "reach": everything that needs the process to have been started."""


def require(operation: str, state: State) -> None:
    """Raises machine_wrong_state, naming both states."""
    allowed = ALLOWED[operation]
    if state not in allowed:
        needed = " or ".join(sorted(each.value for each in allowed))
        raise SandboxdError(MACHINE_WRONG_STATE, operation=operation, state=state.value, needed=needed)
