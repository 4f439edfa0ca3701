"""Stages, the trace file, and logs that nobody forges."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from sandboxd.api import shim_pb2
from sandboxd.telemetry.logs import LINE_MAX_CHARS, set_up_logging
from sandboxd.telemetry.stages import STAGES_MAX, StageRecorder
from sandboxd.telemetry.trace import write_trace


def test_stages_are_recorded_in_order_also_when_they_fail() -> None:
    recorder = StageRecorder("shim")
    with pytest.raises(ValueError, match="x"), recorder.stage("outer"):
        with recorder.stage("inner"):
            pass
        raise ValueError("x")
    recorder.extend([shim_pb2.Stage(name="kernel", process="guest", begin_ns=1, end_ns=2)])
    assert [(stage.name, stage.process) for stage in recorder.stages()] == [
        ("kernel", "guest"),
        ("outer", "shim"),
        ("inner", "shim"),
    ]
    for number in range(2 * STAGES_MAX):
        recorder.record("more", number, number)
    assert len(recorder.stages()) == STAGES_MAX


def test_a_trace_has_a_row_for_each_process_and_microseconds(tmp_path: Path) -> None:
    recorder = StageRecorder("daemon")
    recorder.record("pull", 1_000_000, 3_500_000)
    recorder.record("kernel", 2_000_000, 3_000_000, "guest")
    write_trace(tmp_path / "trace.json", recorder.stages())
    trace = json.loads((tmp_path / "trace.json").read_text())
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    rows = {event["args"]["name"]: event["pid"] for event in trace["traceEvents"] if event["ph"] == "M"}
    assert [(span["name"], span["ts"], span["dur"], span["pid"]) for span in spans] == [
        ("pull", 1000, 2500, rows["daemon"]),
        ("kernel", 2000, 1000, rows["guest"]),
    ]


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_message_is_one_record_of_bounded_length(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    try:
        set_up_logging(style=style, sandbox="web")  # type: ignore[arg-type]
        logging.getLogger("guest").warning("it says %s", "\x1b[2J\n2026 forged " + "x" * 9999)
    finally:
        root.handlers[:], root.level = before
    text = capsys.readouterr().err
    assert "\x1b" not in text and len(text) < 2 * LINE_MAX_CHARS
    assert [line for line in text.splitlines() if not line.startswith("    ")] == text.splitlines()[:1]
    if style == "json":
        values = json.loads(text)
        assert (values["level"], values["sandbox"], values["logger"]) == ("warning", "web", "guest")
    else:
        assert " warning guest sandbox=web it says " in text
