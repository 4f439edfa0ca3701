"""sandboxd runs container images, each in a microVM of its own.

    with sandboxd.run("busybox") as sandbox:
        print(sandbox.exec(["uname", "-r"]).text)

The names of the SDK load on first use, because every part of the house imports this package.
"""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # By name, so that the import map sees what is true: this package itself needs none of its rooms.
    import importlib

    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    client = importlib.import_module("sandboxd.client")
    if name not in client.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(client, name)
