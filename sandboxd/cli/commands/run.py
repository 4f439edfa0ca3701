"""`run`, `create`, `start`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

import click

from sandboxd.base.errors import NO_TERMINAL, SandboxdError
from sandboxd.cli.shared import each, sandboxes_argument, settings, with_client
from sandboxd.cli.terminal import DETACH_KEYS, is_terminal, parse_detach_keys, size
from sandboxd.cli.workload import run_options, workload_options
from sandboxd.client.options import build_config

if TYPE_CHECKING:
    from sandboxd.cli.conversation import Ending
    from sandboxd.cli.progress import Reporter
    from sandboxd.cli.stopwatch import Stopwatch
    from sandboxd.client.aio import AsyncClient
    from sandboxd.client.model import Stage
    from sandboxd.client.options import RunOptions
    from sandboxd.client.process import AsyncProcess

CONTEXT = {"ignore_unknown_options": False, "allow_interspersed_args": False, "help_option_names": ["--help"]}


def chosen_terminal(interactive: bool, tty: bool | None, detach: bool, command: str) -> tuple[bool, bool]:
    """(terminal, keep stdin open). On a terminal, with nothing said, both; else as docker does. Errors: no_terminal."""
    if tty is None and not interactive and not detach:
        on_terminal = is_terminal(0) and is_terminal(1)
        return on_terminal, on_terminal
    if tty and interactive and not detach and not is_terminal(0):
        raise SandboxdError(NO_TERMINAL, what="a pipe or a file", command=command)
    return bool(tty), interactive


@click.command(context_settings=CONTEXT)
@click.option("-i", "--interactive", is_flag=True, help="Keep standard input open and pass it on.")
@click.option("-t/-T", "--tty/--no-tty", default=None, help="A terminal; found out by itself without -i and -d.")
@click.option("-d", "--detach", is_flag=True, help="Run in the background and print the id.")
@click.option("--rm", is_flag=True, help="Remove the sandbox when it ends. Without it, `ps -a` keeps showing it.")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Pass signals on [default: on].")
@click.option("--detach-keys", default=DETACH_KEYS, show_default=True, help="Leave it running with these keys.")
@click.option("--progress", type=click.Choice(["auto", "plain", "none"]), default="auto", help="Of a pull.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no port list.")
@click.option("--timings", is_flag=True, help="Print how long each stage of the start took.")
@click.option("--trace", metavar="FILE", help="Write the stages for ui.perfetto.dev.")
@workload_options
def run(image: str, command: tuple[str, ...], **values: Any) -> int:
    """Run COMMAND in a new sandbox made from IMAGE.

    The exit status is the command's own; 125 when sandboxd could not start it, 126 when the command is not
    executable, 127 when there is none, 128 + n when signal n ended it.

    \b
    sandboxctl run --rm busybox echo hello
    sandboxctl run -d --name web -p 8080:80 -m 1G IMAGE
    """
    from sandboxd.cli.progress import Reporter
    from sandboxd.cli.stopwatch import Stopwatch

    watch = Stopwatch()
    options = run_options(values)
    terminal, stdin = chosen_terminal(values["interactive"], values["tty"], values["detach"], "run")
    options.update({"terminal": terminal, "stdin": stdin, "remove": values["rm"]})
    if terminal:
        options["terminal_size"] = size(0)
    build_config(image, command, options)  # what is refused is refused before a daemon is started for it
    foreground = _Run(image, command, options, values, watch)
    watch.lap("imports")
    with Reporter(image, "none" if values["quiet"] else values["progress"]) as reporter:
        return with_client(lambda client: foreground.go(client, reporter))


class _Run:
    """One `run`, in the foreground or not."""

    def __init__(
        self,
        image: str,
        command: tuple[str, ...],
        options: RunOptions,
        values: dict[str, Any],
        watch: Stopwatch,
    ) -> None:
        self._image = image
        self._command = command
        self._options = options
        self._values = values
        self._watch = watch
        self._detach_keys = parse_detach_keys(values["detach_keys"])

    async def go(self, client: AsyncClient, reporter: Reporter) -> int:
        await client.open()
        self._watch.lap("connect")
        process = await client.run_attached(
            self._image,
            self._command,
            on_progress=reporter,
            detach=self._values["detach"],
            client_begin_ns=self._watch.begin_ns,
            **self._options,
        )
        self._watch.lap("request")
        async with process:
            status = await (
                self._detached(client, process, reporter)
                if self._values["detach"]
                else self._foreground(client, process, reporter)
            )
            stages = process.stages or await self._stages_so_far(client, process)
        self._timings(stages)
        return status

    async def _stages_so_far(self, client: AsyncClient, process: AsyncProcess) -> tuple[Stage, ...]:
        """Of a sandbox that runs on: the daemon only sends them at its end."""
        if not (self._wants_stages and process.sandbox):
            return ()
        with contextlib.suppress(SandboxdError):
            machine = (await client.get(process.sandbox.id)).info.machine
            return machine.stages if machine else ()
        return ()

    @property
    def _wants_stages(self) -> bool:
        return bool(self._values["timings"] or self._values["trace"])

    async def _detached(self, client: AsyncClient, process: AsyncProcess, reporter: Reporter) -> int:
        while await process.receive() is not None:
            pass
        if process.sandbox is None:
            from sandboxd.cli.conversation import no_exit

            raise no_exit(settings().socket)
        if reporter.used:
            reporter.receipt("Pulled")
        self._watch.skip()
        click.echo(process.sandbox.id)
        await self._show_chosen_ports(client, process.sandbox.id)
        return 0

    async def _show_chosen_ports(self, client: AsyncClient, sandbox: str) -> None:
        """Ports that the system chose are news; the others were typed a moment ago."""
        config = build_config(self._image, self._command, self._options)
        typed = {port.host_port for port in config.ports if port.host_port}
        if self._values["quiet"] or len(typed) == len(config.ports):
            return
        for port in (await client.get(sandbox)).info.ports:
            if port.host_port not in typed:
                sys.stderr.write(f"port {port}\r\n" if self._options["terminal"] else f"port {port}\n")

    async def _foreground(self, client: AsyncClient, process: AsyncProcess, reporter: Reporter) -> int:
        from sandboxd.cli.conversation import Conversation, Manners

        manners = Manners(
            terminal=self._options["terminal"],
            stdin=self._options["stdin"],
            proxy_signals=self._values["sig_proxy"],
            detach_keys=self._detach_keys,
            at_once=False,
        )

        async def send_signal(number: int) -> None:
            # Its own call: one on the stream would wait behind input that nobody reads.
            if process.sandbox:
                await (await client.get(process.sandbox.id)).kill(number)

        async def show_ports(sandbox: str) -> None:
            with contextlib.suppress(SandboxdError):  # it may have ended already
                await self._show_chosen_ports(client, sandbox)

        def running() -> Awaitable[None] | None:
            if reporter.used:
                reporter.receipt("Pulled")
            return show_ports(process.sandbox.id) if process.sandbox else None

        ending = await Conversation(process, manners, send_signal, on_begin=running).hold()
        self._watch.skip()
        return await self._settle(client, process, ending)

    async def _settle(self, client: AsyncClient, process: AsyncProcess, ending: Ending) -> int:
        from sandboxd.cli.conversation import BROKEN_PIPE_STATUS, lost, no_exit
        from sandboxd.cli.report import report

        sandbox = process.sandbox.id if process.sandbox else ""
        if ending.exit:
            if not ending.exit.by_itself:
                report(lost(sandbox, ending.exit), settings().error_format)
            return ending.exit.exit_status
        if ending.cancelled_by:
            await _discard(client, sandbox)
            return 128 + ending.cancelled_by
        if ending.output_closed:
            # What a local command would get: SIGPIPE. One that nobody can ever read again (--rm) is ended for good.
            await _signal(client, sandbox, 9 if self._options["remove"] else 13)
            return BROKEN_PIPE_STATUS
        if ending.detached:
            return 0
        if ending.abandoned_by:
            sys.stderr.write(f"sandbox {sandbox} runs on; end it with `sandboxctl kill {sandbox}`\n")
            return 128 + ending.abandoned_by
        raise no_exit(client.socket)

    def _timings(self, stages: Sequence[Stage]) -> None:
        if not self._wants_stages:
            return
        from sandboxd.cli import timings

        self._watch.lap("finish")
        stages = self._watch.merged([stage for stage in stages if stage.process != "cli"])
        if self._values["timings"]:
            timings.show(stages)
        if self._values["trace"]:
            timings.write(self._values["trace"], stages)


async def _discard(client: AsyncClient, sandbox: str) -> None:
    """A run that was interrupted before its command ran leaves no sandbox."""
    if sandbox:
        try:
            await (await client.get(sandbox)).remove(force=True)
        except SandboxdError:
            return  # the daemon undid it itself


async def _signal(client: AsyncClient, sandbox: str, number: int) -> None:
    try:
        await (await client.get(sandbox)).kill(number)
    except SandboxdError:
        return  # it has ended


@click.command(context_settings=CONTEXT)
@click.option("-i", "--interactive", is_flag=True, help="Keep standard input open.")
@click.option("-t", "--tty", is_flag=True, help="A terminal.")
@click.option("--rm", is_flag=True, help="Remove the sandbox when it ends.")
@workload_options
def create(image: str, command: tuple[str, ...], interactive: bool, tty: bool, rm: bool, **values: Any) -> int:
    """Make a sandbox from IMAGE whose COMMAND waits for `start`, and print its id.

    \b
    sandboxctl create --name job busybox sh -c 'echo hello'
    sandboxctl start job
    """
    options = run_options(values)
    options.update({"terminal": tty, "stdin": interactive, "remove": rm})

    async def work(client: AsyncClient) -> int:
        click.echo((await client.create(image, command, **options)).id)
        return 0

    return with_client(work)


@click.command()
@sandboxes_argument
def start(names: tuple[str, ...]) -> int:
    """Start sandboxes that `create` made.

    \b
    sandboxctl start job
    """

    async def work(client: AsyncClient) -> int:
        async def one(name: str) -> str:
            await (await client.get(name)).start()
            return name

        return await each(names, one)

    return with_client(work)
