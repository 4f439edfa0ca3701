"""Failures of this host's own files, in the catalogue's words."""

from __future__ import annotations

import os

from sandboxd.base.errors import LOCAL_FILE, SandboxdError


def local_file(path: str | os.PathLike[str] | bytes | int, error: OSError) -> SandboxdError:
    return SandboxdError(
        LOCAL_FILE, path=os.fsdecode(path) if not isinstance(path, int) else path, reason=error.strerror or str(error)
    )
