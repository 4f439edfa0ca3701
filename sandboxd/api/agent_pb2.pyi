from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Stream(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STREAM_UNSPECIFIED: _ClassVar[Stream]
    STREAM_STDOUT: _ClassVar[Stream]
    STREAM_STDERR: _ClassVar[Stream]
STREAM_UNSPECIFIED: Stream
STREAM_STDOUT: Stream
STREAM_STDERR: Stream

class HelloRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HelloResponse(_message.Message):
    __slots__ = ("agent_version", "kernel_release", "kernel_version", "started_boottime_ns", "modules_boottime_ns", "now_boottime_ns", "memory_bytes", "vcpus")
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    KERNEL_RELEASE_FIELD_NUMBER: _ClassVar[int]
    KERNEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    STARTED_BOOTTIME_NS_FIELD_NUMBER: _ClassVar[int]
    MODULES_BOOTTIME_NS_FIELD_NUMBER: _ClassVar[int]
    NOW_BOOTTIME_NS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    VCPUS_FIELD_NUMBER: _ClassVar[int]
    agent_version: str
    kernel_release: str
    kernel_version: str
    started_boottime_ns: int
    modules_boottime_ns: int
    now_boottime_ns: int
    memory_bytes: int
    vcpus: int
    def __init__(self, agent_version: _Optional[str] = ..., kernel_release: _Optional[str] = ..., kernel_version: _Optional[str] = ..., started_boottime_ns: _Optional[int] = ..., modules_boottime_ns: _Optional[int] = ..., now_boottime_ns: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., vcpus: _Optional[int] = ...) -> None: ...

class ActivateRequest(_message.Message):
    __slots__ = ("entropy", "wall_clock_unix_ns", "hostname", "interfaces")
    ENTROPY_FIELD_NUMBER: _ClassVar[int]
    WALL_CLOCK_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    INTERFACES_FIELD_NUMBER: _ClassVar[int]
    entropy: bytes
    wall_clock_unix_ns: int
    hostname: str
    interfaces: _containers.RepeatedCompositeFieldContainer[Interface]
    def __init__(self, entropy: _Optional[bytes] = ..., wall_clock_unix_ns: _Optional[int] = ..., hostname: _Optional[str] = ..., interfaces: _Optional[_Iterable[_Union[Interface, _Mapping]]] = ...) -> None: ...

class ActivateResponse(_message.Message):
    __slots__ = ("wall_clock_unix_ns", "interface_names")
    WALL_CLOCK_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    INTERFACE_NAMES_FIELD_NUMBER: _ClassVar[int]
    wall_clock_unix_ns: int
    interface_names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, wall_clock_unix_ns: _Optional[int] = ..., interface_names: _Optional[_Iterable[str]] = ...) -> None: ...

class Interface(_message.Message):
    __slots__ = ("mac", "mtu", "addresses", "routes", "neighbours")
    MAC_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    mac: str
    mtu: int
    addresses: _containers.RepeatedScalarFieldContainer[str]
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    neighbours: _containers.RepeatedCompositeFieldContainer[Neighbour]
    def __init__(self, mac: _Optional[str] = ..., mtu: _Optional[int] = ..., addresses: _Optional[_Iterable[str]] = ..., routes: _Optional[_Iterable[_Union[Route, _Mapping]]] = ..., neighbours: _Optional[_Iterable[_Union[Neighbour, _Mapping]]] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ("destination", "gateway")
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    destination: str
    gateway: str
    def __init__(self, destination: _Optional[str] = ..., gateway: _Optional[str] = ...) -> None: ...

class Neighbour(_message.Message):
    __slots__ = ("address", "mac")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    address: str
    mac: str
    def __init__(self, address: _Optional[str] = ..., mac: _Optional[str] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("prepare", "root", "root_propagation", "namespaces", "uid_map", "gid_map", "cgroup", "device_filter", "inside", "finish", "hostname", "domainname", "process", "cleanup", "console", "personality")
    PREPARE_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    ROOT_PROPAGATION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    UID_MAP_FIELD_NUMBER: _ClassVar[int]
    GID_MAP_FIELD_NUMBER: _ClassVar[int]
    CGROUP_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FILTER_FIELD_NUMBER: _ClassVar[int]
    INSIDE_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    DOMAINNAME_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    CLEANUP_FIELD_NUMBER: _ClassVar[int]
    CONSOLE_FIELD_NUMBER: _ClassVar[int]
    PERSONALITY_FIELD_NUMBER: _ClassVar[int]
    prepare: _containers.RepeatedCompositeFieldContainer[Step]
    root: str
    root_propagation: int
    namespaces: _containers.RepeatedCompositeFieldContainer[Namespace]
    uid_map: _containers.RepeatedCompositeFieldContainer[IdMap]
    gid_map: _containers.RepeatedCompositeFieldContainer[IdMap]
    cgroup: str
    device_filter: bytes
    inside: _containers.RepeatedCompositeFieldContainer[Step]
    finish: _containers.RepeatedCompositeFieldContainer[Step]
    hostname: str
    domainname: str
    process: Process
    cleanup: _containers.RepeatedCompositeFieldContainer[Step]
    console: bool
    personality: int
    def __init__(self, prepare: _Optional[_Iterable[_Union[Step, _Mapping]]] = ..., root: _Optional[str] = ..., root_propagation: _Optional[int] = ..., namespaces: _Optional[_Iterable[_Union[Namespace, _Mapping]]] = ..., uid_map: _Optional[_Iterable[_Union[IdMap, _Mapping]]] = ..., gid_map: _Optional[_Iterable[_Union[IdMap, _Mapping]]] = ..., cgroup: _Optional[str] = ..., device_filter: _Optional[bytes] = ..., inside: _Optional[_Iterable[_Union[Step, _Mapping]]] = ..., finish: _Optional[_Iterable[_Union[Step, _Mapping]]] = ..., hostname: _Optional[str] = ..., domainname: _Optional[str] = ..., process: _Optional[_Union[Process, _Mapping]] = ..., cleanup: _Optional[_Iterable[_Union[Step, _Mapping]]] = ..., console: _Optional[bool] = ..., personality: _Optional[int] = ...) -> None: ...

class Namespace(_message.Message):
    __slots__ = ("clone_flag", "container_id", "time_offsets")
    CLONE_FLAG_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_OFFSETS_FIELD_NUMBER: _ClassVar[int]
    clone_flag: int
    container_id: str
    time_offsets: str
    def __init__(self, clone_flag: _Optional[int] = ..., container_id: _Optional[str] = ..., time_offsets: _Optional[str] = ...) -> None: ...

class IdMap(_message.Message):
    __slots__ = ("container_id", "host_id", "size")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    container_id: int
    host_id: int
    size: int
    def __init__(self, container_id: _Optional[int] = ..., host_id: _Optional[int] = ..., size: _Optional[int] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("in_root", "optional", "make_directory", "make_file", "write", "mount", "mount_attributes", "make_node", "make_symlink", "mask", "read_only", "unmount", "remove", "copy_tree_up")
    IN_ROOT_FIELD_NUMBER: _ClassVar[int]
    OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    MAKE_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    MAKE_FILE_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    MOUNT_FIELD_NUMBER: _ClassVar[int]
    MOUNT_ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    MAKE_NODE_FIELD_NUMBER: _ClassVar[int]
    MAKE_SYMLINK_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    UNMOUNT_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    COPY_TREE_UP_FIELD_NUMBER: _ClassVar[int]
    in_root: bool
    optional: bool
    make_directory: MakeDirectory
    make_file: MakeFile
    write: Write
    mount: Mount
    mount_attributes: MountAttributes
    make_node: MakeNode
    make_symlink: MakeSymlink
    mask: Path
    read_only: Path
    unmount: Path
    remove: Path
    copy_tree_up: Path
    def __init__(self, in_root: _Optional[bool] = ..., optional: _Optional[bool] = ..., make_directory: _Optional[_Union[MakeDirectory, _Mapping]] = ..., make_file: _Optional[_Union[MakeFile, _Mapping]] = ..., write: _Optional[_Union[Write, _Mapping]] = ..., mount: _Optional[_Union[Mount, _Mapping]] = ..., mount_attributes: _Optional[_Union[MountAttributes, _Mapping]] = ..., make_node: _Optional[_Union[MakeNode, _Mapping]] = ..., make_symlink: _Optional[_Union[MakeSymlink, _Mapping]] = ..., mask: _Optional[_Union[Path, _Mapping]] = ..., read_only: _Optional[_Union[Path, _Mapping]] = ..., unmount: _Optional[_Union[Path, _Mapping]] = ..., remove: _Optional[_Union[Path, _Mapping]] = ..., copy_tree_up: _Optional[_Union[Path, _Mapping]] = ...) -> None: ...

class Path(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: str
    def __init__(self, path: _Optional[str] = ...) -> None: ...

class MakeDirectory(_message.Message):
    __slots__ = ("path", "mode", "uid", "gid")
    PATH_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    path: str
    mode: int
    uid: int
    gid: int
    def __init__(self, path: _Optional[str] = ..., mode: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ...) -> None: ...

class MakeFile(_message.Message):
    __slots__ = ("path", "mode", "uid", "gid", "content")
    PATH_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    path: str
    mode: int
    uid: int
    gid: int
    content: bytes
    def __init__(self, path: _Optional[str] = ..., mode: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., content: _Optional[bytes] = ...) -> None: ...

class Write(_message.Message):
    __slots__ = ("path", "content")
    PATH_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    path: str
    content: bytes
    def __init__(self, path: _Optional[str] = ..., content: _Optional[bytes] = ...) -> None: ...

class Mount(_message.Message):
    __slots__ = ("source", "target", "type", "flags", "data", "propagation", "make_target")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    PROPAGATION_FIELD_NUMBER: _ClassVar[int]
    MAKE_TARGET_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    type: str
    flags: int
    data: str
    propagation: int
    make_target: bool
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., type: _Optional[str] = ..., flags: _Optional[int] = ..., data: _Optional[str] = ..., propagation: _Optional[int] = ..., make_target: _Optional[bool] = ...) -> None: ...

class MountAttributes(_message.Message):
    __slots__ = ("path", "set", "clear", "recursive")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SET_FIELD_NUMBER: _ClassVar[int]
    CLEAR_FIELD_NUMBER: _ClassVar[int]
    RECURSIVE_FIELD_NUMBER: _ClassVar[int]
    path: str
    set: int
    clear: int
    recursive: bool
    def __init__(self, path: _Optional[str] = ..., set: _Optional[int] = ..., clear: _Optional[int] = ..., recursive: _Optional[bool] = ...) -> None: ...

class MakeNode(_message.Message):
    __slots__ = ("path", "mode", "major", "minor", "uid", "gid")
    PATH_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    MAJOR_FIELD_NUMBER: _ClassVar[int]
    MINOR_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    path: str
    mode: int
    major: int
    minor: int
    uid: int
    gid: int
    def __init__(self, path: _Optional[str] = ..., mode: _Optional[int] = ..., major: _Optional[int] = ..., minor: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ...) -> None: ...

class MakeSymlink(_message.Message):
    __slots__ = ("path", "target")
    PATH_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    path: str
    target: str
    def __init__(self, path: _Optional[str] = ..., target: _Optional[str] = ...) -> None: ...

class Process(_message.Message):
    __slots__ = ("args", "env", "cwd", "uid", "gid", "additional_gids", "umask", "capabilities", "rlimits", "no_new_privileges", "oom_score_adj", "seccomp", "seccomp_flags", "terminal", "terminal_width", "terminal_height", "io_priority", "scheduler", "cpu_affinity", "stdin")
    ARGS_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    CWD_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    ADDITIONAL_GIDS_FIELD_NUMBER: _ClassVar[int]
    UMASK_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    RLIMITS_FIELD_NUMBER: _ClassVar[int]
    NO_NEW_PRIVILEGES_FIELD_NUMBER: _ClassVar[int]
    OOM_SCORE_ADJ_FIELD_NUMBER: _ClassVar[int]
    SECCOMP_FIELD_NUMBER: _ClassVar[int]
    SECCOMP_FLAGS_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_WIDTH_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    IO_PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SCHEDULER_FIELD_NUMBER: _ClassVar[int]
    CPU_AFFINITY_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    args: _containers.RepeatedScalarFieldContainer[str]
    env: _containers.RepeatedScalarFieldContainer[str]
    cwd: str
    uid: int
    gid: int
    additional_gids: _containers.RepeatedScalarFieldContainer[int]
    umask: int
    capabilities: Capabilities
    rlimits: _containers.RepeatedCompositeFieldContainer[Rlimit]
    no_new_privileges: bool
    oom_score_adj: int
    seccomp: bytes
    seccomp_flags: int
    terminal: bool
    terminal_width: int
    terminal_height: int
    io_priority: int
    scheduler: Scheduler
    cpu_affinity: _containers.RepeatedScalarFieldContainer[int]
    stdin: bool
    def __init__(self, args: _Optional[_Iterable[str]] = ..., env: _Optional[_Iterable[str]] = ..., cwd: _Optional[str] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., additional_gids: _Optional[_Iterable[int]] = ..., umask: _Optional[int] = ..., capabilities: _Optional[_Union[Capabilities, _Mapping]] = ..., rlimits: _Optional[_Iterable[_Union[Rlimit, _Mapping]]] = ..., no_new_privileges: _Optional[bool] = ..., oom_score_adj: _Optional[int] = ..., seccomp: _Optional[bytes] = ..., seccomp_flags: _Optional[int] = ..., terminal: _Optional[bool] = ..., terminal_width: _Optional[int] = ..., terminal_height: _Optional[int] = ..., io_priority: _Optional[int] = ..., scheduler: _Optional[_Union[Scheduler, _Mapping]] = ..., cpu_affinity: _Optional[_Iterable[int]] = ..., stdin: _Optional[bool] = ...) -> None: ...

class Capabilities(_message.Message):
    __slots__ = ("bounding", "effective", "permitted", "inheritable", "ambient")
    BOUNDING_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_FIELD_NUMBER: _ClassVar[int]
    PERMITTED_FIELD_NUMBER: _ClassVar[int]
    INHERITABLE_FIELD_NUMBER: _ClassVar[int]
    AMBIENT_FIELD_NUMBER: _ClassVar[int]
    bounding: int
    effective: int
    permitted: int
    inheritable: int
    ambient: int
    def __init__(self, bounding: _Optional[int] = ..., effective: _Optional[int] = ..., permitted: _Optional[int] = ..., inheritable: _Optional[int] = ..., ambient: _Optional[int] = ...) -> None: ...

class Rlimit(_message.Message):
    __slots__ = ("resource", "soft", "hard")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    SOFT_FIELD_NUMBER: _ClassVar[int]
    HARD_FIELD_NUMBER: _ClassVar[int]
    resource: int
    soft: int
    hard: int
    def __init__(self, resource: _Optional[int] = ..., soft: _Optional[int] = ..., hard: _Optional[int] = ...) -> None: ...

class Scheduler(_message.Message):
    __slots__ = ("policy", "nice", "priority", "flags", "runtime_ns", "deadline_ns", "period_ns")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    NICE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_NS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_NS_FIELD_NUMBER: _ClassVar[int]
    PERIOD_NS_FIELD_NUMBER: _ClassVar[int]
    policy: int
    nice: int
    priority: int
    flags: int
    runtime_ns: int
    deadline_ns: int
    period_ns: int
    def __init__(self, policy: _Optional[int] = ..., nice: _Optional[int] = ..., priority: _Optional[int] = ..., flags: _Optional[int] = ..., runtime_ns: _Optional[int] = ..., deadline_ns: _Optional[int] = ..., period_ns: _Optional[int] = ...) -> None: ...

class CreateContainerRequest(_message.Message):
    __slots__ = ("container_id", "plan")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    plan: Plan
    def __init__(self, container_id: _Optional[str] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ...) -> None: ...

class CreateContainerResponse(_message.Message):
    __slots__ = ("pid",)
    PID_FIELD_NUMBER: _ClassVar[int]
    pid: int
    def __init__(self, pid: _Optional[int] = ...) -> None: ...

class StartContainerRequest(_message.Message):
    __slots__ = ("container_id",)
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    def __init__(self, container_id: _Optional[str] = ...) -> None: ...

class StartContainerResponse(_message.Message):
    __slots__ = ("exec_errno", "started_boottime_ns")
    EXEC_ERRNO_FIELD_NUMBER: _ClassVar[int]
    STARTED_BOOTTIME_NS_FIELD_NUMBER: _ClassVar[int]
    exec_errno: int
    started_boottime_ns: int
    def __init__(self, exec_errno: _Optional[int] = ..., started_boottime_ns: _Optional[int] = ...) -> None: ...

class DeleteContainerRequest(_message.Message):
    __slots__ = ("container_id",)
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    def __init__(self, container_id: _Optional[str] = ...) -> None: ...

class DeleteContainerResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ExecRequest(_message.Message):
    __slots__ = ("container_id", "exec_id", "process")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    exec_id: str
    process: Process
    def __init__(self, container_id: _Optional[str] = ..., exec_id: _Optional[str] = ..., process: _Optional[_Union[Process, _Mapping]] = ...) -> None: ...

class ExecResponse(_message.Message):
    __slots__ = ("pid", "exec_errno")
    PID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ERRNO_FIELD_NUMBER: _ClassVar[int]
    pid: int
    exec_errno: int
    def __init__(self, pid: _Optional[int] = ..., exec_errno: _Optional[int] = ...) -> None: ...

class WaitRequest(_message.Message):
    __slots__ = ("container_id", "exec_id")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    exec_id: str
    def __init__(self, container_id: _Optional[str] = ..., exec_id: _Optional[str] = ...) -> None: ...

class WaitResponse(_message.Message):
    __slots__ = ("exit_status", "exited_at_unix_ns", "oom_killed", "signal")
    EXIT_STATUS_FIELD_NUMBER: _ClassVar[int]
    EXITED_AT_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    OOM_KILLED_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    exit_status: int
    exited_at_unix_ns: int
    oom_killed: bool
    signal: int
    def __init__(self, exit_status: _Optional[int] = ..., exited_at_unix_ns: _Optional[int] = ..., oom_killed: _Optional[bool] = ..., signal: _Optional[int] = ...) -> None: ...

class SignalRequest(_message.Message):
    __slots__ = ("container_id", "exec_id", "signal", "all")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    exec_id: str
    signal: int
    all: bool
    def __init__(self, container_id: _Optional[str] = ..., exec_id: _Optional[str] = ..., signal: _Optional[int] = ..., all: _Optional[bool] = ...) -> None: ...

class SignalResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReadOutputRequest(_message.Message):
    __slots__ = ("container_id", "exec_id", "stream", "max_bytes")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    exec_id: str
    stream: Stream
    max_bytes: int
    def __init__(self, container_id: _Optional[str] = ..., exec_id: _Optional[str] = ..., stream: _Optional[_Union[Stream, str]] = ..., max_bytes: _Optional[int] = ...) -> None: ...

class ReadOutputResponse(_message.Message):
    __slots__ = ("data", "eof")
    DATA_FIELD_NUMBER: _ClassVar[int]
    EOF_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    eof: bool
    def __init__(self, data: _Optional[bytes] = ..., eof: _Optional[bool] = ...) -> None: ...

class WriteInputRequest(_message.Message):
    __slots__ = ("container_id", "exec_id", "data", "close")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    exec_id: str
    data: bytes
    close: bool
    def __init__(self, container_id: _Optional[str] = ..., exec_id: _Optional[str] = ..., data: _Optional[bytes] = ..., close: _Optional[bool] = ...) -> None: ...

class WriteInputResponse(_message.Message):
    __slots__ = ("closed",)
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    closed: bool
    def __init__(self, closed: _Optional[bool] = ...) -> None: ...

class ResizeTerminalRequest(_message.Message):
    __slots__ = ("container_id", "exec_id", "width", "height")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    exec_id: str
    width: int
    height: int
    def __init__(self, container_id: _Optional[str] = ..., exec_id: _Optional[str] = ..., width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class ResizeTerminalResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FreezeRequest(_message.Message):
    __slots__ = ("container_id", "frozen")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    frozen: bool
    def __init__(self, container_id: _Optional[str] = ..., frozen: _Optional[bool] = ...) -> None: ...

class FreezeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UpdateRequest(_message.Message):
    __slots__ = ("container_id", "steps")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    steps: _containers.RepeatedCompositeFieldContainer[Step]
    def __init__(self, container_id: _Optional[str] = ..., steps: _Optional[_Iterable[_Union[Step, _Mapping]]] = ...) -> None: ...

class UpdateResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ("container_id",)
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    def __init__(self, container_id: _Optional[str] = ...) -> None: ...

class StatsResponse(_message.Message):
    __slots__ = ("files", "taken_unix_ns")
    class FilesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    FILES_FIELD_NUMBER: _ClassVar[int]
    TAKEN_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    files: _containers.ScalarMap[str, str]
    taken_unix_ns: int
    def __init__(self, files: _Optional[_Mapping[str, str]] = ..., taken_unix_ns: _Optional[int] = ...) -> None: ...

class ListProcessesRequest(_message.Message):
    __slots__ = ("container_id",)
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    def __init__(self, container_id: _Optional[str] = ...) -> None: ...

class ListProcessesResponse(_message.Message):
    __slots__ = ("pids",)
    PIDS_FIELD_NUMBER: _ClassVar[int]
    pids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, pids: _Optional[_Iterable[int]] = ...) -> None: ...

class WatchOomRequest(_message.Message):
    __slots__ = ("container_id", "seen")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    seen: int
    def __init__(self, container_id: _Optional[str] = ..., seen: _Optional[int] = ...) -> None: ...

class WatchOomResponse(_message.Message):
    __slots__ = ("oom_kills",)
    OOM_KILLS_FIELD_NUMBER: _ClassVar[int]
    oom_kills: int
    def __init__(self, oom_kills: _Optional[int] = ...) -> None: ...

class FileRequest(_message.Message):
    __slots__ = ("container_id", "path", "stat", "list", "read", "write", "make", "set_attributes", "remove")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    STAT_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    MAKE_FIELD_NUMBER: _ClassVar[int]
    SET_ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    path: bytes
    stat: FileStat
    list: FileList
    read: FileRead
    write: FileWrite
    make: FileMake
    set_attributes: FileSetAttributes
    remove: FileRemove
    def __init__(self, container_id: _Optional[str] = ..., path: _Optional[bytes] = ..., stat: _Optional[_Union[FileStat, _Mapping]] = ..., list: _Optional[_Union[FileList, _Mapping]] = ..., read: _Optional[_Union[FileRead, _Mapping]] = ..., write: _Optional[_Union[FileWrite, _Mapping]] = ..., make: _Optional[_Union[FileMake, _Mapping]] = ..., set_attributes: _Optional[_Union[FileSetAttributes, _Mapping]] = ..., remove: _Optional[_Union[FileRemove, _Mapping]] = ...) -> None: ...

class FileStat(_message.Message):
    __slots__ = ("follow",)
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    follow: bool
    def __init__(self, follow: _Optional[bool] = ...) -> None: ...

class FileList(_message.Message):
    __slots__ = ("after", "max_entries")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    MAX_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    after: bytes
    max_entries: int
    def __init__(self, after: _Optional[bytes] = ..., max_entries: _Optional[int] = ...) -> None: ...

class FileRead(_message.Message):
    __slots__ = ("offset", "max_bytes")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    offset: int
    max_bytes: int
    def __init__(self, offset: _Optional[int] = ..., max_bytes: _Optional[int] = ...) -> None: ...

class FileWrite(_message.Message):
    __slots__ = ("offset", "data", "create", "mode")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CREATE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    create: bool
    mode: int
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ..., create: _Optional[bool] = ..., mode: _Optional[int] = ...) -> None: ...

class FileMake(_message.Message):
    __slots__ = ("mode", "symlink_target", "major", "minor", "hardlink_of")
    MODE_FIELD_NUMBER: _ClassVar[int]
    SYMLINK_TARGET_FIELD_NUMBER: _ClassVar[int]
    MAJOR_FIELD_NUMBER: _ClassVar[int]
    MINOR_FIELD_NUMBER: _ClassVar[int]
    HARDLINK_OF_FIELD_NUMBER: _ClassVar[int]
    mode: int
    symlink_target: bytes
    major: int
    minor: int
    hardlink_of: bytes
    def __init__(self, mode: _Optional[int] = ..., symlink_target: _Optional[bytes] = ..., major: _Optional[int] = ..., minor: _Optional[int] = ..., hardlink_of: _Optional[bytes] = ...) -> None: ...

class FileSetAttributes(_message.Message):
    __slots__ = ("mode", "uid", "gid", "mtime_unix_ns")
    MODE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    MTIME_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    mode: int
    uid: int
    gid: int
    mtime_unix_ns: int
    def __init__(self, mode: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., mtime_unix_ns: _Optional[int] = ...) -> None: ...

class FileRemove(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FileEntry(_message.Message):
    __slots__ = ("name", "mode", "uid", "gid", "size", "mtime_unix_ns", "symlink_target", "major", "minor", "inode", "links")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MTIME_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    SYMLINK_TARGET_FIELD_NUMBER: _ClassVar[int]
    MAJOR_FIELD_NUMBER: _ClassVar[int]
    MINOR_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_unix_ns: int
    symlink_target: bytes
    major: int
    minor: int
    inode: int
    links: int
    def __init__(self, name: _Optional[bytes] = ..., mode: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., size: _Optional[int] = ..., mtime_unix_ns: _Optional[int] = ..., symlink_target: _Optional[bytes] = ..., major: _Optional[int] = ..., minor: _Optional[int] = ..., inode: _Optional[int] = ..., links: _Optional[int] = ...) -> None: ...

class FileResponse(_message.Message):
    __slots__ = ("entries", "data", "eof")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    EOF_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[FileEntry]
    data: bytes
    eof: bool
    def __init__(self, entries: _Optional[_Iterable[_Union[FileEntry, _Mapping]]] = ..., data: _Optional[bytes] = ..., eof: _Optional[bool] = ...) -> None: ...

class ShutdownRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShutdownResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
