"""The waterfall of one start: `run --timings`, and the same stages as a file for Perfetto: `run --trace FILE`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from sandboxd.api import shim_pb2
from sandboxd.cli.words import coloured, paint, seconds
from sandboxd.client.local import local_file
from sandboxd.client.model import Stage

BAR_MIN = 20
IDLE = "(running)"
IDLE_MIN_NS, IDLE_SHOWN_NS = 300_000_000, 20_000_000
"""A gap this long is the command at work; it is shown this long."""
_COLOURS = {"cli": "36", "daemon": "34", "shim": "35", "vmm": "33", "guest": "32"}
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def show(stages: Sequence[Stage]) -> None:
    """To standard error: a bar for each stage, on a terminal in its process's colour."""
    sys.stderr.write(waterfall(stages, shutil.get_terminal_size((100, 24)).columns))


def waterfall(stages: Sequence[Stage], columns: int) -> str:
    if not stages:
        return "no stages were recorded\n"
    stages = _without_idle_time(stages)
    begin_ns = min(stage.begin_ns for stage in stages)
    span_ns = max(1, max(stage.end_ns for stage in stages) - begin_ns)
    name_width = max(len("stage"), *(len(stage.name) for stage in stages))
    bar_width = max(BAR_MIN, columns - name_width - 29)
    lines = [f"{'':7}{'stage':<{name_width}}  {'begins':>8}  {'takes':>8}"]
    lines += [_line(stage, begin_ns, span_ns, name_width, bar_width) for stage in stages]
    lines.append(f"{'':7}{'all':<{name_width}}  {'':8}  {seconds(span_ns / 1e9):>8}")
    return "\n".join(lines) + "\n"


def _without_idle_time(stages: Sequence[Stage]) -> list[Stage]:
    """A command that ran for an hour would squeeze its start into one column: time without any stage is cut out."""
    kept: list[Stage] = []
    cut_ns = 0
    end_ns = min(stage.begin_ns for stage in stages)
    for stage in sorted(stages, key=lambda stage: (stage.begin_ns, -stage.end_ns)):
        idle_ns = stage.begin_ns - end_ns
        if idle_ns > IDLE_MIN_NS:
            kept.append(Stage(IDLE, "", end_ns - cut_ns, end_ns - cut_ns + IDLE_SHOWN_NS))
            cut_ns += idle_ns - IDLE_SHOWN_NS
        end_ns = max(end_ns, stage.end_ns)
        kept.append(Stage(stage.name, stage.process, stage.begin_ns - cut_ns, stage.end_ns - cut_ns))
    return kept


def _line(stage: Stage, begin_ns: int, span_ns: int, name_width: int, bar_width: int) -> str:
    offset_ns, took_ns = stage.begin_ns - begin_ns, max(0, stage.end_ns - stage.begin_ns)
    figures = f"{seconds(offset_ns / 1e9):>8}  {seconds(took_ns / 1e9):>8}"
    if stage.name == IDLE:
        return f"{'':7}{IDLE}"
    bar = paint(_bar(offset_ns, took_ns, span_ns, bar_width), _COLOURS.get(stage.process, "37"))
    return f"{stage.process:<7}{stage.name:<{name_width}}  {figures}  {bar}".rstrip()


def _bar(offset_ns: int, took_ns: int, span_ns: int, width: int) -> str:
    begin = min(offset_ns * width // span_ns, width - 1)
    if not coloured(sys.stderr):
        return " " * begin + "#" * max(1, round(took_ns * width / span_ns))
    eighths = max(1, took_ns * width * 8 // span_ns)
    return " " * begin + "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def write(path: str, stages: Sequence[Stage]) -> None:
    """Errors: local_file."""
    from sandboxd.telemetry.trace import write_trace

    messages = [
        shim_pb2.Stage(name=stage.name, process=stage.process, begin_ns=stage.begin_ns, end_ns=stage.end_ns)
        for stage in stages
    ]
    try:
        write_trace(Path(path), messages)
    except OSError as error:
        raise local_file(path, error) from None
