"""What QEMU's control channel fails with; apart from the channel, which loads QEMU's client."""

from __future__ import annotations


class ControlError(Exception):
    """The QMP session or a command on it failed; the message is QEMU's or its client's."""
