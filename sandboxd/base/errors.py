"""The one error catalogue.

Every failure that can reach a person or a program is a `SandboxdError` with a stable code. Its four texts live in this
file and nowhere else: what failed, why in one plain sentence, and what to do about it. Texts are format strings over
the error's context; a missing key is a bug that the catalogue's test finds.

    SandboxdError
      .kind      ErrorKind: code, blame, gRPC status name, exit status
      .context   the values that the texts quote, all strings
"""

from __future__ import annotations

import enum
import string
from dataclasses import dataclass


class Blame(enum.Enum):
    """Whose doing a failure is; decides how loudly it is logged."""

    CALLER = "caller"
    GUEST = "guest"
    HOST = "host"
    BUG = "bug"


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One row of the catalogue."""

    code: str
    message: str
    cause: str
    remedy: str
    blame: Blame
    grpc: str
    """Name of the gRPC status code, e.g. "NOT_FOUND"."""
    exit_status: int = 125
    retryable: bool = False

    def fields(self) -> frozenset[str]:
        """Context keys that the texts quote."""
        texts = (self.message, self.cause, self.remedy)
        return frozenset(name for text in texts for _, name, _, _ in string.Formatter().parse(text) if name)


class SandboxdError(Exception):
    """A failure from the catalogue. `context` must hold every key that the kind's texts quote."""

    def __init__(self, kind: ErrorKind, **context: object) -> None:
        self.kind = kind
        self.context = {key: str(value) for key, value in context.items()}
        missing = kind.fields() - self.context.keys()
        if missing:
            raise TypeError(f"error {kind.code} needs {sorted(missing)}")
        super().__init__(self.message)

    @property
    def message(self) -> str:
        return self.kind.message.format_map(self.context)

    @property
    def cause(self) -> str:
        return self.kind.cause.format_map(self.context)

    @property
    def remedy(self) -> str:
        return self.kind.remedy.format_map(self.context)

    def to_json(self) -> dict[str, object]:
        """The machine's form: the same keys in the CLI's --error-format json and in gRPC status details."""
        return {
            "code": self.kind.code,
            "message": self.message,
            "cause": self.cause,
            "remedy": self.remedy,
            "context": self.context,
            "retryable": self.kind.retryable,
        }


CATALOGUE: dict[str, ErrorKind] = {}


def _kind(
    code: str,
    message: str,
    cause: str,
    remedy: str,
    *,
    blame: Blame = Blame.CALLER,
    grpc: str = "INVALID_ARGUMENT",
    exit_status: int = 125,
    retryable: bool = False,
) -> ErrorKind:
    if code in CATALOGUE:
        raise TypeError(f"error code {code} twice")
    CATALOGUE[code] = ErrorKind(code, message, cause, remedy, blame, grpc, exit_status, retryable)
    return CATALOGUE[code]


# --- general -------------------------------------------------------------------------------------------------------

INVALID_ARGUMENT = _kind(
    "invalid_argument",
    "{what} is not valid: {value}",
    "{reason}",
    "See `sandboxctl {command} --help`.",
)
INTERNAL = _kind(
    "internal",
    "sandboxd failed at something it should have done",
    "{reason}",
    "This is a bug. `sandboxctl logs ID` and the daemon's log show more; please report it.",
    blame=Blame.BUG,
    grpc="INTERNAL",
)

# --- sandboxes -----------------------------------------------------------------------------------------------------

SANDBOX_NOT_FOUND = _kind(
    "sandbox_not_found",
    "no sandbox {id}",
    "No sandbox has this id, a name like this, or an id that starts so.",
    "`sandboxctl ps -a` lists all sandboxes.",
    grpc="NOT_FOUND",
)
SANDBOX_AMBIGUOUS = _kind(
    "sandbox_ambiguous",
    "{id} could be more than one sandbox",
    "These ids start so: {matches}.",
    "Give more digits of the id, or the sandbox's name: `sandboxctl ps -a`.",
    grpc="INVALID_ARGUMENT",
)
NAME_IN_USE = _kind(
    "name_in_use",
    "the name {name} is in use",
    "Sandbox {id} has it.",
    "Choose another name, remove that sandbox with `sandboxctl rm -f {name}`, or replace it with `--replace`.",
    grpc="ALREADY_EXISTS",
)
SANDBOX_WRONG_STATE = _kind(
    "sandbox_wrong_state",
    "cannot {operation} sandbox {id}: it is {state}",
    "This needs a sandbox that is {needed}.",
    "`sandboxctl ps -a` shows the state of every sandbox.",
    grpc="FAILED_PRECONDITION",
)
SANDBOX_RUNNING = _kind(
    "sandbox_running",
    "cannot remove sandbox {id}: it is {state}",
    "A sandbox is removed when it has stopped.",
    "Stop it with `sandboxctl stop {id}`, or remove it at once with `sandboxctl rm -f {id}`.",
    grpc="FAILED_PRECONDITION",
)
TOO_MANY_SANDBOXES = _kind(
    "too_many_sandboxes",
    "no room for another sandbox",
    "{count} sandboxes are alive and the limit is {limit}.",
    "End one with `sandboxctl stop ID`, or raise `sandboxes` below `[limits]` in the "
    "configuration, and restart sandboxd.",
    blame=Blame.HOST,
    grpc="RESOURCE_EXHAUSTED",
    retryable=True,
)
COPY_REFUSED = _kind(
    "copy_refused",
    "cannot copy to {path}",
    "{reason}",
    "Make the archive again without this entry: `tar -t` shows what is in it.",
)
PATH_NOT_FOUND = _kind(
    "path_not_found",
    "no {path} in sandbox {id}",
    "{reason}",
    "`sandboxctl exec {id} ls -la /` shows what is there.",
    grpc="NOT_FOUND",
)

COMMAND_NOT_FOUND = _kind(
    "command_not_found",
    "the command {command} was not found in sandbox {id}",
    "There is no such file in the container, or the interpreter that its first line names is missing: {errno}.",
    "Check the spelling, or look around with `sandboxctl run -it --entrypoint sh IMAGE`.",
    exit_status=127,
    grpc="NOT_FOUND",
)
COMMAND_NOT_EXECUTABLE = _kind(
    "command_not_executable",
    "the command {command} cannot be executed in sandbox {id}",
    "The guest's kernel refused it: {errno}.",
    "Check that the file is a program for this machine and that its execute bits are set: `chmod +x FILE`.",
    exit_status=126,
    grpc="FAILED_PRECONDITION",
)
CONTAINER_NOT_FOUND = _kind(
    "container_not_found",
    "no process {id} in this sandbox",
    "The sandbox's shim knows no container or exec of this id.",
    "`sandboxctl ps -a` lists all sandboxes.",
    grpc="NOT_FOUND",
)
CONTAINER_EXISTS = _kind(
    "container_exists",
    "the id {id} is in use in this sandbox",
    "A container or exec of this id was made before and not deleted.",
    "Delete it first, or choose another id.",
    grpc="ALREADY_EXISTS",
)
STDIO_UNUSABLE = _kind(
    "stdio_unusable",
    "cannot use {path} for the process's {stream}",
    "{reason}",
    "Give an empty string, a FIFO that exists and whose other end is open, file://PATH or log://PATH.",
)
BUNDLE_UNUSABLE = _kind(
    "bundle_unusable",
    "the container's bundle {bundle} cannot be used",
    "{reason}",
    "Check its config.json: `cat {bundle}/config.json`.",
)
BOOT_TIMEOUT = _kind(
    "boot_timeout",
    "sandbox {id} did not come up within {limit_s} s",
    "It got as far as: {stage}. The guest's console ends: {console}",
    "On a busy machine, raise `boot_timeout` below `[machine]` in the configuration and try again.",
    blame=Blame.HOST,
    grpc="DEADLINE_EXCEEDED",
    retryable=True,
)
MACHINE_DIED = _kind(
    "machine_died",
    "the machine of sandbox {id} ended while it was needed to {operation}",
    "{detail}",
    "`sandboxctl logs {id}` and `sandboxctl inspect {id}` show what is known about it.",
    blame=Blame.HOST,
    grpc="ABORTED",
)
MACHINE_FIXED = _kind(
    "machine_fixed",
    "sandbox {id} cannot take another disk",
    "Its machine is running, and the container asks for {count} more disk(s).",
    "Start the container in a sandbox of its own: `sandboxctl run IMAGE`.",
    grpc="FAILED_PRECONDITION",
)
SHIM_START_FAILED = _kind(
    "shim_start_failed",
    "the process that looks after sandbox {id} could not be started",
    "{reason} It said last: {log_tail}",
    "`sandboxctl doctor` checks what it needs; the daemon's log has the rest.",
    blame=Blame.HOST,
    grpc="INTERNAL",
)
SHIM_LOST = _kind(
    "shim_lost",
    "the process that looks after sandbox {id} is gone",
    "{reason}",
    "The sandbox ended with it; start it anew. `sandboxctl inspect {id}` shows what is known.",
    blame=Blame.HOST,
    grpc="UNAVAILABLE",
)
SHIM_TIMEOUT = _kind(
    "shim_timeout",
    "sandbox {id} did not answer in time",
    "{operation} took longer than {limit_s} s.",
    "`sandboxctl stats {id}` shows whether the guest is busy; `sandboxctl kill {id}` ends it.",
    blame=Blame.GUEST,
    grpc="DEADLINE_EXCEEDED",
    retryable=True,
)
CGROUP_UNUSABLE = _kind(
    "cgroup_unusable",
    "the control group {cgroup} cannot be set up",
    "{reason}",
    "Check that cgroups are mounted and writable: `mount -t cgroup,cgroup2`.",
    blame=Blame.HOST,
    grpc="FAILED_PRECONDITION",
)

PROCESS_ENDED = _kind(
    "process_ended",
    "process {id} has ended",
    "There is nobody any more to get the signal.",
    "`sandboxctl ps -a` shows with which status.",
    grpc="NOT_FOUND",
)

# --- machines (vmm) ------------------------------------------------------------------------------------------------

MACHINE_WRONG_STATE = _kind(
    "machine_wrong_state",
    "the machine cannot {operation} now",
    "It is {state}, and has to be {needed}.",
    "`sandboxctl inspect ID` shows the sandbox's state.",
    grpc="FAILED_PRECONDITION",
)
MEMORY_TOO_SMALL = _kind(
    "memory_too_small",
    "{memory_mib} MiB of memory are too few for a machine to boot",
    "This guest kernel and initrd need at least {limit_mib} MiB.",
    "Ask for more: `sandboxctl run --memory {limit_mib}M IMAGE`.",
)
VMM_MISSING = _kind(
    "vmm_missing",
    "{program} is not installed",
    "A microVM's process is started with it, and it is in none of the directories of PATH.",
    "apt-get install {package}",
    blame=Blame.HOST,
    grpc="FAILED_PRECONDITION",
)
VMM_START_FAILED = _kind(
    "vmm_start_failed",
    "the machine's process ended before the guest ran",
    "It said: {detail}",
    "`sandboxctl doctor` checks what it needs.",
    blame=Blame.HOST,
    grpc="INTERNAL",
)
VMM_FILE_UNUSABLE = _kind(
    "vmm_file_unusable",
    "the machine's {what} {path} cannot be used",
    "{reason}",
    "Check it: `ls -lL {path}`. `sandboxctl doctor` names what is missing.",
    blame=Blame.HOST,
    grpc="FAILED_PRECONDITION",
)
VMM_NOT_PERMITTED = _kind(
    "vmm_not_permitted",
    "the machine's process may not be started as user {uid}",
    "{reason}",
    "Run sandboxd as root: `sudo sandboxd`.",
    blame=Blame.HOST,
    grpc="FAILED_PRECONDITION",
)
VMM_UNRESPONSIVE = _kind(
    "vmm_unresponsive",
    "the machine's process did not {operation} within {limit_s} s",
    "It runs but does not answer on its control channel. It said last: {detail}",
    "End the sandbox: `sandboxctl kill ID`.",
    blame=Blame.HOST,
    grpc="DEADLINE_EXCEEDED",
    retryable=True,
)
KVM_NOT_PERMITTED = _kind(
    "kvm_not_permitted",
    "/dev/kvm cannot be opened by the machine's process",
    "{reason}",
    "chgrp kvm /dev/kvm && chmod 0660 /dev/kvm",
    blame=Blame.HOST,
    grpc="FAILED_PRECONDITION",
)
DRIVER_UNAVAILABLE = _kind(
    "driver_unavailable",
    "the machine driver {driver!r} cannot be used",
    "{reason}",
    "Let sandboxd choose: `sandboxctl run --vmm auto IMAGE`.",
    grpc="FAILED_PRECONDITION",
)
GUEST_NOT_PREPARED = _kind(
    "guest_not_prepared",
    "there is nothing yet for a guest to boot from: {what} is missing",
    "No sandbox can start before it is there.",
    "{command}",
    blame=Blame.HOST,
    grpc="FAILED_PRECONDITION",
)
KERNEL_UNUSABLE = _kind(
    "kernel_unusable",
    "{path} cannot be used as the guest's kernel",
    "{reason}",
    "Give a bzImage, or a vmlinux with a PVH entry (CONFIG_PVH=y): `sandboxctl run --kernel FILE IMAGE`.",
)
KERNEL_FETCH_FAILED = _kind(
    "kernel_fetch_failed",
    "the guest's kernel could not be fetched",
    "{reason}",
    "apt-get update && python3 -m sandboxd.guest.kernel fetch --data-dir {data_dir}",
    blame=Blame.HOST,
    grpc="UNAVAILABLE",
    retryable=True,
)
MODULES_UNUSABLE = _kind(
    "modules_unusable",
    "the modules below {path} cannot be used for the guest's kernel",
    "{reason}",
    "python3 -m sandboxd.guest.kernel fetch --data-dir {data_dir}",
    blame=Blame.HOST,
    grpc="FAILED_PRECONDITION",
)

# --- images and disks ----------------------------------------------------------------------------------------------

IMAGE_NOT_FOUND = _kind(
    "image_not_found",
    "there is no image {reference} on this host",
    "No image of that name or id was pulled or loaded here.",
    "Pull it with `sandboxctl pull {reference}`, or see what is here with `sandboxctl images`.",
    grpc="NOT_FOUND",
)
IMAGE_UNKNOWN = _kind(
    "image_unknown",
    "the registry has no image {reference}",
    "{reason}",
    "Check the name and the tag; `skopeo list-tags docker://{repository}` shows the tags that exist.",
    grpc="NOT_FOUND",
)
IMAGE_AMBIGUOUS = _kind(
    "image_ambiguous",
    "{reference} could be any of {count} images",
    "The id prefix fits more than one image: {matches}.",
    "Give more digits of the id; `sandboxctl images` lists them.",
)
IMAGE_REFERENCE_INVALID = _kind(
    "image_reference_invalid",
    "{reference} is not an image reference",
    "{reason}",
    "References read [HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST], with NAME in lower case.",
)
IMAGE_NO_REGISTRY = _kind(
    "image_no_registry",
    "{reference} names no registry, and no default registry is configured",
    "A name without a host is looked up in the configured default registry only, and there is none.",
    'Use HOST/{reference}, or set `default_registry = "HOST"` in the section [images] of the configuration.',
    grpc="FAILED_PRECONDITION",
)
REGISTRY_UNREACHABLE = _kind(
    "registry_unreachable",
    "the registry {registry} does not answer",
    "{reason}",
    "Check name, port and network (`curl -v https://{registry}/v2/`), or configure a mirror; then pull again.",
    blame=Blame.HOST,
    grpc="UNAVAILABLE",
    retryable=True,
)
REGISTRY_AUTHENTICATION = _kind(
    "registry_authentication",
    "the registry {registry} refuses access to {reference}",
    "{reason}",
    "Give `sandboxctl pull --username NAME --password-stdin {reference}`; a misspelt name can show this way too.",
    grpc="UNAUTHENTICATED",
)
REGISTRY_TLS = _kind(
    "registry_tls",
    "no trusted connection to the registry {registry}",
    "{reason}",
    "Use `sandboxctl pull --ca-file FILE {reference}` with the registry's CA, or `--no-tls-verify` where that is safe.",
    grpc="FAILED_PRECONDITION",
)
IMAGE_DIGEST_MISMATCH = _kind(
    "image_digest_mismatch",
    "{item} of {reference} is not what its digest says",
    "Expected {expected}, got {actual}: it was changed or damaged on its way.",
    "Pull or copy it again; if it stays so, the registry or archive is damaged or cannot be trusted.",
    grpc="DATA_LOSS",
)
IMAGE_TRUNCATED = _kind(
    "image_truncated",
    "{item} of {reference} ends early",
    "{reason}",
    "Pull or copy it again; if it stays so, push or save the image anew.",
    grpc="DATA_LOSS",
    retryable=True,
)
IMAGE_UNSUPPORTED_MEDIA_TYPE = _kind(
    "image_unsupported_media_type",
    "{reference} is of a kind that cannot be run",
    "{reason}",
    "Use a container image with plain, gzip or zstd layers; `skopeo inspect --raw` shows what it is made of.",
)
IMAGE_WRONG_ARCHITECTURE = _kind(
    "image_wrong_architecture",
    "{reference} is not made for {wanted}",
    "It exists for {available} only.",
    "Use an image that is built for {wanted}, or build it with `--platform {wanted}`.",
    grpc="FAILED_PRECONDITION",
)
IMAGE_LAYER_UNSAFE = _kind(
    "image_layer_unsafe",
    "a layer of {reference} reaches out of the image's root",
    "Entry {entry} of layer {layer}: {reason}.",
    "Do not use this image: no honest tool writes such a layer. Nothing of it was kept.",
)
IMAGE_LAYER_INVALID = _kind(
    "image_layer_invalid",
    "a layer of {reference} cannot be unpacked",
    "Layer {layer}: {reason}.",
    "Build and push the image again; `tar -tvf` on the layer shows what is wrong with it.",
)
IMAGE_TOO_LARGE = _kind(
    "image_too_large",
    "{reference} is too large to unpack",
    "{what} is over the limit of {limit}.",
    "Use a smaller image; `skopeo inspect` shows the sizes of its layers.",
    grpc="RESOURCE_EXHAUSTED",
)
IMAGE_NO_SPACE = _kind(
    "image_no_space",
    "no space left for {reference}",
    "The file system of {path} is full.",
    "Free space (`df -h {path}`; `sandboxctl rmi IMAGE` removes an image), then try again.",
    blame=Blame.HOST,
    grpc="RESOURCE_EXHAUSTED",
    retryable=True,
)
IMAGE_MANIFEST_INVALID = _kind(
    "image_manifest_invalid",
    "{item} of {reference} cannot be understood",
    "{reason}",
    "Build and push the image again; `skopeo inspect --raw` shows what is there.",
)
IMAGE_ARCHIVE_INVALID = _kind(
    "image_archive_invalid",
    "{path} holds no image",
    "{reason}",
    "Load what `docker save`, `podman save` or `skopeo copy ... oci-archive:FILE` wrote, or an OCI layout directory.",
)
IMAGE_IN_USE = _kind(
    "image_in_use",
    "the image {reference} is in use",
    "{count} sandboxes use it: {sandboxes}.",
    "Remove them first (`sandboxctl rm -f {first}`), or remove the image with `sandboxctl rmi --force {reference}`.",
    grpc="FAILED_PRECONDITION",
)
IMAGE_RUNNING = _kind(
    "image_running",
    "the image {reference} is used by a running sandbox",
    "{count} sandboxes run on it: {sandboxes}.",
    "Remove them first: `sandboxctl rm -f {first}`.",
    grpc="FAILED_PRECONDITION",
)
IMAGE_SEVERAL_REFERENCES = _kind(
    "image_several_references",
    "the image {reference} has several names",
    "It is known as {references}.",
    "Remove one name with `sandboxctl rmi NAME`, or all with `sandboxctl rmi --force {reference}`.",
    grpc="FAILED_PRECONDITION",
)
IMAGE_STORE_LOCKED = _kind(
    "image_store_locked",
    "the image store {path} is in use by another process",
    "Two daemons cannot share one image store.",
    "Stop the other daemon (`fuser -v {path}/store.lock` shows it), or give this one a data directory of its own.",
    blame=Blame.HOST,
    grpc="FAILED_PRECONDITION",
)
IMAGE_TOOL_FAILED = _kind(
    "image_tool_failed",
    "{tool} failed on {reference}",
    "{reason}",
    "See that {package} is installed (`apt-get install {package}`), then try again; the text above is {tool}'s own.",
    blame=Blame.HOST,
    grpc="INTERNAL",
)
DISK_TOO_SMALL = _kind(
    "disk_too_small",
    "a disk of {size} is too small",
    "A disk needs at least {minimum} to hold a file system.",
    "Give `--disk {minimum}` or more.",
)
DISK_TOO_LARGE = _kind(
    "disk_too_large",
    "a disk of {size} is too large",
    "A disk can have at most {maximum}.",
    "Give `--disk {maximum}` or less.",
)
DISK_NO_SPACE = _kind(
    "disk_no_space",
    "no space left to make a disk",
    "The file system of {path} is full.",
    "Free space (`df -h {path}`), then try again.",
    blame=Blame.HOST,
    grpc="RESOURCE_EXHAUSTED",
    retryable=True,
)
DISK_TEMPLATE_FAILED = _kind(
    "disk_template_failed",
    "no empty disk of {size} could be made",
    "{reason}",
    "See that the package e2fsprogs is installed (`apt-get install e2fsprogs`) and {path} is writable.",
    blame=Blame.HOST,
    grpc="INTERNAL",
)

# --- network -------------------------------------------------------------------------------------------------------

NETWORK_SETUP_FAILED = _kind(
    "network_setup_failed",
    "cannot set up the network: {what}",
    "{reason}",
    "`sandboxctl doctor` checks what the network needs; `--network none` runs without one.",
    blame=Blame.HOST,
    grpc="FAILED_PRECONDITION",
)
NFTABLES_REFUSED = _kind(
    "nftables_refused",
    "nftables refused a change to sandboxd's rules",
    "nft says: {reason}",
    "`sandboxctl doctor` checks what the rules need of the kernel; `nft list ruleset` shows what is there.",
    blame=Blame.HOST,
    grpc="FAILED_PRECONDITION",
)
TAP_UNUSABLE = _kind(
    "tap_unusable",
    "cannot use the tap {tap}",
    "{reason}",
    "`modprobe tun` loads the driver; `ip -details link show {tap}` shows the device.",
    blame=Blame.HOST,
    grpc="FAILED_PRECONDITION",
)
SUBNET_COLLISION = _kind(
    "subnet_collision",
    "the subnet {subnet} is taken",
    "This host already has {other}.",
    'Set another in the configuration, [network] subnet = "10.210.0.0/16", or let sandboxd choose: subnet = "auto".',
    grpc="FAILED_PRECONDITION",
)
SUBNET_NONE_FREE = _kind(
    "subnet_none_free",
    "no free subnet for the sandboxes",
    "Every private network that sandboxd would take overlaps one of this host's routes or addresses.",
    'Give it one that may be used: [network] subnet = "A.B.C.D/20" in the configuration. '
    "`ip route show table all` lists the routes.",
    grpc="FAILED_PRECONDITION",
)
NETWORK_FULL = _kind(
    "network_full",
    "no room for another sandbox on the network",
    "{reason}",
    "Remove a sandbox that is not needed (`sandboxctl ps`), or run this one with `--network none`.",
    grpc="RESOURCE_EXHAUSTED",
)
PORT_IN_USE = _kind(
    "port_in_use",
    "port {port}/{protocol} of {bind} is in use",
    "{holder} has it.",
    "Publish on another port of the host, or let it choose a free one: `-p {guest_port}`.",
    grpc="ALREADY_EXISTS",
)
PORT_UNAVAILABLE = _kind(
    "port_unavailable",
    "cannot publish on {bind}:{port}/{protocol}",
    "{reason}",
    "`ip -4 address` lists this host's addresses; `-p HOST:GUEST` publishes on all of them.",
    grpc="FAILED_PRECONDITION",
)

# --- guest (the agent) ---------------------------------------------------------------------------------------------

AGENT_LOST = _kind(
    "agent_lost",
    "the agent in the guest is not reached any more",
    "{reason}",
    "The machine ended or hangs: `sandboxctl inspect ID` shows its state, `sandboxctl logs ID` its last words.",
    blame=Blame.HOST,
    grpc="UNAVAILABLE",
)
GUEST_FAILED = _kind(
    "guest_failed",
    "the guest failed to {step}",
    "The guest's kernel or agent answered: {reason}.",
    "`sandboxctl inspect ID` shows what was asked of it; `sandboxctl debug ID` collects what a bug report needs.",
    blame=Blame.GUEST,
    grpc="INTERNAL",
)
GUEST_WRONG_STATE = _kind(
    "guest_wrong_state",
    "the guest cannot {step} now",
    "The guest's agent answered: {reason}.",
    "`sandboxctl ps -a` shows the sandbox's state.",
    grpc="FAILED_PRECONDITION",
)
GUEST_TIMEOUT = _kind(
    "guest_timeout",
    "the guest did not {step} in time",
    "{reason}.",
    "`sandboxctl stats ID` shows whether the guest is busy; try again, or end it with `sandboxctl kill ID`.",
    blame=Blame.GUEST,
    grpc="DEADLINE_EXCEEDED",
    retryable=True,
)
GUEST_PATH_NOT_FOUND = _kind(
    "guest_path_not_found",
    "there is no {path} in the sandbox",
    "The guest's kernel answered: {reason}.",
    "List the directory to see what is there: `sandboxctl exec ID ls -la DIRECTORY`.",
    grpc="NOT_FOUND",
)
GUEST_PATH_UNUSABLE = _kind(
    "guest_path_unusable",
    "cannot {step} {path} in the sandbox",
    "The guest's kernel answered: {reason}.",
    "Look at it from inside: `sandboxctl exec ID ls -la {path}`; `df` there shows whether its disk is full.",
    grpc="FAILED_PRECONDITION",
)

# --- container specifications --------------------------------------------------------------------------------------

OCI_SPEC_INVALID = _kind(
    "oci_spec_invalid",
    "the container's {document} is not valid",
    "{findings}",
    "Correct the named values in {document}; the OCI runtime specification says what each may hold.",
)
OCI_SPEC_UNSUPPORTED = _kind(
    "oci_spec_unsupported",
    "the container's {document} asks for what a microVM sandbox cannot give",
    "{findings}",
    "Leave the named settings out of {document}, or run this container on the host's own kernel: `ctr run IMAGE ID`.",
    grpc="FAILED_PRECONDITION",
)
HOST_BIND_UNSUPPORTED = _kind(
    "host_bind_unsupported",
    "a directory or special file of the host cannot be mounted into a sandbox",
    "{findings}",
    "Copy it in once the sandbox runs: `sandboxctl cp PATH ID:PATH`.",
    grpc="FAILED_PRECONDITION",
)
HOOKS_UNSUPPORTED = _kind(
    "hooks_unsupported",
    "the container's OCI hooks cannot be run",
    "{findings}",
    "Remove `hooks` from config.json. Under nerdctl, which sets up its network with a hook, add `--network none`.",
    grpc="FAILED_PRECONDITION",
)
ROOTFS_UNSUPPORTED = _kind(
    "rootfs_unsupported",
    "the container's root file system comes in a form that a microVM cannot mount",
    "{findings}",
    "Use the EROFS snapshotter (containerd 2.2 or later): `ctr run --snapshotter erofs ...`.",
    grpc="FAILED_PRECONDITION",
)
SECCOMP_PROFILE_INVALID = _kind(
    "seccomp_profile_invalid",
    "the seccomp profile cannot be compiled",
    "{reason}",
    "Correct the profile, or use the default one: `sandboxctl run` without `--security-opt seccomp=...`.",
)
UNKNOWN_USER = _kind(
    "unknown_user",
    "there is no {what} {name} in the image",
    "{reason}",
    "Give a numeric id, which needs no entry in the image: `sandboxctl run -u 1000:1000 ...`.",
    exit_status=126,
)
NO_COMMAND = _kind(
    "no_command",
    "there is nothing to run",
    "No command was given and the image names neither Entrypoint nor Cmd.",
    "Give one: `sandboxctl run IMAGE COMMAND`.",
)

# --- daemon, configuration, client ---------------------------------------------------------------------------------

CONFIG_UNKNOWN_KEY = _kind(
    "config_unknown_key",
    "the configuration {path} has a key that sandboxd does not know: {key}",
    "{reason}",
    "Correct it in {path}; `sandboxctl config show` prints every key and its value.",
)
CONFIG_INVALID = _kind(
    "config_invalid",
    "the configuration {path} is not valid",
    "{reason}",
    "Correct it in {path}; `sandboxctl config show` prints every key and its value.",
)
CONFIG_UNREADABLE = _kind(
    "config_unreadable",
    "the configuration {path} cannot be read",
    "{reason}",
    "Check that the file exists and is readable: `ls -l {path}`.",
)
DAEMON_ALREADY_RUNNING = _kind(
    "daemon_already_running",
    "sandboxd runs already",
    "Process {pid} holds {lock}.",
    "Use the running one, end it with `kill {pid}`, or give this one another run_dir in its configuration.",
    grpc="FAILED_PRECONDITION",
)
DAEMON_NOT_READY = _kind(
    "daemon_not_ready",
    "sandboxd is still starting",
    "After {waited_s} s it had not finished looking after the sandboxes of its predecessor: {stage}.",
    "Try again in a moment; the daemon's log shows what it waits for.",
    blame=Blame.HOST,
    grpc="UNAVAILABLE",
    retryable=True,
)
DAEMON_STATE_UNUSABLE = _kind(
    "daemon_state_unusable",
    "the daemon's state in {path} cannot be used",
    "{reason}",
    "Run the sandboxd that wrote it, or move the file away: `mv {path} {path}.old`.",
    blame=Blame.HOST,
    grpc="FAILED_PRECONDITION",
)
DAEMON_STATE_NOT_WRITTEN = _kind(
    "daemon_state_not_written",
    "the daemon's state in {path} could not be written",
    "{reason}",
    "Make room on its file system (`df {path}`), and try again.",
    blame=Blame.HOST,
    retryable=True,
    grpc="RESOURCE_EXHAUSTED",
)
DAEMON_DIRECTORY_UNUSABLE = _kind(
    "daemon_directory_unusable",
    "sandboxd cannot use {path}",
    "{reason}",
    "Run sandboxd as root, or set data_dir and run_dir in its configuration to directories that it may write.",
    blame=Blame.HOST,
    grpc="FAILED_PRECONDITION",
)
SUBSCRIBER_TOO_SLOW = _kind(
    "subscriber_too_slow",
    "the stream of events was ended",
    "The reader was {count} events behind, which is the limit.",
    "Read faster, and catch up with `sandboxctl events --since 10m`.",
    grpc="RESOURCE_EXHAUSTED",
    retryable=True,
)
DAEMON_UNREACHABLE = _kind(
    "daemon_unreachable",
    "no sandboxd answers at {socket}",
    "{reason}",
    "Start it with `sandboxd`, or name another socket with `--socket PATH` or SANDBOXD_SOCKET.",
    blame=Blame.HOST,
    grpc="UNAVAILABLE",
    retryable=True,
)
DAEMON_START_FAILED = _kind(
    "daemon_start_failed",
    "sandboxd could not be started",
    "{reason} Its log ends: {log_tail}",
    "Run `sandboxd` in the foreground to see all it says; the whole log is {log}.",
    blame=Blame.HOST,
    grpc="UNAVAILABLE",
)
DAEMON_LOST = _kind(
    "daemon_lost",
    "the connection to sandboxd broke",
    "The daemon at {socket} ended or closed the connection: {reason}.",
    "Sandboxes run on without it: `sandboxctl ps -a` starts a new daemon and shows them.",
    blame=Blame.HOST,
    grpc="UNAVAILABLE",
    retryable=True,
)
CALL_TIMED_OUT = _kind(
    "call_timed_out",
    "sandboxd did not answer in time",
    "{call} took longer than {limit_s} s.",
    "Try again with a longer timeout; `sandboxctl info` shows whether the daemon answers at all.",
    blame=Blame.HOST,
    grpc="DEADLINE_EXCEEDED",
    retryable=True,
)
API_MISMATCH = _kind(
    "api_mismatch",
    "this sandboxd does not know the call {call}",
    "The daemon at {socket} is older or newer than this client: {reason}.",
    "Restart the daemon so that both are the same version; `sandboxctl version` shows both.",
    grpc="UNIMPLEMENTED",
)
SANDBOX_LOST = _kind(
    "sandbox_lost",
    "sandbox {id} did not end by itself: {reason}",
    "{detail}",
    "`sandboxctl inspect {id}` and `sandboxctl logs {id}` show what is known about it.",
    blame=Blame.HOST,
    grpc="ABORTED",
)
COMMAND_FAILED = _kind(
    "command_failed",
    "{command} ended with status {status}",
    "Its error output ends: {stderr_tail}",
    "`result.stdout` and `result.stderr` hold all of its output when it is run with check=False.",
    grpc="ABORTED",
)
NO_TERMINAL = _kind(
    "no_terminal",
    "the input is not a terminal",
    "-t with -i needs a terminal as standard input, and it is {what}.",
    "Leave out -t: `sandboxctl {command} -i ...`.",
)
LOCAL_FILE = _kind(
    "local_file",
    "cannot use {path} on this host",
    "{reason}.",
    "Check that it exists and who may use it: `ls -ld {path}`.",
)
COPY_TARGET = _kind(
    "copy_target",
    "cannot copy {source} to {target}",
    "{reason}",
    "`sandboxctl cp --help` says what a trailing `/` and `/.` mean.",
)
ARCHIVE_REFUSED = _kind(
    "archive_refused",
    "the archive from the sandbox has an entry that is not written to this host: {entry}",
    "{reason}",
    "Copy a part of the tree that is without it, or look at it with `sandboxctl cp NAME:PATH - | tar -tv`.",
    blame=Blame.GUEST,
    grpc="DATA_LOSS",
)
UNKNOWN_FIELD = _kind(
    "unknown_field",
    "the template asks for {field}, which there is not",
    "The nearest field is {nearest}; there are: {fields}.",
    "`--format json` shows all fields with their values.",
)
USAGE = _kind(
    "usage",
    "{problem}",
    "`{command}` was called in a way that it does not know.",
    "See `{command} --help`.",
)
