"""`sandboxctl`: from the arguments to an exit status.

`version` has a budget of a few milliseconds, so nothing here is imported before it is needed.
"""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "sandboxctl"
MAIN_NS = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
"""When this program's own code began; the first stage of `run --timings` ends here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: docker's. 125 for what the command line or the daemon refuses, else what the command says."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in (["version"], ["--version"]):
        from sandboxd.cli.version import show

        return show(words == ["--version"])
    from sandboxd.cli.app import run

    return run(words)


if __name__ == "__main__":
    sys.exit(main())
