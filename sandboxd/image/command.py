"""Programs that do the work: skopeo, mkfs.erofs, the unpacker. Each dies with us, is bounded, and says why it failed.

setpriv(1) starts each: it asks the kernel to kill the program when this process dies, and takes privileges away.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandboxd.base.errors import IMAGE_TOOL_FAILED, SandboxdError

OUTPUT_MAX_BYTES = 16 << 20
_STDERR_KEPT_BYTES = 8192
_TERM_GRACE_S = 2.0
_KEPT_ENVIRONMENT = (
    *("PATH", "HOME", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program left: exit status (minus the signal's number), output, the end of what it said on stderr."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def last_words(self) -> str:
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return lines[-1][:1000] if lines else f"It ended with status {self.status} and said nothing."


def environment(scratch: Path, **extra: str) -> dict[str, str]:
    """What a child may know: search path, proxies, home (for `docker login`'s file). Its /tmp is `scratch`."""
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C.UTF-8", "TMPDIR": str(scratch), **extra}


async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: bytes = b"",
    on_line: Callable[[bytes], None] | None = None,
    privileges: Sequence[str] = (),
    package: str,
    reference: str,
) -> Outcome:
    """Runs one program to its end. With `on_line`, its lines go there as they come, and `stdout` stays empty.

    `privileges` are flags of setpriv(1) that take away what the program does not need.

    Cancelled, it ends the program first: TERM, two seconds, KILL. Killed with -9 ourselves, the kernel ends it.
    Raises image_tool_failed if it cannot be started or says more than 16 MiB.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL", *privileges, "--"),
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(env),
            cwd=cwd,
        )
    except OSError as error:
        raise tool_failed("setpriv", "util-linux", reference, f"It cannot be started: {error.strerror}.") from error
    try:
        _, stdout, stderr = await asyncio.gather(
            _feed(process, stdin), _collect(process, on_line, argv[0], package, reference), _last_words(process)
        )
        status = await process.wait()
    except BaseException:
        await asyncio.shield(_end(process))
        raise
    if status == 127:
        raise tool_failed(argv[0], package, reference, f"It cannot be started: {stderr.strip()[-300:]}")
    return Outcome(status, stdout, stderr)


def tool_failed(tool: str, package: str, reference: str, reason: str) -> SandboxdError:
    return SandboxdError(IMAGE_TOOL_FAILED, tool=Path(tool).name, package=package, reference=reference, reason=reason)


async def _feed(process: asyncio.subprocess.Process, data: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(data)
        await process.stdin.drain()
    process.stdin.close()


async def _collect(
    process: asyncio.subprocess.Process,
    on_line: Callable[[bytes], None] | None,
    tool: str,
    package: str,
    reference: str,
) -> bytes:
    assert process.stdout is not None
    if on_line is not None:
        # Lines of the unpacker are ours; the last one may hold two files of 1 MiB in base64.
        rest = b""
        while data := await process.stdout.read(1 << 16):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                on_line(line)
        return b""
    parts = []
    size = 0
    while data := await process.stdout.read(1 << 16):
        size += len(data)
        if size > OUTPUT_MAX_BYTES:
            raise tool_failed(tool, package, reference, f"Its output is over {OUTPUT_MAX_BYTES} bytes.")
        parts.append(data)
    return b"".join(parts)


async def _last_words(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    kept = b""
    while data := await process.stderr.read(1 << 16):
        kept = (kept + data)[-_STDERR_KEPT_BYTES:]
    return kept.decode(errors="replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            async with asyncio.timeout(_TERM_GRACE_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
