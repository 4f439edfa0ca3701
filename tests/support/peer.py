"""The same bundle under crun on the host and in a guest of ours, each with the probe in it; what the two see.

crun runs in a mount namespace of its own with a plain cgroup v2 hierarchy on /sys/fs/cgroup, as a guest has it,
whatever the host has there.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import os
import pty
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandboxd.aio.ttrpc import ClientConnection
from sandboxd.api import agent_pb2 as pb
from sandboxd.core.oci.compile import CompiledContainer, compile_container
from sandboxd.core.oci.rootfs import RootfsMount
from sandboxd.core.oci.spec import parse_spec
from sandboxd.guest.boot import prepare_guest
from sandboxd.guest.client import AgentClient
from sandboxd.vmm.qemu.driver import QemuVmm
from sandboxd.vmm.spec import Confinement, Drive, MachineSpec

DATA_DIR = Path(os.environ.get("DATA_DIR", "/var/lib/sandboxd"))
PROBE_SOURCES = Path(__file__).parent / "probe"
VMM_UID = 0x5B00F000
BOOT_TIMEOUT_S = 90
BUNDLE_TIMEOUT_S = 60
DISK_BYTES = 64 << 20

Probed = Mapping[str, str]
"""What the probe printed: key to value. A run that failed has the one key "failed"."""


@dataclass(frozen=True)
class Bundle:
    """`change` edits the base config.json; `probe` are the probe's arguments."""

    name: str
    change: Callable[[dict[str, Any]], None] = lambda config: None
    probe: tuple[str, ...] = ()
    writable: bool = True
    expected: Mapping[str, str] = field(default_factory=dict)
    """Values that the guest must show, where the peer cannot be asked or for good measure."""
    without_peer: str = ""
    """Why crun on this host cannot run it; then `expected` alone counts."""


@dataclass(frozen=True)
class Tree:
    """The root file system: a directory for crun, images for the guest."""

    root: Path
    directory: Path
    image: Path
    disk: Path
    preload: Path
    host_file: Path


def make_tree(root: Path) -> Tree:
    """Compiles the probe and lays out a small image around it."""
    directory = root / "rootfs"
    for name in ("proc", "dev", "sys", "tmp", "etc", "run", "root", "srv/app", "mnt", "bin", "data"):
        (directory / name).mkdir(parents=True)
    (directory / "tmp").chmod(0o1777)
    (directory / "link").symlink_to("../../../srv")
    (directory / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (directory / "etc/group").write_text("root:x:0:\n")
    (directory / "etc/motd").write_text("of the image\n")
    os.chown(directory / "data", 5, 6)
    (directory / "data").chmod(0o750)
    warnings = ("-Wall", "-Wextra", "-Werror")
    subprocess.run(
        ["gcc", "-static", "-O1", *warnings, "-o", directory / "bin/probe", PROBE_SOURCES / "probe.c"], check=True
    )
    preload = root / "no_memlock.so"
    subprocess.run(["gcc", "-shared", "-fPIC", *warnings, "-o", preload, PROBE_SOURCES / "no_memlock.c"], check=True)
    image, disk, host_file = root / "image.erofs", root / "disk.ext4", root / "host-file"
    subprocess.run(["mkfs.erofs", "--quiet", image, directory], check=True, capture_output=True)
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
    host_file.write_text("of the host\n")
    host_file.chmod(0o640)
    return Tree(root, directory, image, disk, preload, host_file)


def config_of(bundle: Bundle, base: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = copy.deepcopy(dict(base))
    bundle.change(config)
    config["process"]["args"] = ["/bin/probe", *bundle.probe]
    if not bundle.writable:
        config["root"]["readonly"] = True
    return config


def parse_probe(text: str) -> Probed:
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        if separator:
            found[key] = value
    return found if "end" in found else {"failed": text[-2000:]}


# --- the peer ---

_IN_PLAIN_CGROUPS = """
mount --make-rprivate / && umount -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"
"""


def run_in_crun(bundle: Bundle, config: dict[str, Any], tree: Tree) -> Probed:
    """One run in the foreground; nothing of it stays."""
    place = tree.root / "crun" / bundle.name
    place.mkdir(parents=True)
    config = copy.deepcopy(config)
    config["root"]["path"] = str(_copy_of_root(tree, place))
    (place / "config.json").write_text(json.dumps(config))
    state = place / "state"
    # crun hands on what its caller ignores, and a shell ignores some signals for what it runs behind.
    command = [
        "env",
        "--default-signal",
        "crun",
        "--root",
        state,
        "--cgroup-manager=cgroupfs",
        "run",
        "--bundle",
        place,
        f"peer-{bundle.name}",
    ]
    whole = ["unshare", "--mount", "sh", "-c", _IN_PLAIN_CGROUPS, "sh", *command]
    environment = {"PATH": os.environ["PATH"], "LD_PRELOAD": str(tree.preload)}
    output = (_run_on_a_terminal if config["process"].get("terminal") else _run_on_pipes)(whole, environment)
    shutil.rmtree(place)
    return parse_probe(output)


def _copy_of_root(tree: Tree, place: Path) -> Path:
    """A copy, as what one bundle leaves in the root must not meet the next."""
    directory = place / "rootfs"
    subprocess.run(["cp", "-a", tree.directory, directory], check=True)
    return directory


def _run_on_pipes(command: list[Any], environment: dict[str, str]) -> str:
    # An empty pipe and not /dev/null: crun gives its stdio to the container's user, and that one is everybody's.
    done = subprocess.run(command, input="", capture_output=True, text=True, env=environment, timeout=BUNDLE_TIMEOUT_S)
    return done.stdout + done.stderr


def _run_on_a_terminal(command: list[Any], environment: dict[str, str]) -> str:
    master, slave = pty.openpty()
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment) as child:
        os.close(slave)
        output = b""
        # EIO: the last holder of the slave is gone.
        with contextlib.suppress(OSError), os.fdopen(master, "rb", buffering=0) as reader:
            while chunk := reader.read(65536):
                output += chunk
        child.wait(BUNDLE_TIMEOUT_S)
    return output.decode(errors="replace").replace("\r\n", "\n")


# --- our guest ---


def compile_bundle(bundle: Bundle, config: dict[str, Any], tree: Tree) -> CompiledContainer:
    """All writable bundles share one container id, and so its two drives; all read-only ones another."""
    disk = RootfsMount("ext4", str(tree.disk), options=("rw", "loop"))
    image = RootfsMount("erofs", str(tree.image), options=("ro", "loop"))
    fresh = re.sub(r"[^a-z0-9]", "_", bundle.name)
    options = (
        f"X-containerd.mkdir.path={{{{ mount 0 }}}}/{fresh}_upper:0755",
        f"X-containerd.mkdir.path={{{{ mount 0 }}}}/{fresh}_work:0755",
        f"workdir={{{{ mount 0 }}}}/{fresh}_work",
        f"upperdir={{{{ mount 0 }}}}/{fresh}_upper",
        "lowerdir={{ overlay 1 1 }}",
    )
    overlay = RootfsMount("format/mkdir/overlay", "overlay", options=options)
    rootfs = (disk, image, overlay) if bundle.writable else (image,)
    container_id = "writable" if bundle.writable else "read-only"
    return compile_container(parse_spec(json.dumps(config).encode()), container_id=container_id, rootfs=rootfs)


@contextlib.asynccontextmanager
async def running_machine(drives: Iterable[Drive], work_dir: Path) -> AsyncIterator[AgentClient]:
    """A booted, activated guest; killed at the end. A failed boot shows the console's end."""
    guest = prepare_guest(DATA_DIR)
    work_dir.mkdir(mode=0o700)
    unique = {drive.serial: drive for drive in drives}
    machine = MachineSpec(
        id="peer", kernel=guest.kernel, initrd=guest.initrd, memory_mib=512, drives=tuple(unique.values())
    )
    vmm = QemuVmm(machine, Confinement(uid=VMM_UID, gid=VMM_UID, work_dir=work_dir))
    await vmm.boot()
    client: AgentClient | None = None
    try:
        client = AgentClient(await ClientConnection.from_socket(vmm.agent))
        try:
            await asyncio.wait_for(client.hello(pb.HelloRequest()), BOOT_TIMEOUT_S)
        except Exception as error:
            raise AssertionError(f"the guest does not answer: {error}\n{vmm.console_tail(4096)}") from error
        entropy, now = os.urandom(64), time.time_ns()
        await client.activate(pb.ActivateRequest(entropy=entropy, wall_clock_unix_ns=now, hostname="guest"))
        yield client
    finally:
        if client:
            await client.close()
        await vmm.kill()


async def run_in_guest(client: AgentClient, container: CompiledContainer) -> Probed:
    """Creates, starts, reads to the end, deletes. What goes wrong is the result."""
    container_id = container.plan.root.split("/")[3]
    try:
        async with asyncio.timeout(BUNDLE_TIMEOUT_S):
            await client.create_container(pb.CreateContainerRequest(container_id=container_id, plan=container.plan))
            try:
                return await _started(client, container_id, container.plan.process.terminal)
            finally:
                await client.delete_container(pb.DeleteContainerRequest(container_id=container_id))
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error} {getattr(error, 'cause', '')}"}


async def _started(client: AgentClient, container_id: str, terminal: bool) -> Probed:
    started = await client.start_container(pb.StartContainerRequest(container_id=container_id))
    if started.exec_errno:
        return {"failed": f"execve: {os.strerror(started.exec_errno)}"}
    streams = [pb.STREAM_STDOUT] if terminal else [pb.STREAM_STDOUT, pb.STREAM_STDERR]
    texts = await asyncio.gather(*(_read_all(client, container_id, stream) for stream in streams))
    await client.wait(pb.WaitRequest(container_id=container_id))
    return parse_probe(b"".join(texts).decode(errors="replace").replace("\r\n", "\n"))


async def _read_all(client: AgentClient, container_id: str, stream: pb.Stream) -> bytes:
    text = b""
    while True:
        request = pb.ReadOutputRequest(container_id=container_id, stream=stream, max_bytes=256 << 10)
        answer = await client.read_output(request)
        text += answer.data
        if answer.eof:
            return text


# --- comparing ---

_MOUNT = re.compile(r"mount\.\d+\Z")
_OF_THE_ROOT = ("ext4", "overlay", "erofs")
_INITIAL = {
    "time": 0xEFFFFFFA,
    "cgroup": 0xEFFFFFFB,
    "pid": 0xEFFFFFFC,
    "user": 0xEFFFFFFD,
    "uts": 0xEFFFFFFE,
    "ipc": 0xEFFFFFFF,
}
"""Inode numbers of the kernel's first namespaces (include/linux/proc_ns.h), as of a guest."""


def normalise(probed: Probed, host: bool) -> dict[str, str]:
    """Numbers that mean nothing in themselves become words; mounts are named by their targets."""
    result = {key: value for key, value in probed.items() if not _MOUNT.match(key)}
    for key, value in list(result.items()):
        if key.startswith("ns."):
            result[key] = _namespace(key.removeprefix("ns."), value, host)
    if "cgroup" in result:
        result["cgroup"] = result["cgroup"].rpartition("0::")[2]
    counts: dict[str, int] = {}
    for key in sorted(key for key in probed if _MOUNT.match(key)):
        target, *rest = probed[key].split("|")
        number = counts[target] = counts.get(target, 0) + 1
        name = f"mount.{target}" + (f"#{number}" if number > 1 else "")
        result |= {f"{name}.{field}": value for field, value in _mount_fields(rest).items()}
    return result


def _mount_fields(fields: list[str]) -> dict[str, str]:
    """What carries the root, a file of the host or a mask differs by nature; that, and nothing more, is left out."""
    kind, root, options, tags, source, extra = fields
    words = {
        "options": ",".join(sorted(options.split(","))),
        "propagation": re.sub(r":\d+", "", tags),
    }
    if root == "/null":
        return {**words, "type": "the null device"}
    if root.endswith("/host-file") or re.search(r"/file-\d+\Z", root):
        return {**words, "type": "a file of the host"}
    if kind == "devtmpfs":
        return {**words, "type": "a device of the machine"}
    if kind in _OF_THE_ROOT:
        return {**words, "type": "the image", "root": re.sub(r"\A.*/rootfs", "", root) or "/"}
    return {
        **words,
        "type": kind,
        "root": root,
        "source": source,
        "super": ",".join(sorted(set(extra.split(",")) - {"ro", "rw", "inode64"})),
        "super access": extra.partition(",")[0],
    }


def _namespace(name: str, value: str, host: bool) -> str:
    inode = int(re.sub(r"\D", "", value) or "0")
    outer = int(re.sub(r"\D", "", str(Path(f"/proc/self/ns/{name}").readlink()))) if host else _INITIAL.get(name)
    return "own" if inode != outer else "the machine's"
