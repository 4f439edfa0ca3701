"""The options of `run` and `create`, and what they make of the command line: `RunOptions` of the SDK."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import click

from sandboxd.base.units import parse_duration
from sandboxd.cli.completing import images
from sandboxd.client.local import local_file
from sandboxd.client.options import RunOptions, refusal

Command = TypeVar("Command", bound=Callable[..., Any])
ENV_FILE_MAX_BYTES = 1 << 20
SECCOMP_MAX_BYTES = 1 << 20

_OPTIONS = (
    click.option("--name", help="A name for it; without one it has only its id."),
    click.option("-e", "--env", multiple=True, metavar="KEY[=VALUE]", help="Set a variable; KEY alone passes it on."),
    click.option("--env-file", multiple=True, metavar="FILE", help="Read variables from a file, one to a line."),
    click.option("-w", "--workdir", default="", metavar="DIR", help="Working directory."),
    click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="User and group, by name or number."),
    click.option("--entrypoint", metavar="PROGRAM", help="Instead of the image's entrypoint; '' for none."),
    click.option("--hostname", "-h", default="", help="The guest's host name [default: the sandbox's id]."),
    click.option("--label", "-l", multiple=True, metavar="KEY[=VALUE]", help="A label."),
    click.option("-m", "--memory", metavar="SIZE", help="The machine's memory: 512M, 2G [default: 512M]."),
    click.option("--cpus", type=float, metavar="N", help="CPUs, also 0.5 [default: 1]."),
    click.option("--disk", metavar="SIZE", help="The most that it may write [default: 4G]."),
    click.option("-p", "--publish", multiple=True, metavar="[[BIND:]HOST:]GUEST[/udp]", help="Publish a port."),
    click.option("--network", "--net", default="default", metavar="default|none", help="none: no packet at all."),
    click.option("--read-only", is_flag=True, help="The root file system cannot be written."),
    click.option("--tmpfs", multiple=True, metavar="PATH[:OPTIONS]", help="A file system in memory."),
    click.option("--timeout", metavar="TIME", help="End it after this long: 30s, 5m, 1h."),
    click.option("--stop-signal", metavar="SIGNAL", help="What `stop` sends first."),
    click.option("--replace", is_flag=True, help="Remove a sandbox of the same name first."),
    click.option("--pull", type=click.Choice(["missing", "always", "never"]), default="missing", show_default=True),
    click.option("--platform", default="", metavar="OS/ARCH", help="Of an image for several platforms."),
    click.option("--cap-add", multiple=True, metavar="CAP", help="Add a capability, or ALL."),
    click.option("--cap-drop", multiple=True, metavar="CAP", help="Drop a capability, or ALL."),
    click.option("--privileged", is_flag=True, help="All that root may do inside the guest."),
    click.option("--security-opt", multiple=True, metavar="OPTION", help="seccomp=FILE|unconfined, no-new-privileges."),
    click.option("--sysctl", multiple=True, metavar="KEY=VALUE", help="A kernel parameter of the guest."),
    click.option("--ulimit", multiple=True, metavar="NAME=SOFT[:HARD]", help="A resource limit."),
    click.option("--pids-limit", type=int, metavar="N", help="The most processes."),
    click.option("--vmm", type=click.Choice(["auto", "qemu", "kvm"]), default="auto", help="The machine's driver."),
    click.option("--kernel", default="", metavar="FILE", help="Another guest kernel."),
    click.argument("image", shell_complete=images),
    click.argument("command", nargs=-1, type=click.UNPROCESSED),
)


def workload_options(command: Command) -> Command:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def run_options(values: dict[str, Any]) -> RunOptions:
    """From click's values. Errors: invalid_argument, local_file."""
    options = RunOptions(
        env=environment(values["env"], values["env_file"]),
        workdir=values["workdir"],
        user=values["user"],
        hostname=values["hostname"],
        labels=_pairs(values["label"], "--label"),
        ports=values["publish"],
        network=cast("Literal['default', 'none']", values["network"]),
        read_only=values["read_only"],
        tmpfs=values["tmpfs"],
        replace=values["replace"],
        pull=values["pull"],
        platform=values["platform"],
        cap_add=values["cap_add"],
        cap_drop=values["cap_drop"],
        privileged=values["privileged"],
        sysctls=_pairs(values["sysctl"], "--sysctl"),
        ulimits=values["ulimit"],
        vmm=values["vmm"],
        kernel=_absolute(values["kernel"]),
    )
    _add_given(options, values)
    _add_security(options, values["security_opt"])
    return options


def _add_given(options: RunOptions, values: dict[str, Any]) -> None:
    """Options for which "not given" means something else than any value."""
    if values["name"] is not None:
        options["name"] = values["name"]
        if not values["name"]:
            raise refusal("--name", "", "a name has at least one letter or digit")
    for key in ("entrypoint", "memory", "cpus", "disk", "stop_signal", "pids_limit"):
        if values[key] is not None:
            options[key] = values[key]
    if values["timeout"] is not None:
        options["timeout_s"] = parse_duration(values["timeout"], "--timeout")


def _add_security(options: RunOptions, words: Sequence[str]) -> None:
    for word in words:
        key, _, value = word.replace(":", "=", 1).partition("=")
        if key == "no-new-privileges" and value in ("", "true", "false"):
            options["no_new_privileges"] = value != "false"
        elif key == "seccomp" and value == "unconfined":
            options["seccomp"] = value
        elif key == "seccomp" and value:
            options["seccomp"] = _text_file(value, SECCOMP_MAX_BYTES)
        else:
            raise refusal("--security-opt", word, "there are seccomp=FILE, seccomp=unconfined and no-new-privileges")


def environment(words: Sequence[str], files: Sequence[str]) -> list[str]:
    """Docker's: files first, then -e; `KEY` alone takes this process's value, and is left out where it has none."""
    lines = [line for file in files for line in _variables(file)]
    found: dict[str, str] = {}
    for word in (*lines, *words):
        key, given, value = word.partition("=")
        if not key:
            raise refusal("--env", word, "it reads KEY=VALUE, or KEY to pass a variable on")
        if given:
            found[key] = value
        elif key in os.environ:
            found[key] = os.environ[key]
        else:
            found.pop(key, None)
    return [f"{key}={value}" for key, value in found.items()]


def _variables(file: str) -> list[str]:
    lines = [line.lstrip() for line in _text_file(file, ENV_FILE_MAX_BYTES).splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    for line in found:
        if any(character.isspace() for character in line.partition("=")[0]):
            raise refusal("--env-file", line, f"a line of {file} has a space in its variable's name")
    return found


def _text_file(path: str, limit_bytes: int) -> str:
    try:
        with Path(path).open("rb") as handle:
            data = handle.read(limit_bytes + 1)
    except OSError as error:
        raise local_file(path, error) from None
    if len(data) > limit_bytes:
        raise refusal("file", path, f"it is longer than {limit_bytes} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise refusal("file", path, "it is not UTF-8 text") from None


def _pairs(words: Sequence[str], option: str) -> dict[str, str]:
    pairs = {key: value for key, _, value in (word.partition("=") for word in words)}
    if "" in pairs:
        raise refusal(option, f"={pairs['']}", "it reads KEY=VALUE")
    return pairs


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if path else ""
