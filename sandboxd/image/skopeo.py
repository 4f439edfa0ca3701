"""A registry, through skopeo: manifests as they are, layers into the shared blob directory.

skopeo brings authentication, mirrors, TLS, retries and the host's signature policy. What it fetched is verified again
where it is used. Layers that are there already are not fetched again.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandboxd.base.errors import INVALID_ARGUMENT, REGISTRY_UNREACHABLE, SandboxdError
from sandboxd.image.command import Outcome, environment, run, tool_failed
from sandboxd.image.manifest import Descriptor, Platform
from sandboxd.image.reference import Reference
from sandboxd.image.registries import RegistrySettings
from sandboxd.image.skopeo_errors import explain

_WATCH_INTERVAL_S = 0.25
_POLICY = Path("/etc/containers/policy.json")


@dataclass(frozen=True, slots=True)
class Access:
    """How to speak to the registry. `tls_verify` None: as configured (loopback and `insecure` hosts need no TLS)."""

    username: str = ""
    password: str = ""
    tls_verify: bool | None = None
    ca_file: str = ""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: for one manifest, and for a fetch in which nothing arrives."""

    answer_s: float = 60.0
    stall_s: float = 60.0


class Registry:
    """One registry for the time of one pull. `scratch` is a private directory; the caller removes it."""

    def __init__(
        self, source: Reference, settings: RegistrySettings, access: Access, scratch: Path, patience: Patience
    ) -> None:
        """`source` has a host. Blocking: writes small files."""
        self._source = source
        self._patience = patience
        self._scratch = scratch
        configuration = scratch / "registries.conf"
        configuration.write_text(settings.render(source.host))
        self._env = environment(scratch)
        # Without a policy file of the host, skopeo would refuse everything.
        policy = () if _POLICY.exists() else ("--insecure-policy",)
        self._globals = (*policy, "--registries-conf", str(configuration), "--tmpdir", str(scratch))
        self._flags = _access_flags(source, access, scratch)

    async def manifest(self, digest: str = "") -> bytes:
        """The manifest or index, byte for byte; that of `digest` if given."""
        return (await self._ask("inspect", "--raw", *self._flags, self._url(digest))).stdout

    async def config(self, digest: str) -> bytes:
        """The config of the image whose manifest has this digest, byte for byte."""
        return (await self._ask("inspect", "--raw", "--config", *self._flags, self._url(digest))).stdout

    async def fetch(
        self,
        digest: str,
        layers: Sequence[Descriptor],
        platform: Platform,
        blobs: Path,
        progress: Callable[[int, int], None],
    ) -> None:
        """Brings the layers into `blobs/sha256/`. `progress(done, total)` in bytes, about four times a second."""
        layout = self._scratch / "layout"
        argv = ["copy", "--quiet", "--retry-times", "2", "--dest-oci-accept-uncompressed-layers"]
        argv += ["--dest-shared-blob-dir", str(blobs), *(flag.replace("--", "--src-", 1) for flag in self._flags)]
        argv += [self._url(digest), f"oci:{layout}:image"]
        choice = ["--override-os", platform.os, "--override-arch", platform.architecture]
        choice += ["--override-variant", platform.variant] if platform.variant else []
        watch = _Watch(blobs, layout, layers, progress)
        watch.report()
        fetching = asyncio.ensure_future(self._run([*choice, *argv]))
        try:
            outcome = await self._until_done_or_stalled(fetching, watch)
        finally:
            fetching.cancel()
            with contextlib.suppress(asyncio.CancelledError, SandboxdError):
                await fetching
        self._require(outcome)
        watch.report()

    async def _until_done_or_stalled(self, fetching: asyncio.Future[Outcome], watch: _Watch) -> Outcome:
        while not fetching.done():
            # A timer, not an event: it moves a progress bar, and notices that nothing moves.
            await asyncio.wait([fetching], timeout=_WATCH_INTERVAL_S)
            if watch.report() > self._patience.stall_s:
                reason = (
                    f"Nothing arrived for {self._patience.stall_s:g} s; {watch.done} of {watch.total} bytes are here."
                )
                raise SandboxdError(REGISTRY_UNREACHABLE, registry=self._source.host, reason=reason)
        return await fetching

    async def _ask(self, *argv: str) -> Outcome:
        try:
            async with asyncio.timeout(self._patience.answer_s):
                outcome = await self._run(argv)
        except TimeoutError:
            reason = f"It gave no answer within {self._patience.answer_s:g} s."
            raise SandboxdError(REGISTRY_UNREACHABLE, registry=self._source.host, reason=reason) from None
        self._require(outcome)
        return outcome

    async def _run(self, argv: Sequence[str]) -> Outcome:
        words = ["skopeo", *self._globals, *argv]
        return await run(words, env=self._env, package="skopeo", reference=str(self._source))

    def _require(self, outcome: Outcome) -> None:
        if outcome.status:
            failure = explain(outcome.stderr, self._source, self._scratch)
            raise failure or tool_failed("skopeo", "skopeo", str(self._source), outcome.last_words)

    def _url(self, digest: str) -> str:
        # skopeo takes a tag or a digest, not both.
        digest = digest or self._source.digest
        return f"docker://{self._source.repository}" + (f"@{digest}" if digest else f":{self._source.tag}")


def _access_flags(source: Reference, access: Access, scratch: Path) -> list[str]:
    flags = []
    if access.username or access.password:
        # In a file that only we can read: the command line is everyone's.
        secret = base64.b64encode(f"{access.username}:{access.password}".encode()).decode()
        path = scratch / "auth.json"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({"auths": {source.host: {"auth": secret}}}, file)
        flags += ["--authfile", str(path)]
    if access.ca_file:
        directory = scratch / "certificates"
        directory.mkdir()
        (directory / "ca.crt").write_bytes(_read_ca(access.ca_file))
        flags += ["--cert-dir", str(directory)]
    verify = access.tls_verify if access.tls_verify is not None else (True if access.ca_file else None)
    if verify is not None:
        flags.append(f"--tls-verify={'true' if verify else 'false'}")
    return flags


def _read_ca(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        reason = f"it cannot be read: {error.strerror}"
        raise SandboxdError(INVALID_ARGUMENT, what="--ca-file", value=path, reason=reason, command="pull") from error


class _Watch:
    """How much of the layers is here: whole blobs, and skopeo's temporary files beside its layout."""

    def __init__(
        self, blobs: Path, layout: Path, layers: Sequence[Descriptor], progress: Callable[[int, int], None]
    ) -> None:
        self._sizes = {layer.digest: layer.size for layer in layers}
        self._blobs = blobs
        self._layout = layout
        self._progress = progress
        self._moved_s = asyncio.get_running_loop().time()
        self.total = sum(self._sizes.values())
        self.done = -1

    def report(self) -> float:
        """Seconds since something last arrived."""
        now_s = asyncio.get_running_loop().time()
        done = min(self._whole() + self._partial(), self.total)
        if done != self.done:
            self.done = done
            self._moved_s = now_s
            self._progress(done, self.total)
        return now_s - self._moved_s

    def _whole(self) -> int:
        paths = ((self._blobs / digest.replace(":", "/"), size) for digest, size in self._sizes.items())
        return sum(size for path, size in paths if path.exists())

    def _partial(self) -> int:
        total = 0
        for path in self._layout.glob("oci-put-blob*"):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total
