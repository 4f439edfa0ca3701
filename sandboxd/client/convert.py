"""From the API's messages to the SDK's records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from google.protobuf.message import Message

from sandboxd.api import sandboxd_pb2 as pb
from sandboxd.api import shim_pb2
from sandboxd.client import model

_STATES: dict[int, model.State] = {
    pb.STATE_CREATING: "creating",
    pb.STATE_CREATED: "created",
    pb.STATE_RUNNING: "running",
    pb.STATE_STOPPED: "stopped",
    pb.STATE_PAUSED: "paused",
}


def moment(unix_ns: int) -> datetime | None:
    """None for 0, which is how the API says "not yet"."""
    return datetime.fromtimestamp(unix_ns / 1e9, UTC) if unix_ns else None


def sandbox(message: pb.Sandbox) -> model.SandboxInfo:
    config = message.config
    return model.SandboxInfo(
        id=message.id,
        name=config.name,
        image=config.image,
        image_id=message.image_id,
        command=tuple(message.command or config.command),
        state=_STATES.get(message.state, "unknown"),
        created_at=moment(message.created_unix_ns),
        started_at=moment(message.started_unix_ns),
        exit=exit_status(message.exit) if message.HasField("exit") else None,
        address=message.address,
        ports=tuple(port(item) for item in message.ports),
        labels=dict(config.labels),
        config=plain(config),
        machine=machine(message.machine) if message.machine.vmm_pid else None,
    )


def port(message: pb.PortMapping) -> model.Port:
    return model.Port(message.bind, message.host_port, message.guest_port, message.protocol or "tcp")


def exit_status(message: shim_pb2.Exit) -> model.Exit:
    return model.Exit(message.exit_status, message.reason, message.detail, moment(message.exited_at_unix_ns))


def stages(messages: Iterable[shim_pb2.Stage]) -> tuple[model.Stage, ...]:
    return tuple(model.Stage(item.name, item.process, item.begin_ns, item.end_ns) for item in messages)


def machine(message: shim_pb2.DescribeResponse) -> model.Machine:
    return model.Machine(
        shim_pid=message.shim_pid,
        vmm_pid=message.vmm_pid,
        vmm_driver=message.vmm_driver,
        acceleration=message.acceleration,
        kernel_release=message.kernel_release,
        agent_version=message.agent_version,
        guest_memory_bytes=message.guest_memory_bytes,
        stages=stages(message.stages),
    )


def image(message: pb.Image) -> model.ImageInfo:
    return model.ImageInfo(
        id=message.id,
        references=tuple(message.references),
        digest=message.digest,
        architecture=message.architecture,
        size_bytes=message.size_bytes,
        created_at=moment(message.created_unix_ns),
        pulled_at=moment(message.pulled_unix_ns),
        used_by=tuple(message.used_by),
        config=_object(message.config_json),
    )


def progress(message: pb.ImageProgress) -> model.ImageProgress:
    return model.ImageProgress(message.stage, message.item, message.done_bytes, message.total_bytes)


def log_entry(message: pb.LogEntry) -> model.LogEntry:
    return model.LogEntry(message.unix_ns, "stderr" if message.stderr else "stdout", message.data)


def event(message: pb.Event) -> model.Event:
    return model.Event(
        at=datetime.fromtimestamp(message.unix_ns / 1e9, UTC),
        unix_ns=message.unix_ns,
        type=message.type,
        action=message.action,
        id=message.id,
        name=message.name,
        attributes=dict(message.attributes),
    )


def stats(message: pb.SandboxStats) -> model.Stats:
    return model.Stats(
        id=message.id,
        name=message.name,
        at=moment(message.unix_ns),
        cpu_ns=message.cpu_ns,
        cpu_percent=message.cpu_percent,
        memory_bytes=message.memory_bytes,
        memory_limit_bytes=message.memory_limit_bytes,
        host_memory_bytes=message.host_memory_bytes,
        host_cpu_ns=message.host_cpu_ns,
        network_rx_bytes=message.network_rx_bytes,
        network_tx_bytes=message.network_tx_bytes,
        disk_used_bytes=message.disk_used_bytes,
        disk_total_bytes=message.disk_total_bytes,
        block_read_bytes=message.block_read_bytes,
        block_write_bytes=message.block_write_bytes,
        pids=message.pids,
        oom_kills=message.oom_kills,
    )


def info(message: pb.InfoResponse) -> model.Info:
    return model.Info(
        version=message.version,
        pid=message.pid,
        sandboxes_running=message.sandboxes_running,
        sandboxes_stopped=message.sandboxes_stopped,
        vmm_driver=message.vmm_driver,
        acceleration=message.acceleration,
        acceleration_reason=message.acceleration_reason,
        subnet=message.subnet,
        data_dir=message.data_dir,
        run_dir=message.run_dir,
        kernel=message.kernel,
    )


def plain(message: Message) -> dict[str, object]:
    """Every field of a message as dicts, lists and scalars; 64-bit numbers stay numbers, unset optionals are None."""
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Message, field: Any) -> object:
    if field.has_presence and not message.HasField(field.name):
        return None
    value = getattr(message, field.name)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Message):
        return plain(value)
    if isinstance(value, str | bytes | int | float):
        return value
    return [plain(item) if isinstance(item, Message) else item for item in cast("Iterable[object]", value)]


def _object(text: str) -> dict[str, object]:
    """The image's own JSON; {} when it is none, since an image is not the caller's doing."""
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
