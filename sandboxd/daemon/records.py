"""What the daemon remembers of a sandbox and of what happened: frozen values, one row each."""

from __future__ import annotations

from dataclasses import dataclass, field

from sandboxd.api import sandboxd_pb2 as api
from sandboxd.api import shim_pb2
from sandboxd.core.lifecycle import State

_API_STATES = {
    State.CREATING: api.STATE_CREATING,
    State.CREATED: api.STATE_CREATED,
    State.RUNNING: api.STATE_RUNNING,
    State.PAUSED: api.STATE_PAUSED,
    State.STOPPED: api.STATE_STOPPED,
}


@dataclass(frozen=True, slots=True)
class Exit:
    """How a sandbox's first process ended; `reason` is one of shim.proto's words."""

    exit_status: int
    exited_at_unix_ns: int
    reason: str
    detail: str = ""

    def to_api(self) -> shim_pb2.Exit:
        return shim_pb2.Exit(
            exit_status=self.exit_status,
            exited_at_unix_ns=self.exited_at_unix_ns,
            reason=self.reason,
            detail=self.detail,
        )


@dataclass(frozen=True, slots=True)
class Port:
    """A published port as it was resolved."""

    bind: str
    host_port: int
    guest_port: int
    protocol: str

    def to_api(self) -> api.PortMapping:
        return api.PortMapping(
            bind=self.bind, host_port=self.host_port, guest_port=self.guest_port, protocol=self.protocol
        )


@dataclass(frozen=True, slots=True)
class SandboxRecord:
    """One row of `sandboxes`."""

    id: str
    name: str
    state: State
    config: bytes
    """SandboxConfig, serialised, defaults filled in."""
    image_id: str
    command: tuple[str, ...]
    """The effective argv."""
    created_unix_ns: int
    boot_id: str
    """Of the host when it was created: another one means that its machine is gone."""
    started_unix_ns: int = 0
    slot: int | None = None
    """Held while anything of it exists on the host; None afterwards."""
    address: str = ""
    ports: tuple[Port, ...] = ()
    exit: Exit | None = None

    @property
    def alive(self) -> bool:
        """A machine exists, or is about to."""
        return self.state is not State.STOPPED

    def parsed_config(self) -> api.SandboxConfig:
        return api.SandboxConfig.FromString(self.config)

    def to_api(self) -> api.Sandbox:
        sandbox = api.Sandbox(
            id=self.id,
            config=self.parsed_config(),
            state=_API_STATES[self.state],
            image_id=self.image_id,
            created_unix_ns=self.created_unix_ns,
            started_unix_ns=self.started_unix_ns,
            address=self.address,
            ports=[port.to_api() for port in self.ports],
            command=self.command,
        )
        sandbox.config.name = self.name  # which the daemon may have chosen
        if self.exit is not None:
            sandbox.exit.CopyFrom(self.exit.to_api())
        return sandbox


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One row of `events`."""

    unix_ns: int
    type: str
    action: str
    id: str
    name: str = ""
    attributes: dict[str, str] = field(default_factory=dict)

    def to_api(self) -> api.Event:
        return api.Event(
            unix_ns=self.unix_ns,
            type=self.type,
            action=self.action,
            id=self.id,
            name=self.name,
            attributes=self.attributes,
        )
