"""The command `sandboxd`: reads its configuration, becomes the only one, serves until it is told to end."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from sandboxd import __version__
from sandboxd.base.errors import SandboxdError
from sandboxd.core.config import Config, load_config
from sandboxd.linux.malloc import be_modest
from sandboxd.telemetry.logs import set_up_logging

FAILED_STATUS = 1
MALLOC_ARENAS = 1
MALLOC_THRESHOLD_BYTES = 256 << 10
LEVELS = ("debug", "info", "warning", "error")


def main(arguments: Sequence[str] | None = None) -> int:
    """Its exit status: 0 when it was told to end, 1 when it could not start."""
    options = _parse(arguments)
    be_modest(MALLOC_ARENAS, MALLOC_THRESHOLD_BYTES)
    set_up_logging(options.log_level, options.log_format)
    logging.getLogger("grpc").setLevel(logging.INFO)  # below that, a line for every call
    try:
        config = _configured(options)
        _serve(config)
    except SandboxdError as error:
        print(f"error: {error.message}\n  {error.cause}\n  {error.remedy}", file=sys.stderr)
        return FAILED_STATUS
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="sandboxd",
        description="Runs container images, each in a microVM of its own. Stays in the foreground.",
        epilog="Most people need not start it: sandboxctl does so by itself.",
    )
    parser.add_argument("--config", type=Path, help="instead of $SANDBOXD_CONFIG or /etc/sandboxd/config.toml")
    parser.add_argument("--socket", type=Path, help="instead of the configured one ($SANDBOXD_SOCKET)")
    parser.add_argument("--log-level", choices=LEVELS, default="info")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--version", action="version", version=f"sandboxd {__version__}")
    return parser.parse_args(arguments)


def _configured(options: argparse.Namespace) -> Config:
    config = load_config(options.config)
    named = options.socket or os.environ.get("SANDBOXD_SOCKET")
    return config.model_copy(update={"socket": Path(named).absolute()}) if named else config


def _serve(config: Config) -> None:
    # grpc is loaded only when the configuration is right: a wrong one is told at once.
    from sandboxd.daemon.daemon import Daemon
    from sandboxd.daemon.paths import Paths
    from sandboxd.daemon.process import only_one, raise_descriptor_limit

    paths = Paths.of(config)
    paths.make()

    async def serve() -> None:
        daemon = Daemon(config)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, daemon.end)
        await daemon.serve()

    raise_descriptor_limit()
    with only_one(paths):
        asyncio.run(serve())
