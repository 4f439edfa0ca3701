"""Images as users have them, through a real registry into a real guest."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.debian_image import NAME as DEBIAN_PYTHON
from tests.support.house import House
from tests.support.oci_images import Image, Layout, directory, file, rich_layers, tar
from tests.support.registry import Registry, docker_registry

GIVEN_AT_RUN = ("dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf")
"""What the runtime puts over the image: not the image's own."""

TIMES_DIFFER = ("etc", "l" * 120)
"""The first got mount points for hosts and its like; the second is in no layer, only what lies in it."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


def test_debian_with_python_from_a_registry(house: House, registry: Registry, debian_python_layout: Path) -> None:
    reference = registry.push(debian_python_layout, DEBIAN_PYTHON, "debian-python")
    program = (
        "import os, sqlite3; answer = sqlite3.connect(':memory:').execute('select 6*7').fetchone()[0];"
        "print(open('/etc/debian_version').read()[:2], os.getpid(), answer)"
    )
    assert house.ok("run", "--rm", reference, "python3", "-c", program) == "12 1 42"
    assert house.ok("run", "--rm", "-i", reference, stdin=b"print(sum(range(10)))") == "45"
    listed = house.ok("images", "--format", "{{.references}}")
    assert f"{reference}:latest" in listed
    house.ok("rmi", reference)


def test_files_of_a_layered_image_are_as_umoci_unpacks_them(house: House, registry: Registry, tmp_path: Path) -> None:
    busybox = tar(directory("opt"), file("opt/busybox", Path("/bin/busybox").read_bytes(), mode=0o755))
    layers = [*zip(rich_layers(), ("gzip", "zstd", "plain"), strict=True), (busybox, "gzip")]
    plain = [(layer, "gzip") for layer, _ in layers]  # umoci 0.4 reads no zstd
    layout = Layout(tmp_path / "layout")
    layout.add(Image(layers, "rich:latest"))
    layout.add(Image(plain, "plain:latest"))
    reference = registry.push(tmp_path / "layout", "rich:latest", "rich")
    subprocess.run(
        ["umoci", "unpack", "--image", f"{tmp_path / 'layout'}:plain:latest", tmp_path / "bundle"],
        check=True,
        capture_output=True,
    )
    fields = "%n|%f|%u|%g|%Y|%h|%t:%T|%N"
    script = f"cd $0; /opt/busybox find . -xdev -exec /opt/busybox stat -c '{fields}' {{}} +"
    hashes = "cd $0; /opt/busybox find . -xdev -type f -exec /opt/busybox sha256sum {} +"
    for text in (script, hashes):
        guest = house.ok("run", "--rm", "--entrypoint", "/opt/busybox", reference, "sh", "-c", text, "/")
        unpacked = subprocess.run(
            ["/bin/busybox", "sh", "-c", text.replace("/opt/", "/bin/"), tmp_path / "bundle/rootfs"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert _rows(guest) == _rows(unpacked)


def _rows(text: str) -> list[str]:
    """Lines of files that are the image's own; a directory's link count and size are its file system's business."""
    rows = []
    for line in text.splitlines():
        name = line.split("|")[0].split("  ")[-1].removeprefix("./")
        if name == "." or any(name == given or name.startswith(given + "/") for given in GIVEN_AT_RUN):
            continue
        words = line.split("|")
        if len(words) > 1 and int(words[1], 16) & 0xF000 == 0x4000:
            words[5] = "-"
            if name in TIMES_DIFFER:
                words[4] = "-"
        rows.append("|".join(words))
    return sorted(rows)
