"""What callers get: one image of the store, a step of progress, what a removal did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Stage = Literal["resolve", "fetch", "unpack", "pack"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One step. `item` is a layer's short digest, or empty for a figure over all layers; `total_bytes` 0 is unknown."""

    stage: Stage
    item: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image. `config` is the OCI image config as it came, byte for byte; the fields below it are read from it."""

    id: str
    """Digest of the config: "sha256:...", the same as docker's image id."""
    references: tuple[str, ...]
    manifest_digest: str
    architecture: str
    created_unix_ns: int
    pulled_unix_ns: int
    size_bytes: int
    """Of the EROFS file."""
    erofs_path: Path
    config: str
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    env: tuple[str, ...]
    working_dir: str
    user: str
    stop_signal: str
    volumes: tuple[str, ...]
    exposed_ports: tuple[str, ...]
    """"80/tcp"."""
    labels: Mapping[str, str]
    passwd: bytes
    """The image's /etc/passwd, at most 1 MiB; empty where it has none."""
    group: bytes


@dataclass(frozen=True, slots=True)
class RemovedImage:
    """`removed` are references and ids, in the order they went."""

    removed: tuple[str, ...]
    freed_bytes: int
