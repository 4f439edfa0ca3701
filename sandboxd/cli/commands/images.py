"""`pull`, `load`, `images`, `rmi`, `image inspect`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from sandboxd.base.units import format_size
from sandboxd.cli import output
from sandboxd.cli.shared import each, format_option, images_argument, with_client
from sandboxd.cli.words import ago, short_digest
from sandboxd.client.options import refusal

if TYPE_CHECKING:
    from sandboxd.client.aio import AsyncClient
    from sandboxd.client.model import ImageInfo

PROGRESS = click.Choice(["auto", "plain", "none"])


@click.command()
@click.option("--platform", default="", metavar="OS/ARCH", help="Of an image for several platforms.")
@click.option("--username", default="", help="For the registry.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--tls-verify/--no-tls-verify", default=None, help="Off: also a registry without TLS.")
@click.option("--ca-file", default="", metavar="FILE", help="The registry's certificate authority.")
@click.option("--progress", type=PROGRESS, default="auto", help="How it is shown.")
@click.option("-q", "--quiet", is_flag=True, help="Only the image's id.")
@click.argument("reference", metavar="IMAGE")
def pull(
    reference: str,
    platform: str,
    username: str,
    password_stdin: bool,
    tls_verify: bool | None,
    ca_file: str,
    progress: str,
    quiet: bool,
) -> int:
    """Fetch an IMAGE from its registry.

    \b
    sandboxctl pull 127.0.0.1:5000/debian-python
    """
    from pathlib import Path

    from sandboxd.cli.progress import Reporter

    password = _password(username, password_stdin)
    authority = str(Path(ca_file).absolute()) if ca_file else ""

    async def work(client: AsyncClient) -> int:
        with Reporter(reference, "none" if quiet else progress) as reporter:
            image = await client.images.pull(
                reference,
                platform=platform,
                username=username,
                password=password,
                tls_verify=tls_verify,
                ca_file=authority,
                on_progress=reporter,
            )
            reporter.receipt("Pulled", image.size_bytes)
        if quiet:
            click.echo(image.id)
        return 0

    return with_client(work)


def _password(username: str, from_stdin: bool) -> str:
    """Never an argument: those are visible to everybody on the host."""
    if from_stdin:
        if not username:
            raise refusal("--password-stdin", "", "it needs --username too", "pull")
        return sys.stdin.readline().rstrip("\n")
    if username and sys.stdin.isatty():
        answer: str = click.prompt("Password", hide_input=True, err=True)
        return answer
    if username:
        raise refusal("--username", username, "its password comes with --password-stdin", "pull")
    return ""


@click.command()
@click.option("-i", "--input", "path", required=True, metavar="PATH", help="Archive or directory.")
@click.option("--tag", default="", metavar="NAME", help="Its name here, if it has none or another one is wanted.")
@click.option("--progress", type=PROGRESS, default="auto", help="How it is shown.")
@click.option("-q", "--quiet", is_flag=True, help="Only the image's id.")
def load(path: str, tag: str, progress: str, quiet: bool) -> int:
    """Load an image from a docker archive, an OCI archive or an OCI layout directory of this host.

    \b
    sandboxctl load -i image.tar --tag mine
    """
    from sandboxd.cli.progress import Reporter

    async def work(client: AsyncClient) -> int:
        with Reporter(tag or path, "none" if quiet else progress) as reporter:
            image = await client.images.load(path, tag=tag, on_progress=reporter)
            reporter.receipt("Loaded", image.size_bytes)
        if quiet:
            click.echo(image.id)
        elif not tag:
            click.echo("\n".join(image.references) or image.id)
        return 0

    return with_client(work)


@dataclass(frozen=True, slots=True)
class _Row:
    """One reference of an image."""

    repository: str
    tag: str
    image: ImageInfo


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("--digests", is_flag=True, help="The manifests' digests too.")
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@click.argument("only", metavar="[IMAGE]", required=False)
@format_option
def images(only: str | None, quiet: bool, digests: bool, no_trunc: bool, style: str) -> int:
    """List the images of this host.

    \b
    sandboxctl images --format '{{.id}} {{.size_bytes}}'
    """
    found = [image for image in with_client(lambda client: client.images.list()) if only is None or _is(image, only)]
    if quiet:
        output.put("".join(f"{_id(image, no_trunc)}\n" for image in found))
    elif style in ("", "table"):
        rows = [row for image in found for row in _rows(image)]
        output.show(rows, _columns(digests, no_trunc), "", lambda row: output.document(row.image))
    else:
        output.show_documents([output.document(image) for image in found], style)
    return 0


def _is(image: ImageInfo, wanted: str) -> bool:
    names = {part for row in _rows(image) for part in (row.repository, f"{row.repository}:{row.tag}")}
    return wanted in names or short_digest(image.id).startswith(wanted)


def _rows(image: ImageInfo) -> list[_Row]:
    return [_Row(*_split(reference), image) for reference in image.references or ("",)]


def _split(reference: str) -> tuple[str, str]:
    """(repository, tag). A colon before the last slash is a port."""
    name = reference.partition("@")[0]
    head, _, last = name.rpartition("/")
    base, _, tag = last.partition(":")
    repository = f"{head}/{base}" if head else base
    return repository or "<none>", tag or "<none>"


def _id(image: ImageInfo, no_trunc: bool) -> str:
    return image.id if no_trunc else short_digest(image.id)


def _columns(digests: bool, no_trunc: bool) -> list[output.Column[_Row]]:
    columns: list[output.Column[_Row]] = [
        output.Column("REPOSITORY", lambda row: row.repository),
        output.Column("TAG", lambda row: row.tag),
        output.Column("IMAGE ID", lambda row: _id(row.image, no_trunc)),
        output.Column("CREATED", lambda row: ago(row.image.created_at)),
        output.Column("SIZE", lambda row: format_size(row.image.size_bytes), right=True),
    ]
    if digests:
        columns.insert(2, output.Column("DIGEST", lambda row: row.image.digest))
    return columns


@click.command()
@click.option("-f", "--force", is_flag=True, help="Even if sandboxes use it.")
@images_argument
def rmi(names: tuple[str, ...], force: bool) -> int:
    """Remove images that no sandbox uses.

    \b
    sandboxctl rmi busybox
    """

    async def work(client: AsyncClient) -> int:
        async def one(name: str) -> str:
            removal = await client.images.remove(name, force=force)
            lines = [f"removed {item}" for item in removal.removed]
            if removal.freed_bytes:
                lines.append(f"freed {format_size(removal.freed_bytes)}")
            return "\n".join(lines)

        return await each(names, one)

    return with_client(work)


@click.group()
def image() -> None:
    """More about images.

    \b
    sandboxctl image inspect busybox
    """


@image.command("inspect")
@images_argument
@format_option
def inspect_image(names: tuple[str, ...], style: str) -> int:
    """Print all that is known of images, as a JSON list."""
    from sandboxd.cli.commands.inspect import inspect

    callback = inspect.callback
    assert callback is not None
    status = callback(names=names, kind="image", style=style)
    return int(status)
