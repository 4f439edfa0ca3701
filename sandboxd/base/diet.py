"""Leaving out what a library would load and this program never uses. Each has to come before the library itself."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any, cast


def asyncio_without_tls() -> None:
    """Imports asyncio as on a Python that was built without OpenSSL: 5 ms less. A later `import ssl` works as ever."""
    if "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    sys.modules["ssl"] = cast(ModuleType, None)
    import asyncio  # noqa: F401 (now, as long as there is no ssl)

    del sys.modules["ssl"]


def protobuf_without_python() -> None:
    """protobuf loads its implementation in Python also where the one in C is in use: 5 ms and a megabyte.

    Here it is loaded when somebody uses it, which is never where there is the one in C.
    """
    name = "google.protobuf.internal.python_message"
    sys.modules.setdefault(name, _WhenUsed(name))


class _WhenUsed(ModuleType):
    def __getattr__(self, attribute: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), attribute)
