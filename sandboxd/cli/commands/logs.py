"""`logs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sandboxd.cli.shared import sandbox_argument, with_client
from sandboxd.client.options import refusal

if TYPE_CHECKING:
    from sandboxd.client.aio import AsyncClient
    from sandboxd.client.model import LogEntry


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on until it ends.")
@click.option("-n", "--tail", default="all", metavar="LINES", help="Only the last lines [default: all].")
@click.option("--since", metavar="TIME", help="Since then: 10m, or 2024-05-01T12:00:00.")
@click.option("--until", metavar="TIME", help="Until then.")
@click.option("-t", "--timestamps", is_flag=True, help="With the time of each line.")
@sandbox_argument
def logs(sandbox: str, follow: bool, tail: str, since: str | None, until: str | None, timestamps: bool) -> int:
    """Print what a SANDBOX's command wrote, running or stopped.

    \b
    sandboxctl logs -f --tail 20 web
    """
    from sandboxd.cli import moments
    from sandboxd.cli.streams import write_all

    lines = _lines(tail)
    since_ns, until_ns = moments.parse(since, "--since"), moments.parse(until, "--until")
    stamper = Stamper() if timestamps else None

    async def work(client: AsyncClient) -> int:
        handle = await client.get(sandbox)
        async for entry in handle.logs(follow=follow, tail=lines, since_unix_ns=since_ns, until_unix_ns=until_ns):
            write_all(2 if entry.stream == "stderr" else 1, stamper.stamped(entry) if stamper else entry.data)
        return 0

    return with_client(work)


def _lines(text: str) -> int | None:
    if text == "all" or text == "-1":
        return None
    if not text.isdigit():
        raise refusal("--tail", text, "it is a number of lines, or all", "logs")
    return int(text)


class Stamper:
    """Puts a time before each line. An entry may be a piece of a line: only beginnings get one."""

    def __init__(self) -> None:
        self._at_line_begin = {"stdout": True, "stderr": True}

    def stamped(self, entry: LogEntry) -> bytes:
        from sandboxd.cli.moments import stamp

        mark = stamp(entry.unix_ns).encode() + b" "
        out = bytearray()
        for line in _by_newline(entry.data):
            if self._at_line_begin[entry.stream]:
                out += mark
            out += line
            self._at_line_begin[entry.stream] = line.endswith(b"\n")
        return bytes(out)


def _by_newline(data: bytes) -> list[bytes]:
    """A carriage return alone is a progress bar's, not the end of a line."""
    pieces = data.split(b"\n")
    lines = [piece + b"\n" for piece in pieces[:-1]]
    return [*lines, pieces[-1]] if pieces[-1] else lines
