"""The command tree. Commands are named here and loaded when they are called: `--help` loads none of them."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click

from sandboxd.cli.main import PROGRAM

GARBAGE_THRESHOLD = 50_000
EXAMPLES = """\b
sandboxctl run --rm busybox echo hello
sandboxctl run -d --name web -p 8080:80 IMAGE
sandboxctl exec web sh
sandboxctl doctor"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One command: where it lives, its place in `--help`, and its line there."""

    module: str
    name: str
    section: str
    summary: str


def _entries(section: str, *rows: tuple[str, str, str]) -> dict[str, Entry]:
    return {verb: Entry(module, verb.replace("-", "_"), section, summary) for verb, module, summary in rows}


COMMANDS = {
    **_entries(
        "Sandboxes",
        ("run", "run", "Run a command in a new sandbox"),
        ("create", "run", "Make a sandbox whose command waits for `start`"),
        ("start", "run", "Start sandboxes that `create` made"),
        ("ps", "ps", "List sandboxes"),
        ("exec", "exec", "Run one more command in a running sandbox"),
        ("attach", "exec", "Connect to a running sandbox's command"),
        ("logs", "logs", "Print a sandbox's output"),
        ("stop", "life", "End sandboxes in an orderly way"),
        ("kill", "life", "Send a signal to sandboxes"),
        ("wait", "life", "Wait until sandboxes end and print their exit status"),
        ("rm", "life", "Remove sandboxes"),
        ("inspect", "inspect", "Print all that is known of sandboxes or images"),
        ("cp", "cp", "Copy files between this host and a sandbox"),
        ("stats", "stats", "Show what sandboxes use"),
        ("top", "ps", "List a sandbox's processes"),
        ("events", "events", "Print what happened, and what happens"),
    ),
    **_entries(
        "Images",
        ("pull", "images", "Fetch an image from a registry"),
        ("load", "images", "Load an image from an archive or an OCI layout"),
        ("images", "images", "List images"),
        ("rmi", "images", "Remove images"),
        ("image", "images", "Inspect images"),
    ),
    **_entries(
        "System",
        ("doctor", "doctor", "Check this host, and say what would change what"),
        ("info", "system", "Show the daemon and what it uses"),
        ("config", "system", "Show the effective configuration"),
        ("version", "system", "Print the versions of client and daemon"),
        ("completion", "system", "Print shell completion for bash, zsh or fish"),
    ),
}


@dataclass(slots=True)
class Globals:
    """What the options before the command say."""

    socket: str = ""
    config: str = ""
    error_format: str = "text"
    autostart: bool = True
    verb: str = ""


class Tree(click.Group):
    """A group whose commands are loaded by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        from sandboxd.base import diet

        diet.asyncio_without_tls()
        diet.protobuf_without_python()
        command: click.Command = getattr(import_module(f"sandboxd.cli.commands.{entry.module}"), entry.name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=2, cutoff=0.6)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"there is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl(
                    [(verb, entry.summary) for verb, entry in COMMANDS.items() if entry.section == section]
                )
        with formatter.section("Examples"):
            formatter.write_text(EXAMPLES)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        verbs = [
            CompletionItem(verb, help=entry.summary) for verb, entry in COMMANDS.items() if verb.startswith(incomplete)
        ]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)


@click.group(
    cls=Tree,
    name=PROGRAM,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Runs container images, each in a microVM of its own.",
    epilog="`sandboxctl COMMAND --help` says more about a command.",
)
@click.option("--socket", metavar="PATH", help="The daemon's socket [env: SANDBOXD_SOCKET].")
@click.option("--config", metavar="FILE", help="The configuration file [env: SANDBOXD_CONFIG].")
@click.option("--error-format", type=click.Choice(["text", "json"]), help="How errors are printed.")
@click.option("--no-autostart", is_flag=True, help="Do not start a daemon where none runs.")
@click.pass_context
def cli(
    ctx: click.Context, socket: str | None, config: str | None, error_format: str | None, no_autostart: bool
) -> None:
    settings = ctx.ensure_object(Globals)
    settings.socket = socket or ""
    settings.config = config or ""
    settings.error_format = error_format or settings.error_format
    settings.autostart = not no_autostart
    settings.verb = ctx.invoked_subcommand or ""


def run(words: Sequence[str]) -> int:
    """The exit status of a whole command line."""
    _standard_descriptors()
    # gRPC's own log lines would land between ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Everything that is loaded stays: to look through it again and again for garbage is a tenth of a start-up.
    gc.set_threshold(GARBAGE_THRESHOLD)
    settings = Globals(error_format=_asked_error_format(words))
    try:
        status = cli.main(args=list(words), prog_name=PROGRAM, standalone_mode=False, obj=settings)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except BaseException as error:
        return _failed(error, settings)


def _failed(error: BaseException, settings: Globals) -> int:
    """Every way out that is not a command's own."""
    if isinstance(error, BrokenPipeError):
        return _broken_pipe()
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return 130
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 125
    from sandboxd.base.errors import SandboxdError
    from sandboxd.cli.report import exit_status, report

    found = error if isinstance(error, SandboxdError) else _as_catalogued(error)
    try:
        report(found, settings.error_format)
    except BrokenPipeError:
        return _broken_pipe()
    return exit_status(found, settings.verb)


def _as_catalogued(error: BaseException) -> Any:
    from sandboxd.base.errors import INTERNAL, USAGE, SandboxdError

    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else PROGRAM
        problem = error.format_message()
        return SandboxdError(USAGE, problem=problem[:1].lower() + problem[1:].rstrip("."), command=command)
    if isinstance(error, click.ClickException):
        return SandboxdError(USAGE, problem=error.format_message(), command=PROGRAM)
    if os.environ.get("SANDBOXD_DEBUG"):
        raise error
    return SandboxdError(INTERNAL, reason=f"{type(error).__name__}: {error} (SANDBOXD_DEBUG=1 shows where).")


def _broken_pipe() -> int:
    """The reader of our output is gone: say nothing, and keep Python from trying again while it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    return 128 + 13


def _asked_error_format(words: Sequence[str]) -> str:
    """Errors of the command line itself come before the option is parsed."""
    for index, word in enumerate(words):
        if word == "--error-format":
            return "json" if words[index + 1 : index + 2] == ["json"] else "text"
        if word.startswith("--error-format="):
            return "json" if word.endswith("=json") else "text"
        if word in COMMANDS:
            break
    return "text"


def _standard_descriptors() -> None:
    """Descriptors 0 to 2 exist, so that no socket of ours becomes somebody's standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
