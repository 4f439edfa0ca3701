"""The gRPC service System. Answered also while the daemon still looks after what its predecessor left."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc.aio

from sandboxd import __version__
from sandboxd.api import sandboxd_pb2 as api
from sandboxd.api import sandboxd_pb2_grpc as api_grpc
from sandboxd.base.errors import SandboxdError
from sandboxd.core.config import Config
from sandboxd.core.lifecycle import State
from sandboxd.daemon.machines import Machines
from sandboxd.daemon.networks import Networks
from sandboxd.daemon.registry import Registry

API_VERSION = "1"

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class SystemService(api_grpc.SystemServicer):
    """One method per RPC of sandboxd.proto."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        machines: Machines,
        networks: Networks,
        shut_down: Callable[[], None],
    ) -> None:
        self._config = config
        self._registry = registry
        self._machines = machines
        self._networks = networks
        self._shut_down = shut_down

    async def Version(self, request: api.VersionRequest, context: Context) -> api.VersionResponse:
        return api.VersionResponse(version=__version__, api_version=API_VERSION, pid=os.getpid())

    async def Info(self, request: api.InfoRequest, context: Context) -> api.InfoResponse:
        driver, acceleration, reason = await self._choice()
        records = list(self._registry)
        return api.InfoResponse(
            version=__version__,
            pid=os.getpid(),
            sandboxes_running=sum(record.state in (State.RUNNING, State.PAUSED) for record in records),
            sandboxes_stopped=sum(not record.alive for record in records),
            vmm_driver=driver,
            acceleration=acceleration,
            acceleration_reason=reason,
            subnet=self._networks.subnet(),
            data_dir=str(self._config.data_dir),
            run_dir=str(self._config.run_dir),
            kernel=await self._machines.kernel(),
        )

    async def Shutdown(self, request: api.ShutdownRequest, context: Context) -> api.ShutdownResponse:
        self._shut_down()
        return api.ShutdownResponse()

    async def _choice(self) -> tuple[str, str, str]:
        """What starts run on; of a configured driver that cannot be had, the reason alone."""
        try:
            return await self._machines.describe()
        except SandboxdError as error:
            return "", "", f"{error.message}: {error.cause}"
