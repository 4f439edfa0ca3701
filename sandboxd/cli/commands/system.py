"""`info`, `config show`, `version`, `completion`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from sandboxd import __version__
from sandboxd.cli import output
from sandboxd.cli.main import PROGRAM
from sandboxd.cli.shared import format_option, settings, with_client
from sandboxd.cli.words import printable

if TYPE_CHECKING:
    from sandboxd.core.config import Setting

COMPLETE_VARIABLE = "_SANDBOXCTL_COMPLETE"


@click.command()
@format_option
def info(style: str) -> int:
    """Show the daemon, its machines and where it keeps things.

    \b
    sandboxctl info --format '{{.acceleration_reason}}'
    """
    document = output.document(with_client(lambda client: client.info()))
    if style in ("", "table"):
        width = max(map(len, document))
        output.put(
            "".join(f"{key.replace('_', ' '):<{width}}  {printable(str(value))}\n" for key, value in document.items())
        )
    else:
        _show_one(document, style)
    return 0


@click.group()
def config() -> None:
    """The configuration: one TOML file.

    \b
    sandboxctl config show
    """


@config.command("show")
@format_option
def show_config(style: str) -> int:
    """Print every key, its value, and where that came from.

    \b
    sandboxctl --config ./config.toml config show
    """
    from pathlib import Path

    from sandboxd.core.config import effective, load_config

    found = effective(load_config(Path(settings().config) if settings().config else None))
    columns: list[output.Column[Setting]] = [
        output.Column("KEY", lambda setting: setting.key),
        output.Column("VALUE", lambda setting: _toml(setting.value)),
        output.Column("FROM", lambda setting: setting.source),
    ]
    output.show(found, columns, style, output.document)
    return 0


def _toml(value: object) -> str:
    import json

    return "" if value is None else json.dumps(value)


@click.command()
@click.option("--client", "client_only", is_flag=True, help="Only this program's own.")
@format_option
def version(client_only: bool, style: str) -> int:
    """Print the versions of client and daemon. Starts no daemon.

    \b
    sandboxctl version --format json
    """
    from sandboxd.cli.version import daemon, describe
    from sandboxd.client.locate import locate

    pid, daemon_version = (0, "") if client_only else daemon(locate(settings().socket, settings().config))
    document: dict[str, object] = {"client": __version__, "daemon": daemon_version or None, "daemon_pid": pid or None}
    if style in ("", "table"):
        output.put((f"{PROGRAM} {__version__}" if client_only else describe(pid, daemon_version)) + "\n")
    else:
        _show_one(document, style)
    return 0


def _show_one(document: dict[str, object], style: str) -> None:
    """One thing: an object, where lists are lists."""
    if style == "json":
        import json

        output.put(json.dumps(document, indent=2) + "\n")
    elif style == "yaml":
        output.put("".join(output.yaml(document)))
    else:
        output.show_documents([document], style)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print the completion script of a shell; it completes sandbox and image names too.

    \b
    source <(sandboxctl completion bash)
    sandboxctl completion zsh > ~/.zfunc/_sandboxctl
    sandboxctl completion fish > ~/.config/fish/completions/sandboxctl.fish
    """
    from click.shell_completion import get_completion_class

    from sandboxd.cli.app import cli

    found = get_completion_class(shell)
    if found is None:
        return 1
    maker = found(cli, {}, PROGRAM, COMPLETE_VARIABLE)
    # Not maker.source(): for bash it would run bash to look at its version.
    sys.stdout.write(maker.source_template % maker.source_vars())
    return 0
