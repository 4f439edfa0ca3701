"""The shim's entry: `serve RUN_DIR` looks after one sandbox until it is shut down; `-v` prints the version.

`zygote` is for the daemon: a process that becomes shims quickly.

Imports nothing heavy: what serving needs is loaded when its socket listens already.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import sandboxd

USAGE = "usage: containerd-shim-sandboxd-v1 serve RUN_DIR | -v"


def main(arguments: list[str] | None = None) -> None:
    """Ends the process: 0 after an orderly end, 1 after a failure (told on stderr), 2 for a wrong command line."""
    match sys.argv[1:] if arguments is None else arguments:
        case ["-v" | "--version" | "version"]:
            print(f"{USAGE.split()[1]}:\n  Version: {sandboxd.__version__}")
        case ["serve", run_dir]:
            from sandboxd.shim.diet import leave_out

            leave_out()
            from sandboxd.shim.serve import serve

            _exit(serve(run_dir))
        case ["zygote", *_]:  # more words only make room for the command line of the shims that it becomes
            from sandboxd.shim.diet import leave_out

            leave_out()
            from sandboxd.shim.zygote import serve_zygote

            sys.exit(serve_zygote())
        case _:
            print(USAGE, file=sys.stderr)
            sys.exit(2)


def _exit(status: int) -> NoReturn:
    """At once: taking the interpreter apart, object by object, is a tenth of a second in which a sandbox still is."""
    sys.stderr.flush()
    os._exit(status)
