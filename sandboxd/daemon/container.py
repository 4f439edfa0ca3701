"""From a request and its image to the container's OCI spec: the API's words in those of sandboxd.core.oci.generate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sandboxd.api import sandboxd_pb2 as api
from sandboxd.core.oci.generate import ContainerOptions, ImageRuntimeConfig, container_config, effective_command
from sandboxd.daemon.request import Request
from sandboxd.daemon.signals import parse_signal
from sandboxd.image.record import ImageRecord

DEFAULT_STOP_SIGNAL = "SIGTERM"


@dataclass(frozen=True, slots=True)
class Container:
    """A container that can be made; only its host name may still be missing."""

    config: api.SandboxConfig
    """The request's, with what the image decides filled in."""
    argv: tuple[str, ...]
    spec: Callable[[str], dict[str, Any]]
    """config.json for a host name."""


def compose(request: Request, image: ImageRecord) -> Container:
    """Raises what the image makes wrong of the request: no_command, unknown_user, invalid_argument and the like."""
    config = api.SandboxConfig()
    config.CopyFrom(request.config)
    if not config.HasField("stop_signal"):
        # An image's nonsense is no reason not to run it.
        config.stop_signal = image.stop_signal if parse_signal(image.stop_signal) else DEFAULT_STOP_SIGNAL
    runtime, options = _runtime(image), _options(config)

    def spec(hostname: str) -> dict[str, Any]:
        return container_config(runtime, replace(options, hostname=hostname))

    spec(config.hostname or "sandbox")  # refused here or never
    return Container(config, tuple(effective_command(runtime, options)), spec)


def _runtime(image: ImageRecord) -> ImageRuntimeConfig:
    return ImageRuntimeConfig(
        entrypoint=image.entrypoint,
        cmd=image.cmd,
        env=image.env,
        working_dir=image.working_dir,
        user=image.user,
        stop_signal=image.stop_signal,
        volumes=image.volumes,
        labels=image.labels,
        passwd=image.passwd,
        group=image.group,
    )


def _options(config: api.SandboxConfig) -> ContainerOptions:
    entrypoint = None
    if config.HasField("entrypoint"):
        entrypoint = (config.entrypoint,) if config.entrypoint else ()
    # The machine itself is the limit of memory, and of CPUs unless less than a whole number was asked for.
    whole = config.cpus_milli == config.vcpus * 1000
    return ContainerOptions(
        command=tuple(config.command),
        entrypoint=entrypoint,
        env=tuple(config.env),
        working_dir=config.working_dir,
        user=config.user,
        terminal=config.terminal,
        terminal_width=config.terminal_width,
        terminal_height=config.terminal_height,
        read_only=config.read_only,
        cap_add=tuple(config.cap_add),
        cap_drop=tuple(config.cap_drop),
        privileged=config.privileged,
        tmpfs=tuple(config.tmpfs),
        sysctls=dict(config.sysctls),
        ulimits=tuple(config.ulimits),
        seccomp=config.security_seccomp,
        no_new_privileges=config.no_new_privileges,
        stop_signal=config.stop_signal,
        pids_limit=config.pids_limit,
        cpus_milli=0 if whole else config.cpus_milli,
        labels=dict(config.labels),
    )
