"""The daemon's parts, put together: opened in order, served, closed in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os

import grpc.aio

from sandboxd.api import sandboxd_pb2_grpc
from sandboxd.base.errors import DAEMON_DIRECTORY_UNUSABLE, DAEMON_NOT_READY, SandboxdError
from sandboxd.core.config import Config
from sandboxd.daemon.create import Workshop
from sandboxd.daemon.events import EventBus
from sandboxd.daemon.execution import Executions
from sandboxd.daemon.health import Health, enable_reflection
from sandboxd.daemon.images import Images
from sandboxd.daemon.machines import Machines
from sandboxd.daemon.networks import Networks
from sandboxd.daemon.paths import Paths
from sandboxd.daemon.process import notify, pid_file
from sandboxd.daemon.reconcile import Reconciler, remove_cgroup_parent
from sandboxd.daemon.registry import Registry
from sandboxd.daemon.sandboxes import Sandboxes
from sandboxd.daemon.service_images import ImagesService
from sandboxd.daemon.service_sandboxes import SandboxesService
from sandboxd.daemon.service_system import SystemService
from sandboxd.daemon.status import ErrorInterceptor
from sandboxd.daemon.store import Store
from sandboxd.shim.launch import Zygote
from sandboxd.storage import DiskTemplates

READY_TIMEOUT_S = 60.0
"""How long a call waits for reconcile."""
STOP_GRACE_S = 1.0
"""For calls that are being answered when the daemon ends; streams are cut after it."""
MESSAGE_MAX_BYTES = 16 << 20
SOCKET_PATH_MAX_BYTES = 107
SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_MAX_BYTES),
    ("grpc.max_send_message_length", MESSAGE_MAX_BYTES),
    ("grpc.so_reuseport", 0),
)

_log = logging.getLogger(__name__)


class Daemon:
    """One daemon. `serve` returns when it was asked to end."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._paths = Paths.of(config)
        self._ending = asyncio.Event()
        self._reconciled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reconciler: Reconciler | None = None

    def end(self) -> None:
        """Asks it to end; sandboxes live on."""
        self._ending.set()

    async def serve(self) -> None:
        """Until `end`. Raises what makes a start impossible; then nothing of it is left."""
        async with contextlib.AsyncExitStack() as stack:
            store = await Store.open(self._paths.database)
            stack.push_async_callback(store.close)
            registry = Registry(store, self._config.limits.sandboxes)
            await registry.load()
            events = EventBus(store)
            images = Images(self._config, self._paths, registry, events)
            await images.open()
            stack.push_async_callback(images.close)
            machines = Machines(self._config, self._paths)
            stack.push_async_callback(machines.close)
            networks = Networks(self._config, self._paths)
            stack.push_async_callback(self._close_networks, networks, registry)
            disks = DiskTemplates(self._paths.disk_templates)
            zygote = Zygote()
            stack.push_async_callback(zygote.close)
            shop = Workshop(self._config, self._paths, registry, machines, networks, disks, zygote)
            sandboxes = Sandboxes(shop, events)
            stack.push_async_callback(sandboxes.close)
            executions = Executions(sandboxes, images, events, self._paths)
            stack.push_async_callback(executions.close)
            self._reconciler = Reconciler(shop, sandboxes)

            server = grpc.aio.server(interceptors=(ErrorInterceptor(self._ready),), options=SERVER_OPTIONS)
            health = Health(server)
            await health.not_serving()
            enable_reflection(server)
            _add_services(
                server,
                SandboxesService(sandboxes, images, events, self._paths, executions),
                ImagesService(images),
                SystemService(self._config, registry, machines, networks, self.end),
            )
            await self._listen(server)
            stack.push_async_callback(self._stop, server)
            stack.enter_context(pid_file(self._paths))
            machines.begin()
            zygote.begin()
            await self._run(health, networks)

    async def _run(self, health: Health, networks: Networks) -> None:
        assert self._reconciler
        reconciling = asyncio.create_task(self._reconciler.run())
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait({reconciling, ending}, return_when=asyncio.FIRST_COMPLETED)
            if reconciling.done():
                reconciling.result()
                self._reconciled.set_result(None)
                await health.serving()
                _log.info("sandboxd %d serves %s", os.getpid(), self._config.socket_path)
                notify("READY=1")
                networks.begin()
            await ending
        finally:
            notify("STOPPING=1")
            await health.not_serving()
            for task in (reconciling, ending):
                task.cancel()
            await asyncio.gather(reconciling, ending, return_exceptions=True)

    async def _ready(self) -> None:
        """Returns when calls can be answered. Raises daemon_not_ready with the stage that it is at."""
        if self._reconciled.done():
            return
        try:
            await asyncio.wait_for(asyncio.shield(self._reconciled), READY_TIMEOUT_S)
        except TimeoutError:
            stage = self._reconciler.stage if self._reconciler else ""
            raise SandboxdError(DAEMON_NOT_READY, waited_s=f"{READY_TIMEOUT_S:g}", stage=stage) from None

    async def _listen(self, server: grpc.aio.Server) -> None:
        path = self._config.socket_path
        if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
            reason = f"The path of a unix socket has at most {SOCKET_PATH_MAX_BYTES} bytes."
            raise SandboxdError(DAEMON_DIRECTORY_UNUSABLE, path=path, reason=reason)
        path.unlink(missing_ok=True)  # of a dead predecessor: we hold the lock
        # The socket is born with its final mode: between bind and chmod anyone could connect.
        before = os.umask(0o177)
        try:
            server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise SandboxdError(DAEMON_DIRECTORY_UNUSABLE, path=path, reason=f"{error}.") from None
        finally:
            os.umask(before)
        await server.start()

    async def _stop(self, server: grpc.aio.Server) -> None:
        await server.stop(STOP_GRACE_S)
        self._config.socket_path.unlink(missing_ok=True)

    async def _close_networks(self, networks: Networks, registry: Registry) -> None:
        """With nobody left, the network goes too."""
        none_alive = not any(record.alive for record in registry)
        await networks.close(remove=none_alive)
        if none_alive:
            await asyncio.to_thread(remove_cgroup_parent, self._paths.cgroup)


def _add_services(
    server: grpc.aio.Server, sandboxes: SandboxesService, images: ImagesService, system: SystemService
) -> None:
    # Generated functions, without types.
    sandboxd_pb2_grpc.add_SandboxesServicer_to_server(sandboxes, server)  # type: ignore[no-untyped-call]
    sandboxd_pb2_grpc.add_ImagesServicer_to_server(images, server)  # type: ignore[no-untyped-call]
    sandboxd_pb2_grpc.add_SystemServicer_to_server(system, server)  # type: ignore[no-untyped-call]
