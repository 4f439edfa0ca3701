"""The life of a sandbox's process, as a table. Knows nothing else.

creating --> created --> running <--> paused
    |           |           |           |
    +-----------+-----------+-----------+--> stopped
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from sandboxd.base.errors import SANDBOX_WRONG_STATE, SandboxdError


class State(enum.Enum):
    """Where a container or exec is."""

    CREATING = "creating"
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.CREATING: frozenset({State.CREATED, State.STOPPED}),
    State.CREATED: frozenset({State.RUNNING, State.STOPPED}),
    State.RUNNING: frozenset({State.PAUSED, State.STOPPED}),
    State.PAUSED: frozenset({State.RUNNING, State.STOPPED}),
    State.STOPPED: frozenset(),
}


class Lifecycle:
    """The state of one process, which only moves along the table."""

    def __init__(self, process_id: str) -> None:
        self._id = process_id
        self._state = State.CREATING

    @property
    def state(self) -> State:
        return self._state

    def move(self, target: State, operation: str) -> None:
        """Goes to `target`. Raises sandbox_wrong_state naming both states; then the state is what it was."""
        if target not in TRANSITIONS[self._state]:
            sources = [state for state, targets in TRANSITIONS.items() if target in targets]
            raise self._error(operation, sources)
        self._state = target

    def require(self, *needed: State, operation: str) -> None:
        """Raises sandbox_wrong_state unless the state is one of `needed`."""
        if self._state not in needed:
            raise self._error(operation, needed)

    def _error(self, operation: str, needed: tuple[State, ...] | list[State]) -> SandboxdError:
        names = " or ".join(state.value for state in needed)
        return SandboxdError(
            SANDBOX_WRONG_STATE, operation=operation, id=self._id, state=self._state.value, needed=names
        )
