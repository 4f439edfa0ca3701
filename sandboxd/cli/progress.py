"""Pulls and loads: bars on a terminal, lines elsewhere, always on standard error, and at the end one receipt line."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sandboxd.base.units import format_size
from sandboxd.cli.words import coloured, paint, printable, seconds

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from sandboxd.client.model import ImageProgress

VERBS = {"resolve": "Resolving", "fetch": "Fetching", "unpack": "Unpacking", "pack": "Packing"}


class Reporter:
    """Give it every ImageProgress; it does nothing before the first. `with` ends the bars on every way out.

    `mode` is auto (bars on a terminal, lines elsewhere), plain or none.
    """

    def __init__(self, name: str, mode: str = "auto") -> None:
        self._name = printable(name)
        self._begin_s = time.monotonic()
        self._bytes: dict[str, int] = {}
        self._seen: set[tuple[str, str]] = set()
        self._mode = mode
        self._bars: _Bars | None = None

    def __call__(self, progress: ImageProgress) -> None:
        if progress.stage == "fetch":
            self._bytes[progress.item] = max(progress.total_bytes, progress.done_bytes)
        if self._mode == "none":
            return
        if self._mode == "auto" and coloured(sys.stderr):
            self._bars = self._bars or _Bars()
            self._bars.update(progress)
        else:
            self._line(progress)

    def _line(self, progress: ImageProgress) -> None:
        """One for every step, when it begins: a log wants to know what happens, not how fast."""
        key = (progress.stage, progress.item)
        if key in self._seen:
            return
        self._seen.add(key)
        size = f" ({format_size(progress.total_bytes)})" if progress.total_bytes else ""
        verb = VERBS.get(progress.stage, progress.stage)
        sys.stderr.write(f"{self._name}: {verb} {printable(progress.item)}".rstrip() + f"{size}\n")
        sys.stderr.flush()

    @property
    def used(self) -> bool:
        """Something was reported."""
        return bool(self._bytes or self._seen or self._bars)

    def receipt(self, verb: str, size_bytes: int = 0) -> None:
        """`✓ Pulled debian:12  48 MiB  3.1 s`."""
        self.close()
        if self._mode == "none":
            return
        size = format_size(size_bytes or sum(self._bytes.values()))
        took = seconds(time.monotonic() - self._begin_s)
        sys.stderr.write(f"{paint('✓', '32')} {verb} {self._name}  {size}  {took}\n")
        sys.stderr.flush()

    def close(self) -> None:
        if self._bars:
            self._bars.close()
            self._bars = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Bars:
    """A bar for each layer and step, gone when it is closed."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

        self._progress: Progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._progress.start()

    def update(self, progress: ImageProgress) -> None:
        key = (progress.stage, progress.item)
        if key not in self._tasks:
            from rich.markup import escape

            words = f"{VERBS.get(progress.stage, progress.stage)} {printable(progress.item)}".strip()
            self._tasks[key] = self._progress.add_task(escape(words), total=None)
        self._progress.update(self._tasks[key], completed=progress.done_bytes, total=progress.total_bytes or None)

    def close(self) -> None:
        self._progress.stop()
