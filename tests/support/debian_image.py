"""A real distribution as an image: Debian's minimal system with python3, by mmdebstrap from the host's apt sources."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.oci_images import Image, Layout

NAME = "debian-python:latest"


@pytest.fixture(scope="session")
def debian_python_layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once in a run, when the first test asks for it."""
    return make_debian_python_layout(tmp_path_factory.mktemp("debian") / "layout")


def make_debian_python_layout(out: Path) -> Path:
    """Writes an OCI layout with the image NAME at `out`; half a minute. `Cmd` is python3."""
    tar = out.with_suffix(".tar")
    try:
        argv = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3", "--format=tar"]
        argv += [
            "--aptopt=Apt::Install-Recommends false",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "bookworm",
            str(tar),
        ]
        subprocess.run(argv, check=True, capture_output=True)
        process = {"Cmd": ["python3"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
        Layout(out).add(Image([(tar.read_bytes(), "gzip")], NAME, process=process))
    finally:
        tar.unlink(missing_ok=True)
    return out
