"""Empty disks: whole, sparse, of the size that was asked for, and nothing left where they cannot be made."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from pathlib import Path

import pytest

from sandboxd.base.errors import SandboxdError
from sandboxd.linux.clone import clone_file, reflinks
from sandboxd.storage import DISK_MAX_BYTES, DISK_MIN_BYTES, DiskTemplates

MIB = 1 << 20


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.fixture
def templates(tmp_path: Path) -> DiskTemplates:
    return DiskTemplates(tmp_path / "templates")


@pytest.mark.parametrize("size_bytes", [DISK_MIN_BYTES, 100 * MIB + 1, 512 * MIB, 4096 * MIB, 1 << 40])
def test_a_whole_and_sparse_file_system(templates: DiskTemplates, tmp_path: Path, size_bytes: int) -> None:
    disk = tmp_path / "disk"
    templates.clone(size_bytes, disk)
    rounded = -(-size_bytes // MIB) * MIB
    assert disk.stat().st_size == rounded
    assert allocated(disk) < 256 << 10 if size_bytes < 1 << 40 else allocated(disk) < 4 * MIB
    subprocess.run(["e2fsck", "-fn", disk], check=True, capture_output=True)
    shown = subprocess.run(["dumpe2fs", disk], check=True, capture_output=True, text=True).stdout
    fields = dict(line.split(":", 1) for line in shown.splitlines() if ":" in line and not line.startswith(" "))
    assert int(fields["Block count"]) * 4096 == rounded and int(fields["Reserved block count"]) == 0
    assert "has_journal" not in fields["Filesystem features"]
    # Every group says that its inode table is zero: the guest's kernel starts no thread to make it so.
    assert shown.count("ITABLE_ZEROED") == len(re.findall(r"^Group \d", shown, re.MULTILINE)) > 0
    usable = int(fields["Free blocks"]) * 4096
    assert usable > rounded * (0.65 if rounded < 64 * MIB else 0.85)


def test_clones_are_equal_and_apart(templates: DiskTemplates, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    templates.clone(DISK_MIN_BYTES, first)
    templates.clone(DISK_MIN_BYTES, second)
    assert first.read_bytes() == second.read_bytes()
    with first.open("r+b") as file:
        file.write(b"changed")
    third = tmp_path / "third"
    templates.clone(DISK_MIN_BYTES, third)
    assert third.read_bytes() == second.read_bytes() != first.read_bytes()
    assert oct(third.stat().st_mode) == "0o100600"


def test_limits_are_named(templates: DiskTemplates, tmp_path: Path) -> None:
    for size_bytes, code, words in (
        (DISK_MIN_BYTES - 1, "disk_too_small", "16 MiB"),
        (0, "disk_too_small", "16 MiB"),
        (-5, "disk_too_small", "16 MiB"),
        (DISK_MAX_BYTES + 1, "disk_too_large", "8 TiB"),
    ):
        with pytest.raises(SandboxdError) as caught:
            templates.clone(size_bytes, tmp_path / "disk")
        assert caught.value.kind.code == code and words in caught.value.cause
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_not_touched(templates: DiskTemplates, tmp_path: Path) -> None:
    (tmp_path / "disk").write_text("mine")
    with pytest.raises(SandboxdError) as caught:
        templates.clone(DISK_MIN_BYTES, tmp_path / "disk")
    assert "File exists" in caught.value.cause
    assert (tmp_path / "disk").read_text() == "mine"


def test_a_damaged_template_is_made_anew(templates: DiskTemplates, tmp_path: Path) -> None:
    templates.clone(DISK_MIN_BYTES, tmp_path / "first")
    (template,) = (tmp_path / "templates").iterdir()
    template.write_bytes(b"")
    templates.clone(DISK_MIN_BYTES, tmp_path / "second")
    subprocess.run(["e2fsck", "-fn", tmp_path / "second"], check=True, capture_output=True)


def test_many_at_once(tmp_path: Path) -> None:
    """Processes share a root without knowing of each other; threads with stores of their own are as strangers."""
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            DiskTemplates(tmp_path / "templates").clone((16 + number % 3) * MIB, tmp_path / f"disk{number}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(list((tmp_path / "templates").iterdir())) == 3


def test_the_number_of_templates_is_bounded(templates: DiskTemplates, tmp_path: Path) -> None:
    for number in range(40):
        templates.clone((16 + number) * MIB, tmp_path / "disk")
        (tmp_path / "disk").unlink()
    assert len(list((tmp_path / "templates").iterdir())) == 32


def test_no_mke2fs(templates: DiskTemplates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandboxd.storage.disks._MKE2FS", "mke2fs-is-not-there")
    with pytest.raises(SandboxdError) as caught:
        templates.clone(DISK_MIN_BYTES, tmp_path / "disk")
    assert caught.value.kind.code == "disk_template_failed" and "e2fsprogs" in caught.value.remedy
    assert list((tmp_path / "templates").iterdir()) == []


@pytest.mark.parametrize(
    "layout", [[], [(0, 1)], [(0, 70000)], [(1 << 20, 5)], [(0, 4096), (9 << 20, 4096), (30 << 20, 1)]]
)
def test_copies_keep_content_and_holes(tmp_path: Path, layout: list[tuple[int, int]]) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    with source.open("wb") as file:
        for offset, length in layout:
            file.seek(offset)
            file.write(os.urandom(length))
        file.truncate(32 << 20)
    clone_file(source, copy)
    assert copy.read_bytes() == source.read_bytes()
    assert allocated(copy) <= allocated(source) + 4096


def test_a_copy_to_another_file_system(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", Path(f"/dev/shm/sandboxd-test-{os.getpid()}")
    source.write_bytes(b"x" * 5000)
    try:
        clone_file(source, copy)
        assert copy.read_bytes() == source.read_bytes()
    finally:
        copy.unlink(missing_ok=True)


def test_a_failed_copy_names_both_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(b"x" * 5000)

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", full)
    if reflinks(tmp_path):
        pytest.skip("this file system shares extents, so nothing is copied")
    with pytest.raises(OSError, match="clone") as caught:
        clone_file(source, copy)
    assert (caught.value.filename, caught.value.filename2) == (str(source), str(copy))
    assert not copy.exists()
