"""`stats`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from sandboxd.base.units import format_size
from sandboxd.cli import output
from sandboxd.cli.completing import sandboxes
from sandboxd.cli.shared import format_option, with_client

if TYPE_CHECKING:
    from sandboxd.client.aio import AsyncClient
    from sandboxd.client.model import Stats

HOME_AND_CLEAR = "\x1b[H\x1b[J"


@click.command()
@click.option("--no-stream", is_flag=True, help="One sample, then end.")
@click.argument("names", metavar="[SANDBOX...]", nargs=-1, shell_complete=sandboxes)
@format_option
def stats(names: tuple[str, ...], no_stream: bool, style: str) -> int:
    """Show what running sandboxes use, in the guest and on the host, again and again.

    CPU % is of one CPU. HOST MEM is the machine's process and what looks after it.

    \b
    sandboxctl stats --no-stream --format json web
    """
    if no_stream:
        found = with_client(lambda client: _once(client, names))
        output.show(found, _columns(), style, output.document)
        return 0
    return with_client(lambda client: _live(client, names, style))


async def _once(client: AsyncClient, names: tuple[str, ...]) -> list[Stats]:
    ids = [(await client.get(name)).id for name in names]
    return [sample async for sample in client.stats(ids)]


async def _live(client: AsyncClient, names: tuple[str, ...], style: str) -> int:
    """On a terminal a table that stays in place; elsewhere one line or document per sample."""
    ids = [(await client.get(name)).id for name in names]
    latest: dict[str, Stats] = {}
    async for sample in client.stats(ids, stream=True):
        if style not in ("", "table") or not sys.stdout.isatty():
            _print_one(sample, style)
            continue
        latest[sample.id] = sample
        # A sandbox that has ended sends no more samples: it leaves the table when the others are a round ahead.
        newest = sample.at
        latest = {
            key: item for key, item in latest.items() if not (newest and item.at) or (newest - item.at).seconds < 5
        }
        output.put(HOME_AND_CLEAR)
        output.show(list(latest.values()), _columns(), "", output.document)
        sys.stdout.flush()
    return 0


def _print_one(sample: Stats, style: str) -> None:
    import json

    if style == "json":
        output.put(json.dumps(output.document(sample)) + "\n")
    elif style in ("", "table"):
        output.put("  ".join(column.cell(sample) for column in _columns()) + "\n")
    else:
        output.show_documents([output.document(sample)], style)
    sys.stdout.flush()


def _columns() -> list[output.Column[Stats]]:
    return [
        output.Column("ID", lambda sample: sample.id[:12]),
        output.Column("NAME", lambda sample: sample.name),
        output.Column("CPU %", lambda sample: f"{sample.cpu_percent:.1f}", right=True),
        output.Column("MEM / LIMIT", lambda sample: _pair(sample.memory_bytes, sample.memory_limit_bytes), right=True),
        output.Column("HOST MEM", lambda sample: format_size(sample.host_memory_bytes), right=True),
        output.Column("DISK / SIZE", lambda sample: _pair(sample.disk_used_bytes, sample.disk_total_bytes), right=True),
        output.Column(
            "NET IN / OUT", lambda sample: _pair(sample.network_rx_bytes, sample.network_tx_bytes), right=True
        ),
        output.Column(
            "BLOCK R / W", lambda sample: _pair(sample.block_read_bytes, sample.block_write_bytes), right=True
        ),
        output.Column("PIDS", lambda sample: str(sample.pids), right=True),
    ]


def _pair(first: int, second: int) -> str:
    return f"{format_size(first)} / {format_size(second)}"
