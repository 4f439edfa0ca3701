"""The shim's entry: `serve RUN_DIR` looks after one sandbox until it is shut down; `-v` prints the version.

Imports nothing heavy: what serving needs is loaded when its socket listens already.
"""

from __future__ import annotations

import sys

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

            sys.exit(serve(run_dir))
        case _:
            print(USAGE, file=sys.stderr)
            sys.exit(2)
