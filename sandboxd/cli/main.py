"""`sandboxctl`: from the arguments to an exit status.

`version` has a budget of a few milliseconds, so nothing here is imported before it is needed.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

PROGRAM = "sandboxctl"
MAIN_NS = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
"""When this program's own code began; the first stage of `run --timings` ends here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: docker's. 125 for what the command line or the daemon refuses, else what the command says.

    Without `arguments` it is the whole program, and does not return.
    """
    if arguments is None:
        _end(_status(sys.argv[1:]))
    return _status(list(arguments))


def _status(words: list[str]) -> int:
    if words in (["version"], ["--version"]):
        from sandboxd.cli.version import show

        return show(words == ["--version"])
    from sandboxd.cli.app import run

    return run(words)


def _end(status: int) -> NoReturn:
    """Ends the process. Taking the interpreter and gRPC apart first costs 20 ms, and the kernel does it as well."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: it was closed before we began
        try:
            stream.flush()
        except OSError:
            continue  # whoever read it is gone
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
