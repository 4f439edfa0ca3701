"""Generates sandboxd/api from proto/: `python tools/generate.py [OUT]`.

With OUT, writes there instead of the checkout: the freshness test compares the two.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
WITH_GRPC = {"sandboxd.proto"}


def generate(out: Path) -> None:
    """Writes `*_pb2.py`, `*_pb2.pyi` and, for the public API, `*_pb2_grpc.py` below OUT/sandboxd/api."""
    well_known = resources.files("grpc_tools") / "_proto"
    for proto in sorted((ROOT / "proto").rglob("*.proto")):
        arguments = ["protoc", f"-I{ROOT / 'proto'}", f"-I{well_known}", f"--python_out={out}", f"--pyi_out={out}"]
        if proto.name in WITH_GRPC:
            arguments.append(f"--grpc_python_out={out}")
        status = protoc.main([*arguments, str(proto)])
        if status:
            raise SystemExit(f"protoc failed on {proto}: status {status}")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
