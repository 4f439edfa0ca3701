"""The few bytes of the host that a container gets to see: resolv.conf, hosts, hostname, carried over by content."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

FILE_MAX_BYTES = 1 << 20
"""Of one file: what the agent's MakeFile takes."""


@dataclass(frozen=True, slots=True)
class HostFile:
    """A regular file as it was when the container was created."""

    content: bytes
    mode: int
    uid: int
    gid: int


class HostFileRefused(Exception):
    """Why a bind's source cannot be embedded."""


ReadHostFile = Callable[[str], HostFile]


def read_host_file(path: str) -> HostFile:
    """Reads a regular file of at most FILE_MAX_BYTES. Raises HostFileRefused.

    Opened without blocking and judged by the descriptor, so that a FIFO or a device that took the file's place is
    neither waited for nor read.
    """
    if not path.startswith("/"):
        raise HostFileRefused("its source has to be an absolute path of the host")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise HostFileRefused(f"its source cannot be opened on the host: {error.strerror}") from error
    try:
        return _read(fd)
    finally:
        os.close(fd)


def _read(fd: int) -> HostFile:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise HostFileRefused(
            f"its source is {kind} of the host, and only the content of small regular files is carried over"
        )
    content = b""
    while len(content) <= FILE_MAX_BYTES:
        chunk = os.read(fd, FILE_MAX_BYTES + 1 - len(content))
        if not chunk:
            return HostFile(content, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
        content += chunk
    raise HostFileRefused(f"its source is larger than the {FILE_MAX_BYTES >> 20} MiB that are carried over by content")
