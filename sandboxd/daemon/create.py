"""Making a sandbox: every step with its undo, and what can overlap does.

    row and slot -- network lease --+-- shim's process --+-- boot, container made
                                    +-- disk's clone ----+

A failure at any step, the caller's going away included, leaves nothing: no row, tap, directory, process.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sandboxd.base.clock import monotonic_ns, unix_ns
from sandboxd.base.errors import DAEMON_DIRECTORY_UNUSABLE, SandboxdError
from sandboxd.core.config import Config
from sandboxd.core.lifecycle import State
from sandboxd.core.oci.rootfs import RootfsMount
from sandboxd.core.reclaim import reclaim
from sandboxd.core.spec import SandboxSpec
from sandboxd.core.steps import Action, Performed, Step
from sandboxd.daemon.bundle import write_bundle
from sandboxd.daemon.container import Container, compose
from sandboxd.daemon.host import boot_id
from sandboxd.daemon.live import Live
from sandboxd.daemon.machines import Machine, Machines
from sandboxd.daemon.networks import Network, Networks
from sandboxd.daemon.paths import BUNDLE, DISK, OUTPUT_LOG, Paths
from sandboxd.daemon.records import SandboxRecord
from sandboxd.daemon.registry import Registry
from sandboxd.daemon.request import Request
from sandboxd.image.record import ImageRecord
from sandboxd.shim.launch import ATTACH_ONLY, ShimClient, Zygote, start_shim
from sandboxd.storage import DiskTemplates
from sandboxd.vmm.limits import check_memory

VMM_UID_BASE = 0x5B000000
"""The VMM of slot n runs as user and group VMM_UID_BASE + n: no two of them share one."""

SHUTDOWN_TIMEOUT_S = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Workshop:
    """What sandboxes are made with."""

    config: Config
    paths: Paths
    registry: Registry
    machines: Machines
    networks: Networks
    disks: DiskTemplates
    zygote: Zygote


class Creation:
    """One sandbox in the making. `run` does it all or nothing."""

    def __init__(self, shop: Workshop, request: Request, image: ImageRecord) -> None:
        self._shop = shop
        self._request = request
        self._image = image
        self._begin_ns = monotonic_ns()
        self._performed = Performed()
        self._network: Network | None = None
        self._cloning: asyncio.Future[None] | None = None

    async def run(self, on_claimed: Callable[[Live], None]) -> Live:
        """The machine is up, the container made and not started. Raises what any step raises, everything undone.

        `on_claimed` is told as soon as the sandbox has an id.
        """
        check_memory(self._request.memory_mib, self._request.config.vcpus)
        container = compose(self._request, self._image)
        self._shop.registry.check_name(self._request.config.name)
        machine = await self._shop.machines.choose(self._request.config.vmm, self._request.kernel)
        record = await self._claim(container)
        live = Live(record.id)
        live.stages.record("accept", self._begin_ns, monotonic_ns())
        on_claimed(live)
        spec = await self._prepare(live, record, container, machine)
        await self._do("shim", lambda: self._boot(live, spec), lambda: self._end(live))
        address, ports = (self._network.address, self._network.ports) if self._network else ("", ())
        await self._do(
            "record", lambda: self._shop.registry.change(live.id, state=State.CREATED, address=address, ports=ports)
        )
        return live

    async def _do(self, name: str, do: Action, undo: Action | None = None) -> None:
        try:
            await self._performed.run(Step(name, do, undo))
        except OSError as error:  # no room, or a disk that fails: the host's trouble, and none of ours
            path = error.filename or self._shop.paths.run_dir
            raise SandboxdError(DAEMON_DIRECTORY_UNUSABLE, path=path, reason=f"{error.strerror}.") from error

    async def _claim(self, container: Container) -> SandboxRecord:
        draft = SandboxRecord(
            id="",
            name=self._request.config.name,
            state=State.CREATING,
            config=container.config.SerializeToString(),
            image_id=self._image.id,
            command=container.argv,
            created_unix_ns=unix_ns(),
            boot_id=boot_id(),
        )
        record = await self._shop.registry.claim(draft)
        await self._do("row", _nothing, lambda: self._shop.registry.delete(record.id))
        return record

    async def _prepare(self, live: Live, record: SandboxRecord, container: Container, machine: Machine) -> SandboxSpec:
        """Directories, network, bundle. The disk's clone is begun, and goes on while other things are done."""
        paths, slot = self._shop.paths, record.slot or 0
        data_dir, run_dir = paths.data_of(live.id), paths.run_of(live.id)
        await self._do("directories", lambda: _make(data_dir, run_dir), lambda: self._remove(data_dir, run_dir))
        self._cloning = asyncio.ensure_future(self._clone(live, data_dir / DISK))
        if self._request.networked:
            await self._do("network", lambda: self._attach(live, slot), lambda: self._shop.networks.release(slot))
        attachment = self._network.attachment if self._network else None
        hostname = container.config.hostname or live.id
        oci = container.spec(hostname)
        await self._do("bundle", lambda: asyncio.to_thread(write_bundle, run_dir / BUNDLE, oci, hostname, attachment))
        return SandboxSpec(
            id=live.id,
            driver=machine.driver,
            acceleration=machine.acceleration,
            kernel=machine.guest.kernel,
            initrd=machine.guest.initrd,
            vcpus=self._request.config.vcpus,
            memory_mib=self._request.memory_mib,
            hostname=hostname,
            network=attachment,
            vmm_uid=VMM_UID_BASE + slot,
            cgroup=f"{paths.cgroup}/{live.id}",
            run_dir=run_dir,
            data_dir=data_dir,
            boot_timeout_s=self._shop.config.machine.boot_timeout_s,
            log_max_bytes=self._shop.config.log.max_bytes,
        )

    async def _attach(self, live: Live, slot: int) -> None:
        with live.stages.stage("network"):
            self._network = await self._shop.networks.attach(slot, self._request.ports)

    async def _clone(self, live: Live, disk: Path) -> None:
        with live.stages.stage("disk"):
            await asyncio.to_thread(self._shop.disks.clone, self._request.config.disk_bytes, disk)

    async def _boot(self, live: Live, spec: SandboxSpec) -> None:
        """Shim's process and the rest of the disk's clone together, then the machine and its container."""
        assert self._cloning
        queued_ns = monotonic_ns()
        async with self._shop.machines.booting:
            live.stages.record("turn", queued_ns, monotonic_ns())
            with live.stages.stage("shim"):
                live.shim = await start_shim(spec, self._shop.zygote)
            await self._cloning
            with live.stages.stage("boot"):
                await self._make_container(live.shim, spec)

    async def _make_container(self, shim: ShimClient, spec: SandboxSpec) -> None:
        config, log = self._request.config, f"log://{spec.data_dir / OUTPUT_LOG}"
        await shim.create(
            spec.run_dir / BUNDLE,
            rootfs_mounts(self._image.erofs_path, spec.data_dir / DISK),
            terminal=config.terminal,
            stdin=ATTACH_ONLY if config.stdin else "",
            stdout=log,
            stderr="" if config.terminal else log,
        )

    async def _end(self, live: Live) -> None:
        """The shim and all that it started."""
        if live.shim:
            await end_shim(live.shim)
            live.shim = None

    async def _remove(self, data_dir: Path, run_dir: Path) -> None:
        """What is in both directories. A clone that still runs in its thread is waited for: it would write after us."""
        if self._cloning:
            await asyncio.wait({self._cloning})
            self._cloning.cancelled() or self._cloning.exception()
        await asyncio.to_thread(_reclaim_all, data_dir, run_dir)


async def end_shim(shim: ShimClient) -> None:
    """Asks the shim to end with all it has; what does not is killed by `reclaim`. Never raises."""
    try:
        async with asyncio.timeout(SHUTDOWN_TIMEOUT_S):
            await shim.shutdown(now=True)
            await shim.died()
    except (TimeoutError, SandboxdError) as error:
        _log.warning("sandbox %s: its shim did not end by itself: %s", shim.id, error)
    await shim.close()


def rootfs_mounts(image: Path, disk: Path) -> tuple[RootfsMount, ...]:
    """The image below, the sandbox's own disk above, in the words of containerd's mount manager."""
    top = "{{ mount 0 }}"
    return (
        RootfsMount("ext4", str(disk), "", ("rw", "loop")),
        RootfsMount("erofs", str(image), "", ("ro", "loop")),
        RootfsMount(
            "format/mkdir/overlay",
            "overlay",
            "",
            (
                f"X-containerd.mkdir.path={top}/upper:0755",
                f"X-containerd.mkdir.path={top}/work:0755",
                f"workdir={top}/work",
                f"upperdir={top}/upper",
                "lowerdir={{ mount 1 }}",
            ),
        ),
    )


async def _nothing() -> None:
    """The row is made by the claim itself, in one go with the id."""


async def _make(*directories: Path) -> None:
    for directory in directories:
        directory.mkdir(mode=0o700)


def _reclaim_all(data_dir: Path, run_dir: Path) -> None:
    left = reclaim(run_dir).left
    if left:
        _log.warning("of %s could not be removed: %s", run_dir, "; ".join(left))
    shutil.rmtree(data_dir, ignore_errors=True)
