"""What a shim leaves out of its memory, though its libraries would load it: one shim runs for every sandbox.

Measured: 2.3 of 25 MB, and about a tenth of the start-up time. Both stand-ins fail loudly (AttributeError, ImportError)
if anything here ever came to use what they leave out.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import cast


def leave_out() -> None:
    """Has to come before asyncio, pydantic or qemu.qmp is imported."""
    _leave_out_tls()
    _leave_out_plugins()


def _leave_out_tls() -> None:
    """A shim speaks over unix sockets alone. asyncio does without `ssl`; qemu.qmp wants one name of it, for a type."""
    sys.modules["ssl"] = cast(ModuleType, None)
    import asyncio  # noqa: F401 (now, as long as there is no ssl)

    stand_in = ModuleType("ssl")
    stand_in.__dict__["SSLContext"] = type("SSLContext", (), {})
    sys.modules["ssl"] = stand_in


def _leave_out_plugins() -> None:
    """pydantic looks for plugins in the metadata of everything installed; a shim takes none, whoever installed it.

    With it stay away: email, csv, zipfile, lzma, bz2.
    """
    stand_in = ModuleType("importlib.metadata")
    stand_in.__dict__["entry_points"] = lambda **_: ()
    stand_in.__dict__["distributions"] = lambda **_: ()
    sys.modules["importlib.metadata"] = stand_in
