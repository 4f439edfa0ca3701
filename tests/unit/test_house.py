"""Promises of the whole house: the catalogue is complete, generated code is fresh, the map covers the ground."""

from __future__ import annotations

import filecmp
import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from sandboxd.base.errors import CATALOGUE, ErrorKind, SandboxdError

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=list(CATALOGUE))
def test_every_error_has_cause_and_remedy(kind: ErrorKind) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]+", kind.code)
    assert kind.message.strip() and kind.cause.strip() and kind.remedy.strip()
    assert kind.grpc in grpc.StatusCode.__members__
    assert kind.exit_status in (1, 125, 126, 127)
    error = SandboxdError(kind, **dict.fromkeys(kind.fields(), "x"))
    assert set(error.to_json()) == {"code", "message", "cause", "remedy", "context", "retryable"}


def test_every_error_kind_is_used() -> None:
    """A catalogue entry that nothing raises is a promise that nobody keeps."""
    errors = (ROOT / "sandboxd/base/errors.py").read_text()
    names = re.findall(r"^([A-Z][A-Z0-9_]+) = _kind\(", errors, re.MULTILINE)
    code = "\n".join(
        path.read_text()
        for path in (ROOT / "sandboxd").rglob("*.py")
        if path.name != "errors.py" and "api" not in path.parts
    )
    assert [name for name in names if not re.search(rf"\b{name}\b", code)] == []


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools/generate.py", tmp_path], check=True)
    generated = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.py*") if path.is_file())
    assert generated
    stale = [path for path in generated if not filecmp.cmp(tmp_path / path, ROOT / path, shallow=False)]
    assert stale == [], "run `make generate`"


def test_the_map_names_every_folder() -> None:
    """ARCHITECTURE.md mentions each package, and no package that is gone."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    packages = {path.name for path in (ROOT / "sandboxd").iterdir() if path.is_dir() and path.name != "__pycache__"}
    named = set(re.findall(r"`sandboxd/([a-z]+)/", text))
    assert packages == named
