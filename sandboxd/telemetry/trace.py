"""A trace file that ui.perfetto.dev and chrome://tracing open.

Source: the Trace Event Format (JSON object form): "X" events are complete spans, with times in microseconds; "M" events
name the rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sandboxd.api import shim_pb2


def trace_events(stages: Iterable[shim_pb2.Stage]) -> dict[str, Any]:
    """The trace as a JSON object; every process of the stages has a row, in the order in which they first appear."""
    ordered = sorted(stages, key=lambda stage: stage.begin_ns)
    rows = {name: number for number, name in enumerate(dict.fromkeys(stage.process for stage in ordered), start=1)}
    names = [_row_name(number, name) for name, number in rows.items()]
    return {"displayTimeUnit": "ms", "traceEvents": names + [_span(rows[stage.process], stage) for stage in ordered]}


def write_trace(path: Path, stages: Iterable[shim_pb2.Stage]) -> None:
    """Writes the trace; raises OSError."""
    path.write_text(json.dumps(trace_events(stages), indent=1) + "\n")


def _row_name(number: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": "process_name", "pid": number, "tid": number, "args": {"name": name}}


def _span(row: int, stage: shim_pb2.Stage) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": stage.name,
        "cat": "start",
        "pid": row,
        "tid": row,
        "ts": stage.begin_ns / 1000,
        "dur": max(0, stage.end_ns - stage.begin_ns) / 1000,
    }
