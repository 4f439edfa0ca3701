"""The life of sandboxes: made, started, watched, ended, removed; adopted when another daemon made them.

One task watches each living sandbox: its shim's word on how it ended, or the shim's own death, whichever comes. What it
held is then released at once: machine, disk, tap, cgroup, directories. Its record and its log stay until it is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
from collections.abc import Callable, Coroutine
from dataclasses import replace

from sandboxd.base.clock import unix_ns
from sandboxd.base.errors import SANDBOX_RUNNING, SANDBOX_WRONG_STATE, SandboxdError
from sandboxd.core.config import Config
from sandboxd.core.lifecycle import State
from sandboxd.core.reclaim import reclaim
from sandboxd.core.records import read_exit_record
from sandboxd.daemon.create import Creation, Workshop, end_shim
from sandboxd.daemon.events import EventBus
from sandboxd.daemon.live import Live
from sandboxd.daemon.paths import DISK, Paths
from sandboxd.daemon.records import Exit, SandboxRecord
from sandboxd.daemon.registry import Registry
from sandboxd.daemon.request import Request
from sandboxd.daemon.signals import parse_signal
from sandboxd.image.record import ImageRecord
from sandboxd.shim.launch import ShimClient

STOP_TIMEOUT_S = 10.0
KILL_TIMEOUT_S = 10.0
"""After SIGKILL to a container; then its machine is ended from outside."""
KILLED_STATUS = 128 + signal.SIGKILL

_log = logging.getLogger(__name__)


class Sandboxes:
    """All verbs on sandboxes. References are already resolved: methods take full ids."""

    def __init__(self, shop: Workshop, events: EventBus) -> None:
        self._shop = shop
        self._events = events
        self._live: dict[str, Live] = {}
        self._tasks: set[asyncio.Task[object]] = set()
        self._creations: set[asyncio.Task[Live]] = set()
        self._forgetting: dict[str, asyncio.Task[object]] = {}

    @property
    def registry(self) -> Registry:
        return self._shop.registry

    @property
    def config(self) -> Config:
        return self._shop.config

    def live(self, sandbox_id: str) -> Live | None:
        """None when it has stopped."""
        return self._live.get(sandbox_id)

    def require_running(self, record: SandboxRecord, operation: str) -> tuple[Live, ShimClient]:
        """Raises sandbox_wrong_state."""
        live = self._live.get(record.id)
        if live is None or record.state not in (State.RUNNING, State.PAUSED):
            raise _wrong_state(record, operation, "running")
        if live.finishing:
            raise _wrong_state(replace(record, state=State.STOPPED), operation, "running")
        return live, live.require_shim(operation)

    def require_alive(self, record: SandboxRecord, operation: str) -> tuple[Live, ShimClient]:
        """Created, running or paused. Raises sandbox_wrong_state."""
        live = self._live.get(record.id)
        if live is None or not record.alive:
            raise _wrong_state(record, operation, "created or running")
        if live.finishing:
            raise _wrong_state(replace(record, state=State.STOPPED), operation, "created or running")
        return live, live.require_shim(operation)

    # --- making and starting ---

    async def create(self, request: Request, image: ImageRecord, on_claimed: Callable[[Live], None]) -> Live:
        """All or nothing; a caller that goes away meanwhile wants nothing."""

        def claimed(live: Live) -> None:
            self._live[live.id] = live
            on_claimed(live)

        creation = asyncio.create_task(self._create(request, image, claimed))
        self._creations.add(creation)
        try:
            # In a task of its own, so that a caller's second cancellation cannot cut an undo short.
            return await asyncio.shield(creation)
        except asyncio.CancelledError:
            creation.cancel()
            await asyncio.wait({creation})
            raise
        finally:
            self._creations.discard(creation)

    async def _create(self, request: Request, image: ImageRecord, on_claimed: Callable[[Live], None]) -> Live:
        seen: list[Live] = []

        def claimed(live: Live) -> None:
            seen.append(live)
            on_claimed(live)

        try:
            live = await Creation(self._shop, request, image).run(claimed)
        except BaseException:
            for live in seen:
                self._live.pop(live.id, None)
                live.ended.cancel()
            raise
        self._begin_watch(live)
        self._tell(live.id, "create")
        return live

    async def start(self, sandbox_id: str) -> SandboxRecord:
        """Raises sandbox_wrong_state, command_not_found, command_not_executable; after these it has stopped.

        Done to its end, whether or not the caller stays: the record must not say less than what runs.
        """
        starting = asyncio.create_task(self._start(sandbox_id))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait({starting})
            starting.cancelled() or starting.exception()
            raise

    async def _start(self, sandbox_id: str) -> SandboxRecord:
        live = self._live.get(sandbox_id)
        record = self._record(sandbox_id)
        if live is None:
            raise _wrong_state(record, "start", "created")
        async with live.changing:
            record = self._record(sandbox_id)
            if record.state is not State.CREATED:
                raise _wrong_state(record, "start", "created")
            with live.stages.stage("start"):
                await live.require_shim("start").start()
            current = self.registry.get(sandbox_id)
            if current is None or current.state is not State.CREATED:
                return current or record  # it has ended already, and was perhaps removed
            record = await self.registry.change(sandbox_id, state=State.RUNNING, started_unix_ns=unix_ns())
        self._arm_timeout(live, record)
        self._tell(sandbox_id, "start")
        return record

    # --- ending ---

    async def stop(self, sandbox_id: str, timeout_s: float) -> None:
        """Its stop signal, `timeout_s`, SIGKILL. Of one that has stopped: nothing."""
        live = self._live.get(sandbox_id)
        if live is None:
            return
        live.require_shim("stop")
        record = self._record(sandbox_id)
        if record.state in (State.RUNNING, State.PAUSED):
            number = parse_signal(record.parsed_config().stop_signal) or signal.SIGTERM
            try:
                await live.require_shim("stop").kill(number)
            except SandboxdError as error:
                _log.info("sandbox %s: stop signal not delivered: %s", sandbox_id, error)
            if await live.wait_ended(timeout_s):
                return
        await self.end(live)

    async def kill(self, sandbox_id: str, number: int) -> None:
        """One signal to its first process. Raises sandbox_wrong_state."""
        _, shim = self.require_running(self._record(sandbox_id), "kill")
        await shim.kill(number)

    async def end(self, live: Live) -> None:
        """SIGKILL, then the machine from outside. Returns when it has ended."""
        record = self.registry.get(live.id)
        shim = live.shim
        if shim and record and record.state in (State.RUNNING, State.PAUSED):
            try:
                async with asyncio.timeout(KILL_TIMEOUT_S):
                    await shim.kill(signal.SIGKILL, all=True)
                    await live.wait_ended()
                    return
            except (TimeoutError, SandboxdError) as error:
                _log.info("sandbox %s: not ended by SIGKILL in its guest: %s", live.id, error)
        if shim and not live.ended.done():
            live.ended_by_us = True
            await end_shim_from_outside(shim)
        await live.wait_ended()

    async def remove(self, sandbox_id: str, *, force: bool) -> None:
        """Raises sandbox_running unless `force`. Idempotent towards a removal by anyone else meanwhile."""
        record = self.registry.get(sandbox_id)
        if record is None:
            return
        live = self._live.get(sandbox_id)
        if live:
            if not force:
                raise SandboxdError(SANDBOX_RUNNING, id=sandbox_id, state=record.state.value)
            live.require_shim("remove")
            await self.end(live)
        await self._forget(record)

    async def remove_by_name(self, name: str) -> None:
        """The sandbox of exactly this name, if there is one; alive or not."""
        record = self.registry.named(name)
        if record:
            await self.remove(record.id, force=True)

    async def discard(self, live: Live) -> None:
        """Ends and forgets one whose start failed: nothing of it is left."""
        await self.end(live)
        record = self.registry.get(live.id)
        if record:
            await self._forget(record)

    async def wait(self, sandbox_id: str) -> Exit:
        """Until it has ended and been cleaned up."""
        live = self._live.get(sandbox_id)
        if live:
            return await live.exit()
        record = self._record(sandbox_id)
        return record.exit or Exit(KILLED_STATUS, record.created_unix_ns, "shim_died")

    # --- watching ---

    def adopt(self, record: SandboxRecord, shim: ShimClient) -> None:
        """Takes over a living sandbox of a daemon before this one."""
        live = Live(record.id, shim)
        self._live[record.id] = live
        self._begin_watch(live)
        if record.state in (State.RUNNING, State.PAUSED):
            self._arm_timeout(live, record)

    def bury(self, record: SandboxRecord, exit_: Exit) -> Coroutine[object, object, None]:
        """Cleans up after a sandbox that ended while no daemon looked."""
        live = Live(record.id)
        self._live[record.id] = live
        return self._finish(live, exit_)

    def _begin_watch(self, live: Live) -> None:
        self._spawn(self._watch(live), f"watch {live.id}")

    async def _watch(self, live: Live) -> None:
        assert live.shim
        exit_ = await self._await_exit(live, live.shim)
        await self._finish(live, exit_)

    async def _await_exit(self, live: Live, shim: ShimClient) -> Exit:
        told = asyncio.ensure_future(shim.wait_exit())
        died = asyncio.ensure_future(shim.died())
        try:
            await asyncio.wait({told, died}, return_when=asyncio.FIRST_COMPLETED)
            if told.done() and not told.exception():
                answer = told.result()
                return Exit(answer.exit_status, answer.exited_at_unix_ns, answer.reason, answer.detail)
            # The connection broke: the process is going, or it is of no use without one.
            await end_shim_from_outside(shim)
            return exit_of_dead_shim(self._shop, live)
        finally:
            told.cancel()
            died.cancel()
            await asyncio.gather(told, died, return_exceptions=True)

    async def _finish(self, live: Live, exit_: Exit) -> None:
        """Releases everything, writes down how it ended, tells everyone. Removes it if that was asked for."""
        live.finishing = True
        if live.timer:
            live.timer.cancel()
        if live.timed_out:
            exit_ = replace(exit_, reason="timeout")
        # First, because the release takes away what a next daemon would read it from, if this one dies now.
        await self._note(live, exit=exit_)
        with live.stages.stage("release"):
            await self._release(live)
        await self._note(live, state=State.STOPPED, slot=None)
        _log.info("sandbox %s ended: %s, status %d", live.id, exit_.reason, exit_.exit_status)
        self._tell(live.id, "oom" if exit_.reason == "oom_killed" else "", exitCode=str(exit_.exit_status))
        self._tell(live.id, "die", exitCode=str(exit_.exit_status), reason=exit_.reason)
        record = self._record(live.id)
        if record.parsed_config().remove:
            try:
                await self._forget(record)
            except SandboxdError as error:
                _log.error("sandbox %s was not removed: %s %s", live.id, error.message, error.cause)
        del self._live[live.id]
        live.ended.set_result(exit_)

    async def _note(self, live: Live, **changes: object) -> None:
        """What could not be written is known to this daemon all the same: a full disk must not keep it from ending."""
        try:
            await self.registry.change(live.id, **changes)
        except SandboxdError as error:
            _log.error("sandbox %s: its end was not written down: %s %s", live.id, error.message, error.cause)

    async def _release(self, live: Live) -> None:
        """The slot stays taken meanwhile, so nobody else can come to use its uid, its tap or its ports."""
        await asyncio.gather(self._release_machine(live), self._release_network(live))

    async def _release_machine(self, live: Live) -> None:
        if live.shim:
            try:
                described = await asyncio.wait_for(live.shim.describe(), KILL_TIMEOUT_S)
                live.stages.extend(described.stages)
            except (TimeoutError, SandboxdError) as error:
                _log.debug("sandbox %s: no stages: %s", live.id, error)
            await end_shim(live.shim)
        await asyncio.to_thread(_reclaim, self._shop.paths, live.id)

    async def _release_network(self, live: Live) -> None:
        """Does not wait for the machine: one that still lived is cut off, and a tap may go while it is open.

        Only published ports are waited for. The rest takes the kernel 10 ms and keeps nothing from anybody.
        """
        record = self._record(live.id)
        slot = record.slot
        if slot is None:
            return
        if not record.ports:
            self._shop.networks.release_soon(slot)
            return
        try:
            await self._shop.networks.release(slot)
        except Exception:  # the sandbox has ended all the same, and whoever waits for it must learn so
            _log.exception("sandbox %s: its network was not released", live.id)

    async def _forget(self, record: SandboxRecord) -> None:
        """Log and record. Done once, and to its end, however many ask for it and go away."""
        if record.id not in self.registry:
            return
        if record.id not in self._forgetting:
            self._forgetting[record.id] = self._spawn(self._forget_once(record), f"removal of {record.id}")
        await asyncio.shield(self._forgetting[record.id])

    async def _forget_once(self, record: SandboxRecord) -> None:
        try:
            # The log first: on a full disk it may be what the record's removal needs the room of.
            await asyncio.to_thread(shutil.rmtree, self._shop.paths.data_of(record.id), ignore_errors=True)
            await self.registry.delete(record.id)
        finally:
            del self._forgetting[record.id]
        self._events.publish("sandbox", "destroy", record.id, record.name)

    # --- time-outs ---

    def _arm_timeout(self, live: Live, record: SandboxRecord) -> None:
        timeout_s = record.parsed_config().timeout_s
        if not timeout_s or live.finishing or live.ended.done():
            return
        # Bounded on both sides: the host's clock may have been set meanwhile.
        left_s = min(max(0.0, timeout_s - (unix_ns() - record.started_unix_ns) / 1e9), timeout_s)
        live.timer = asyncio.get_running_loop().call_later(left_s, self._on_timeout, live)

    def _on_timeout(self, live: Live) -> None:
        live.timed_out = True
        self._spawn(self.end(live), f"timeout {live.id}")

    # --- the rest ---

    async def close(self) -> None:
        """Stops looking after them; they live on. What is half-made is undone."""
        for creation in self._creations:
            creation.cancel()
        finishing = {f"watch {live.id}" for live in self._live.values() if live.finishing}
        for task in self._tasks - set(self._forgetting.values()):
            if task.get_name() not in finishing:
                task.cancel()
        await asyncio.gather(*self._creations, *self._tasks, return_exceptions=True)
        for live in self._live.values():
            if live.timer:
                live.timer.cancel()
            if live.shim:
                await live.shim.close()
            live.ended.cancel()

    def _record(self, sandbox_id: str) -> SandboxRecord:
        return self.registry.resolve(sandbox_id)

    def _spawn(self, work: Coroutine[object, object, object], name: str) -> asyncio.Task[object]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.error("%s failed", task.get_name(), exc_info=error)

    def _tell(self, sandbox_id: str, action: str, **attributes: str) -> None:
        record = self.registry.get(sandbox_id)
        if record and action:
            config = record.parsed_config()
            known = {**config.labels, "image": config.image}
            self._events.publish("sandbox", action, record.id, record.name, **{**known, **attributes})


async def end_shim_from_outside(shim: ShimClient) -> None:
    """Asks the shim to end; its watcher sees it go and cleans up. One that agrees and stays is killed."""
    try:
        async with asyncio.timeout(KILL_TIMEOUT_S):
            await shim.shutdown(now=True)
            await shim.died()
    except (TimeoutError, SandboxdError) as error:
        _log.info("shim %d does not end by itself: %s", shim.pid, error)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(shim.pidfd, signal.SIGKILL)


def exit_of_dead_shim(shop: Workshop, live: Live) -> Exit:
    """What its shim wrote before it died, or that it died."""
    written = read_exit_record(shop.paths.run_of(live.id))
    if written:
        return Exit(written.exit_status, written.exited_at_unix_ns, written.reason, written.detail)
    if live.ended_by_us:
        return Exit(KILLED_STATUS, unix_ns(), "signaled")
    return Exit(KILLED_STATUS, unix_ns(), "shim_died", "The process that looked after the sandbox was killed.")


def _reclaim(paths: Paths, sandbox_id: str) -> None:
    left = reclaim(paths.run_of(sandbox_id)).left
    if left:
        _log.warning("sandbox %s: not everything could be removed: %s", sandbox_id, "; ".join(left))
    # After a power cut nothing in /run says that there was a disk.
    try:
        (paths.data_of(sandbox_id) / DISK).unlink(missing_ok=True)
    except OSError as error:
        _log.warning("sandbox %s: its disk was not removed: %s", sandbox_id, error)


def _wrong_state(record: SandboxRecord, operation: str, needed: str) -> SandboxdError:
    return SandboxdError(
        SANDBOX_WRONG_STATE, operation=operation, id=record.id, state=record.state.value, needed=needed
    )
