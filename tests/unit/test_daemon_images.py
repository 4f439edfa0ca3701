"""The daemon's rules for images."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sandboxd.api import sandboxd_pb2 as api
from sandboxd.base.errors import SandboxdError
from sandboxd.core.config import Config
from sandboxd.daemon.images import Images
from sandboxd.daemon.paths import Paths
from sandboxd.image.manifest import host_platform

HOST = host_platform().architecture
FOREIGN = "s390x" if HOST != "s390x" else "amd64"


def images(tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch) -> Images:
    """With one image of this architecture, as a pull with --platform leaves it."""
    config = {"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    made = Images(Config(), Paths(tmp_path, tmp_path), cast(Any, None), cast(Any, None))
    monkeypatch.setattr(made._store, "get", lambda reference: SimpleNamespace(config=json.dumps(config)))
    return made


def test_an_image_of_another_architecture_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = api.SandboxConfig(image="thing")
    with pytest.raises(SandboxdError) as refused:
        asyncio.run(images(tmp_path, FOREIGN, monkeypatch).for_run(wanted, None))
    assert refused.value.kind.code == "image_wrong_architecture"
    assert f"linux/{FOREIGN}" in refused.value.cause and HOST in refused.value.message
    assert asyncio.run(images(tmp_path, HOST, monkeypatch).for_run(wanted, None))
