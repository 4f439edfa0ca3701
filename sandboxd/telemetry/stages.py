"""The stages of a start: names with a begin and an end on the host's one monotonic clock, in whatever process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from sandboxd.api import shim_pb2
from sandboxd.base.clock import monotonic_ns

STAGES_MAX = 256
"""Of one recorder: a sandbox that runs for years records its start, not its life."""


class StageRecorder:
    """Collects stages of one process ("shim", "daemon", "cli") and those that it learns of others ("vmm", "guest")."""

    def __init__(self, process: str) -> None:
        self._process = process
        self._stages: list[shim_pb2.Stage] = []

    def record(self, name: str, begin_ns: int, end_ns: int, process: str = "") -> None:
        """Adds a finished stage; silently none beyond STAGES_MAX."""
        if len(self._stages) < STAGES_MAX:
            stage = shim_pb2.Stage(name=name, process=process or self._process, begin_ns=begin_ns, end_ns=end_ns)
            self._stages.append(stage)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Records the block, also when it raises."""
        begin_ns = monotonic_ns()
        try:
            yield
        finally:
            self.record(name, begin_ns, monotonic_ns())

    def extend(self, stages: Iterable[shim_pb2.Stage]) -> None:
        """Adds what another process recorded."""
        for stage in stages:
            self.record(stage.name, stage.begin_ns, stage.end_ns, stage.process)

    def stages(self) -> list[shim_pb2.Stage]:
        """In the order of their begins."""
        return sorted(self._stages, key=lambda stage: (stage.begin_ns, -stage.end_ns))
