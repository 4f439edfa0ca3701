"""`ps` and `top`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sandboxd.cli import output
from sandboxd.cli.shared import format_option, sandbox_argument, with_client
from sandboxd.cli.words import ago, shortened

if TYPE_CHECKING:
    from sandboxd.client.aio import AsyncClient
    from sandboxd.client.model import SandboxInfo

COMMAND_WIDTH = 24
ID_WIDTH = 12


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Stopped ones too.")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="name, status, label or id.")
@click.option("--no-trunc", is_flag=True, help="Whole ids and commands.")
@format_option
def ps(everything: bool, quiet: bool, filters: tuple[str, ...], no_trunc: bool, style: str) -> int:
    """List running sandboxes; with -a all of them.

    \b
    sandboxctl ps -a --filter label=team=web
    sandboxctl ps --format '{{.id}} {{.status}}'
    """

    async def work(client: AsyncClient) -> list[SandboxInfo]:
        return [sandbox.info for sandbox in await client.list(all=everything, filters=filters)]

    found = with_client(work)
    if quiet:
        output.put("".join(f"{info.id if no_trunc else info.id[:ID_WIDTH]}\n" for info in found))
    else:
        _show(found, no_trunc, style)
    return 0


def _show(found: list[SandboxInfo], no_trunc: bool, style: str) -> None:
    from sandboxd.cli import describe

    def cut(text: str, limit: int) -> str:
        return text if no_trunc else shortened(text, limit)

    columns: list[output.Column[SandboxInfo]] = [
        output.Column("ID", lambda info: info.id if no_trunc else info.id[:ID_WIDTH]),
        output.Column("IMAGE", lambda info: info.image),
        output.Column("COMMAND", lambda info: cut(describe.command(info), COMMAND_WIDTH)),
        output.Column("CREATED", lambda info: ago(info.created_at)),
        output.Column("STATUS", describe.status),
        output.Column("PORTS", describe.ports),
        output.Column("NAME", lambda info: info.name),
    ]
    output.show(found, columns, style, describe.document)


@click.command()
@sandbox_argument
@format_option
def top(sandbox: str, style: str) -> int:
    """List the processes of a SANDBOX by their numbers in the guest.

    \b
    sandboxctl top web
    """

    async def work(client: AsyncClient) -> list[int]:
        return await (await client.get(sandbox)).processes()

    columns: list[output.Column[int]] = [output.Column("PID", str, right=True)]
    output.show(with_client(work), columns, style, lambda pid: {"pid": pid})
    return 0
