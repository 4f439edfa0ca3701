"""Copies of files that cost what they hold: shared extents where the file system can, holes kept where it cannot.

ioctl_ficlone(2), lseek(2) SEEK_DATA, copy_file_range(2). Features are tried, never looked up.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

_FICLONE = 0x40049409
"""_IOW(0x94, 9, int), linux/fs.h."""
_NO_CLONE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM)
_NO_COPY_RANGE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
_CHUNK_BYTES = 1 << 20


def clone_file(source: Path, destination: Path, mode: int = 0o600) -> None:
    """Makes `destination`, which must not exist, with the content of `source`. Complete, or not there.

    Raises OSError with both paths.
    """
    source_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fd = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            if not _share(source_fd, fd):
                _copy_sparse(source_fd, fd)
        except BaseException:
            destination.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(error.errno, f"clone: {error.strerror}", str(source), None, str(destination)) from error
    finally:
        os.close(source_fd)


def _share(source_fd: int, fd: int) -> bool:
    """FICLONE; False where the file system has none."""
    try:
        fcntl.ioctl(fd, _FICLONE, source_fd)
    except OSError as error:
        if error.errno in _NO_CLONE:
            return False
        raise
    return True


def _copy_sparse(source_fd: int, fd: int) -> None:
    size = os.fstat(source_fd).st_size
    os.ftruncate(fd, size)
    position = 0
    while position < size:
        try:
            start = os.lseek(source_fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        position = os.lseek(source_fd, start, os.SEEK_HOLE)
        _copy_range(source_fd, fd, start, position)


def _copy_range(source_fd: int, fd: int, start: int, end: int) -> None:
    while start < end:
        try:
            copied = os.copy_file_range(source_fd, fd, end - start, start, start)
        except OSError as error:
            if error.errno not in _NO_COPY_RANGE:
                raise
            copied = _copy_through_memory(source_fd, fd, start, end)
        if not copied:
            raise OSError(errno.EIO, "the source became shorter while it was copied")
        start += copied


def _copy_through_memory(source_fd: int, fd: int, start: int, end: int) -> int:
    data = os.pread(source_fd, min(_CHUNK_BYTES, end - start), start)
    return os.pwrite(fd, data, start) if data else 0


def reflinks(directory: Path) -> bool:
    """Whether files of this directory's file system can share extents: clones are then free. Leaves nothing."""
    fds = []
    try:
        for _ in range(2):
            fds.append(os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
        os.write(fds[0], b"\0" * 4096)
        return _share(fds[0], fds[1])
    except OSError:
        return False
    finally:
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)
