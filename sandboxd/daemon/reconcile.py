"""After a start: what the daemon before this one left, taken over or cleaned up.

Every row is compared with what lives; then everything on the host that has our name and no row is removed. A sandbox
whose shim lives is adopted, whatever became of its daemon. One whose shim is gone has ended: as the shim wrote, or with
the host, or with the shim.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

from sandboxd.base.clock import unix_ns
from sandboxd.base.errors import SandboxdError
from sandboxd.core.lifecycle import State
from sandboxd.core.reclaim import reclaim
from sandboxd.daemon.create import Workshop, end_shim
from sandboxd.daemon.host import boot_id
from sandboxd.daemon.live import Live
from sandboxd.daemon.records import Exit, SandboxRecord
from sandboxd.daemon.sandboxes import KILLED_STATUS, Sandboxes, exit_of_dead_shim
from sandboxd.linux.cgroup import Cgroup, host_layout
from sandboxd.shim.launch import ShimClient, connect

AT_ONCE = 16
CGROUP_KILL_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0

_log = logging.getLogger(__name__)


class Reconciler:
    """`run` once, before anything is served. `stage` says what it is at."""

    def __init__(self, shop: Workshop, sandboxes: Sandboxes) -> None:
        self._shop = shop
        self._sandboxes = sandboxes
        self._adopted: list[SandboxRecord] = []
        self.stage = "not begun"

    async def run(self) -> None:
        await self._reconcile_rows()
        await self._reconcile_networks()
        self.stage = "leftovers"
        await asyncio.to_thread(self._remove_orphans)
        self.stage = "done"

    async def _reconcile_rows(self) -> None:
        rows = list(self._shop.registry)
        dead: list[tuple[SandboxRecord, Exit]] = []
        gate = asyncio.Semaphore(AT_ONCE)

        async def look(record: SandboxRecord) -> None:
            async with gate:
                self.stage = f"sandbox {record.id}"
                try:
                    exit_ = await self._reconcile(record)
                except Exception:  # one that cannot be judged must not keep all others from being served
                    _log.exception("sandbox %s could not be looked after", record.id)
                    return
                if exit_:
                    dead.append((record, exit_))

        async with asyncio.TaskGroup() as tasks:
            for record in rows:
                tasks.create_task(look(record))
        for record, exit_ in dead:
            _log.info("sandbox %s ended while no daemon ran: %s", record.id, exit_.reason)
            await self._sandboxes.bury(record, exit_)

    async def _reconcile(self, record: SandboxRecord) -> Exit | None:
        """Adopts it, or answers how it ended. One that stopped before is left, or removed if its removal was due."""
        if not record.alive:
            if record.parsed_config().remove:
                await self._sandboxes.remove(record.id, force=False)
            return None
        if record.exit:
            return record.exit
        if record.boot_id != boot_id():
            return Exit(KILLED_STATUS, unix_ns(), "host_rebooted", "The host was restarted while the sandbox ran.")
        try:
            shim = await connect(self._shop.paths.run_of(record.id))
        except SandboxdError:
            shim = None
        if record.state is State.CREATING:
            await self._undo_creation(record, shim)
            return None
        if shim is None:
            return exit_of_dead_shim(self._shop, Live(record.id))
        await self._adopt(record, shim)
        return None

    async def _adopt(self, record: SandboxRecord, shim: ShimClient) -> None:
        if record.state is State.CREATED and await _was_started(shim):
            # The daemon died between the start and its row.
            record = await self._shop.registry.change(
                record.id, state=State.RUNNING, started_unix_ns=record.created_unix_ns
            )
        self._sandboxes.adopt(record, shim)
        self._adopted.append(record)
        _log.info("sandbox %s adopted: shim %d", record.id, shim.pid)

    async def _undo_creation(self, record: SandboxRecord, shim: ShimClient | None) -> None:
        """Whoever asked for it is gone with the daemon that made it."""
        if shim:
            await end_shim(shim)
        await asyncio.to_thread(reclaim, self._shop.paths.run_of(record.id))
        await self._shop.registry.delete(record.id)
        _log.info("sandbox %s was half-made, and is removed", record.id)

    async def _reconcile_networks(self) -> None:
        self.stage = "network"
        slots = {record.slot for record in self._adopted if record.slot is not None and record.address}
        try:
            await self._shop.networks.reconcile(slots)
        except SandboxdError as error:
            # Those that have a network still have it; new ones will be refused with the same reason.
            _log.error("network: %s %s", error.message, error.cause)

    def _remove_orphans(self) -> None:
        paths, known = self._shop.paths, {record.id for record in self._shop.registry}
        alive = {record.id for record in self._shop.registry if record.alive}
        for run_dir in _children(paths.sandboxes_run):
            if run_dir.name not in alive:
                _log.info("leftover %s is removed", run_dir)
                reclaim(run_dir)
                shutil.rmtree(run_dir, ignore_errors=True)
        for data_dir in _children(paths.sandboxes_data):
            if data_dir.name not in known:
                shutil.rmtree(data_dir, ignore_errors=True)
        for name in _cgroup_children(paths.cgroup):
            if name not in alive:
                _remove_cgroup(f"{paths.cgroup}/{name}")


async def _was_started(shim: ShimClient) -> bool:
    """Also true of one that has ended since: its watcher will be told at once."""
    from sandboxd.api.containerd.task_types_pb2 import CREATED

    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return (await shim.state()).status != CREATED
    except (TimeoutError, SandboxdError):
        return False


def _children(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if path.is_dir() and not path.is_symlink()]
    except FileNotFoundError:
        return []


def _cgroup_children(parent: str) -> set[str]:
    return {path.name for root in host_layout().roots.values() for path in _children(root / parent)}


def _remove_cgroup(path: str) -> None:
    try:
        cgroup = Cgroup(path)
        cgroup.kill(CGROUP_KILL_TIMEOUT_S)
        cgroup.remove()
    except (OSError, ValueError) as error:
        _log.warning("leftover control group %s: %s", path, error)


def remove_cgroup_parent(paths_cgroup: str) -> None:
    """The one directory above all sandboxes' cgroups; refused by the kernel, rightly, while one lives."""
    try:
        Cgroup(paths_cgroup).remove()
    except OSError as error:
        _log.debug("control group %s stays: %s", paths_cgroup, error)
