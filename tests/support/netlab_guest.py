"""Plays the machine: opens the sandbox's tap as a VMM does, and joins it to a tap `eth0` in the guest's own namespace.

Started in the host's namespace; runs itself again in the guest's with the descriptor open.
"""

from __future__ import annotations

import os
import selectors
import sys

from sandboxd.linux.tap import create_tap, open_tap

FRAME_MAX_BYTES = 1 << 17


def main(tap: str, namespace: str) -> None:
    fd = open_tap(tap)
    os.set_inheritable(fd, True)
    again = [sys.executable, "-m", "tests.support.netlab_guest", "--inside", str(fd)]
    os.execvp("ip", ["ip", "netns", "exec", namespace, *again])


def join(host_side: int) -> None:
    create_tap("eth0")
    guest_side = open_tap("eth0")
    print("up", flush=True)
    with selectors.DefaultSelector() as selector:
        selector.register(host_side, selectors.EVENT_READ, guest_side)
        selector.register(guest_side, selectors.EVENT_READ, host_side)
        while True:
            for key, _ in selector.select():
                _copy(key.fd, key.data)


def _copy(source: int, target: int) -> None:
    """All frames that wait, virtio-net headers and all; one that does not fit in is lost, as on a wire."""
    while True:
        try:
            frame = os.read(source, FRAME_MAX_BYTES)
        except BlockingIOError:
            return
        try:
            os.write(target, frame)
        except OSError:
            continue


if __name__ == "__main__":
    if sys.argv[1] == "--inside":
        join(int(sys.argv[2]))
    else:
        main(*sys.argv[1:])
