"""The one place that names implementations: from a sandbox's record to the parts that run it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sandboxd.aio.ttrpc import ClientConnection
from sandboxd.api import agent_pb2
from sandboxd.base.clock import unix_ns
from sandboxd.base.errors import INVALID_ARGUMENT, SandboxdError
from sandboxd.core.spec import NetworkAttachment, SandboxSpec
from sandboxd.guest.client import AgentClient
from sandboxd.vmm.driver import Vmm
from sandboxd.vmm.spec import Confinement, Drive, MachineSpec, Nic

ENTROPY_BYTES = 64


def make_vmm(spec: SandboxSpec, drives: Sequence[Drive]) -> Vmm:
    """The machine of a sandbox with these drives, not booted."""
    machine = MachineSpec(
        id=spec.id,
        vcpus=spec.vcpus,
        memory_mib=spec.memory_mib,
        kernel=spec.kernel,
        initrd=spec.initrd,
        cmdline_extra=spec.cmdline_extra,
        drives=tuple(drives),
        nics=_nics(spec.network),
        acceleration=spec.acceleration,
    )
    confinement = Confinement(uid=spec.vmm_uid, gid=spec.vmm_uid, work_dir=spec.run_dir)
    if spec.driver == "qemu":
        from sandboxd.vmm.qemu import QemuVmm  # the other driver's process need not carry it

        return QemuVmm(machine, confinement)
    raise SandboxdError(
        INVALID_ARGUMENT, what="driver", value=spec.driver, reason="This version has the driver qemu.", command="run"
    )


def _nics(network: NetworkAttachment | None) -> tuple[Nic, ...]:
    return (Nic(tap=network.tap, mac=network.mac, mtu=network.mtu),) if network else ()


async def connect_agent(vmm: Vmm) -> AgentClient:
    """The agent's client over the machine's port; returns before the guest is up."""
    return AgentClient(await ClientConnection.from_socket(vmm.agent))


def activation(spec: SandboxSpec) -> agent_pb2.ActivateRequest:
    """What makes a guest this sandbox and no other: made anew for every boot, used once."""
    return agent_pb2.ActivateRequest(
        entropy=os.urandom(ENTROPY_BYTES),
        wall_clock_unix_ns=unix_ns(),
        hostname=spec.hostname,
        interfaces=[_interface(spec.network)] if spec.network else [],
    )


def _interface(network: NetworkAttachment) -> agent_pb2.Interface:
    routes = [agent_pb2.Route(destination=route.destination, gateway=route.gateway) for route in network.routes]
    return agent_pb2.Interface(mac=network.mac, mtu=network.mtu, addresses=network.addresses, routes=routes)
