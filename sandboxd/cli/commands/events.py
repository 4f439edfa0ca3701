"""`events`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from sandboxd.cli import output
from sandboxd.cli.shared import format_option, with_client

if TYPE_CHECKING:
    from sandboxd.client.aio import AsyncClient
    from sandboxd.client.model import Event


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens.")
@click.option("--since", metavar="TIME", help="Since then: 10m, or 2024-05-01T12:00:00.")
@click.option("--until", metavar="TIME", help="Until then, then end.")
@click.option("--filter", "filters", multiple=True, metavar="KEY=VALUE", help="type, event, sandbox, image or label.")
@format_option
def events(follow: bool, since: str | None, until: str | None, filters: tuple[str, ...], style: str) -> int:
    """Print what happened to sandboxes and images, one JSON object to a line; with -f also what happens.

    \b
    sandboxctl events -f --filter event=die
    sandboxctl events --since 1h --format table
    """
    from sandboxd.cli import moments

    since_ns, until_ns = moments.parse(since, "--since"), moments.parse(until, "--until")

    async def work(client: AsyncClient) -> int:
        async for event in client.events(follow=follow, since_unix_ns=since_ns, filters=filters):
            if until_ns and event.unix_ns > until_ns:
                break
            _print(event, style)
        return 0

    return with_client(work)


def _print(event: Event, style: str) -> None:
    if style in ("", "json"):
        output.put(json.dumps(output.document(event)) + "\n")
    elif style == "table":
        output.put(line(event) + "\n")
    else:
        output.show_documents([output.document(event)], style)
    sys.stdout.flush()


def line(event: Event) -> str:
    """Docker's form: time, type, action, id, attributes."""
    from sandboxd.cli.moments import stamp
    from sandboxd.cli.words import printable

    pairs = {**({"name": event.name} if event.name else {}), **event.attributes}
    attributes = ", ".join(f"{key}={value}" for key, value in pairs.items())
    text = f"{stamp(event.unix_ns)} {event.type} {event.action} {event.id}"
    return printable(f"{text} ({attributes})" if attributes else text)
