"""What a shim does for the first time at its start, done once before: in the zygote, whose memory shims begin with.

Loaded modules, validators that pydantic builds when they are first used, protobuf's tables. Nothing here may be of one
sandbox, read anything of the host that can change, or draw random numbers that are kept.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

# Loaded late by those who need them.
import sandboxd.shim.server
import sandboxd.vmm.qemu
import sandboxd.vmm.qemu.control  # noqa: F401
from sandboxd.api import agent_pb2, shim_pb2
from sandboxd.core.oci.compile import compile_container
from sandboxd.core.oci.generate import ContainerOptions, ImageRuntimeConfig, container_config
from sandboxd.core.oci.rootfs import RootfsMount
from sandboxd.core.oci.spec import parse_spec
from sandboxd.core.spec import NetworkAttachment, Route, SandboxSpec

_NOWHERE = Path("/nonexistent")


def warm_up() -> None:
    """Goes once through what a start computes, with a sandbox that never is."""
    _specification()
    _container()
    asyncio.run(_nothing())


def _specification() -> None:
    route = Route(destination="0.0.0.0/0", gateway="10.0.0.1")
    network = NetworkAttachment(tap="t0", mac="02:00:00:00:00:01", addresses=("10.0.0.2/24",), routes=(route,))
    spec = SandboxSpec(
        id="warm",
        driver="qemu",
        acceleration="tcg",
        kernel=_NOWHERE,
        initrd=_NOWHERE,
        vcpus=1,
        memory_mib=128,
        hostname="warm",
        network=network,
        vmm_uid=1,
        cgroup="warm/warm",
        run_dir=_NOWHERE,
        data_dir=_NOWHERE,
    )
    SandboxSpec.model_validate_json(spec.model_dump_json())


def _container() -> None:
    config = container_config(ImageRuntimeConfig(), ContainerOptions(command=("true",)))
    rootfs = (
        RootfsMount("ext4", "/nonexistent", "", ("rw", "loop")),
        RootfsMount("erofs", "/nonexistent", "", ("ro", "loop")),
        RootfsMount("format/mkdir/overlay", "overlay", "", ("upperdir={{ mount 0 }}/u", "lowerdir={{ mount 1 }}")),
    )
    compiled = compile_container(parse_spec(json.dumps(config).encode()), container_id="warm", rootfs=rootfs)
    agent_pb2.CreateContainerRequest(container_id="warm", plan=compiled.plan).SerializeToString()
    shim_pb2.DescribeResponse(stages=[shim_pb2.Stage(name="warm")]).SerializeToString()


async def _nothing() -> None:
    """An event loop's first turn."""
