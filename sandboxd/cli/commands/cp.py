"""`cp`, with docker's rules."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import click

from sandboxd.cli.completing import sandboxes
from sandboxd.cli.shared import with_client
from sandboxd.client.options import refusal

if TYPE_CHECKING:
    from sandboxd.client.aio import AsyncClient

BLOCK_BYTES = 128 << 10


@click.command()
@click.option("-a", "--archive", is_flag=True, help="Keep owners.")
@click.option("-L", "--follow-link", "follow", is_flag=True, help="Copy what SOURCE points to.")
@click.option("-q", "--quiet", is_flag=True, help="No receipt.")
@click.argument("source", shell_complete=sandboxes)
@click.argument("target", shell_complete=sandboxes)
def cp(source: str, target: str, archive: bool, follow: bool, quiet: bool) -> int:
    """Copy a file or directory between this host and a sandbox: one of SOURCE and TARGET is SANDBOX:PATH.

    TARGET an existing directory: SOURCE lands in it. `SOURCE/.` copies a directory's content. `-` is a tar stream
    from standard input or to standard output. A local path with a colon is written ./PATH.

    \b
    sandboxctl cp ./site web:/srv
    sandboxctl cp web:/var/log/. ./logs
    sandboxctl cp web:/etc - | tar -t
    """
    there, inside = _split(source), _split(target)
    if (there is None) == (inside is None):
        raise refusal("cp", f"{source} {target}", "one of SOURCE and TARGET is SANDBOX:PATH, and only one", "cp")
    if there:
        count = with_client(lambda client: _out(client, there, target, archive, follow))
    else:
        assert inside is not None
        count = with_client(lambda client: _in(client, source, inside, archive, follow))
    if not quiet and sys.stderr.isatty():
        sys.stderr.write(f"copied {count} {'entry' if count == 1 else 'entries'}\n")
    return 0


def _split(word: str) -> tuple[str, str] | None:
    """(sandbox, path), or None for a path of this host: one that begins with `/` or `.`, or has no colon."""
    if word == "-" or word.startswith(("/", ".")) or ":" not in word:
        return None
    sandbox, _, path = word.partition(":")
    return sandbox, path or "/"


async def _in(client: AsyncClient, source: str, target: tuple[str, str], archive: bool, follow: bool) -> int:
    sandbox = await client.get(target[0])
    if source == "-":
        return await sandbox.upload_tar(target[1], _standard_input(), keep_owner=archive)
    return await sandbox.copy_in(source, target[1], keep_owner=archive, follow=follow)


async def _out(client: AsyncClient, source: tuple[str, str], target: str, archive: bool, follow: bool) -> int:
    from sandboxd.cli.streams import StandardOutput

    sandbox = await client.get(source[0])
    if target != "-":
        return await sandbox.copy_out(source[1], target, keep_owner=archive, follow=follow)
    if sys.stdout.isatty():
        raise refusal("TARGET", "-", "a tar stream is not for a terminal: send it to a file or a pipe", "cp")
    output = StandardOutput()
    try:
        async for chunk in sandbox.download_tar(source[1], follow=follow):
            await output.write("stdout", chunk)
    finally:
        output.close()
    return 0


async def _standard_input() -> AsyncIterator[bytes]:
    from sandboxd.cli.streams import StandardInput

    source = StandardInput()
    while data := await source.read():
        yield data
