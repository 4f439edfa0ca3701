"""Tables, JSON, YAML and templates; text that may hold anything; errors as people and machines read them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.base.errors import INTERNAL, NAME_IN_USE, SandboxdError
from sandboxd.cli import describe, moments, output, report, template, timings, words
from sandboxd.client import model

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DOCUMENT: dict[str, object] = {
    "id": "abc",
    "image_id": "sha256:1",
    "name": "web",
    "exit": None,
    "ports": [{"host_port": 80}, {"host_port": 81}],
    "labels": {"a.b": "c"},
    "command": ["sh", "-c", "x"],
    "on": True,
}


# --- templates ---


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{{.id}} {{.name}}", "abc web"),
        ("{{.ID}} {{.ImageID}} {{.Names}}", "abc sha256:1 web"),
        ("{{ .id }}\\t{{.name}}", "abc\tweb"),
        ("{{json .ports}}", '[{"host_port": 80}, {"host_port": 81}]'),
        ("{{json .}}", json.dumps(DOCUMENT)),
        ('{{join .command " "}}', "sh -c x"),
        ("{{.command}}", "sh,-c,x"),
        ("{{upper .name}}{{len .command}}{{.on}}", "WEB3true"),
        ("{{.exit}}{{.exit.reason}}", ""),
        ("plain", "plain"),
    ],
)
def test_templates(text: str, shown: str) -> None:
    assert template.parse(text).render(DOCUMENT) == shown


def test_a_table_template_has_headings() -> None:
    parsed = template.parse("table {{.id}}\\t{{.image_id}}")
    assert parsed.table and parsed.headings() == "ID\tIMAGE ID"


@pytest.mark.parametrize("text", ["{{.id", "{{range .ports}}", "{{id}}", "{{shout .id}}"])
def test_bad_templates_are_refused(text: str) -> None:
    with pytest.raises(SandboxdError) as caught:
        template.parse(text)
    assert caught.value.kind.code == "invalid_argument"


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(SandboxdError) as caught:
        template.parse("{{.nmae}}").render(DOCUMENT)
    assert caught.value.kind.code == "unknown_field"
    assert "name" in caught.value.cause


@given(st.text(max_size=40))
def test_no_template_breaks_the_parser(text: str) -> None:
    try:
        template.parse(text)
    except SandboxdError as error:
        assert error.kind.code == "invalid_argument"


# --- JSON and YAML ---

PLAIN: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
def test_yaml_says_what_json_says(value: Any) -> None:
    assert _read_yaml("".join(output.yaml(value))) == value


def _read_yaml(text: str) -> Any:
    """A reader of the block style that `output.yaml` writes: nothing here is shared with the writer."""
    lines = [line for line in text.split("\n") if line.strip()]

    def scalar(word: str) -> Any:
        try:
            return json.loads(word)
        except ValueError:
            assert word not in ("", "null", "~") and word.lower() not in ("yes", "no", "on", "off", "y", "n")
            return word

    def depth(line: str) -> int:
        return len(line) - len(line.lstrip(" "))

    def key_and_rest(text: str) -> tuple[str, str] | None:
        if text.startswith('"'):
            _, end = json.JSONDecoder().raw_decode(text)
        else:
            end = text.find(":")
        if end < 0 or text[end : end + 1] != ":" or text[end + 1 : end + 2] not in ("", " "):
            return None
        return text[:end], text[end + 1 :].strip()

    def block(at: int) -> Any:
        nonlocal lines
        body = lines[0][at:]
        if body.startswith("- "):
            items = []
            while lines and depth(lines[0]) == at and lines[0][at:].startswith("- "):
                lines[0] = " " * (at + 2) + lines[0][at + 2 :]
                items.append(block(depth(lines[0])))
            return items
        pair = key_and_rest(body)
        if pair is None or body in ("{}", "[]"):
            lines = lines[1:]
            return scalar(body)
        found = {}
        while lines and depth(lines[0]) == at and (pair := key_and_rest(lines[0][at:])):
            lines = lines[1:]
            name, rest = pair
            found[scalar(name)] = scalar(rest) if rest else block(depth(lines[0]))
        return found

    return block(depth(lines[0]))


def test_empty_lists() -> None:
    assert "".join(output.yaml([])) == "[]\n"


def test_documents_have_times_that_machines_read() -> None:
    exit_ = model.Exit(0, "exited", "", NOW)
    assert output.document(exit_) == {"exit_status": 0, "reason": "exited", "detail": "", "at": "2026-01-02T03:04:05Z"}


# --- tables and text ---


def test_tables_are_aligned_and_harmless() -> None:
    columns: list[output.Column[list[str]]] = [
        output.Column("A", lambda row: row[0]),
        output.Column("SIZE", lambda row: row[1], right=True),
    ]
    text = output.table([["long name", "1"], ["\x1b]0;x\x07", "1000"]], columns)
    assert text.splitlines() == [
        "A              SIZE",
        "long name         1",
        "\\x1b]0;x\\x07   1000",
    ]


@given(st.text())
def test_nothing_printable_moves_the_cursor(text: str) -> None:
    assert words.printable(text).isprintable()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (61, "1 minute"),
        (7300, "2 hours"),
        (86400 * 3, "3 days"),
        (86400 * 65, "2 months"),
        (86400 * 800, "2 years"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert words.age(NOW - timedelta(seconds=seconds), NOW) == text


def _info(**changes: Any) -> model.SandboxInfo:
    values: dict[str, Any] = dict.fromkeys(model.SandboxInfo.__slots__, "")
    values |= {"command": (), "ports": (), "labels": {}, "config": {}, "exit": None, "machine": None}
    return model.SandboxInfo(**{**values, "created_at": None, "started_at": None, **changes})


def test_status_in_dockers_words() -> None:
    gone = datetime.now(UTC) - timedelta(minutes=3)
    assert describe.status(_info(state="running", started_at=gone)) == "Up 3 minutes"
    stopped = _info(state="stopped", exit=model.Exit(0, "exited", "", gone))
    assert describe.status(stopped) == "Exited (0) 3 minutes ago"
    lost = _info(state="stopped", exit=model.Exit(137, "vmm_died", "", gone))
    assert describe.status(lost) == "Ended by vmm_died (137) 3 minutes ago"
    assert describe.status(_info(state="created")) == "Created"


# --- moments ---


def test_moments() -> None:
    import time

    assert moments.parse(None, "--since") == 0
    assert abs(moments.parse("10m", "--since") - (time.time_ns() - 600 * 10**9)) < 5 * 10**9
    assert moments.parse("1714560000.5", "--since") == 1714560000_500000000
    assert moments.parse("2024-05-01T12:00:00Z", "--since") == 1714564800 * 10**9
    assert moments.stamp(1714564800_123456789) == "2024-05-01T12:00:00.123456789Z"
    with pytest.raises(SandboxdError):
        moments.parse("yesterday", "--since")


# --- errors ---


def test_an_error_is_one_block() -> None:
    error = SandboxdError(NAME_IN_USE, name="we\x1bb", id="abc")
    assert report.block(error).splitlines()[:2] == ["error: the name we\\x1bb is in use", "  Sandbox abc has it."]
    assert report.block(error).splitlines()[2].startswith("  hint: Choose another name")


def test_exit_statuses_are_dockers() -> None:
    error = SandboxdError(NAME_IN_USE, name="web", id="abc")
    assert report.exit_status(error, "run") == 125
    assert report.exit_status(error, "rm") == 1
    assert report.exit_status(SandboxdError(INTERNAL, reason="x"), "rm") == 125


# --- the waterfall ---


def test_waterfall() -> None:
    stages = [
        model.Stage("python", "cli", 0, 10_000_000),
        model.Stage("kernel", "guest", 10_000_000, 1_010_000_000),
        model.Stage("nothing", "shim", 1_010_000_000, 1_010_000_000),
    ]
    lines = timings.waterfall(stages, 80).splitlines()
    assert lines[0].split() == ["stage", "begins", "takes"]
    assert lines[2].startswith("guest  kernel") and "1.0 s" in lines[2]
    assert lines[2].count("#") > 40 and lines[3].count("#") == 1
    assert lines[4].split() == ["all", "1.0", "s"]
    assert all(len(line) <= 80 for line in lines)
    assert timings.waterfall([], 80) == "no stages were recorded\n"


def test_a_long_run_does_not_squeeze_its_start() -> None:
    stages = [
        model.Stage("kernel", "guest", 0, 1_000_000_000),
        model.Stage("exit", "shim", 3601_000_000_000, 3601_100_000_000),
    ]
    lines = timings.waterfall(stages, 80).splitlines()
    assert lines[2].strip() == "(running)"
    assert lines[1].count("#") > 20 and lines[3].startswith("shim   exit") and "100 ms" in lines[3]
    assert lines[4].split() == ["all", "1.1", "s"]
