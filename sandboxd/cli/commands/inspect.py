"""`inspect`: sandboxes, and images where no sandbox has the name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sandboxd.base.errors import SANDBOX_NOT_FOUND, SandboxdError
from sandboxd.cli import output
from sandboxd.cli.completing import images, sandboxes
from sandboxd.cli.shared import format_option, settings, with_client

if TYPE_CHECKING:
    from sandboxd.client.aio import AsyncClient


@click.command()
@click.option("--type", "kind", type=click.Choice(["sandbox", "image"]), help="Only of this kind.")
@click.argument(
    "names",
    metavar="NAME...",
    nargs=-1,
    required=True,
    shell_complete=lambda *given: sandboxes(*given) + images(*given),
)
@format_option
def inspect(names: tuple[str, ...], kind: str | None, style: str) -> int:
    """Print all that is known of sandboxes or images, as a JSON list.

    \b
    sandboxctl inspect web
    sandboxctl inspect web --format '{{.address}} {{.machine.vmm_pid}}'
    """
    documents, errors = with_client(lambda client: _all(client, names, kind))
    output.show_documents(documents, "json" if style in ("", "table") else style)
    from sandboxd.cli.report import report

    for error in errors:
        report(error, settings().error_format)
    return 1 if errors else 0


async def _all(
    client: AsyncClient, names: tuple[str, ...], kind: str | None
) -> tuple[list[dict[str, object]], list[SandboxdError]]:
    documents, errors = [], []
    for name in names:
        try:
            documents.append(await _one(client, name, kind))
        except SandboxdError as error:
            if error.kind.code.startswith("daemon_"):
                raise
            errors.append(error)
    return documents, errors


async def _one(client: AsyncClient, name: str, kind: str | None) -> dict[str, object]:
    from sandboxd.cli import describe

    if kind == "image":
        return output.document(await client.images.get(name))
    try:
        return describe.document((await client.get(name)).info)
    except SandboxdError as error:
        if kind or error.kind.code != SANDBOX_NOT_FOUND.code:
            raise
        try:
            return output.document(await client.images.get(name))
        except SandboxdError:
            raise error from None
