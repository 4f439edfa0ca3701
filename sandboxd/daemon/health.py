"""What every gRPC tool asks first: grpc.health.v1 and server reflection, both from grpc's own packages."""

from __future__ import annotations

import grpc.aio
from grpc_health.v1 import _async as health_async
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

SERVICES = tuple(f"sandboxd.v1.{name}" for name in ("Sandboxes", "Images", "System"))


class Health:
    """One status for all services: NOT_SERVING until reconciled, and again when the daemon ends."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._servicer = health_async.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def serving(self) -> None:
        await self._set(health_pb2.HealthCheckResponse.SERVING)

    async def not_serving(self) -> None:
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def _set(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in (health.OVERALL_HEALTH, *SERVICES):
            await self._servicer.set(service, status)


def enable_reflection(server: grpc.aio.Server) -> None:
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
