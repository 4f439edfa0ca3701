"""Sandboxes of a test's own, at the level of the shim: real guests, no daemon."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandboxd.aio.descriptors import wait_readable, wait_writable
from sandboxd.core.oci.generate import ContainerOptions, ImageRuntimeConfig, container_config
from sandboxd.core.oci.rootfs import RootfsMount
from sandboxd.core.output_log import decode_record, older_file
from sandboxd.core.reclaim import reclaim
from sandboxd.core.spec import SandboxSpec
from sandboxd.guest.boot import prepare_guest
from sandboxd.shim.launch import ShimClient, Zygote, start_shim
from sandboxd.storage.disks import DiskTemplates

DATA_DIR = Path(os.environ.get("DATA_DIR", "/var/lib/sandboxd"))
"""Where `make guest` put the kernel."""
DISK_BYTES = 256 << 20
FIRST_VMM_UID = 0x5B000000


def make_busybox_image(directory: Path) -> Path:
    """An EROFS with Debian's static busybox and a link for each of its applets."""
    tree = directory / "tree"
    for name in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"):
        (tree / name).mkdir(parents=True)
    busybox = tree / "bin" / "busybox"
    shutil.copy2("/bin/busybox", busybox)
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in set(applets) - {"busybox"}:
        (tree / "bin" / applet).symlink_to("busybox")
    (tree / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tree / "etc" / "text").write_text("no program\n")
    image = directory / "busybox.erofs"
    subprocess.run(["mkfs.erofs", image, tree], check=True, capture_output=True)
    return image


@dataclass
class Box:
    """One sandbox: its shim's client and its places."""

    client: ShimClient
    spec: SandboxSpec
    house: ShimHouse

    @property
    def log(self) -> Path:
        return self.spec.data_dir / "log.json"

    def output(self, stream: str = "stdout") -> bytes:
        """Everything that the container wrote, from its log."""
        files = [path for path in (older_file(self.log), self.log) if path.exists()]
        records = [decode_record(line) for path in files for line in path.read_bytes().splitlines()]
        assert all(records), "every line of the log is a record"
        return b"".join(record.data for record in records if record and record.stream == stream)

    async def create(self, *command: str, stdin: str = "", terminal: bool = False, **options: Any) -> int:
        """Makes the container, its output in the log."""
        bundle = self.spec.run_dir / "bundle"
        bundle.mkdir(exist_ok=True)
        config = container_config(ImageRuntimeConfig(), ContainerOptions(command=command, terminal=terminal, **options))
        (bundle / "config.json").write_text(json.dumps(config))
        log = f"log://{self.log}"
        stderr = "" if terminal else log
        return await self.client.create(
            bundle, self.house.rootfs(self.spec), terminal=terminal, stdin=stdin, stdout=log, stderr=stderr
        )

    async def run(self, *command: str, **options: Any) -> None:
        await self.create(*command, **options)
        await self.client.start()

    def process(self, *command: str, terminal: bool = False) -> dict[str, Any]:
        """An OCI process for `exec`, with the container's own rights."""
        config = json.loads((self.spec.run_dir / "bundle" / "config.json").read_text())
        return {**config["process"], "args": list(command), "terminal": terminal}

    def fifo(self, name: str) -> Path:
        path = self.spec.run_dir / name
        os.mkfifo(path)
        return path


class Reader:
    """Reads a FIFO to its end."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.data = b""
        self.size = 0

    async def read_some(self) -> bytes:
        await wait_readable(self.fd)
        try:
            return os.read(self.fd, 1 << 20)
        except BlockingIOError:
            return await self.read_some()

    async def read_all(self) -> bytes:
        while piece := await self.read_some():
            self.data += piece
        os.close(self.fd)
        return self.data

    async def read_until(self, word: bytes) -> bytes:
        while word not in self.data:
            piece = await self.read_some()
            assert piece, f"ended before {word!r}: {self.data!r}"
            self.data += piece
        return self.data


async def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await wait_writable(fd)


class ShimHouse:
    """Makes sandboxes below `root`; each gets a name, a cgroup and a uid of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.guest = prepare_guest(DATA_DIR)
        self.image = make_busybox_image(root)
        self.disks = DiskTemplates(root / "templates")
        self.count = 0

    def spec(self, **changes: Any) -> SandboxSpec:
        self.count += 1
        name = f"s{os.getpid()}-{self.count}"
        values: dict[str, Any] = {
            "id": name,
            "driver": "qemu",
            "acceleration": "tcg",
            "kernel": self.guest.kernel,
            "initrd": self.guest.initrd,
            "vcpus": 1,
            "memory_mib": 192,
            "hostname": "box",
            "network": None,
            "vmm_uid": FIRST_VMM_UID + self.count,
            "cgroup": f"sandboxd-test-{os.getpid()}/{name}",
            "run_dir": self.root / "run" / name,
            "data_dir": self.root / "data" / name,
        }
        spec = SandboxSpec(**{**values, **changes})
        spec.data_dir.mkdir(parents=True)
        self.disks.clone(DISK_BYTES, spec.data_dir / "disk.ext4")
        return spec

    def rootfs(self, spec: SandboxSpec) -> list[RootfsMount]:
        overlay = (
            "X-containerd.mkdir.path={{ mount 0 }}/upper:0755",
            "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
            "workdir={{ mount 0 }}/work",
            "upperdir={{ mount 0 }}/upper",
            "lowerdir={{ mount 1 }}",
        )
        return [
            RootfsMount("ext4", str(spec.data_dir / "disk.ext4"), "", ("rw", "loop")),
            RootfsMount("erofs", str(self.image), "", ("ro", "loop")),
            RootfsMount("format/mkdir/overlay", "overlay", "", overlay),
        ]

    @contextlib.asynccontextmanager
    async def box(self, zygote: Zygote | None = None, **changes: Any) -> AsyncIterator[Box]:
        """A sandbox whose shim runs; at the end it is reclaimed, whatever became of it."""
        spec = self.spec(**changes)
        client = await start_shim(spec, zygote)
        box = Box(client, spec, self)
        try:
            yield box
        except BaseException:
            print((spec.run_dir / "shim.log").read_text() if spec.run_dir.exists() else "(no run_dir)")
            raise
        finally:
            await client.shutdown(now=True)
            async with asyncio.timeout(10):
                await client.died()
            await client.close()
            result = await asyncio.to_thread(reclaim, spec.run_dir)
            assert result.complete, result
