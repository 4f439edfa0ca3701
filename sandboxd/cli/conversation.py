"""A person or a script talking to a live process: `run`, `exec` and `attach` in the foreground.

standard input  -> the process, a piece at a time, as fast as it is read; its end closes the process's input
its output      -> standard output and error, every byte
signals         -> the process; with a terminal the keys come as bytes instead
detach keys     -> leave it running
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from sandboxd.base.errors import DAEMON_LOST, SANDBOX_LOST, SandboxdError
from sandboxd.cli.streams import StandardInput, StandardOutput
from sandboxd.cli.terminal import DetachKeys, RawMode, is_terminal, size
from sandboxd.client import model
from sandboxd.client.process import AsyncProcess

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
ENDING = frozenset({signal.SIGINT, signal.SIGTERM})
PATIENCE = 3
"""So many SIGINT or SIGTERM leave a process that does not care about them."""
BROKEN_PIPE_STATUS = 128 + signal.SIGPIPE


@dataclass(frozen=True, slots=True)
class Manners:
    """How to converse."""

    terminal: bool = False
    stdin: bool = False
    proxy_signals: bool = True
    detach_keys: bytes = b""
    at_once: bool = True
    """The process runs already (exec, attach); False: it runs when the daemon says so, until then Ctrl-C cancels."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How the conversation ended. `exit` None: detached, cancelled before the start, or nobody reads the output."""

    exit: model.Exit | None = None
    detached: bool = False
    cancelled_by: int = 0
    """Signal that came before the process ran."""
    abandoned_by: int = 0
    """Signal that came for the last time."""
    output_closed: bool = False


class Conversation:
    """One process in the foreground. `send_signal` goes past a full standard input."""

    def __init__(
        self,
        process: AsyncProcess,
        manners: Manners,
        send_signal: Callable[[int], Awaitable[None]] | None = None,
        *,
        on_begin: Callable[[], Awaitable[None] | None] | None = None,
    ) -> None:
        self._process = process
        self._manners = manners
        self._send_signal = send_signal or process.signal
        self._on_begin = on_begin
        self._raw = RawMode()
        self._tasks: set[asyncio.Task[None]] = set()
        self._detached = False
        self._cancelled_by = 0
        self._abandoned_by = 0
        self._endings = 0
        self._begun = False

    async def hold(self) -> Ending:
        """Until it ends, or is left. Errors: the daemon's own; the terminal is itself again before they show."""
        output = StandardOutput()
        with self._raw.undone(), self._signals():
            self._process.on_started = self._begin
            if self._manners.at_once:
                self._begin()
            try:
                await self._copy_output(output)
            except BrokenPipeError:
                return Ending(output_closed=True)
            finally:
                await self._end_tasks()
                output.close()
        return self._ending()

    async def _copy_output(self, output: StandardOutput) -> None:
        while (piece := await self._process.receive()) is not None:
            self._begin()
            await output.write(piece.stream, piece.data)

    def _ending(self) -> Ending:
        if self._process.exit is not None:
            return Ending(exit=self._process.exit)
        return Ending(detached=self._detached, cancelled_by=self._cancelled_by, abandoned_by=self._abandoned_by)

    def _begin(self) -> None:
        """The process runs: from now on the keyboard and the signals are its own."""
        if self._begun:
            return
        self._begun = True
        news = self._on_begin() if self._on_begin else None
        if news:
            self._spawn(news)
        if self._manners.terminal and is_terminal(0):
            self._raw.enter()
            self._resize()
        if self._manners.stdin:
            self._spawn(self._copy_input())

    async def _copy_input(self) -> None:
        keys = DetachKeys(self._manners.detach_keys if self._manners.terminal else b"")
        source = StandardInput()
        while data := await source.read():
            data, detach = keys.feed(data)
            if data and not await self._process.write(data):
                return
            if detach:
                self._detached = True
                self._process.detach()
                return
        await self._process.close_stdin()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Handlers for the time of the conversation; what they were before comes back."""
        loop = asyncio.get_running_loop()
        before = {}
        for number in (*FORWARDED, signal.SIGWINCH, signal.SIGCONT):
            known = signal.getsignal(number)
            # nohup(1) and background shells ignore signals on purpose.
            if known is signal.SIG_IGN and number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
                continue
            before[number] = known
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGWINCH, signal.SIGCONT):
            if number == signal.SIGCONT:
                self._raw.again()
            self._resize()
        elif not self._begun:
            self._cancelled_by = number
            self._process.detach()
        elif not self._manners.proxy_signals:
            self._abandoned_by = number
            self._process.detach()
        else:
            self._forward(number)

    def _forward(self, number: int) -> None:
        self._endings += number in ENDING
        if self._endings >= PATIENCE:
            self._abandoned_by = number
            self._process.detach()
            return
        self._spawn(self._quietly(self._send_signal(number)))

    async def _quietly(self, work: Awaitable[None]) -> None:
        with contextlib.suppress(SandboxdError):  # it has just ended: then there is nobody to signal
            await work

    def _resize(self) -> None:
        columns, rows = size(0)
        if self._manners.terminal and self._begun and columns and rows:
            self._spawn(self._process.resize(columns, rows))

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def lost(sandbox: str, exit: model.Exit) -> SandboxdError:
    """A sandbox that something else than its own command ended."""
    return SandboxdError(
        SANDBOX_LOST,
        id=sandbox,
        reason=exit.reason,
        detail=exit.detail or _DETAILS.get(exit.reason, "No more is known."),
    )


def no_exit(socket: str) -> SandboxdError:
    return SandboxdError(DAEMON_LOST, socket=socket, reason="the output ended without an exit status")


_DETAILS = {
    "oom_killed": "The guest used all of its memory, and its kernel killed the command: give it more with --memory.",
    "timeout": "It ran for as long as --timeout allows.",
    "vmm_died": "The process that was its machine ended.",
    "shim_died": "The process that looked after it ended.",
    "agent_lost": "The guest stopped answering.",
    "host_rebooted": "This host was started anew.",
}
