from sandboxd.api import agent_pb2 as _agent_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AttachRequest(_message.Message):
    __slots__ = ("id", "exec_id", "stdin", "stdout", "stderr")
    ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    id: str
    exec_id: str
    stdin: str
    stdout: str
    stderr: str
    def __init__(self, id: _Optional[str] = ..., exec_id: _Optional[str] = ..., stdin: _Optional[str] = ..., stdout: _Optional[str] = ..., stderr: _Optional[str] = ...) -> None: ...

class AttachResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Stage(_message.Message):
    __slots__ = ("name", "process", "begin_ns", "end_ns")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    BEGIN_NS_FIELD_NUMBER: _ClassVar[int]
    END_NS_FIELD_NUMBER: _ClassVar[int]
    name: str
    process: str
    begin_ns: int
    end_ns: int
    def __init__(self, name: _Optional[str] = ..., process: _Optional[str] = ..., begin_ns: _Optional[int] = ..., end_ns: _Optional[int] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("shim_pid", "vmm_pid", "vmm_driver", "acceleration", "kernel_release", "agent_version", "stages", "guest_memory_bytes")
    SHIM_PID_FIELD_NUMBER: _ClassVar[int]
    VMM_PID_FIELD_NUMBER: _ClassVar[int]
    VMM_DRIVER_FIELD_NUMBER: _ClassVar[int]
    ACCELERATION_FIELD_NUMBER: _ClassVar[int]
    KERNEL_RELEASE_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    GUEST_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    shim_pid: int
    vmm_pid: int
    vmm_driver: str
    acceleration: str
    kernel_release: str
    agent_version: str
    stages: _containers.RepeatedCompositeFieldContainer[Stage]
    guest_memory_bytes: int
    def __init__(self, shim_pid: _Optional[int] = ..., vmm_pid: _Optional[int] = ..., vmm_driver: _Optional[str] = ..., acceleration: _Optional[str] = ..., kernel_release: _Optional[str] = ..., agent_version: _Optional[str] = ..., stages: _Optional[_Iterable[_Union[Stage, _Mapping]]] = ..., guest_memory_bytes: _Optional[int] = ...) -> None: ...

class StatisticsRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class StatisticsResponse(_message.Message):
    __slots__ = ("guest", "host_memory_bytes", "host_cpu_ns")
    GUEST_FIELD_NUMBER: _ClassVar[int]
    HOST_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    HOST_CPU_NS_FIELD_NUMBER: _ClassVar[int]
    guest: _agent_pb2.StatsResponse
    host_memory_bytes: int
    host_cpu_ns: int
    def __init__(self, guest: _Optional[_Union[_agent_pb2.StatsResponse, _Mapping]] = ..., host_memory_bytes: _Optional[int] = ..., host_cpu_ns: _Optional[int] = ...) -> None: ...

class WaitExitRequest(_message.Message):
    __slots__ = ("id", "exec_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    exec_id: str
    def __init__(self, id: _Optional[str] = ..., exec_id: _Optional[str] = ...) -> None: ...

class Exit(_message.Message):
    __slots__ = ("exit_status", "exited_at_unix_ns", "reason", "detail")
    EXIT_STATUS_FIELD_NUMBER: _ClassVar[int]
    EXITED_AT_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    exit_status: int
    exited_at_unix_ns: int
    reason: str
    detail: str
    def __init__(self, exit_status: _Optional[int] = ..., exited_at_unix_ns: _Optional[int] = ..., reason: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...
