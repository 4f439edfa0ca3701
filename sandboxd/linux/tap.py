"""Taps: made once, opened by whoever runs the guest.

Small and without netlink, because a shim loads it. Source: linux/if_tun.h, Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import struct
from typing import NewType

from sandboxd.base.errors import TAP_UNUSABLE, SandboxdError

TapFd = NewType("TapFd", int)

_CLONE_DEVICE = "/dev/net/tun"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,15}\Z")

# ioctl numbers of asm-generic/ioctl.h, so of every architecture that runs sandboxd (x86, arm64, riscv).
_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB
_TUNSETOWNER = 0x400454CC
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFREQ = struct.Struct("16sH22x")
"""struct ifreq with ifr_flags: name, flags, the rest of its union."""

_REASONS = {
    errno.EBUSY: "Another process still has it open.",
    errno.EPERM: "This process may not: it needs CAP_NET_ADMIN, or to be the tap's owner.",
    errno.EINVAL: "A device of this name exists and is no single-queue tap.",
    errno.ENOENT: f"{_CLONE_DEVICE} does not exist: the kernel's tun module is not loaded.",
    errno.ENODEV: "The kernel has no tun driver.",
}


def open_tap(name: str) -> TapFd:
    """A descriptor of an existing persistent tap: frames behind a virtio-net header, non-blocking, close-on-exec.

    Raises `tap_unusable`; a tap that does not exist is not created.
    """
    if _NAME.match(name) and not _exists(name):
        raise SandboxdError(TAP_UNUSABLE, tap=name, reason="It does not exist.")
    return _open(name)


def create_tap(name: str, owner_uid: int | None = None) -> None:
    """Makes a persistent tap, down, on no bridge; one that is there already stays as it is. Raises `tap_unusable`."""
    fd = _open(name)
    try:
        if owner_uid is not None:
            fcntl.ioctl(fd, _TUNSETOWNER, owner_uid)
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    except OSError as error:
        raise _unusable(name, error) from error
    finally:
        os.close(fd)


def delete_tap(name: str) -> None:
    """Deletes a tap that nobody has open; one that does not exist is no error. Takes 16-23 ms: never on a hot path.

    Raises `tap_unusable`.
    """
    if not _exists(name):
        return
    fd = _open(name)
    try:
        fcntl.ioctl(fd, _TUNSETPERSIST, 0)
    except OSError as error:
        raise _unusable(name, error) from error
    finally:
        os.close(fd)


def _open(name: str) -> TapFd:
    if not _NAME.match(name):
        raise SandboxdError(TAP_UNUSABLE, tap=repr(name[:40]), reason="This cannot be the name of a network device.")
    try:
        fd = os.open(_CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(name, error) from error
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
    except OSError as error:
        os.close(fd)
        raise _unusable(name, error) from error
    return TapFd(fd)


def _exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def _unusable(name: str, error: OSError) -> SandboxdError:
    reason = _REASONS.get(error.errno or 0, f"The kernel says: {error.strerror}.")
    return SandboxdError(TAP_UNUSABLE, tap=name, reason=reason)
