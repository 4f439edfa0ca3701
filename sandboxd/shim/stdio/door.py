"""The door for stdio names: parsed once, opened, or refused with the name and the reason.

""                  nothing: the process reads /dev/null; its output is discarded
PATH, fifo://PATH   a FIFO that exists
file://PATH         output only: appended to, made if missing
log://PATH          output only: the output log, JSON lines (sandboxd.core.output_log)
attach://           input only: an input whose bytes come by Attach
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sandboxd.base.errors import STDIO_UNUSABLE, SandboxdError
from sandboxd.core.process import ProcessIo
from sandboxd.core.streams import Sink, Source
from sandboxd.shim.names import ATTACH_ONLY
from sandboxd.shim.stdio.fifo import FifoSink, FifoSource
from sandboxd.shim.stdio.files import FileSink, OutputLog

PATH_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class StdioRequest:
    """What a caller asked for, as it came."""

    stdin: str
    stdout: str
    stderr: str
    terminal: bool


def open_stdio(request: StdioRequest, log_max_bytes: int) -> ProcessIo:
    """Opens everything that Create or Exec names. Raises stdio_unusable; then nothing stays open."""
    with contextlib.ExitStack() as stack:
        door = _Door(stack, log_max_bytes)
        stdin: list[Source] = (
            [] if request.stdin in ("", ATTACH_ONLY) else [door.source(request.stdin, ends_input=True)]
        )
        stdout = door.sinks(request.stdout, "stdout")
        # A terminal has one output: what is written to stderr comes out of it too.
        stderr = [] if request.terminal else door.sinks(request.stderr, "stderr")
        stack.pop_all()
    return ProcessIo(bool(request.stdin), request.terminal, stdin, stdout, stderr)


def open_attached(stdin: str, stdout: str, stderr: str) -> tuple[Source | None, Sink | None, Sink | None]:
    """Opens the FIFOs of an Attach: the readers are there already. Raises stdio_unusable; then nothing stays open."""
    with contextlib.ExitStack() as stack:
        door = _Door(stack, 0)
        source = door.source(stdin, ends_input=False) if stdin else None
        out = door.fifo(stdout, "stdout", patient=False) if stdout else None
        err = door.fifo(stderr, "stderr", patient=False) if stderr else None
        stack.pop_all()
    return source, out, err


class _Door:
    """Opens names one by one; what it opened is closed by its stack."""

    def __init__(self, stack: contextlib.ExitStack, log_max_bytes: int) -> None:
        self._stack = stack
        self._log_max_bytes = log_max_bytes
        self._logs: dict[Path, OutputLog] = {}

    def source(self, name: str, *, ends_input: bool) -> FifoSource:
        path = _path(name, "stdin", ("", "fifo"))
        with _refusing(name, "stdin"):
            source = FifoSource(path, ends_input=ends_input)
        self._stack.callback(source.close)
        return source

    def fifo(self, name: str, stream: str, *, patient: bool) -> FifoSink:
        path = _path(name, stream, ("", "fifo"))
        with _refusing(name, stream):
            sink = FifoSink(path, patient=patient)
        self._stack.callback(sink.close)
        return sink

    def sinks(self, name: str, stream: str) -> list[Sink]:
        if not name:
            return []
        scheme, _, _ = name.rpartition("://")
        if scheme in ("", "fifo"):
            return [self.fifo(name, stream, patient=True)]
        path = _path(name, stream, ("file", "log"))
        with _refusing(name, stream):
            sink = FileSink(path) if scheme == "file" else self._log_sink(path, stream)
        self._stack.callback(sink.close)
        return [sink]

    def _log_sink(self, path: Path, stream: str) -> Sink:
        if path not in self._logs:
            self._logs[path] = OutputLog(path, self._log_max_bytes)
        return self._logs[path].sink(stream)


def _path(name: str, stream: str, schemes: tuple[str, ...]) -> Path:
    scheme, _, path = name.rpartition("://")
    if scheme not in schemes:
        raise SandboxdError(STDIO_UNUSABLE, path=name[:80], stream=stream, reason=f"{scheme}:// is not possible here.")
    if not path.startswith("/") or "\0" in path or len(path.encode()) > PATH_MAX_BYTES:
        raise SandboxdError(STDIO_UNUSABLE, path=name[:80], stream=stream, reason="It is not an absolute path.")
    return Path(path)


@contextlib.contextmanager
def _refusing(name: str, stream: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        nobody_reads = error.errno == errno.ENXIO
        reason = "Nobody has the other end of the FIFO open." if nobody_reads else f"{error.strerror}."
        raise SandboxdError(STDIO_UNUSABLE, path=name[:80], stream=stream, reason=reason) from error
