"""`stop`, `kill`, `wait`, `rm`: each tries all it is given, and ends with 1 if any failed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import click

from sandboxd.base.units import parse_duration
from sandboxd.cli.shared import each, sandboxes_argument, with_client
from sandboxd.client.options import refusal

if TYPE_CHECKING:
    from sandboxd.client.aio import AsyncClient
    from sandboxd.client.sandbox import AsyncSandbox


@click.command()
@click.option("-t", "--time", "--timeout", "timeout", metavar="TIME", help="Before it is killed [default: 10s].")
@sandboxes_argument
def stop(names: tuple[str, ...], timeout: str | None) -> int:
    """Ask sandboxes to end with their stop signal, and kill those that do not.

    \b
    sandboxctl stop -t 30s web
    """
    limit_s = None if timeout is None else parse_duration(timeout, "--time")

    async def act(sandbox: AsyncSandbox, name: str) -> str:
        await sandbox.stop(timeout_s=limit_s)
        return name

    return _for_each(names, act)


@click.command()
@click.option("-s", "--signal", "word", default="KILL", metavar="SIGNAL", help="By name or number [default: KILL].")
@sandboxes_argument
def kill(names: tuple[str, ...], word: str) -> int:
    """Send a signal to the command of sandboxes.

    \b
    sandboxctl kill -s HUP web
    """
    from sandboxd.daemon.signals import parse_signal

    number = parse_signal(word)
    if number is None:
        raise refusal(
            "--signal", word, "there is no such signal; names read TERM or SIGTERM, numbers are 1 to 64", "kill"
        )

    async def act(sandbox: AsyncSandbox, name: str) -> str:
        await sandbox.kill(number)
        return name

    return _for_each(names, act)


@click.command()
@sandboxes_argument
def wait(names: tuple[str, ...]) -> int:
    """Wait until sandboxes end, and print their exit status, one to a line.

    \b
    status=$(sandboxctl wait job)
    """

    async def act(sandbox: AsyncSandbox, _: str) -> str:
        return str((await sandbox.wait()).exit_status)

    return _for_each(names, act)


@click.command()
@click.option("-f", "--force", is_flag=True, help="Running ones too: they are killed.")
@sandboxes_argument
def rm(names: tuple[str, ...], force: bool) -> int:
    """Remove sandboxes: their record and their logs.

    \b
    sandboxctl rm -f web
    sandboxctl rm $(sandboxctl ps -aq --filter status=stopped)
    """

    async def act(sandbox: AsyncSandbox, name: str) -> str:
        await sandbox.remove(force=force)
        return name

    return _for_each(names, act)


def _for_each(names: tuple[str, ...], act: Callable[[AsyncSandbox, str], Awaitable[str]]) -> int:
    """`names` are resolved to ids first, each for itself."""

    async def work(client: AsyncClient) -> int:
        async def one(name: str) -> str:
            return await act(await client.get(name), name)

        return await each(names, one)

    return with_client(work)
