"""How a VMM process gives up what it does not need, before its first instruction.

util-linux does it in the child, between fork and exec, so that nothing of ours runs there: namespaces without network,
System V IPC and host name of the host's, then another user without groups, capabilities (bounding set included), or a
way to gain any, and SIGKILL when the process that started it goes. Both programs exec the next one: the pid stays.
Costs 8 ms of a start, most of it the empty network namespace (measured).
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from sandboxd.base.errors import KVM_NOT_PERMITTED, VMM_MISSING, VMM_NOT_PERMITTED, SandboxdError
from sandboxd.vmm.spec import Confinement

KVM_DEVICE = Path("/dev/kvm")
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


def find_program(name: str, package: str) -> str:
    """Its path. Raises vmm_missing with the package that brings it."""
    found = shutil.which(name, path=ENVIRONMENT["PATH"]) or shutil.which(name)
    if not found:
        raise SandboxdError(VMM_MISSING, program=name, package=package)
    return found


def confined(argv: list[str], confinement: Confinement, *, with_kvm: bool) -> list[str]:
    """`argv` behind what confines it. Raises vmm_missing, vmm_not_permitted, kvm_not_permitted."""
    if os.geteuid() != 0:
        raise SandboxdError(
            VMM_NOT_PERMITTED, uid=confinement.uid, reason=f"Only root may change users; this is user {os.geteuid()}."
        )
    unshare, setpriv = find_program("unshare", "util-linux"), find_program("setpriv", "util-linux")
    return [
        *(unshare, "--net", "--ipc", "--uts", "--"),
        *(setpriv, f"--reuid={confinement.uid}", f"--regid={confinement.gid}", *_groups(confinement, with_kvm)),
        *("--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs", "--pdeathsig=KILL", "--"),
        *argv,
    ]


def _groups(confinement: Confinement, with_kvm: bool) -> list[str]:
    """No groups but, where that is what opens /dev/kvm, its group: QEMU 7.2 opens the device by its path only."""
    if not with_kvm or confinement.uid == 0:
        return ["--clear-groups"]
    try:
        status = KVM_DEVICE.stat()
    except OSError as error:
        raise SandboxdError(KVM_NOT_PERMITTED, reason=f"Looking at it says: {error.strerror}.") from error
    wanted = stat.S_IROTH | stat.S_IWOTH
    if status.st_mode & wanted == wanted or status.st_gid == confinement.gid:
        return ["--clear-groups"]
    wanted = stat.S_IRGRP | stat.S_IWGRP
    if status.st_mode & wanted == wanted and status.st_gid != 0:
        return [f"--groups={status.st_gid}"]
    raise SandboxdError(
        KVM_NOT_PERMITTED,
        reason=f"Its mode is {stat.S_IMODE(status.st_mode):04o}, group {status.st_gid}: only root may open it, and a "
        "machine's process does not run as root.",
    )
