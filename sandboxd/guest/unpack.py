"""A kernel file as a person has it, made into the file that boots fastest: the uncompressed vmlinux inside a bzImage.

Unpacking once on the host takes the decompression out of every boot (under TCG: 0.16 s of 1.7 s, measured). What cannot
be unpacked here (a compressor without a program, no PVH entry) boots as it is, only slower.
"""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
import mmap
import os
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from sandboxd.base.errors import KERNEL_UNUSABLE, SandboxdError
from sandboxd.wire.kernel_image import HEAD_BYTES, BzImage, Compression, NotAKernelError, parse_bzimage, parse_vmlinux

KERNEL_MAX_BYTES = 512 << 20
"""Of a kernel file, and of what it unpacks to: Debian's is 53 MB, a debug kernel some 400 MB."""

_PROGRAMS: Final = {
    Compression.LZ4: ("lz4", "-dc"),
    Compression.ZSTD: ("zstd", "-dcq"),
    Compression.LZO: ("lzop", "-dc"),
}
_log = logging.getLogger(__name__)


class _Incremental(Protocol):
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class KernelFile:
    """A kernel as it will be handed to a VMM."""

    release: str
    vmlinux: bytes | None
    """The unpacked kernel, if unpacking is possible and worth it; None: the file itself boots."""


def read_kernel(path: Path) -> KernelFile:
    """Looks at a kernel file and unpacks it. Blocking, some 0.2 s. Raises kernel_unusable."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(path, f"Opening it says: {error.strerror}.") from error
    try:
        size = os.fstat(fd).st_size
        if not 0 < size <= KERNEL_MAX_BYTES:
            raise _unusable(path, f"Its size is {size} bytes; kernels have 1 to {KERNEL_MAX_BYTES}.")
        with mmap.mmap(fd, size, prot=mmap.PROT_READ) as image:
            return _read(path, memoryview(bytes(image)))
    except (NotAKernelError, ValueError) as error:
        raise _unusable(path, f"This is no kernel: {error}.") from error
    except OSError as error:
        raise _unusable(path, f"Reading it says: {error.strerror}.") from error
    finally:
        os.close(fd)


def _read(path: Path, image: memoryview) -> KernelFile:
    if bytes(image[:4]) == b"\x7fELF":
        kernel = parse_vmlinux(image)
        if kernel.pvh_entry is None:
            raise NotAKernelError("it is a vmlinux without a PVH entry")
        return KernelFile(kernel.release, None)
    header = parse_bzimage(image[:HEAD_BYTES], len(image))
    release = header.release or "unknown"
    try:
        vmlinux = _unpack(header, image[header.payload_offset : header.payload_offset + header.payload_bytes])
        if vmlinux and parse_vmlinux(vmlinux).pvh_entry is not None:
            return KernelFile(release, vmlinux)
    except (NotAKernelError, OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise _unusable(path, f"Its payload cannot be unpacked: {error}.") from error
    return KernelFile(release, None)


def _unpack(header: BzImage, payload: memoryview) -> bytes | None:
    """The payload unpacked; None: no way to do it here. Raises what the decompressors raise."""
    kind = header.compression
    if kind is None:
        return None
    data = payload[:-4] if kind.appends_size and header.payload_bytes > 4 else payload
    if kind is Compression.NONE:
        return bytes(data)
    if kind in _PROGRAMS:
        return _by_program(_PROGRAMS[kind], data)
    if kind is Compression.GZIP:
        return _bounded_gzip(data)
    make: dict[Compression, Callable[[], _Incremental]] = {
        Compression.XZ: lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
        Compression.LZMA: lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE),
        Compression.BZIP2: bz2.BZ2Decompressor,
    }
    return _bounded(make[kind]().decompress(bytes(data), KERNEL_MAX_BYTES + 1))


def _bounded(unpacked: bytes) -> bytes:
    if len(unpacked) > KERNEL_MAX_BYTES:
        raise NotAKernelError(f"it unpacks to more than {KERNEL_MAX_BYTES} bytes")
    return unpacked


def _bounded_gzip(data: memoryview) -> bytes:
    # What follows the stream in the payload belongs to the kernel's own decompressor.
    return _bounded(zlib.decompressobj(wbits=31).decompress(bytes(data), KERNEL_MAX_BYTES + 1))


def _by_program(command: tuple[str, ...], data: memoryview) -> bytes | None:
    """Through a decompressor that Python 3.11 has no library for; its output bounded while it comes."""
    if not shutil.which(command[0]):
        _log.warning("%s is not installed: the kernel boots compressed, a little slower", command[0])
        return None
    # The input is a file, not a pipe: feeding a pipe while reading another takes two threads.
    with tempfile.TemporaryFile() as packed:
        packed.write(data)
        packed.seek(0)
        with subprocess.Popen(command, stdin=packed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
            assert program.stdout
            unpacked = program.stdout.read(KERNEL_MAX_BYTES + 1)
            if len(unpacked) > KERNEL_MAX_BYTES:
                program.kill()
    if program.returncode and len(unpacked) <= KERNEL_MAX_BYTES:
        raise NotAKernelError(f"{command[0]} cannot read it")
    return _bounded(unpacked)


def unpack_module(path: Path) -> bytes:
    """A module's bytes, unpacked: some distributions ship .ko.xz, .ko.gz or .ko.zst. Raises OSError, ValueError."""
    data = path.read_bytes()
    match path.suffix:
        case ".xz":
            return _bounded(lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data, KERNEL_MAX_BYTES + 1))
        case ".gz":
            return gzip.decompress(data)
        case ".zst":
            unpacked = _by_program(_PROGRAMS[Compression.ZSTD], memoryview(data))
            if unpacked is None:
                raise ValueError("zstd is not installed")
            return unpacked
    return data


def _unusable(path: Path, reason: str) -> SandboxdError:
    return SandboxdError(KERNEL_UNUSABLE, path=path, reason=reason)
