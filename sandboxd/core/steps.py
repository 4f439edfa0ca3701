"""Making something in steps, each of which knows how to undo itself: half-made things do not stay.

done = await perform([Step("disk", make_disk, remove_disk), Step("row", add_row, remove_row)])
...
await done.undo()     # later, if what follows fails
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

_log = logging.getLogger(__name__)
Action = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `undo` must also cope with a `do` that failed in its middle: it is called then too."""

    name: str
    do: Action
    undo: Action | None = None


class Performed:
    """Steps that were done, in order, and can be undone in reverse."""

    def __init__(self) -> None:
        self._steps: list[Step] = []

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(step.name for step in self._steps)

    async def run(self, step: Step) -> None:
        """Does one more step. If it fails or is cancelled, everything so far is undone and the failure raised."""
        self._steps.append(step)
        try:
            await step.do()
        except BaseException:
            # Shielded: a caller that was cancelled once more must not leave half of it standing.
            await asyncio.shield(self.undo())
            raise

    async def undo(self) -> None:
        """Undoes everything in reverse. A failing undo is logged and does not stop the others. Idempotent."""
        while self._steps:
            step = self._steps.pop()
            if step.undo is None:
                continue
            try:
                await step.undo()
            except Exception:  # the steps below must be undone whatever this one says
                _log.exception("undoing %s failed", step.name)


async def perform(steps: Sequence[Step]) -> Performed:
    """Does all steps in order. If one fails, it and those before it are undone, and its failure is raised."""
    performed = Performed()
    for step in steps:
        await performed.run(step)
    return performed
