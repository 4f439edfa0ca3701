"""The plan compiler against a peer: the same bundles under crun on the host and in one guest of ours, value by value.

A difference is a failure unless it stands in KNOWN_DIFFERENCES with its reason; a row there that explains nothing any
more is one too.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import pytest

from tests.support.peer import (
    Bundle,
    Tree,
    compile_bundle,
    config_of,
    make_tree,
    normalise,
    run_in_crun,
    run_in_guest,
    running_machine,
)
from tests.support.peer_bundles import BASE, all_bundles

ABSENT = "(absent)"
BUNDLES = all_bundles("/placeholder")
NAMES = [bundle.name for bundle in BUNDLES]


@dataclass(frozen=True)
class Known:
    """Differences of one kind: patterns of key, of both values and of the bundle's name."""

    reason: str
    key: str
    host: str = "*"
    guest: str = "*"
    bundle: str = "*"

    def explains(self, bundle: str, key: str, host: str, guest: str) -> bool:
        patterns = ((bundle, self.bundle), (key, self.key), (host, self.host), (guest, self.guest))
        return all(fnmatchcase(text, pattern) for text, pattern in patterns)


_CRUN_FLAGS = (
    "crun makes such a mount afresh and forgets nosuid, nodev and noexec of what is below; we keep them, as runc"
)
_CRUN_MASK = "crun makes the null device over a masked file read-only; runc and we bind it as it is"
_CRUN_SUPER = "crun makes only the mount read-only, we (and mount(8)) the file system too: nothing else has it"
_CRUN_PRIVATE = "crun makes the whole tree private at the end and undoes what a mount asked for; runc and we do not"
_CARRIED = "a file of the host lies in the guest's /run, which is nosuid and nodev, and the bind keeps that"
_NO_SUCH_FILE = "the host's kernel is built without it"
_SYSFS = (
    "sysfs belongs to the machine's network namespace: in a user namespace it is bound, with the cgroups, read-only"
)

KNOWN_DIFFERENCES = (
    Known("the guest has one CPU", "cpus", host=str(len(os.sched_getaffinity(0))), guest="1"),
    Known("each keeps its own machine's name", "hostname", host=os.uname().nodename, guest="guest"),
    Known(
        "kernels since 6.12 show a slice", "scheduler", host="policy 0 * runtime [1-9]*", guest="policy 0 * runtime 0 *"
    ),
    Known("crun 1.8 knows no scheduler", "scheduler", host="policy 0 *", guest="policy [23] *", bundle="scheduler*"),
    Known("crun 1.8 knows no ioPriority", "ioprio", host="0", bundle="io priority"),
    Known("crun sets no HOME for a user without a line in passwd; runc and docker do", "env.HOME", ABSENT, "/"),
    Known("crun links /dev/core; the specification does not ask for it", "list./dev/core", "l /proc/kcore", ABSENT),
    Known("crun lets its umask into the mode of a node", "list./dev/fuse", "c 0604 *", "c 0606 *", "user namespace"),
    Known("names of cgroups are the runtime's own", "cgroup", "/peer-*", "/containers/*"),
    Known("crun calls it cgroup2 whatever the specification says", "mount./sys/fs/cgroup.source", "cgroup2", "cgroup"),
    Known("a guest delegates cgroup namespaces", "mount./sys/fs/cgroup.super", "", "nsdelegate"),
    Known("crun's terminal comes from the host's devpts, ours from the container's", "mount./dev/console.options"),
    Known("crun's terminal comes from the host's devpts, ours from the container's", "path./dev/console.flags"),
    Known("crun does not let rw take back an earlier ro", "mount./mnt/10.options", "relatime,ro", "relatime,rw"),
    # Mounts.
    Known(_CRUN_PRIVATE, "mount./mnt/*.propagation", "", "*", "mount propagation"),
    Known(_CRUN_PRIVATE, "mount./srv/shared.propagation", "", "shared", "files of the host"),
    Known(_CRUN_SUPER, "mount.*.super access", "rw", "ro"),
    Known(_CRUN_FLAGS, "mount./proc/*.options", "relatime,ro", "nodev,noexec,nosuid,relatime,ro"),
    Known(_CRUN_FLAGS, "path./proc/sys.flags", "0x1001", "0x100f"),
    Known(_CRUN_MASK, "mount.*.options", "relatime,ro", "nosuid,rw"),
    Known(_CRUN_MASK, "path.*.flags", "0x1001", "0x2"),
    Known(_CARRIED, "mount.*.options", "*", "*nosuid*", "files of the host"),
    Known(_CARRIED, "mount./mnt/deep/er/file.options", "relatime,rw", "nodev,nosuid,relatime,rw", "mounts in mounts"),
    Known(_CARRIED, "path.*.flags", "*", "*", "files of the host"),
    Known(_SYSFS, "mount./sys/fs/cgroup.*", ABSENT, "*", "user namespace*"),
    Known(_SYSFS, "path./sys/fs/cgroup/cgroup.procs", "!ENOENT", "- 0644 *", "user namespace"),
    Known(_SYSFS, "path./sys/fs/cgroup/cgroup.procs.flags", ABSENT, "0x100f", "user namespace"),
    Known(_SYSFS, "path./sys/fs/cgroup/cgroup.procs.write", ABSENT, "EROFS", "user namespace"),
    Known(
        "crun makes nodes for a user namespace on a tmpfs, we on devtmpfs", "mount./dev/fuse.*", bundle="user namespace"
    ),
    # Kernels.
    Known(_NO_SUCH_FILE, "mount./proc/kcore.*", ABSENT),
    Known(_NO_SUCH_FILE, "path./proc/kcore*"),
    Known(_NO_SUCH_FILE, "mount./proc/sysrq-trigger.*", ABSENT),
    Known("this host's kernel has no modules", "call.delete_module", "ENOSYS", "EPERM"),
    Known("this host's kernel has no modules", "call.finit_module", "ENOSYS", "EPERM"),
    Known("this host's kernel has no kexec", "call.kexec_load", "ENOSYS", "EPERM"),
    Known("this host's kernel has no iopl", "call.iopl", "ENOSYS", "EINVAL"),
    Known("6.1 asks for CAP_DAC_READ_SEARCH first", "call.open_by_handle_at", "EFAULT", "EPERM"),
    Known("the guest has no vsock", "call.socket_vsock", "ok", "EAFNOSUPPORT"),
)


@dataclass(frozen=True)
class Outcome:
    """Both prints of each bundle, normalised."""

    host: Mapping[str, Mapping[str, str]]
    guest: Mapping[str, Mapping[str, str]]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    root = tmp_path_factory.mktemp("peer")
    yield make_tree(root)
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def outcome(tree: Tree) -> Outcome:
    """Runs everything once: the peer's runs in threads while the machine boots and works."""
    bundles = all_bundles(str(tree.host_file))
    return asyncio.run(_run_all(bundles, tree))


async def _run_all(bundles: list[Bundle], tree: Tree) -> Outcome:
    configs = {bundle.name: config_of(bundle, BASE) for bundle in bundles}
    containers = {bundle.name: compile_bundle(bundle, configs[bundle.name], tree) for bundle in bundles}
    drives = [drive for container in containers.values() for drive in container.drives]
    async with running_machine(drives, tree.root / "vmm") as client, asyncio.TaskGroup() as group:
        peer = group.create_task(asyncio.to_thread(_run_peer, bundles, configs, tree))
        guest = {name: await run_in_guest(client, container) for name, container in containers.items()}
        host = await peer
    return Outcome(host, {name: normalise(probed, host=False) for name, probed in guest.items()})


def _run_peer(
    bundles: list[Bundle], configs: Mapping[str, dict[str, object]], tree: Tree
) -> dict[str, Mapping[str, str]]:
    asked = [bundle for bundle in bundles if not bundle.without_peer]
    return {bundle.name: normalise(run_in_crun(bundle, configs[bundle.name], tree), host=True) for bundle in asked}


def differences(name: str, outcome: Outcome) -> dict[str, tuple[str, str]]:
    host, guest = outcome.host[name], outcome.guest[name]
    pairs = {key: (host.get(key, ABSENT), guest.get(key, ABSENT)) for key in sorted({*host, *guest})}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


@pytest.mark.parametrize("name", NAMES)
def test_the_guest_agrees(name: str, outcome: Outcome) -> None:
    bundle = BUNDLES[NAMES.index(name)]
    guest = outcome.guest[name]
    assert "failed" not in guest, guest["failed"]
    assert {key: guest.get(key) for key in bundle.expected} == dict(bundle.expected)
    if bundle.without_peer:
        return
    assert "failed" not in outcome.host[name], outcome.host[name]["failed"]
    unexplained = {
        key: f"crun {host!r}, guest {seen!r}"
        for key, (host, seen) in differences(name, outcome).items()
        if not any(known.explains(name, key, host, seen) for known in KNOWN_DIFFERENCES)
    }
    assert not unexplained


def test_every_known_difference_is_still_there(outcome: Outcome) -> None:
    seen = [
        (name, key, host, guest) for name in outcome.host for key, (host, guest) in differences(name, outcome).items()
    ]
    stale = [known for known in KNOWN_DIFFERENCES if not any(known.explains(*each) for each in seen)]
    # What depends on the host's kernel and CPUs may be gone on another host.
    assert not [known for known in stale if known not in KNOWN_DIFFERENCES[:3] and not known.key.startswith("call.")]


def test_the_bundles_are_many() -> None:
    assert len(BUNDLES) == len(set(NAMES)) >= 40
