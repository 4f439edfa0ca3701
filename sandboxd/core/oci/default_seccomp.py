"""The seccomp profile that a container gets when nobody says otherwise.

The machine is the isolation, so the profile allows by default: a program that runs on any Linux runs here. It refuses
what would let one container of a sandbox disturb the guest that it shares (mounts, modules, clocks, namespaces, keys),
unless the capability for it was granted. Every system call pays for each instruction of a filter, and an emulated
machine pays dearly: hence the short list.
"""

from __future__ import annotations

from typing import Any

_EPERM = 1
_ENOSYS = 38
_CLONE_NAMESPACES = 0x7E020000
"""CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET} of clone(2)."""

_ALWAYS_REFUSED = (
    # Keyrings are not divided by container; user faults hold up the kernel at will; the rest is dead.
    *("add_key", "keyctl", "request_key", "userfaultfd", "uselib", "nfsservctl", "vm86", "vm86old", "_sysctl"),
)
_REFUSED_WITHOUT = (
    (("CAP_SYS_MODULE",), ("init_module", "finit_module", "delete_module", "create_module", "query_module")),
    (("CAP_SYS_BOOT",), ("reboot", "kexec_load", "kexec_file_load")),
    (("CAP_SYS_TIME",), ("settimeofday", "stime", "clock_settime", "clock_settime64")),
    (("CAP_SYS_RAWIO",), ("iopl", "ioperm")),
    (("CAP_SYS_PACCT",), ("acct",)),
    (("CAP_SYS_TTY_CONFIG",), ("vhangup",)),
    (("CAP_DAC_READ_SEARCH",), ("open_by_handle_at",)),
    (("CAP_SYSLOG", "CAP_SYS_ADMIN"), ("syslog",)),
    (("CAP_BPF", "CAP_SYS_ADMIN"), ("bpf",)),
    (("CAP_PERFMON", "CAP_SYS_ADMIN"), ("perf_event_open",)),
    (
        ("CAP_SYS_ADMIN",),
        (
            *("mount", "umount", "umount2", "pivot_root", "move_mount", "open_tree", "mount_setattr"),
            *("fsopen", "fsconfig", "fsmount", "fspick", "setns", "unshare", "swapon", "swapoff"),
            *("quotactl", "quotactl_fd", "fanotify_init", "lookup_dcookie", "sethostname", "setdomainname"),
        ),
    ),
)


def default_profile(capabilities: frozenset[str]) -> dict[str, Any]:
    """`linux.seccomp` of a config.json, for a container that holds these capabilities in its bounding set."""
    refused = list(_ALWAYS_REFUSED)
    for any_of, names in _REFUSED_WITHOUT:
        if not capabilities.intersection(any_of):
            refused += names
    rules = [_errno(refused, _EPERM)]
    if "CAP_SYS_ADMIN" not in capabilities:
        # clone3 hides its flags behind a pointer; callers fall back on clone when it is not there.
        rules += [_errno(["clone3"], _ENOSYS), *_clone_rules()]
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    }


def _clone_rules() -> list[dict[str, Any]]:
    """Refused when any namespace bit is set. One rule per bit: seccomp compares with a mask for equality only."""
    bits = [1 << bit for bit in range(32) if _CLONE_NAMESPACES >> bit & 1]
    return [
        {**_errno(["clone"], _EPERM), "args": [{"index": 0, "value": bit, "valueTwo": bit, "op": "SCMP_CMP_MASKED_EQ"}]}
        for bit in bits
    ]


def _errno(names: list[str], errno_ret: int) -> dict[str, Any]:
    return {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno_ret}
