"""The store's directories: made, locked, swept. All functions block."""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from sandboxd.base.errors import IMAGE_STORE_LOCKED, SandboxdError


class Shelf:
    """Where things lie below one root. Names that are not ours are left alone, except in `staging`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = root / "images.sqlite"
        self.erofs = root / "erofs"
        self.blobs = root / "blobs"
        self.staging = root / "staging"
        self._lock_fd = -1

    def open(self) -> None:
        """Raises image_store_locked, OSError."""
        # Searchable for all: a VMM process opens its image by path, under an id of its own. The rest is private.
        for directory, mode in ((self.root, 0o711), (self.erofs, 0o711), (self.blobs, 0o700), (self.staging, 0o700)):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(mode)
        self._digests.mkdir(mode=0o700, exist_ok=True)
        self._lock_fd = os.open(self.root / "store.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise SandboxdError(IMAGE_STORE_LOCKED, path=self.root) from None

    def close(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    @property
    def _digests(self) -> Path:
        return self.blobs / "sha256"

    def erofs_path(self, key: str) -> Path:
        return self.erofs / f"{key}.erofs"

    def leftovers(self) -> list[Path]:
        """What a crash left in `staging`."""
        return list(self.staging.iterdir())

    def unused(self, filesystems: Collection[str], blobs: Collection[str]) -> Counter[Path]:
        """Files that belong to no image, with their bytes."""
        packed = [path for path in self.erofs.glob("*.erofs") if path.stem not in filesystems]
        fetched = [path for path in self._digests.iterdir() if f"sha256:{path.name}" not in blobs]
        return Counter({path: path.stat().st_size for path in packed + fetched})

    def remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)

    def missing(self, filesystems: Collection[str]) -> list[str]:
        """Keys whose file somebody else removed."""
        return [key for key in filesystems if not self.erofs_path(key).exists()]
