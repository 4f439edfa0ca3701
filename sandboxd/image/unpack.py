"""The child process that unpacks: layers in, a directory tree out. A diet of the standard library only.

A process of its own because what it reads is hostile and what it does is slow: it runs with no more capabilities than a
tar needs, dies with its parent, and never holds the daemon's event loop.

stdin: one Job as JSON. stdout: one JSON object per line: {"layer", "done_bytes"} now and then, last {"passwd", "group"}
(base64) or {"error", "context"}. Both compressed and plain digest of every layer are checked here, while it is read.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from sandboxd.base import errors
from sandboxd.base.errors import SandboxdError
from sandboxd.base.units import format_size
from sandboxd.image.layer import Budget, LayerApplier
from sandboxd.image.layerstream import DamagedStream, HashedFile, LayerStream, OverBudget, UnknownCompression
from sandboxd.image.tarstream import TarError, TarReader, TarTruncated
from sandboxd.image.treepath import BadPath, Tree, UnsafePath, read_small_file

ACCOUNT_FILE_MAX_BYTES = 1 << 20
_REPORT_INTERVAL_S = 0.25
_HEADERS_BYTES = 4096
"""What an entry may take in a tar besides its data, on average."""


@dataclass(frozen=True, slots=True)
class LayerJob:
    """One layer: `size` bytes at `offset` of the file `path`."""

    path: str
    offset: int
    size: int
    digest: str
    """"sha256:..." of these bytes; empty where the archive states none."""
    diff_id: str
    """"sha256:..." of the plain tar."""


@dataclass(frozen=True, slots=True)
class Job:
    """`root` is an empty directory; layers go lowest first."""

    reference: str
    root: str
    layers: tuple[LayerJob, ...]
    max_entries: int
    max_bytes: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        values: dict[str, Any] = json.loads(text)
        layers = tuple(LayerJob(**layer) for layer in values.pop("layers"))
        return cls(layers=layers, **values)


@dataclass(frozen=True, slots=True)
class Unpacked:
    passwd: bytes
    group: bytes


def unpack(job: Job) -> Unpacked:
    """Raises SandboxdError: image_layer_unsafe, _invalid, _truncated, _digest_mismatch, _too_large, _no_space."""
    tree = Tree(job.root)
    try:
        os.fchmod(tree.root.fd, 0o755)
        applier = LayerApplier(tree, Budget(job.max_entries, job.max_bytes))
        for index, layer in enumerate(job.layers):
            _apply_layer(job, index, layer, applier)
        applier.finish()
    except OSError as error:
        raise _host_error(job, error) from error
    finally:
        tree.close()
    return Unpacked(
        *(read_small_file(job.root, path, ACCOUNT_FILE_MAX_BYTES) for path in (b"etc/passwd", b"etc/group"))
    )


def _apply_layer(job: Job, index: int, layer: LayerJob, applier: LayerApplier) -> None:
    names = {"reference": job.reference, "item": f"layer {index + 1}"}
    report = _Reporter(index)
    with HashedFile(layer.path, layer.offset, layer.size, report) as file:
        problem: Exception | None = None
        try:
            with LayerStream(file, job.max_bytes + job.max_entries * _HEADERS_BYTES) as stream:
                applier.apply(TarReader(stream))
                plain = stream.finish()
        except (TarError, DamagedStream, UnknownCompression, BadPath, UnsafePath, OverBudget) as error:
            problem = error
        # First things first: whatever went wrong, a layer that is not what its digest says is the better explanation.
        # An unsafe or oversized one is refused as such, without reading on.
        if not isinstance(problem, UnsafePath | OverBudget):
            actual = file.finish()
            if file.missing:
                reason = f"It should have {layer.size} bytes, and {file.missing} are missing."
                raise SandboxdError(errors.IMAGE_TRUNCATED, reason=reason, **names)
            if layer.digest and actual != layer.digest:
                raise SandboxdError(errors.IMAGE_DIGEST_MISMATCH, expected=layer.digest, actual=actual, **names)
        if problem is not None:
            raise _layer_error(job, index, applier.entry, problem) from problem
    if plain != layer.diff_id:
        raise SandboxdError(errors.IMAGE_DIGEST_MISMATCH, expected=layer.diff_id, actual=plain, **names)
    report.last()


def _layer_error(job: Job, index: int, entry: bytes, problem: Exception) -> SandboxdError:
    where = {"reference": job.reference, "layer": index + 1}
    shown = repr(entry[:200])[1:] if entry else "(none)"
    if isinstance(problem, UnsafePath):
        return SandboxdError(errors.IMAGE_LAYER_UNSAFE, entry=shown, reason=problem, **where)
    if isinstance(problem, OverBudget):
        limit = f"{job.max_entries} files and {format_size(job.max_bytes)}"
        return SandboxdError(errors.IMAGE_TOO_LARGE, reference=job.reference, what=problem, limit=limit)
    if isinstance(problem, TarTruncated):
        reason = f"The tar in it is incomplete: {problem}."
        return SandboxdError(errors.IMAGE_TRUNCATED, reference=job.reference, item=f"layer {index + 1}", reason=reason)
    if isinstance(problem, UnknownCompression):
        return SandboxdError(errors.IMAGE_UNSUPPORTED_MEDIA_TYPE, reference=job.reference, reason=f"{problem}")
    reason = f"entry {shown}: {problem}" if entry else str(problem)
    return SandboxdError(errors.IMAGE_LAYER_INVALID, reason=reason, **where)


def _host_error(job: Job, error: OSError) -> SandboxdError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SandboxdError(errors.IMAGE_NO_SPACE, reference=job.reference, path=job.root)
    reason = f"unpacking met {error.strerror} at {error.filename or job.root}"
    return SandboxdError(errors.IMAGE_LAYER_INVALID, reference=job.reference, layer="of the image", reason=reason)


class _Reporter:
    """Tells stdout how far the present layer is, at most four times a second."""

    def __init__(self, layer: int) -> None:
        self._layer = layer
        self._next_s = 0.0
        self._done_bytes = 0

    def __call__(self, done_bytes: int) -> None:
        self._done_bytes = done_bytes
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + _REPORT_INTERVAL_S
            self.last()

    def last(self) -> None:
        _say({"layer": self._layer, "done_bytes": self._done_bytes})


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> int:
    os.umask(0)
    job = Job.from_json(sys.stdin.read())
    try:
        result = unpack(job)
    except SandboxdError as error:
        _say({"error": error.kind.code, "context": error.context})
        return 1
    encoded = {"passwd": result.passwd, "group": result.group}
    _say({key: base64.b64encode(value).decode() for key, value in encoded.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
