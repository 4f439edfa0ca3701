"""What many commands share: the client, running a coroutine, several targets, common options."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sandboxd.base.errors import SandboxdError
from sandboxd.cli.app import Globals
from sandboxd.cli.completing import images, sandboxes

if TYPE_CHECKING:
    from sandboxd.client.aio import AsyncClient

Command = TypeVar("Command", bound=Callable[..., Any])
Result = TypeVar("Result")
DAEMON_BROKEN = ("daemon_", "config_")


def settings() -> Globals:
    """The options before the command."""
    found = click.get_current_context().find_object(Globals)
    return found or Globals()


def with_client(work: Callable[[AsyncClient], Coroutine[Any, Any, Result]], *, autostart: bool | None = None) -> Result:
    """Runs `work` with a client of the daemon that the options name."""
    chosen = settings()
    # Here and not above: gRPC takes longer to import than most commands take to run.
    from sandboxd.client.aio import AsyncClient

    async def whole() -> Result:
        start = chosen.autostart if autostart is None else autostart
        async with AsyncClient(chosen.socket, config=chosen.config, autostart=start) as client:
            return await work(client)

    return asyncio.run(whole())


async def each(names: Sequence[str], act: Callable[[str], Awaitable[str]]) -> int:
    """Does `act` for every name, whatever became of the one before; prints what it returns, reports what it raises.

    Exit status: 1 if any failed. A daemon that is gone ends it at once, since no later name would fare better.
    """
    from sandboxd.cli.report import report

    style = settings().error_format
    failed = False
    for outcome in await _outcomes(names, act):
        if isinstance(outcome, SandboxdError):
            if outcome.kind.code.startswith(DAEMON_BROKEN):
                raise outcome
            report(outcome, style)
            failed = True
        elif isinstance(outcome, BaseException):
            raise outcome
        elif outcome:
            click.echo(outcome)
    return 1 if failed else 0


async def _outcomes(names: Sequence[str], act: Callable[[str], Awaitable[str]]) -> list[str | BaseException]:
    """All at the same time: ten sandboxes stop as fast as one."""

    async def one(name: str) -> str:
        return await act(name)

    return list(await asyncio.gather(*(one(name) for name in names), return_exceptions=True))


def format_option(command: Command) -> Command:
    """`--format table|json|yaml|TEMPLATE`."""

    def chosen(ctx: click.Context, _: click.Parameter, value: str) -> str:
        if value == "json":
            settings_of = ctx.find_object(Globals)
            if settings_of:
                settings_of.error_format = "json"
        elif value not in ("", "table", "yaml") and "{{" not in value:
            raise click.BadParameter("give table, json, yaml, or a template like '{{.id}} {{.name}}'.", ctx)
        return value

    return click.option(
        "--format",
        "style",
        default="",
        metavar="table|json|yaml|TEMPLATE",
        callback=chosen,
        help="How to print it; a template reads '{{.id}} {{.name}}'.",
        shell_complete=lambda *_: ["table", "json", "yaml"],
    )(command)


def sandbox_argument(command: Command) -> Command:
    """One SANDBOX."""
    return click.argument("sandbox", shell_complete=sandboxes)(command)


def sandboxes_argument(command: Command) -> Command:
    """One or more SANDBOX."""
    return click.argument("names", metavar="SANDBOX...", nargs=-1, required=True, shell_complete=sandboxes)(command)


def image_argument(command: Command) -> Command:
    return click.argument("image", shell_complete=images)(command)


def images_argument(command: Command) -> Command:
    return click.argument("names", metavar="IMAGE...", nargs=-1, required=True, shell_complete=images)(command)
