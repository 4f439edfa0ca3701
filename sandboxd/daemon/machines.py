"""On what a sandbox runs: driver and acceleration, chosen by what a probe guest showed; the guest's kernel and initrd.

The probe takes up to seconds on a host whose KVM only emulates. It runs once per boot of the host, in the background
from the daemon's start; a start that comes earlier waits for it. Its answer is kept in run_dir, with the boot's id.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast

from sandboxd.base.errors import SandboxdError
from sandboxd.core.config import Config
from sandboxd.core.files import read_bounded, write_atomically
from sandboxd.daemon.host import boot_id
from sandboxd.daemon.paths import Paths
from sandboxd.guest.boot import GuestImage, prepare_guest
from sandboxd.vmm.probe import Virtualisation, probe_virtualisation
from sandboxd.vmm.select import select

CACHE_MAX_BYTES = 64 << 10
KVM_DEVICE = Path("/dev/kvm")
STARTS_MIN = 4

_log = logging.getLogger(__name__)

Driver = Literal["qemu", "kvm"]
Acceleration = Literal["tcg", "kvm"]


@dataclass(frozen=True, slots=True)
class Machine:
    """What a sandbox's machine will be made of."""

    driver: Driver
    acceleration: Acceleration
    reason: str
    guest: GuestImage


class Machines:
    """Chooses machines. `begin` starts the probe; `choose` and `describe` wait for it."""

    def __init__(self, config: Config, paths: Paths) -> None:
        self._config = config
        self._paths = paths
        self._probe: asyncio.Task[Virtualisation] | None = None
        # A boot is work for a CPU: more of them at once than there are CPUs only makes each of them slower, until all
        # are too slow for their time limit.
        self.booting = asyncio.Semaphore(config.limits.starts or max(STARTS_MIN, 2 * (os.cpu_count() or 1)))

    def begin(self) -> None:
        self._virtualisation()

    async def choose(self, requested: str, kernel: Path | None) -> Machine:
        """Raises what sandboxd.vmm.select and sandboxd.guest.boot raise: no such driver, guest not prepared."""
        data_dir = self._paths.data_dir
        guest = asyncio.create_task(asyncio.to_thread(prepare_guest, data_dir, kernel))
        try:
            virtualisation = await asyncio.shield(self._virtualisation())
            driver, acceleration, reason = select(cast(Literal["auto", "qemu", "kvm"], requested), virtualisation)
        except BaseException:
            guest.cancel()
            raise
        return Machine(driver, acceleration, reason, await guest)

    async def describe(self) -> tuple[str, str, str]:
        """(driver, acceleration, reason) of what `auto` or the configured driver comes out as."""
        virtualisation = await asyncio.shield(self._virtualisation())
        return select(self._config.machine.driver, virtualisation)

    async def kernel(self) -> str:
        """The file that guests boot by default; "" when there is none yet."""
        try:
            guest = await asyncio.to_thread(prepare_guest, self._paths.data_dir, self._config.machine.kernel)
        except SandboxdError:
            return ""
        return f"{guest.kernel} ({guest.release})" if guest.release else str(guest.kernel)

    async def close(self) -> None:
        if self._probe and not self._probe.done():
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)

    def _virtualisation(self) -> asyncio.Task[Virtualisation]:
        if self._probe is None or (self._probe.done() and (self._probe.cancelled() or self._probe.exception())):
            self._probe = asyncio.create_task(self._look())
        return self._probe

    async def _look(self) -> Virtualisation:
        key = _host_key()
        kept = _read_cache(self._paths.virtualisation, key)
        if kept:
            return kept
        found = await asyncio.to_thread(probe_virtualisation)
        _log.info("virtualisation: %s: %s", found.acceleration, found.reason)
        try:
            write_atomically(self._paths.virtualisation, json.dumps({"host": key, "found": asdict(found)}).encode())
        except OSError as error:  # costs the next daemon another probe
            _log.warning("%s could not be written: %s", self._paths.virtualisation, error)
        return found


def _host_key() -> list[str]:
    """What an answer depends on: the boot, and the device (a module may be loaded or a mode changed meanwhile)."""
    try:
        status = KVM_DEVICE.stat()
        device = f"{status.st_rdev} {status.st_mode} {status.st_ino} {status.st_ctime_ns}"
    except OSError as error:
        device = f"errno {error.errno}"
    return [boot_id(), device]


def _read_cache(path: Path, key: list[str]) -> Virtualisation | None:
    try:
        kept = json.loads(read_bounded(path, CACHE_MAX_BYTES))
        return Virtualisation(**kept["found"]) if kept["host"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
