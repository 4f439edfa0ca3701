"""Linux kernel images, read without trust: the bzImage's set-up header and what an ELF vmlinux says of itself.

A codec without I/O: bytes or any buffer in, frozen values out. Every offset and length of the file is checked before it
is used; what is wrong raises `NotAKernelError` with a reason for people.

Sources: Documentation/arch/x86/boot.rst (set-up header, "payload_offset", "payload_length"), ELF-64 object file format,
Xen public/elfnote.h (XEN_ELFNOTE_PHYS32_ENTRY, the PVH entry).
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

HEAD_BYTES = 64 << 10
"""How much of a file's start `parse_bzimage` wants to see: real set-up code has 15 to 40 KiB."""

Buffer = bytes | memoryview


class NotAKernelError(ValueError):
    """The bytes are no kernel that we understand; the message says why, as the end of "it is not a kernel: "."""


class Compression(enum.Enum):
    """How a bzImage's payload is packed, told by its first bytes (include/linux/decompress, lib/decompress.c)."""

    GZIP = b"\x1f\x8b"
    XZ = b"\xfd7zXZ\0"
    LZMA = b"\x5d\0\0"
    BZIP2 = b"BZh"
    ZSTD = b"\x28\xb5\x2f\xfd"
    LZ4 = b"\x02\x21\x4c\x18"
    LZO = b"\x89LZO"
    NONE = b"\x7fELF"

    @property
    def appends_size(self) -> bool:
        """Whether the build appends the unpacked size as 4 bytes (scripts/Makefile.lib, size_append)."""
        return self not in (Compression.GZIP, Compression.NONE)


@dataclass(frozen=True, slots=True)
class BzImage:
    """What a bzImage's set-up header says. Offsets are of the file, sizes in bytes."""

    release: str
    """The kernel's `uname -r`."""
    protocol: int
    """Boot protocol, 0x020f is 2.15."""
    payload_offset: int
    payload_bytes: int
    compression: Compression | None
    """None: one that we do not know."""


@dataclass(frozen=True, slots=True)
class Vmlinux:
    """What an ELF kernel says of itself."""

    release: str
    """The kernel's `uname -r`; empty when no banner was found."""
    pvh_entry: int | None
    """Physical address of the 32-bit PVH entry; None: it cannot be started directly by QEMU."""
    load_end: int
    """First physical address behind everything that is loaded."""


_BOOT_FLAG = 0x1FE
_HEADER_MAGIC = 0x202
_PROTOCOL_PAYLOAD = 0x0208
"""payload_offset and payload_length exist from 2.08 on."""
_RELEASE = re.compile(rb"[0-9]+\.[0-9]+[A-Za-z0-9.+_~-]{0,60}")
_BANNER = re.compile(rb"Linux version ([0-9]+\.[0-9]+[A-Za-z0-9.+_~-]{0,60}) \(")


def parse_bzimage(head: Buffer, file_bytes: int) -> BzImage:
    """Reads the set-up header. `head`: the file's first HEAD_BYTES; `file_bytes`: the whole file's size.

    Raises NotAKernelError.
    """
    if len(head) < 0x268:
        raise NotAKernelError("it is shorter than a kernel's set-up header")
    if (
        bytes(head[_BOOT_FLAG : _BOOT_FLAG + 2]) != b"\x55\xaa"
        or bytes(head[_HEADER_MAGIC : _HEADER_MAGIC + 4]) != b"HdrS"
    ):
        raise NotAKernelError("it has neither the bzImage's marks nor an ELF header")
    protocol = _u16(head, 0x206)
    if protocol < _PROTOCOL_PAYLOAD:
        raise NotAKernelError(f"boot protocol {protocol >> 8}.{protocol & 0xFF:02d} is older than 2.08")
    protected = (int(head[0x1F1] or 4) + 1) * 512
    offset = protected + _u32(head, 0x248)
    size = _u32(head, 0x24C)
    if not size or offset + size > file_bytes:
        raise NotAKernelError(f"its payload ({size} bytes at {offset}) does not lie in the file of {file_bytes} bytes")
    compression = _compression(bytes(head[offset : offset + 6])) if offset + 6 <= len(head) else None
    return BzImage(_bzimage_release(head), protocol, offset, size, compression)


def parse_vmlinux(image: Buffer) -> Vmlinux:
    """Reads an ELF kernel: entry note, extent, banner. `image`: the whole file. Raises NotAKernelError."""
    if len(image) < 64 or bytes(image[:4]) != b"\x7fELF":
        raise NotAKernelError("it has no ELF header")
    if image[4] != 2 or image[5] != 1 or _u16(image, 18) != 62:
        raise NotAKernelError("it is not a 64-bit x86 ELF file")
    pvh: int | None = None
    load_end = 0
    for kind, offset, address, file_size, memory_size in _segments(image):
        if file_size > len(image) or offset > len(image) - file_size:
            raise NotAKernelError(f"a segment ({file_size} bytes at {offset}) does not lie in the file")
        if kind == 1:
            load_end = max(load_end, address + memory_size)
        elif kind == 4 and pvh is None:
            pvh = _pvh_entry(image[offset : offset + file_size])
    if not load_end:
        raise NotAKernelError("it has nothing to load")
    banner = _BANNER.search(image)
    return Vmlinux(banner[1].decode() if banner else "", pvh, load_end)


def _compression(magic: bytes) -> Compression | None:
    return next((known for known in Compression if magic.startswith(known.value)), None)


def _bzimage_release(head: Buffer) -> str:
    """kernel_version: 0x20E holds where the version string is, minus 0x200. Empty when it points nowhere."""
    where = _u16(head, 0x20E)
    text = bytes(head[where + 0x200 : where + 0x200 + 64]) if where else b""
    match = _RELEASE.match(text)
    return match[0].decode() if match else ""


def _segments(image: Buffer) -> Iterator[tuple[int, int, int, int, int]]:
    """(type, file offset, physical address, bytes in the file, bytes in memory) of each program header."""
    table, size, count = struct.unpack_from("<Q", image, 32)[0], _u16(image, 54), _u16(image, 56)
    if size != 56 or not 0 < count <= 128 or table > len(image) - size * count:
        raise NotAKernelError("its table of segments does not lie in the file")
    for index in range(count):
        kind, _, offset, _, address, file_size, memory_size, _ = struct.unpack_from(
            "<IIQQQQQQ", image, table + index * 56
        )
        yield kind, offset, address, file_size, memory_size


def _pvh_entry(notes: Buffer) -> int | None:
    """The value of Xen's note 18 in a note segment; None when it has none or is malformed."""
    position = 0
    while position + 12 <= len(notes):
        name_size, value_size, kind = struct.unpack_from("<III", notes, position)
        value_at = position + 12 + (name_size + 3 & ~3)
        end = value_at + (value_size + 3 & ~3)
        if end > len(notes):
            return None
        if kind == 18 and bytes(notes[position + 12 : position + 12 + name_size]) == b"Xen\0" and value_size in (4, 8):
            return int.from_bytes(notes[value_at : value_at + value_size], "little")
        position = end
    return None


def _u16(data: Buffer, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "little")


def _u32(data: Buffer, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def check_kernel(head: Buffer, file_bytes: int) -> None:
    """Raises NotAKernelError for what cannot be a kernel by its first HEAD_BYTES; cheap, for the door of a VMM."""
    if bytes(head[:4]) == b"\x7fELF":
        if len(head) < 64 or head[4] != 2 or _u16(head, 18) != 62:
            raise NotAKernelError("it is not a 64-bit x86 ELF file")
    else:
        parse_bzimage(head, file_bytes)
