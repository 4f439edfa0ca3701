"""Children and processes: held, ended, and never mistaken for another."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from sandboxd.aio.child import Child
from sandboxd.aio.descriptors import wait_readable
from sandboxd.linux.process import ProcessIdentity, identify, kill_process, open_process


def go(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario

    asyncio.run(bounded())


def test_a_child_ends_with_its_block_by_the_ladder() -> None:
    async def scenario() -> None:
        async with Child.spawn(["sleep", "100"]) as child:
            assert child.returncode is None and identify(child.pid)
        assert child.returncode == -signal.SIGTERM
        assert await child.wait() == await child.kill() == -signal.SIGTERM
        script = "trap '' TERM; echo up; while :; do sleep 1; done"
        async with Child.spawn(["sh", "-c", script], stdout=subprocess.PIPE, new_session=True) as stubborn:
            assert stubborn.stdout
            await wait_readable(stubborn.stdout.fileno())
            assert await stubborn.stop(grace_s=0.1) == -signal.SIGKILL
            os.killpg(stubborn.pid, signal.SIGKILL)

    go(scenario())


def test_waiters_are_told_the_status_and_nothing_is_left_open() -> None:
    async def scenario() -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        child = Child.spawn(["sh", "-c", "exit 7"])
        assert await asyncio.gather(child.wait(), child.wait()) == [7, 7]
        child.send_signal(signal.SIGTERM)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        with pytest.raises(FileNotFoundError):
            Child.spawn(["/no/such/program"])
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    go(scenario())


def test_a_child_inherits_only_what_it_is_given() -> None:
    async def scenario() -> None:
        read, write = os.pipe()
        os.set_inheritable(write, True)
        script = "ls -1 /proc/self/fd | sort -n | tail -n +4 | wc -l; ls /proc/self/fd"
        for passed, shown in (((), False), ((write,), True)):
            child = Child.spawn(["sh", "-c", script], stdout=subprocess.PIPE, pass_fds=passed)
            assert child.stdout
            text = await asyncio.to_thread(child.stdout.read)
            assert await child.wait() == 0
            child.stdout.close()
            assert (str(write) in text.decode().split()[1:]) == shown
        os.close(read)
        os.close(write)

    go(scenario())


def test_an_abandoned_child_lives_on() -> None:
    async def scenario() -> None:
        child = Child.spawn(["sleep", "100"])
        child.abandon()
        child.abandon()
        assert identify(child.pid)
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)

    go(scenario())


def test_a_process_is_its_pid_and_its_start() -> None:
    process = subprocess.Popen(["sleep", "100"])
    identity = identify(process.pid)
    assert identity
    impostor = ProcessIdentity(identity.pid, identity.start_time_ticks - 1)
    assert open_process(impostor) is None
    assert kill_process(impostor, 1), "who is not there any more is dead enough"
    assert process.poll() is None, "and whoever has its pid now is not touched"
    assert kill_process(identity, 5)
    assert identify(process.pid) is None, "a zombie is nobody"
    process.wait()
    assert kill_process(identity, 1)


def test_names_of_processes_may_hold_anything() -> None:
    process = subprocess.Popen(["python3", "-c", "open('/proc/self/comm','w').write(') R 1 (');input()"], stdin=-1)
    assert process.stdin
    try:
        path, deadline = Path(f"/proc/{process.pid}/comm"), time.monotonic() + 10
        while ") R 1 (" not in path.read_text():
            assert time.monotonic() < deadline
        identity = identify(process.pid)
        assert identity and identity.start_time_ticks > 100
    finally:
        process.kill()
        process.stdin.close()
        process.wait()
