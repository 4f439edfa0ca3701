from sandboxd.api import shim_pb2 as _shim_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATE_CREATING: _ClassVar[State]
    STATE_CREATED: _ClassVar[State]
    STATE_RUNNING: _ClassVar[State]
    STATE_STOPPED: _ClassVar[State]
    STATE_PAUSED: _ClassVar[State]
STATE_UNSPECIFIED: State
STATE_CREATING: State
STATE_CREATED: State
STATE_RUNNING: State
STATE_STOPPED: State
STATE_PAUSED: State

class ErrorDetail(_message.Message):
    __slots__ = ("code", "message", "cause", "remedy", "context", "retryable", "exit_status")
    class ContextEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    EXIT_STATUS_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    cause: str
    remedy: str
    context: _containers.ScalarMap[str, str]
    retryable: bool
    exit_status: int
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., cause: _Optional[str] = ..., remedy: _Optional[str] = ..., context: _Optional[_Mapping[str, str]] = ..., retryable: _Optional[bool] = ..., exit_status: _Optional[int] = ...) -> None: ...

class PortMapping(_message.Message):
    __slots__ = ("bind", "host_port", "guest_port", "protocol")
    BIND_FIELD_NUMBER: _ClassVar[int]
    HOST_PORT_FIELD_NUMBER: _ClassVar[int]
    GUEST_PORT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    bind: str
    host_port: int
    guest_port: int
    protocol: str
    def __init__(self, bind: _Optional[str] = ..., host_port: _Optional[int] = ..., guest_port: _Optional[int] = ..., protocol: _Optional[str] = ...) -> None: ...

class SandboxConfig(_message.Message):
    __slots__ = ("name", "image", "command", "entrypoint", "env", "working_dir", "user", "hostname", "labels", "memory_bytes", "vcpus", "disk_bytes", "network", "ports", "read_only", "terminal", "stdin", "remove", "timeout_s", "pull", "platform", "vmm", "kernel", "cap_add", "cap_drop", "privileged", "tmpfs", "sysctls", "ulimits", "security_seccomp", "no_new_privileges", "cpus_milli", "stop_signal", "replace", "terminal_width", "terminal_height", "pids_limit")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class SysctlsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    ENTRYPOINT_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    WORKING_DIR_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    VCPUS_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    PULL_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    VMM_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    CAP_ADD_FIELD_NUMBER: _ClassVar[int]
    CAP_DROP_FIELD_NUMBER: _ClassVar[int]
    PRIVILEGED_FIELD_NUMBER: _ClassVar[int]
    TMPFS_FIELD_NUMBER: _ClassVar[int]
    SYSCTLS_FIELD_NUMBER: _ClassVar[int]
    ULIMITS_FIELD_NUMBER: _ClassVar[int]
    SECURITY_SECCOMP_FIELD_NUMBER: _ClassVar[int]
    NO_NEW_PRIVILEGES_FIELD_NUMBER: _ClassVar[int]
    CPUS_MILLI_FIELD_NUMBER: _ClassVar[int]
    STOP_SIGNAL_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_WIDTH_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    PIDS_LIMIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    image: str
    command: _containers.RepeatedScalarFieldContainer[str]
    entrypoint: str
    env: _containers.RepeatedScalarFieldContainer[str]
    working_dir: str
    user: str
    hostname: str
    labels: _containers.ScalarMap[str, str]
    memory_bytes: int
    vcpus: int
    disk_bytes: int
    network: str
    ports: _containers.RepeatedCompositeFieldContainer[PortMapping]
    read_only: bool
    terminal: bool
    stdin: bool
    remove: bool
    timeout_s: float
    pull: str
    platform: str
    vmm: str
    kernel: str
    cap_add: _containers.RepeatedScalarFieldContainer[str]
    cap_drop: _containers.RepeatedScalarFieldContainer[str]
    privileged: bool
    tmpfs: _containers.RepeatedScalarFieldContainer[str]
    sysctls: _containers.ScalarMap[str, str]
    ulimits: _containers.RepeatedScalarFieldContainer[str]
    security_seccomp: str
    no_new_privileges: bool
    cpus_milli: int
    stop_signal: str
    replace: bool
    terminal_width: int
    terminal_height: int
    pids_limit: int
    def __init__(self, name: _Optional[str] = ..., image: _Optional[str] = ..., command: _Optional[_Iterable[str]] = ..., entrypoint: _Optional[str] = ..., env: _Optional[_Iterable[str]] = ..., working_dir: _Optional[str] = ..., user: _Optional[str] = ..., hostname: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., memory_bytes: _Optional[int] = ..., vcpus: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., network: _Optional[str] = ..., ports: _Optional[_Iterable[_Union[PortMapping, _Mapping]]] = ..., read_only: _Optional[bool] = ..., terminal: _Optional[bool] = ..., stdin: _Optional[bool] = ..., remove: _Optional[bool] = ..., timeout_s: _Optional[float] = ..., pull: _Optional[str] = ..., platform: _Optional[str] = ..., vmm: _Optional[str] = ..., kernel: _Optional[str] = ..., cap_add: _Optional[_Iterable[str]] = ..., cap_drop: _Optional[_Iterable[str]] = ..., privileged: _Optional[bool] = ..., tmpfs: _Optional[_Iterable[str]] = ..., sysctls: _Optional[_Mapping[str, str]] = ..., ulimits: _Optional[_Iterable[str]] = ..., security_seccomp: _Optional[str] = ..., no_new_privileges: _Optional[bool] = ..., cpus_milli: _Optional[int] = ..., stop_signal: _Optional[str] = ..., replace: _Optional[bool] = ..., terminal_width: _Optional[int] = ..., terminal_height: _Optional[int] = ..., pids_limit: _Optional[int] = ...) -> None: ...

class Sandbox(_message.Message):
    __slots__ = ("id", "config", "state", "image_id", "created_unix_ns", "started_unix_ns", "exit", "address", "ports", "machine", "command")
    ID_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    id: str
    config: SandboxConfig
    state: State
    image_id: str
    created_unix_ns: int
    started_unix_ns: int
    exit: _shim_pb2.Exit
    address: str
    ports: _containers.RepeatedCompositeFieldContainer[PortMapping]
    machine: _shim_pb2.DescribeResponse
    command: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., config: _Optional[_Union[SandboxConfig, _Mapping]] = ..., state: _Optional[_Union[State, str]] = ..., image_id: _Optional[str] = ..., created_unix_ns: _Optional[int] = ..., started_unix_ns: _Optional[int] = ..., exit: _Optional[_Union[_shim_pb2.Exit, _Mapping]] = ..., address: _Optional[str] = ..., ports: _Optional[_Iterable[_Union[PortMapping, _Mapping]]] = ..., machine: _Optional[_Union[_shim_pb2.DescribeResponse, _Mapping]] = ..., command: _Optional[_Iterable[str]] = ...) -> None: ...

class CreateRequest(_message.Message):
    __slots__ = ("config",)
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    config: SandboxConfig
    def __init__(self, config: _Optional[_Union[SandboxConfig, _Mapping]] = ...) -> None: ...

class StartRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class Window(_message.Message):
    __slots__ = ("width", "height")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class ExecConfig(_message.Message):
    __slots__ = ("sandbox", "command", "env", "working_dir", "user", "terminal", "stdin", "detach", "privileged", "terminal_width", "terminal_height")
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    WORKING_DIR_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    DETACH_FIELD_NUMBER: _ClassVar[int]
    PRIVILEGED_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_WIDTH_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    sandbox: str
    command: _containers.RepeatedScalarFieldContainer[str]
    env: _containers.RepeatedScalarFieldContainer[str]
    working_dir: str
    user: str
    terminal: bool
    stdin: bool
    detach: bool
    privileged: bool
    terminal_width: int
    terminal_height: int
    def __init__(self, sandbox: _Optional[str] = ..., command: _Optional[_Iterable[str]] = ..., env: _Optional[_Iterable[str]] = ..., working_dir: _Optional[str] = ..., user: _Optional[str] = ..., terminal: _Optional[bool] = ..., stdin: _Optional[bool] = ..., detach: _Optional[bool] = ..., privileged: _Optional[bool] = ..., terminal_width: _Optional[int] = ..., terminal_height: _Optional[int] = ...) -> None: ...

class AttachConfig(_message.Message):
    __slots__ = ("sandbox", "stdin")
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    sandbox: str
    stdin: bool
    def __init__(self, sandbox: _Optional[str] = ..., stdin: _Optional[bool] = ...) -> None: ...

class RunConfig(_message.Message):
    __slots__ = ("config", "detach", "client_begin_ns")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    DETACH_FIELD_NUMBER: _ClassVar[int]
    CLIENT_BEGIN_NS_FIELD_NUMBER: _ClassVar[int]
    config: SandboxConfig
    detach: bool
    client_begin_ns: int
    def __init__(self, config: _Optional[_Union[SandboxConfig, _Mapping]] = ..., detach: _Optional[bool] = ..., client_begin_ns: _Optional[int] = ...) -> None: ...

class RunRequest(_message.Message):
    __slots__ = ("run", "exec", "attach", "stdin", "close_stdin", "resize", "signal")
    RUN_FIELD_NUMBER: _ClassVar[int]
    EXEC_FIELD_NUMBER: _ClassVar[int]
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    CLOSE_STDIN_FIELD_NUMBER: _ClassVar[int]
    RESIZE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    run: RunConfig
    exec: ExecConfig
    attach: AttachConfig
    stdin: bytes
    close_stdin: bool
    resize: Window
    signal: int
    def __init__(self, run: _Optional[_Union[RunConfig, _Mapping]] = ..., exec: _Optional[_Union[ExecConfig, _Mapping]] = ..., attach: _Optional[_Union[AttachConfig, _Mapping]] = ..., stdin: _Optional[bytes] = ..., close_stdin: _Optional[bool] = ..., resize: _Optional[_Union[Window, _Mapping]] = ..., signal: _Optional[int] = ...) -> None: ...

class ProcessOutput(_message.Message):
    __slots__ = ("sandbox", "stdout", "stderr", "exit", "progress", "stages", "started")
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    sandbox: Sandbox
    stdout: bytes
    stderr: bytes
    exit: _shim_pb2.Exit
    progress: ImageProgress
    stages: Stages
    started: bool
    def __init__(self, sandbox: _Optional[_Union[Sandbox, _Mapping]] = ..., stdout: _Optional[bytes] = ..., stderr: _Optional[bytes] = ..., exit: _Optional[_Union[_shim_pb2.Exit, _Mapping]] = ..., progress: _Optional[_Union[ImageProgress, _Mapping]] = ..., stages: _Optional[_Union[Stages, _Mapping]] = ..., started: _Optional[bool] = ...) -> None: ...

class Stages(_message.Message):
    __slots__ = ("stages",)
    STAGES_FIELD_NUMBER: _ClassVar[int]
    stages: _containers.RepeatedCompositeFieldContainer[_shim_pb2.Stage]
    def __init__(self, stages: _Optional[_Iterable[_Union[_shim_pb2.Stage, _Mapping]]] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("all", "labels", "filters")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ALL_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    all: bool
    labels: _containers.ScalarMap[str, str]
    filters: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, all: _Optional[bool] = ..., labels: _Optional[_Mapping[str, str]] = ..., filters: _Optional[_Iterable[str]] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("sandboxes",)
    SANDBOXES_FIELD_NUMBER: _ClassVar[int]
    sandboxes: _containers.RepeatedCompositeFieldContainer[Sandbox]
    def __init__(self, sandboxes: _Optional[_Iterable[_Union[Sandbox, _Mapping]]] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("id", "timeout_s")
    ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    timeout_s: float
    def __init__(self, id: _Optional[str] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class KillRequest(_message.Message):
    __slots__ = ("id", "signal")
    ID_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    id: str
    signal: int
    def __init__(self, id: _Optional[str] = ..., signal: _Optional[int] = ...) -> None: ...

class KillResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WaitRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RemoveRequest(_message.Message):
    __slots__ = ("id", "force")
    ID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    id: str
    force: bool
    def __init__(self, id: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class RemoveResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LogsRequest(_message.Message):
    __slots__ = ("id", "follow", "tail", "since_unix_ns", "until_unix_ns")
    ID_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    SINCE_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    id: str
    follow: bool
    tail: int
    since_unix_ns: int
    until_unix_ns: int
    def __init__(self, id: _Optional[str] = ..., follow: _Optional[bool] = ..., tail: _Optional[int] = ..., since_unix_ns: _Optional[int] = ..., until_unix_ns: _Optional[int] = ...) -> None: ...

class LogEntry(_message.Message):
    __slots__ = ("unix_ns", "stderr", "data")
    UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    unix_ns: int
    stderr: bool
    data: bytes
    def __init__(self, unix_ns: _Optional[int] = ..., stderr: _Optional[bool] = ..., data: _Optional[bytes] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ("ids", "stream")
    IDS_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    stream: bool
    def __init__(self, ids: _Optional[_Iterable[str]] = ..., stream: _Optional[bool] = ...) -> None: ...

class SandboxStats(_message.Message):
    __slots__ = ("id", "name", "unix_ns", "cpu_ns", "cpu_percent", "memory_bytes", "memory_limit_bytes", "host_memory_bytes", "host_cpu_ns", "network_rx_bytes", "network_tx_bytes", "disk_used_bytes", "disk_total_bytes", "pids", "oom_kills", "block_read_bytes", "block_write_bytes")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    CPU_NS_FIELD_NUMBER: _ClassVar[int]
    CPU_PERCENT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    HOST_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    HOST_CPU_NS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_RX_BYTES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_TX_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    PIDS_FIELD_NUMBER: _ClassVar[int]
    OOM_KILLS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    BLOCK_WRITE_BYTES_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    unix_ns: int
    cpu_ns: int
    cpu_percent: float
    memory_bytes: int
    memory_limit_bytes: int
    host_memory_bytes: int
    host_cpu_ns: int
    network_rx_bytes: int
    network_tx_bytes: int
    disk_used_bytes: int
    disk_total_bytes: int
    pids: int
    oom_kills: int
    block_read_bytes: int
    block_write_bytes: int
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., unix_ns: _Optional[int] = ..., cpu_ns: _Optional[int] = ..., cpu_percent: _Optional[float] = ..., memory_bytes: _Optional[int] = ..., memory_limit_bytes: _Optional[int] = ..., host_memory_bytes: _Optional[int] = ..., host_cpu_ns: _Optional[int] = ..., network_rx_bytes: _Optional[int] = ..., network_tx_bytes: _Optional[int] = ..., disk_used_bytes: _Optional[int] = ..., disk_total_bytes: _Optional[int] = ..., pids: _Optional[int] = ..., oom_kills: _Optional[int] = ..., block_read_bytes: _Optional[int] = ..., block_write_bytes: _Optional[int] = ...) -> None: ...

class EventsRequest(_message.Message):
    __slots__ = ("follow", "since_unix_ns", "filters")
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    SINCE_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    follow: bool
    since_unix_ns: int
    filters: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, follow: _Optional[bool] = ..., since_unix_ns: _Optional[int] = ..., filters: _Optional[_Iterable[str]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("unix_ns", "type", "action", "id", "name", "attributes")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    unix_ns: int
    type: str
    action: str
    id: str
    name: str
    attributes: _containers.ScalarMap[str, str]
    def __init__(self, unix_ns: _Optional[int] = ..., type: _Optional[str] = ..., action: _Optional[str] = ..., id: _Optional[str] = ..., name: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ...) -> None: ...

class CopyInRequest(_message.Message):
    __slots__ = ("target", "data")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    target: CopyTarget
    data: bytes
    def __init__(self, target: _Optional[_Union[CopyTarget, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class CopyTarget(_message.Message):
    __slots__ = ("id", "path", "keep_owner")
    ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    KEEP_OWNER_FIELD_NUMBER: _ClassVar[int]
    id: str
    path: str
    keep_owner: bool
    def __init__(self, id: _Optional[str] = ..., path: _Optional[str] = ..., keep_owner: _Optional[bool] = ...) -> None: ...

class CopyInResponse(_message.Message):
    __slots__ = ("files",)
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: int
    def __init__(self, files: _Optional[int] = ...) -> None: ...

class CopyOutRequest(_message.Message):
    __slots__ = ("id", "path", "follow")
    ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    id: str
    path: str
    follow: bool
    def __init__(self, id: _Optional[str] = ..., path: _Optional[str] = ..., follow: _Optional[bool] = ...) -> None: ...

class CopyChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class StatPathRequest(_message.Message):
    __slots__ = ("id", "path", "follow")
    ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    id: str
    path: str
    follow: bool
    def __init__(self, id: _Optional[str] = ..., path: _Optional[str] = ..., follow: _Optional[bool] = ...) -> None: ...

class StatPathResponse(_message.Message):
    __slots__ = ("exists", "mode", "size", "symlink_target")
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SYMLINK_TARGET_FIELD_NUMBER: _ClassVar[int]
    exists: bool
    mode: int
    size: int
    symlink_target: str
    def __init__(self, exists: _Optional[bool] = ..., mode: _Optional[int] = ..., size: _Optional[int] = ..., symlink_target: _Optional[str] = ...) -> None: ...

class ProcessesResponse(_message.Message):
    __slots__ = ("pids",)
    PIDS_FIELD_NUMBER: _ClassVar[int]
    pids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, pids: _Optional[_Iterable[int]] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("id", "references", "architecture", "size_bytes", "created_unix_ns", "digest", "config_json", "used_by", "pulled_unix_ns")
    ID_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    USED_BY_FIELD_NUMBER: _ClassVar[int]
    PULLED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    id: str
    references: _containers.RepeatedScalarFieldContainer[str]
    architecture: str
    size_bytes: int
    created_unix_ns: int
    digest: str
    config_json: str
    used_by: _containers.RepeatedScalarFieldContainer[str]
    pulled_unix_ns: int
    def __init__(self, id: _Optional[str] = ..., references: _Optional[_Iterable[str]] = ..., architecture: _Optional[str] = ..., size_bytes: _Optional[int] = ..., created_unix_ns: _Optional[int] = ..., digest: _Optional[str] = ..., config_json: _Optional[str] = ..., used_by: _Optional[_Iterable[str]] = ..., pulled_unix_ns: _Optional[int] = ...) -> None: ...

class PullRequest(_message.Message):
    __slots__ = ("reference", "platform", "username", "password", "tls_verify", "ca_file")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    TLS_VERIFY_FIELD_NUMBER: _ClassVar[int]
    CA_FILE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    platform: str
    username: str
    password: str
    tls_verify: bool
    ca_file: str
    def __init__(self, reference: _Optional[str] = ..., platform: _Optional[str] = ..., username: _Optional[str] = ..., password: _Optional[str] = ..., tls_verify: _Optional[bool] = ..., ca_file: _Optional[str] = ...) -> None: ...

class LoadRequest(_message.Message):
    __slots__ = ("path", "tag")
    PATH_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    path: str
    tag: str
    def __init__(self, path: _Optional[str] = ..., tag: _Optional[str] = ...) -> None: ...

class ImageProgress(_message.Message):
    __slots__ = ("stage", "item", "done_bytes", "total_bytes", "image")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    DONE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    stage: str
    item: str
    done_bytes: int
    total_bytes: int
    image: Image
    def __init__(self, stage: _Optional[str] = ..., item: _Optional[str] = ..., done_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., image: _Optional[_Union[Image, _Mapping]] = ...) -> None: ...

class ListImagesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListImagesResponse(_message.Message):
    __slots__ = ("images",)
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[Image]
    def __init__(self, images: _Optional[_Iterable[_Union[Image, _Mapping]]] = ...) -> None: ...

class GetImageRequest(_message.Message):
    __slots__ = ("reference",)
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    def __init__(self, reference: _Optional[str] = ...) -> None: ...

class RemoveImageRequest(_message.Message):
    __slots__ = ("reference", "force")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    force: bool
    def __init__(self, reference: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class RemoveImageResponse(_message.Message):
    __slots__ = ("removed", "freed_bytes")
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    removed: _containers.RepeatedScalarFieldContainer[str]
    freed_bytes: int
    def __init__(self, removed: _Optional[_Iterable[str]] = ..., freed_bytes: _Optional[int] = ...) -> None: ...

class VersionRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VersionResponse(_message.Message):
    __slots__ = ("version", "api_version", "pid")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    API_VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    version: str
    api_version: str
    pid: int
    def __init__(self, version: _Optional[str] = ..., api_version: _Optional[str] = ..., pid: _Optional[int] = ...) -> None: ...

class InfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InfoResponse(_message.Message):
    __slots__ = ("version", "pid", "sandboxes_running", "sandboxes_stopped", "vmm_driver", "acceleration", "acceleration_reason", "subnet", "data_dir", "run_dir", "kernel")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    SANDBOXES_RUNNING_FIELD_NUMBER: _ClassVar[int]
    SANDBOXES_STOPPED_FIELD_NUMBER: _ClassVar[int]
    VMM_DRIVER_FIELD_NUMBER: _ClassVar[int]
    ACCELERATION_FIELD_NUMBER: _ClassVar[int]
    ACCELERATION_REASON_FIELD_NUMBER: _ClassVar[int]
    SUBNET_FIELD_NUMBER: _ClassVar[int]
    DATA_DIR_FIELD_NUMBER: _ClassVar[int]
    RUN_DIR_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    version: str
    pid: int
    sandboxes_running: int
    sandboxes_stopped: int
    vmm_driver: str
    acceleration: str
    acceleration_reason: str
    subnet: str
    data_dir: str
    run_dir: str
    kernel: str
    def __init__(self, version: _Optional[str] = ..., pid: _Optional[int] = ..., sandboxes_running: _Optional[int] = ..., sandboxes_stopped: _Optional[int] = ..., vmm_driver: _Optional[str] = ..., acceleration: _Optional[str] = ..., acceleration_reason: _Optional[str] = ..., subnet: _Optional[str] = ..., data_dir: _Optional[str] = ..., run_dir: _Optional[str] = ..., kernel: _Optional[str] = ...) -> None: ...

class ShutdownRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShutdownResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
