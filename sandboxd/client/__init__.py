"""The SDK: sandboxes and images from Python, synchronous and asynchronous, with one vocabulary.

    with sandboxd.run("busybox") as sandbox:
        print(sandbox.exec(["uname", "-r"]).text)

    async with AsyncClient() as client, await client.run("busybox") as sandbox:
        print((await sandbox.exec(["uname", "-r"])).text)

Every failure is a `SandboxdError` of one catalogue (`error.kind.code`); records are frozen dataclasses. Everything here
loads on first use, because gRPC is heavy and `sandboxd.client.locate` must not be.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandboxd.base.errors import SandboxdError
    from sandboxd.client.aio import AsyncClient
    from sandboxd.client.images import AsyncImages
    from sandboxd.client.model import (
        Event,
        ExecResult,
        Exit,
        ImageInfo,
        ImageProgress,
        ImageRemoval,
        Info,
        LogEntry,
        Machine,
        Output,
        PathInfo,
        Port,
        SandboxInfo,
        Stage,
        Stats,
        Version,
    )
    from sandboxd.client.options import RunOptions
    from sandboxd.client.process import AsyncProcess
    from sandboxd.client.sandbox import AsyncSandbox
    from sandboxd.client.sync import Client, Images, Process, Sandbox, run

_HOME = {
    "SandboxdError": "sandboxd.base.errors",
    "AsyncClient": "sandboxd.client.aio",
    "AsyncImages": "sandboxd.client.images",
    "AsyncProcess": "sandboxd.client.process",
    "AsyncSandbox": "sandboxd.client.sandbox",
    "RunOptions": "sandboxd.client.options",
    **dict.fromkeys(("Client", "Images", "Process", "Sandbox", "run"), "sandboxd.client.sync"),
    **dict.fromkeys(
        (
            "Event",
            "ExecResult",
            "Exit",
            "ImageInfo",
            "ImageProgress",
            "ImageRemoval",
            "Info",
            "LogEntry",
            "Machine",
            "Output",
            "PathInfo",
            "Port",
            "SandboxInfo",
            "Stage",
            "Stats",
            "Version",
        ),
        "sandboxd.client.model",
    ),
}

__all__ = [
    "AsyncClient",
    "AsyncImages",
    "AsyncProcess",
    "AsyncSandbox",
    "Client",
    "Event",
    "ExecResult",
    "Exit",
    "ImageInfo",
    "ImageProgress",
    "ImageRemoval",
    "Images",
    "Info",
    "LogEntry",
    "Machine",
    "Output",
    "PathInfo",
    "Port",
    "Process",
    "RunOptions",
    "Sandbox",
    "SandboxInfo",
    "SandboxdError",
    "Stage",
    "Stats",
    "Version",
    "run",
]


def __getattr__(name: str) -> object:
    import importlib

    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
