"""Container images: from a registry or an archive to one read-only EROFS file.

reference, registries   what a name means and where it is fetched from
manifest                the door for manifests, indexes and configs
skopeo, archive         the two sources: a registry; a file or directory of the host
tarstream, tarsparse    tar, without I/O of its own
layer, treepath         one layer onto a directory tree, never leaving it
unpack                  the child process that does so
pack                    the tree into EROFS
database, store         what is here; `ImageStore` is the only door for callers
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandboxd.image.pack import Limits
    from sandboxd.image.record import ImageRecord, Progress, RemovedImage
    from sandboxd.image.registries import RegistrySettings
    from sandboxd.image.skopeo import Patience
    from sandboxd.image.store import ImageStore

__all__ = ["ImageRecord", "ImageStore", "Limits", "Patience", "Progress", "RegistrySettings", "RemovedImage"]

_HOMES = {
    "ImageRecord": "record",
    "ImageStore": "store",
    "Limits": "pack",
    "Patience": "skopeo",
    "Progress": "record",
    "RegistrySettings": "registries",
    "RemovedImage": "record",
}


def __getattr__(name: str) -> Any:
    # Late: the unpacker lives in this package and starts with every image; pydantic and sqlite3 are not its business.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
