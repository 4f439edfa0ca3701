"""Empty ext4 disks: one template per size, made once; every sandbox gets a clone of it.

A template of any usual size holds some 50 KB: the guest is told that everything else is zero already, which in a
sparse file it is. So no thread of the guest's kernel zeroes inode tables behind the workload's back, and the file on
the host grows by what is written and nothing else.

All clones of a size have the same file system UUID and hash seed. Nothing needs them to differ: each guest sees one
such disk, finds it by its place, and the host never mounts any.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from pathlib import Path

from sandboxd.base.errors import (
    DISK_NO_SPACE,
    DISK_TEMPLATE_FAILED,
    DISK_TOO_LARGE,
    DISK_TOO_SMALL,
    SandboxdError,
)
from sandboxd.base.units import MIB, format_size
from sandboxd.linux.clone import clone_file

DISK_MIN_BYTES = 16 * MIB
DISK_MAX_BYTES = 8 << 40
_TEMPLATES_MAX = 32
_MKE2FS = "mke2fs"
_MKE2FS_TIMEOUT_S = 60
_VERSION = 2
"""Changes with the options below: templates of another version are not used."""
_FEATURES = (
    "none,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize,sparse_super2,large_file,"
    "filetype,dir_index,ext_attr"
)
_UUID = "5a6b8e9e-0f5c-4b6e-8d55-6c1f1c0d5e01"
_SMALL_BYTES = 512 * MIB


class DiskTemplates:
    """Templates below `root`, which is best on the file system that the disks go to: only there are clones free.

    Any number of processes may use one root at a time. Methods block: call them in a thread.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def clone(self, size_bytes: int, destination: Path) -> None:
        """A new empty disk of `size_bytes`, rounded up to whole MiB, at `destination`, which must not exist.

        Well under a millisecond; the first of a size some 3 (4 GiB) to 25 (1 TiB) more. Complete, or not there.
        Raises disk_too_small, disk_too_large, disk_no_space, disk_template_failed.
        """
        size_bytes = _checked_size(size_bytes)
        try:
            template = self._template(size_bytes)
            try:
                clone_file(template, destination)
            except FileNotFoundError:
                # Another process made room for a template of its own just now.
                clone_file(self._template(size_bytes), destination)
        except OSError as error:
            raise _failure(size_bytes, self._root, error) from error

    def _template(self, size_bytes: int) -> Path:
        path = self._root / f"ext4-{_VERSION}-{size_bytes}.img"
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size == size_bytes:
                return path
            path.unlink(missing_ok=True)
        self._root.mkdir(parents=True, exist_ok=True)
        self._make_room()
        self._make(path, size_bytes)
        return path

    def _make_room(self) -> None:
        """Callers choose sizes: keeps the number of templates bounded, the oldest go."""

        def age(path: Path) -> float:
            try:
                return path.stat().st_mtime
            except FileNotFoundError:
                return 0.0

        for path in sorted(self._root.glob("ext4-*.img"), key=age)[: -_TEMPLATES_MAX + 1 or None]:
            path.unlink(missing_ok=True)

    def _make(self, path: Path, size_bytes: int) -> None:
        # A file without a name until it is whole: a crash leaves nothing, and a second maker is no trouble.
        fd = os.open(self._root, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size_bytes)
            _mke2fs(fd, size_bytes, self._root)
            os.fsync(fd)
            _give_name(fd, path)
        finally:
            os.close(fd)


def _give_name(fd: int, path: Path) -> None:
    """Links a nameless file (open(2), O_TMPFILE). One that is there already is as good."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # With a directory descriptor Python calls linkat(2), which can follow /proc's link; link(2) cannot.
        with contextlib.suppress(FileExistsError):
            os.link(f"/proc/self/fd/{fd}", path.name, dst_dir_fd=directory, follow_symlinks=True)
    finally:
        os.close(directory)


def _checked_size(size_bytes: int) -> int:
    if size_bytes < DISK_MIN_BYTES:
        raise SandboxdError(DISK_TOO_SMALL, size=format_size(max(size_bytes, 0)), minimum=format_size(DISK_MIN_BYTES))
    if size_bytes > DISK_MAX_BYTES:
        raise SandboxdError(DISK_TOO_LARGE, size=format_size(size_bytes), maximum=format_size(DISK_MAX_BYTES))
    return -(-size_bytes // MIB) * MIB


def _mke2fs(fd: int, size_bytes: int, root: Path) -> None:
    small = size_bytes < _SMALL_BYTES
    options = "assume_storage_prezeroed=1,nodiscard,num_backup_sb=0,packed_meta_blocks=1,root_owner=0:0"
    argv = [_MKE2FS, "-q", "-F", "-t", "ext4", "-O", _FEATURES, "-E", options, "-U", _UUID, "-b", "4096", "-I", "256"]
    # No reserved blocks: the guest's root is no administrator. No journal: a disk does not outlive its machine, so
    # there is no crash to recover from, and every write would be written twice.
    argv += ["-m", "0", "-i", "4096" if small else "16384", f"/proc/self/fd/{fd}"]
    try:
        subprocess.run(
            argv,
            check=True,
            pass_fds=(fd,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_MKE2FS_TIMEOUT_S,
            # All options are above: a host's own mke2fs.conf changes nothing.
            env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL": "C", "MKE2FS_CONFIG": "/dev/null"},
        )
    except subprocess.CalledProcessError as error:
        said = bytes(error.stderr).decode(errors="replace").strip()[-400:]
        raise _template_failed(size_bytes, root, f"mke2fs ended with status {error.returncode}: {said}") from error
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise _template_failed(size_bytes, root, f"mke2fs did not run: {error}") from error


def _template_failed(size_bytes: int, root: Path, reason: str) -> SandboxdError:
    if os.statvfs(root).f_bavail == 0:
        return SandboxdError(DISK_NO_SPACE, path=root)
    return SandboxdError(DISK_TEMPLATE_FAILED, size=format_size(size_bytes), reason=reason, path=root)


def _failure(size_bytes: int, root: Path, error: OSError) -> SandboxdError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SandboxdError(DISK_NO_SPACE, path=error.filename2 or root)
    if error.errno == errno.EFBIG:
        return SandboxdError(
            DISK_TOO_LARGE, size=format_size(size_bytes), maximum=f"what the file system of {root} allows in one file"
        )
    return _template_failed(size_bytes, root, f"{error.strerror}: {error.filename2 or error.filename}.")
