"""Kernel images read without trust: what is understood, what is refused, and that nothing else ever happens."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.wire.kernel_image import Compression, NotAKernelError, check_kernel, parse_bzimage, parse_vmlinux

RELEASE = "6.1.0-56-cloud-amd64"


def bzimage(payload: bytes = b"\x1f\x8b payload", *, setup_sectors: int = 4, protocol: int = 0x20F) -> bytes:
    """A bzImage as the kernel's build lays it out (boot.rst), as small as it can be."""
    head = bytearray((setup_sectors + 1) * 512)
    head[0x1F1] = setup_sectors
    head[0x1FE:0x200] = b"\x55\xaa"
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, protocol)
    struct.pack_into("<H", head, 0x20E, 0x300)
    head[0x500 : 0x500 + 40] = f"{RELEASE} (who@where) #1 SMP".encode()[:40].ljust(40, b"\0")
    struct.pack_into("<II", head, 0x248, 0x20, len(payload))
    return bytes(head) + bytes(0x20) + payload


def vmlinux(*, pvh: int | None = 0x1000850, load: tuple[int, int] = (0x1000000, 0x3000), banner: bool = True) -> bytes:
    """An ELF kernel with one loaded segment and, with `pvh`, Xen's note 18."""
    text = (f"Linux version {RELEASE} (who@where)".encode() if banner else b"").ljust(64, b"\0")
    note = struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", pvh) if pvh is not None else b""
    other = struct.pack("<III4sI", 4, 4, 6, b"Xen\0", 1)
    notes = other + note
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, load[0], 64, 0, 0, 64, 56, 2, 0, 0, 0)
    offset = 64 + 2 * 56
    segments = struct.pack("<IIQQQQQQ", 1, 5, offset, load[0], load[0], len(text), load[1], 4096)
    segments += struct.pack("<IIQQQQQQ", 4, 4, offset + len(text), 0, 0, len(notes), len(notes), 4)
    return b"\x7fELF\x02\x01\x01" + bytes(9) + header + segments + text + notes


def test_bzimage_says_release_and_payload() -> None:
    image = bzimage()
    found = parse_bzimage(image, len(image))
    assert found.release == RELEASE
    assert image[found.payload_offset :] == b"\x1f\x8b payload"
    assert found.payload_bytes == len(b"\x1f\x8b payload")
    assert found.compression is Compression.GZIP


@pytest.mark.parametrize("kind", list(Compression))
def test_every_compression_is_told_by_its_first_bytes(kind: Compression) -> None:
    image = bzimage(kind.value + b"rest of it")
    assert parse_bzimage(image, len(image)).compression is kind


def test_unknown_compression_is_no_error() -> None:
    image = bzimage(b"????????")
    assert parse_bzimage(image, len(image)).compression is None


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "shorter"),
        (b"#!/bin/sh\n".ljust(4096, b" "), "neither"),
        (bzimage(protocol=0x207), "older than 2.08"),
        (bzimage()[:-1], "does not lie in the file"),
    ],
)
def test_what_is_no_bzimage_is_refused_with_a_reason(image: bytes, reason: str) -> None:
    with pytest.raises(NotAKernelError, match=reason):
        parse_bzimage(image, len(image))


def test_a_payload_that_lies_about_its_length_is_refused() -> None:
    image = bytearray(bzimage())
    struct.pack_into("<I", image, 0x24C, 0xFFFFFFFF)
    with pytest.raises(NotAKernelError, match="does not lie"):
        parse_bzimage(bytes(image), len(image))


def test_vmlinux_says_entry_extent_and_release() -> None:
    found = parse_vmlinux(vmlinux())
    assert (found.release, found.pvh_entry, found.load_end) == (RELEASE, 0x1000850, 0x1003000)


def test_vmlinux_without_the_note_has_no_entry() -> None:
    assert parse_vmlinux(vmlinux(pvh=None)).pvh_entry is None


def test_a_note_that_lies_about_its_length_is_no_entry() -> None:
    image = bytearray(vmlinux())
    at = bytes(image).rindex(b"\x04\0\0\0\x08\0\0\0\x12\0\0\0")
    struct.pack_into("<I", image, at + 4, 0xFFFFFFF0)
    assert parse_vmlinux(bytes(image)).pvh_entry is None


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"\x7fELF", "no ELF header"),
        (b"\x7fELF\x01\x01".ljust(64, b"\0"), "64-bit"),
        (vmlinux()[:100], "table of segments"),
        (vmlinux()[:200], "does not lie in the file"),
    ],
)
def test_what_is_no_vmlinux_is_refused_with_a_reason(image: bytes, reason: str) -> None:
    with pytest.raises(NotAKernelError, match=reason):
        parse_vmlinux(image)


@pytest.mark.parametrize("field", range(6))
def test_a_segment_that_lies_in_any_field_is_refused_or_harmless(field: int) -> None:
    image = bytearray(vmlinux())
    struct.pack_into("<Q", image, 64 + 8 + field * 8, 0xFFFFFFFFFFFFFFFF)
    try:
        parse_vmlinux(bytes(image))
    except NotAKernelError:
        pass


@given(st.binary(max_size=2048))
def test_no_bytes_do_anything_but_be_refused(data: bytes) -> None:
    for parse in (lambda: parse_bzimage(data, len(data)), lambda: parse_vmlinux(data), lambda: check_kernel(data, 9)):
        with pytest.raises(NotAKernelError):
            parse()


@given(st.integers(0, 2**12), st.binary(min_size=1, max_size=8), st.booleans())
def test_no_damage_to_a_kernel_does_anything_but_be_refused(at: int, damage: bytes, elf: bool) -> None:
    image = bytearray(vmlinux() if elf else bzimage())
    image[at % len(image) : at % len(image) + len(damage)] = damage
    try:
        if elf:
            parse_vmlinux(bytes(image))
        else:
            parse_bzimage(bytes(image), len(image))
    except NotAKernelError:
        pass


def test_the_door_takes_kernels_and_nothing_else() -> None:
    image = bzimage()
    check_kernel(image, len(image))
    check_kernel(vmlinux(), len(vmlinux()))
    for wrong in (b"\x7fELF", b"\x7fELF\x01".ljust(64, b"\0"), b"text" * 300):
        with pytest.raises(NotAKernelError):
            check_kernel(wrong, len(wrong))
