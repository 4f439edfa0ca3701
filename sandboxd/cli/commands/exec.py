"""`exec` and `attach`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from sandboxd.cli.commands.run import CONTEXT, chosen_terminal
from sandboxd.cli.completing import sandboxes
from sandboxd.cli.shared import sandbox_argument, settings, with_client
from sandboxd.cli.terminal import DETACH_KEYS, parse_detach_keys, size
from sandboxd.cli.workload import environment

if TYPE_CHECKING:
    from sandboxd.cli.conversation import Ending
    from sandboxd.client.aio import AsyncClient
    from sandboxd.client.process import AsyncProcess


@click.command(context_settings=CONTEXT)
@click.option("-i", "--interactive", is_flag=True, help="Keep standard input open and pass it on.")
@click.option("-t/-T", "--tty/--no-tty", default=None, help="A terminal; found out by itself without -i and -d.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait for it.")
@click.option("-e", "--env", multiple=True, metavar="KEY[=VALUE]", help="Set a variable.")
@click.option("--env-file", multiple=True, metavar="FILE", help="Read variables from a file.")
@click.option("-w", "--workdir", default="", metavar="DIR", help="Working directory.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="User and group, by name or number.")
@click.option("--privileged", is_flag=True, help="All that root may do inside the guest.")
@click.option("--detach-keys", default=DETACH_KEYS, show_default=True, help="Leave it running with these keys.")
@click.argument("sandbox", shell_complete=sandboxes)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec(
    sandbox: str,
    command: tuple[str, ...],
    interactive: bool,
    tty: bool | None,
    detach: bool,
    env: tuple[str, ...],
    env_file: tuple[str, ...],
    workdir: str,
    user: str,
    privileged: bool,
    detach_keys: str,
) -> int:
    """Run COMMAND in a running SANDBOX. The exit status is the command's own, as with `run`.

    \b
    sandboxctl exec web sh
    echo hi | sandboxctl exec -i web tee /tmp/file
    """
    terminal, stdin = chosen_terminal(interactive, tty, detach, "exec")
    variables = environment(env, env_file)
    keys = parse_detach_keys(detach_keys)

    async def work(client: AsyncClient) -> int:
        process = await (await client.get(sandbox)).popen(
            command,
            env=variables,
            workdir=workdir,
            user=user,
            terminal=terminal,
            terminal_size=size(0) if terminal else (0, 0),
            stdin=stdin,
            privileged=privileged,
            detach=detach,
        )
        return await _converse(client, process, sandbox, terminal=terminal, stdin=stdin, keys=keys, detach=detach)

    return with_client(work)


@click.command()
@click.option("--no-stdin", is_flag=True, help="Do not pass standard input on.")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Pass signals on [default: on].")
@click.option("--detach-keys", default=DETACH_KEYS, show_default=True, help="Leave it running with these keys.")
@sandbox_argument
def attach(sandbox: str, no_stdin: bool, sig_proxy: bool, detach_keys: str) -> int:
    """Connect to the command of a running SANDBOX: its output from now on, and its input.

    \b
    sandboxctl attach web      (leave it running with Ctrl-P Ctrl-Q)
    """
    keys = parse_detach_keys(detach_keys)

    async def work(client: AsyncClient) -> int:
        handle = await client.get(sandbox)
        terminal = bool(handle.info.config.get("terminal"))
        stdin = bool(handle.info.config.get("stdin")) and not no_stdin
        process = await handle.attach(stdin=stdin)
        return await _converse(
            client, process, sandbox, terminal=terminal, stdin=stdin, keys=keys, proxy=sig_proxy, whole=True
        )

    return with_client(work)


async def _converse(
    client: AsyncClient,
    process: AsyncProcess,
    sandbox: str,
    *,
    terminal: bool,
    stdin: bool,
    keys: bytes,
    detach: bool = False,
    proxy: bool = True,
    whole: bool = False,
) -> int:
    """`whole`: the process is the sandbox's own command, which takes signals by a call of their own."""
    from sandboxd.cli.conversation import Conversation, Manners

    async def signal_sandbox(number: int) -> None:
        await (await client.get(sandbox)).kill(number)

    async with process:
        if detach:
            while await process.receive() is not None:
                pass
            return process.exit.exit_status if process.exit else 0
        manners = Manners(terminal=terminal, stdin=stdin, proxy_signals=proxy, detach_keys=keys)
        ending = await Conversation(process, manners, signal_sandbox if whole else None).hold()
    return _settle(client, sandbox, ending)


def _settle(client: AsyncClient, sandbox: str, ending: Ending) -> int:
    from sandboxd.cli.conversation import BROKEN_PIPE_STATUS, lost, no_exit
    from sandboxd.cli.report import report

    if ending.exit:
        if not ending.exit.by_itself:
            report(lost(sandbox, ending.exit), settings().error_format)
        return ending.exit.exit_status
    if ending.output_closed:
        return BROKEN_PIPE_STATUS
    if ending.abandoned_by:
        sys.stderr.write("the command runs on\n")
        return 128 + ending.abandoned_by
    if ending.detached:
        return 0
    raise no_exit(client.socket)
