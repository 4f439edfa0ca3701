"""Capability names to bit sets (capabilities(7), linux/capability.h)."""

from __future__ import annotations

from sandboxd.api import agent_pb2 as pb
from sandboxd.core.oci.findings import Findings
from sandboxd.core.oci.spec_process import Capabilities

NAMES = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID"),
    *("CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN"),
    *("CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT"),
    *("CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE"),
    *("CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL"),
    *("CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND"),
    *("CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"),
)
"""In the order of their numbers."""
_NUMBERS = {name: number for number, name in enumerate(NAMES)}


def compile_capabilities(capabilities: Capabilities | None, where: str, findings: Findings) -> pb.Capabilities | None:
    """None (no capability at all) when the process names none.

    An unknown name is passed over with a warning: "runtimes SHOULD NOT fail if the container configuration requests
    capabilities that cannot be granted" (config.md, "Linux Process").
    """
    if capabilities is None:
        return None
    sets = {}
    for name in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        words: tuple[str, ...] = getattr(capabilities, name) or ()
        sets[name] = _bits(words, f"{where}.{name}", findings)
    return pb.Capabilities(**sets)


def _bits(words: tuple[str, ...], where: str, findings: Findings) -> int:
    bits = 0
    for word in words:
        number = _NUMBERS.get(word)
        if number is None:
            findings.warn(where, word, "no capability of this name is known; it is not granted")
        else:
            bits |= 1 << number
    return bits
