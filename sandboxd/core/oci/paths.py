"""Paths of a container, taken as text: the agent resolves them below the container's root."""

from __future__ import annotations

import posixpath


def normalise(path: str, relative_to: str | None = None) -> str | None:
    """Absolute, without "." and "..", "//" and a trailing "/". None when empty, or relative without `relative_to`."""
    if not path:
        return None
    if not path.startswith("/"):
        if relative_to is None:
            return None
        path = f"{relative_to}/{path}"
    clean = posixpath.normpath(path)
    return clean[1:] if clean.startswith("//") else clean


def is_below(path: str, directory: str) -> bool:
    """Whether a normalised path lies in a normalised directory and is not it."""
    return path != directory and (directory == "/" or path.startswith(directory + "/"))
