"""Modules that are loaded when one of their names is used first.

A start takes a machine's time: what is only needed to understand the daemon's answers is loaded while it works.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class _Later:
    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


def later(name: str) -> Any:
    """Stands for the module `name`. For the type checker, import it under TYPE_CHECKING."""
    return _Later(name)
