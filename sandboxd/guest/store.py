"""DATA_DIR/guest: what guests boot from, kept by content, made once, never changed.

lock               held while anything is made
kernels/NAME/      a Debian kernel package, unpacked: boot/vmlinuz-RELEASE, lib/modules/RELEASE
kernel             symlink to the kernel in use
images/            vmlinux-HASH, initrd-HASH.cpio
prepared/HASH.json what the images were made from, by the identity (not the content) of the sources: a few stats tell
                   that nothing has to be made
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class GuestStore:
    """The directories below DATA_DIR/guest. Blocking; nothing here is for an event loop's thread."""

    data_dir: Path

    @property
    def root(self) -> Path:
        return self.data_dir / "guest"

    @property
    def kernels(self) -> Path:
        return self.root / "kernels"

    @property
    def current(self) -> Path:
        """Symlink to the unpacked kernel package in use."""
        return self.root / "kernel"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def prepared(self) -> Path:
        return self.root / "prepared"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One maker at a time, across processes. Readers need no lock: what has its name is whole."""
        for directory in (self.root, self.kernels, self.images, self.prepared):
            directory.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def keep(self, path: Path, content: bytes, mode: int = 0o444) -> Path:
        """Writes a file whole or not at all."""
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
            try:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
                Path(file.name).rename(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
        return path


def content_hash(*parts: bytes | memoryview) -> str:
    """16 hexadecimal digits of SHA-256 over the parts, each with its length before it."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:16]


def identity(path: Path) -> str:
    """What changes whenever the file behind `path` is another or was written to. Raises OSError if there is none."""
    status = path.stat()
    return f"{path} {status.st_dev}:{status.st_ino} {status.st_size} {status.st_mtime_ns}"
