"""Kernel and initrd of a guest: unpacked, ordered, reproducible, and made once."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sandboxd.base.errors import SandboxdError
from sandboxd.guest.boot import prepare_guest
from sandboxd.guest.initrd import build_initrd, collect_modules
from sandboxd.guest.kernel import fetch_kernel
from sandboxd.guest.unpack import read_kernel
from tests.unit.test_vmm_kernel_image import RELEASE, bzimage, vmlinux

SIZE = (len(vmlinux())).to_bytes(4, "little")
MODULES = {
    "kernel/a/virtio.ko": "",
    "kernel/a/virtio_ring.ko": "",
    "kernel/a/virtio_mmio.ko": "kernel/a/virtio.ko kernel/a/virtio_ring.ko",
    "kernel/b/virtio-rng.ko.xz": "kernel/a/virtio.ko kernel/a/virtio_ring.ko",
}


def packed_by(program: str) -> bytes:
    if not shutil.which(program):
        pytest.skip(f"needs the program {program}")
    legacy = ["-l"] if program == "lz4" else []
    return subprocess.run([program, *legacy, "-c"], input=vmlinux(), capture_output=True, check=True).stdout


@pytest.mark.parametrize("how", ["gzip", "xz", "lzma", "bzip2", "none", "lz4", "zstd"])
def test_a_bzimage_is_unpacked_whatever_packed_it(tmp_path: Path, how: str) -> None:
    recipes: dict[str, Callable[[], bytes]] = {
        "gzip": lambda: gzip.compress(vmlinux()),
        "xz": lambda: lzma.compress(vmlinux()) + SIZE,
        "lzma": lambda: lzma.compress(vmlinux(), lzma.FORMAT_ALONE) + SIZE,
        "bzip2": lambda: bz2.compress(vmlinux()) + SIZE,
        "none": vmlinux,
        "lz4": lambda: packed_by("lz4") + SIZE,
        "zstd": lambda: packed_by("zstd") + SIZE,
    }
    kernel = tmp_path / "kernel"
    kernel.write_bytes(bzimage(recipes[how]()))
    found = read_kernel(kernel)
    assert (found.release, found.vmlinux) == (RELEASE, vmlinux())


def test_a_bzimage_that_cannot_be_started_unpacked_stays_as_it_is(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    for payload in (b"????????", gzip.compress(vmlinux(pvh=None))):
        kernel.write_bytes(bzimage(payload))
        assert read_kernel(kernel).vmlinux is None


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", bzimage(gzip.compress(vmlinux())[:-9]), bzimage(b"\xfd7zXZ\0 not at all"), vmlinux(pvh=None)],
)
def test_what_cannot_boot_is_refused_and_named(tmp_path: Path, content: bytes) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(content)
    with pytest.raises(SandboxdError) as caught:
        read_kernel(kernel)
    assert caught.value.kind.code == "kernel_unusable"
    assert str(kernel) in caught.value.message


def modules_tree(directory: Path, *, built_in: str = "kernel/drivers/char/hw_random/other.ko") -> Path:
    for name in MODULES:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lzma.compress(b"packed") if name.endswith(".xz") else path.name.encode())
    (directory / "modules.dep").write_text("".join(f"{name}: {needs}\n" for name, needs in MODULES.items()))
    (directory / "modules.builtin").write_text(built_in + "\n")
    return directory


def test_modules_come_after_what_they_need_and_once(tmp_path: Path) -> None:
    found = collect_modules(modules_tree(tmp_path), tmp_path, ("virtio_mmio", "virtio_rng"))
    assert [name for name, _ in found] == ["virtio_ring.ko", "virtio.ko", "virtio_mmio.ko", "virtio-rng.ko"]
    assert found[-1][1] == b"packed"


def test_a_built_in_module_is_not_carried(tmp_path: Path) -> None:
    tree = modules_tree(tmp_path, built_in="kernel/fs/erofs/erofs.ko")
    assert collect_modules(tree, tmp_path, ("erofs",)) == []


def test_a_module_that_is_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(SandboxdError) as caught:
        collect_modules(modules_tree(tmp_path), tmp_path, ("virtio_mmio", "overlay"))
    assert caught.value.kind.code == "modules_unusable"
    assert "overlay" in caught.value.cause and "virtio_mmio" not in caught.value.cause


@pytest.mark.parametrize("line", ["x.ko: ../../../etc/passwd", "x.ko: /etc/passwd", "/x.ko:", "x.ko: missing.ko"])
def test_a_dependency_leads_nowhere_else(tmp_path: Path, line: str) -> None:
    (tmp_path / "modules.dep").write_text(line + "\n")
    with pytest.raises(SandboxdError, match="cannot be used"):
        collect_modules(tmp_path, tmp_path, ("x",))


def test_a_signature_is_left_out(tmp_path: Path) -> None:
    tree = modules_tree(tmp_path)
    signature = b"S" * 50
    trailer = bytes(8) + len(signature).to_bytes(4, "big") + b"~Module signature appended~\n"
    (tree / "kernel/a/virtio.ko").write_bytes(b"module" + signature + trailer)
    assert dict(collect_modules(tree, tmp_path, ("virtio_mmio",)))["virtio.ko"] == b"module"
    (tree / "kernel/a/virtio.ko").write_bytes(b"short" + trailer)
    with pytest.raises(SandboxdError, match="cannot be used"):
        collect_modules(tree, tmp_path, ("virtio_mmio",))


def test_an_initrd_is_what_cpio_reads_and_always_the_same(tmp_path: Path) -> None:
    archive = build_initrd(b"#!agent", [("virtio.ko", b"one"), ("erofs.ko", b"three")])
    assert archive == build_initrd(b"#!agent", [("virtio.ko", b"one"), ("erofs.ko", b"three")])
    listing = subprocess.run(
        ["cpio", "-itv", "--quiet"], input=archive, capture_output=True, check=True
    ).stdout.decode()
    names = [line.split()[-1] for line in listing.splitlines()]
    assert {"init", "modules", "lib/virtio.ko", "lib/erofs.ko", "dev/console"} <= set(names)
    content = subprocess.run(
        ["cpio", "-i", "--to-stdout", "--quiet", "modules", "init"], input=archive, capture_output=True, check=True
    ).stdout
    assert content == b"#!agent/lib/virtio.ko\n/lib/erofs.ko\n"


def test_a_guest_is_made_once_and_made_anew_when_something_changed(tmp_path: Path) -> None:
    kernel, agent = tmp_path / "kernel", tmp_path / "agent"
    kernel.write_bytes(bzimage(gzip.compress(vmlinux())))
    agent.write_bytes(b"#!agent")
    first = prepare_guest(tmp_path, kernel, agent)
    assert first.release == RELEASE
    assert first.kernel.read_bytes() == vmlinux()
    assert b"#!agent" in first.initrd.read_bytes()
    assert first.kernel.stat().st_mode & 0o777 == 0o444
    made_ns = first.initrd.stat().st_mtime_ns
    assert prepare_guest(tmp_path, kernel, agent) == first and first.initrd.stat().st_mtime_ns == made_ns
    agent.write_bytes(b"#!another agent")
    second = prepare_guest(tmp_path, kernel, agent)
    assert second.kernel == first.kernel and second.initrd != first.initrd
    first.kernel.unlink()
    assert prepare_guest(tmp_path, kernel, agent).kernel.exists()


def test_without_a_kernel_it_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(SandboxdError) as caught:
        prepare_guest(tmp_path)
    assert caught.value.kind.code == "guest_not_prepared"
    assert f"sandboxd.guest.kernel fetch --data-dir {tmp_path}" in caught.value.remedy


def test_without_an_agent_it_says_how_to_build_one(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(bzimage())
    with pytest.raises(SandboxdError) as caught:
        prepare_guest(tmp_path, kernel, tmp_path / "no-agent")
    assert (caught.value.kind.code, caught.value.remedy) == ("guest_not_prepared", "make agent")


def test_a_fetch_without_apt_says_so_and_leaves_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(SandboxdError) as caught:
        fetch_kernel(tmp_path)
    assert caught.value.kind.code == "kernel_fetch_failed"
    assert "apt-cache is not installed" in caught.value.cause
    assert list((tmp_path / "guest" / "kernels").iterdir()) == []
    assert not (tmp_path / "guest" / "kernel").exists()
