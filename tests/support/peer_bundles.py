"""The bundles that crun and our guest are compared on: each field of config.json in turn, and combinations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sandboxd.core.oci.default_seccomp import default_profile
from sandboxd.core.oci.generate import ContainerOptions, ImageRuntimeConfig, container_config
from sandboxd.core.oci.option_words import DEFAULT_CAPABILITIES
from tests.support.peer import Bundle

Change = Callable[[dict[str, Any]], None]

_PLAIN = ["nosuid", "noexec", "nodev"]
_MIB = 1 << 20

BASE: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "process": {
        "user": {"uid": 0, "gid": 0},
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": {name: list(DEFAULT_CAPABILITIES) for name in ("bounding", "effective", "permitted")},
        # Those that depend on the machine are always given, and lower than any machine's own.
        "rlimits": [
            {"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024},
            {"type": "RLIMIT_NPROC", "soft": 256, "hard": 512},
            {"type": "RLIMIT_SIGPENDING", "soft": 128, "hard": 256},
            {"type": "RLIMIT_MEMLOCK", "soft": 65536, "hard": 65536},
        ],
    },
    "root": {"path": "rootfs", "readonly": False},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": _PLAIN},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=64m", "nr_inodes=4k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_PLAIN, "ro"]},
    ],
    "linux": {
        "namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
    },
}


def put(**values: Any) -> Change:
    """Sets values by path: put(process__cwd="/srv")."""

    def change(config: dict[str, Any]) -> None:
        for path, value in values.items():
            *parents, last = path.split("__")
            place = config
            for name in parents:
                place = place.setdefault(name, {})
            place[last] = value

    return change


def both(*changes: Change) -> Change:
    def change(config: dict[str, Any]) -> None:
        for each in changes:
            each(config)

    return change


def mounted(*mounts: dict[str, Any]) -> Change:
    return lambda config: config["mounts"].extend(mounts)


def mount(destination: str, fs_type: str, *options: str, source: str = "") -> dict[str, Any]:
    return {"destination": destination, "type": fs_type, "source": source or fs_type, "options": list(options)}


def without(*path: str) -> Change:
    def change(config: dict[str, Any]) -> None:
        place = config
        for name in path[:-1]:
            place = place[name]
        del place[path[-1]]

    return change


def namespaces(*names: str) -> Change:
    return put(linux__namespaces=[{"type": name} for name in names])


def rule(*names: str, action: str = "SCMP_ACT_ERRNO", **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": action, **more}


def seccomp(*rules: dict[str, Any], default: str = "SCMP_ACT_ALLOW", **more: Any) -> Change:
    return put(linux__seccomp={"defaultAction": default, "syscalls": list(rules), **more})


def generated(**options: Any) -> Change:
    """What our own daemon writes for `sandboxctl run`, less what this host's root may not set."""

    def change(config: dict[str, Any]) -> None:
        image = ImageRuntimeConfig(passwd=b"root:x:0:0:root:/root:/bin/sh\n")
        made = container_config(image, ContainerOptions(command=("probe",), ulimits=("nofile=512:1024",), **options))
        limits = config["process"]["rlimits"]
        config.clear()
        config.update(made)
        config["process"]["rlimits"] = limits

    return change


_CAPABILITIES = {
    "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_SETPCAP"],
    "permitted": ["CAP_KILL", "CAP_CHOWN", "CAP_NET_RAW"],
    "effective": ["CAP_KILL", "CAP_CHOWN"],
    "inheritable": ["CAP_KILL", "CAP_NET_RAW"],
    "ambient": ["CAP_KILL"],
}
_USER = {"uid": 1000, "gid": 1001, "additionalGids": [5, 1001, 2002]}
_MAPS = put(
    linux__uidMappings=[
        {"containerID": 0, "hostID": 0, "size": 1},
        {"containerID": 1, "hostID": 100000, "size": 65535},
    ],
    linux__gidMappings=[
        {"containerID": 0, "hostID": 0, "size": 1},
        {"containerID": 1, "hostID": 100000, "size": 65535},
    ],
)
_DEVICES = ("open:c:1:3", "open:c:1:2", "open:c:5:1", "open:c:5:2", "open:c:10:229", "open:c:136:9", "open:b:7:0")
_SYSCALL_COMPARISONS = [
    rule("socket", args=[{"index": 0, "value": 40, "op": "SCMP_CMP_EQ"}], errnoRet=97),
    rule("unshare", args=[{"index": 0, "value": 0, "op": "SCMP_CMP_GT"}], errnoRet=95),
    rule("reboot", "bpf", errnoRet=111),
    rule("kcmp", action="SCMP_ACT_LOG"),
]


def _process_bundles() -> list[Bundle]:
    return [
        Bundle("base", probe=("list:/dev", "list:/", "path:/sys", "path:/dev/shm", "call:all")),
        Bundle("no capabilities", without("process", "capabilities"), ("call:socket_raw", "call:chroot")),
        Bundle("capability sets", put(process__capabilities=_CAPABILITIES)),
        Bundle(
            "capability sets of a user",
            both(put(process__capabilities=_CAPABILITIES, process__user=_USER)),
            ("call:socket_raw",),
        ),
        Bundle("ambient capability alone", put(process__user={"uid": 7, "gid": 7}, process__capabilities=_AMBIENT)),
        Bundle("user and groups", put(process__user=_USER), ("path:/root", "path:/data", "path:/tmp")),
        Bundle("umask", put(process__user={"uid": 0, "gid": 0, "umask": 0o077})),
        Bundle("umask of nothing", put(process__user={"uid": 0, "gid": 0, "umask": 0})),
        Bundle(
            "environment", put(process__env=["PATH=/bin", "HOME=/x", "EMPTY=", "SPACE=a b\tc", "UNICODE=grüß", "A==b"])
        ),
        Bundle("directory", put(process__cwd="/srv/app")),
        Bundle("directory that is missing", put(process__cwd="/new/deep"), ("path:/new", "path:/new/deep")),
        Bundle("directory through a link", put(process__cwd="/link/app")),
        Bundle("limits", put(process__rlimits=_LIMITS)),
        Bundle("no new privileges", put(process__noNewPrivileges=True)),
        Bundle("oom score", put(process__oomScoreAdj=321)),
        Bundle("terminal", put(process__terminal=True), ("list:/dev", "path:/dev/console")),
        Bundle(
            "terminal of a size",
            put(process__terminal=True, process__consoleSize={"height": 33, "width": 111}, process__user=_USER),
        ),
        Bundle("personality", put(linux__personality={"domain": "LINUX32"})),
        Bundle(
            "io priority", put(process__ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 6}), expected=_IO_PRIORITY
        ),
        Bundle("scheduler", put(process__scheduler={"policy": "SCHED_BATCH", "nice": 5}), expected=_BATCH),
        Bundle(
            "scheduler of real time",
            put(process__scheduler={"policy": "SCHED_RR", "priority": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}),
            expected=_ROUND_ROBIN,
        ),
        Bundle(
            "oom score below zero",
            put(process__oomScoreAdj=-321),
            expected={"oom_score_adj": "-321"},
            without_peer="root here lacks CAP_SYS_RESOURCE, and may not lower it",
        ),
        Bundle(
            "limits above this host's",
            put(process__rlimits=[{"type": "RLIMIT_NOFILE", "soft": 100000, "hard": 500000}]),
            expected={"rlimit.7": "100000 500000"},
            without_peer="root here lacks CAP_SYS_RESOURCE, and may not raise it",
        ),
    ]


_AMBIENT = {name: ["CAP_NET_BIND_SERVICE"] for name in ("bounding", "permitted", "inheritable", "ambient", "effective")}
_IO_PRIORITY = {"ioprio": str(2 << 13 | 6)}
_BATCH = {"scheduler": "policy 3 nice 5 priority 0 flags 0 runtime 0 deadline 0 period 0"}
_ROUND_ROBIN = {"scheduler": "policy 2 nice 0 priority 3 flags 1 runtime 0 deadline 0 period 0"}
_LIMITS = [
    {"type": f"RLIMIT_{name}", "soft": soft, "hard": hard}
    for name, soft, hard in (
        *(("CPU", 100, 200), ("FSIZE", 1 << 30, 1 << 31), ("DATA", 1 << 32, 1 << 33), ("STACK", 1 << 22, 1 << 23)),
        *(("CORE", 0, 4096), ("RSS", 1 << 30, 1 << 30), ("NPROC", 33, 44), ("NOFILE", 55, 66)),
        *(("MEMLOCK", 4096, 8192), ("AS", 1 << 33, 1 << 34), ("LOCKS", 7, 8), ("SIGPENDING", 9, 10)),
        *(("MSGQUEUE", 4096, 8192), ("NICE", 0, 0), ("RTPRIO", 0, 0), ("RTTIME", 1000, 2000)),
    )
]


def _machine_bundles() -> list[Bundle]:
    return [
        Bundle("names", put(hostname="peer-host", domainname="peer.example")),
        Bundle("few namespaces", namespaces("mount", "network", "pid")),
        Bundle("own clock", _own_clock, expected=_CLOCK, without_peer="this crun knows no time namespaces"),
        Bundle(
            "user namespace",
            both(namespaces(*_WITH_USER), _MAPS, put(linux__devices=[_FUSE])),
            ("list:/dev", "path:/data", "call:mount", "path:/sys/fs/cgroup/cgroup.procs"),
        ),
        Bundle(
            "user namespace, another user",
            both(namespaces(*_WITH_USER), _MAPS, put(process__user=_USER)),
            ("path:/root", "path:/dev/null"),
        ),
        Bundle(
            "settings",
            put(linux__sysctl=_SETTINGS),
            tuple(f"sysctl:{name.replace('.', '/')}" for name in _SETTINGS),
        ),
        Bundle(
            "covered paths",
            put(
                linux__maskedPaths=["/proc/timer_list", "/proc/not-there", "/sys/firmware", "/etc/motd", "/data"],
                linux__readonlyPaths=["/proc/sys", "/proc/nowhere", "/tmp"],
            ),
            (
                *("path:/proc/timer_list", "path:/sys/firmware", "path:/etc/motd", "path:/proc/sys", "path:/tmp"),
                *("path:/data", "file:/etc/motd"),
            ),
        ),
        Bundle("read-only root", probe=("path:/", "path:/etc", "path:/dev", "list:/"), writable=False),
        *(
            Bundle(f"root {word}", both(put(linux__rootfsPropagation=word), mounted(mount("/mnt", "tmpfs", "size=1m"))))
            for word in ("rprivate", "rslave", "rshared", "private", "slave", "shared", "unbindable", "runbindable")
        ),
    ]


_SETTINGS = {
    "net.ipv4.ip_unprivileged_port_start": "7",
    "net.ipv4.conf.all.rp_filter": "2",
    "kernel.shm_rmid_forced": "1",
    "kernel.msgmax": "4096",
    "fs.mqueue.msg_max": "17",
}
_FUSE = {"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "fileMode": 0o606, "uid": 1, "gid": 1}
_WITH_USER = ("user", "mount", "pid", "ipc", "uts", "network", "cgroup")


def _own_clock(config: dict[str, Any]) -> None:
    config["linux"]["namespaces"].append({"type": "time"})
    config["linux"]["timeOffsets"] = {"boottime": {"secs": 86400}, "monotonic": {"secs": 5, "nanosecs": 7}}


_CLOCK = {
    "timens_offsets": r"monotonic           5         7\x0aboottime        86400         0",
    "ns.time": "own",
}


def _mount_bundles(host_file: str) -> list[Bundle]:
    return [
        Bundle(
            "tmpfs data",
            mounted(
                mount("/run", "tmpfs", "size=1m", "mode=0710", "uid=3", "gid=4", "nr_inodes=100", *_PLAIN),
                mount("/mnt", "tmpfs", "size=2m"),
            ),
            ("path:/run", "path:/mnt"),
        ),
        Bundle(
            "mount flags",
            mounted(
                *(mount(f"/mnt/{number}", "tmpfs", "size=1m", *words) for number, words in enumerate(_FLAG_WORDS)),
            ),
            ("list:/mnt",),
        ),
        Bundle(
            "mount propagation",
            mounted(
                *(
                    mount(f"/mnt/{word}", "tmpfs", "size=1m", word)
                    for word in (
                        "private",
                        "shared",
                        "slave",
                        "unbindable",
                        "rprivate",
                        "rshared",
                        "rslave",
                        "runbindable",
                    )
                ),
            ),
        ),
        Bundle(
            "recursive attributes",
            mounted(
                *(mount(f"/mnt/{word}", "tmpfs", "size=1m", word) for word in ("rro", "rnosuid", "rnoexec", "rnodev")),
            ),
        ),
        Bundle(
            "recursive attributes of time",
            mounted(mount("/mnt", "tmpfs", "size=1m", "rnoatime", "rnodiratime", "rnosymfollow")),
            expected={"mount./mnt.options": "noatime,nodiratime,nosymfollow,rw"},
            without_peer="crun 1.8 sets one of atime's bits without clearing the others, which the kernel refuses",
        ),
        Bundle(
            "files of the host",
            mounted(
                mount("/etc/motd", "bind", "rbind", "rprivate", source=host_file),
                mount("/etc/new", "bind", "bind", "ro", "nosuid", source=host_file),
                mount("/srv/a/b/new", "bind", "rbind", "ro", "noexec", "nodev", "noatime", source=host_file),
                mount("/srv/shared", "bind", "bind", "rshared", source=host_file),
            ),
            ("file:/etc/motd", "path:/etc/new", "path:/srv/a", "path:/srv/a/b", "path:/srv/a/b/new", "path:/etc/motd"),
        ),
        Bundle(
            "mounts in mounts",
            mounted(
                mount("/mnt", "tmpfs", "size=1m", "mode=755"),
                mount("/mnt/deep/er", "tmpfs", "size=1m", "mode=711"),
                mount("/mnt/ro", "tmpfs", "size=1m", "ro"),
                mount("/mnt/deep/er/file", "bind", "bind", source=host_file),
                mount("/mnt", "tmpfs", "size=2m", "mode=700"),
            ),
            ("path:/mnt", "path:/mnt/deep"),
        ),
        Bundle(
            "places through links and dots",
            mounted(mount("/link/here", "tmpfs", "size=1m"), mount("/../mnt/../run/./x", "tmpfs", "size=1m")),
            ("path:/srv/here", "path:/run/x"),
        ),
        Bundle(
            "kernel file systems",
            mounted(
                mount("/dev/mqueue", "mqueue", *_PLAIN),
                mount("/dev/shm", "tmpfs", *_PLAIN, "mode=1777", "size=1m"),
                mount("/sys/fs/cgroup", "cgroup", *_PLAIN, "relatime", "ro"),
                mount("/mnt", "ramfs", "nosuid"),
            ),
            ("path:/dev/mqueue", "path:/dev/shm", "path:/sys/fs/cgroup"),
        ),
        Bundle(
            "writable cgroup and sysfs",
            both(_writable_sysfs, mounted(mount("/sys/fs/cgroup", "cgroup2", *_PLAIN))),
            ("path:/sys", "path:/sys/fs/cgroup/cgroup.procs"),
        ),
        Bundle("no cgroup namespace", namespaces("mount", "pid", "network", "ipc", "uts")),
        Bundle(
            "remounts",
            mounted(
                mount("/mnt", "tmpfs", "size=1m"),
                mount("/mnt", "tmpfs", "remount", "ro", "size=2m", "nosuid"),
            ),
            ("path:/mnt",),
        ),
    ]


_FLAG_WORDS = (
    *(("ro",), ("rw", "nosuid"), ("nodev", "noexec"), ("noatime",), ("relatime",), ("strictatime",)),
    *(("nodiratime",), ("noatime", "nodiratime"), ("sync",), ("dirsync",), ("ro", "rw"), ("lazytime",), ("defaults",)),
)


def _writable_sysfs(config: dict[str, Any]) -> None:
    for each in config["mounts"]:
        if each["destination"] == "/sys":
            each["options"] = list(_PLAIN)


def _right_bundles() -> list[Bundle]:
    nodes = [
        {"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 3, "gid": 4},
        {"type": "b", "path": "/dev/deep/loop", "major": 7, "minor": 0},
        {"type": "p", "path": "/dev/fifo", "fileMode": 0o622},
        {"type": "u", "path": "/srv/null", "major": 1, "minor": 3, "fileMode": 0o600},
    ]
    fuse = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}
    everything = {"allow": True, "access": "rwm"}
    return [
        Bundle(
            "device nodes",
            put(linux__devices=nodes),
            ("list:/dev", "list:/dev/deep", "path:/srv/null"),
        ),
        Bundle("device nodes in the image's directory", _no_dev, ("list:/dev",)),
        Bundle("device rules", probe=_DEVICES),
        Bundle("device allowed", put(linux__resources={"devices": [{"allow": False}, fuse]}), _DEVICES),
        Bundle("devices allowed", put(linux__resources={"devices": [everything]}), _DEVICES),
        Bundle(
            "devices by wildcard",
            put(
                linux__resources={
                    "devices": [{"allow": False}, {"allow": True, "type": "c", "major": 1, "access": "r"}]
                }
            ),
            _DEVICES,
        ),
        Bundle("seccomp by errno", seccomp(*_SYSCALL_COMPARISONS), ("call:all",)),
        Bundle(
            "seccomp by kill",
            seccomp(rule("kcmp", "mount", action="SCMP_ACT_KILL_PROCESS"), rule("ptrace", action="SCMP_ACT_TRAP")),
            ("call:kcmp", "call:mount", "call:ptrace", "call:getpid"),
        ),
        Bundle(
            "seccomp that denies by default",
            put(linux__seccomp=_ALLOW_LIST),
            ("call:kcmp", "call:ptrace", "call:unshare", "call:clone3", "call:getpid"),
        ),
        Bundle(
            "seccomp without new privileges",
            both(seccomp(*_SYSCALL_COMPARISONS), put(process__noNewPrivileges=True, process__user=_USER)),
            ("call:all",),
        ),
        Bundle(
            "seccomp by default",
            put(linux__seccomp=default_profile(frozenset(DEFAULT_CAPABILITIES))),
            ("call:all",),
        ),
    ]


def _no_dev(config: dict[str, Any]) -> None:
    config["mounts"] = [each for each in config["mounts"] if not each["destination"].startswith("/dev")]


_ALLOW_LIST = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 88,
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
    "syscalls": [
        {
            "names": [
                *(
                    "read",
                    "write",
                    "open",
                    "openat",
                    "openat2",
                    "close",
                    "fstat",
                    "newfstatat",
                    "stat",
                    "lstat",
                    "statfs",
                ),
                *(
                    "mmap",
                    "mprotect",
                    "munmap",
                    "brk",
                    "rt_sigaction",
                    "rt_sigprocmask",
                    "rt_sigreturn",
                    "ioctl",
                    "pread64",
                ),
                *("access", "faccessat", "faccessat2", "pipe2", "getpid", "clone", "fork", "vfork", "execve", "exit"),
                *("wait4", "uname", "fcntl", "getcwd", "readlink", "getrlimit", "prlimit64", "umask", "getdents64"),
                *("getuid", "getgid", "geteuid", "getegid", "getresuid", "getresgid", "getgroups", "getsid", "getpgid"),
                *("capget", "capset", "prctl", "arch_prctl", "setresuid", "setresgid", "setgroups", "setuid", "setgid"),
                *(
                    "set_tid_address",
                    "set_robust_list",
                    "rseq",
                    "getrandom",
                    "exit_group",
                    "sched_getattr",
                    "ioprio_get",
                ),
                *("sched_getaffinity", "personality", "chdir", "fchdir", "futex", "getppid", "close_range", "lseek"),
                *(
                    "poll",
                    "dup",
                    "dup2",
                    "dup3",
                    "fchown",
                    "fchownat",
                    "sendmsg",
                    "sendto",
                    "setsid",
                    "seccomp",
                    "fstatfs",
                ),
            ],
            "action": "SCMP_ACT_ALLOW",
        }
    ],
}


def _limit_bundles() -> list[Bundle]:
    reason = "this host's controllers are on cgroup v1, and crun here runs without any"
    limits = {
        "memory": {"limit": 64 * _MIB, "swap": 96 * _MIB, "reservation": 32 * _MIB},
        "cpu": {"shares": 512, "quota": 50000, "period": 200000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 77},
        "blockIO": {"weight": 500},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4 * _MIB}],
        "unified": {"memory.high": str(48 * _MIB)},
        "devices": [{"allow": False}],
    }
    files = {
        "memory.max": str(64 * _MIB),
        "memory.swap.max": str(32 * _MIB),
        "memory.low": str(32 * _MIB),
        "memory.high": str(48 * _MIB),
        "cpu.weight": "20",
        "cpu.max": "50000 200000",
        "cpuset.cpus": "0",
        "cpuset.mems": "0",
        "pids.max": "77",
        "io.weight": "default 4950",
        "hugetlb.2MB.max": str(4 * _MIB),
        "hugetlb.2MB.rsvd.max": str(4 * _MIB),
    }
    cgroup = mount("/sys/fs/cgroup", "cgroup", *_PLAIN, "ro")
    unlimited = {"memory": {"limit": -1}, "pids": {"limit": -1}, "cpu": {"quota": -1, "burst": 0}}
    unlimited_files = {"memory.max": "max", "memory.swap.max": "max", "pids.max": "max", "cpu.max": "max 100000"}
    return [
        Bundle(
            "limits of the cgroup",
            both(put(linux__resources=limits), mounted(cgroup)),
            tuple(f"file:/sys/fs/cgroup/{name}" for name in files),
            expected={f"file./sys/fs/cgroup/{name}": value for name, value in files.items()},
            without_peer=reason,
        ),
        Bundle(
            "no limits of the cgroup",
            both(put(linux__resources=unlimited), mounted(cgroup)),
            tuple(f"file:/sys/fs/cgroup/{name}" for name in unlimited_files),
            expected={f"file./sys/fs/cgroup/{name}": value for name, value in unlimited_files.items()},
            without_peer=reason,
        ),
    ]


def _combinations() -> list[Bundle]:
    look = ("list:/dev", "call:all", *_DEVICES, "path:/proc/kcore", "path:/proc/sys", "path:/sys/firmware", "path:/run")
    return [
        Bundle("as docker does", generated(hostname="web"), look),
        Bundle(
            "as docker does, hardened",
            generated(
                user="1000:1000",
                cap_drop=("ALL",),
                cap_add=("NET_BIND_SERVICE",),
                no_new_privileges=True,
                read_only=True,
                tmpfs=("/run:size=1m,mode=755", "/tmp:exec,size=2m"),
                sysctls={"net.ipv4.ip_unprivileged_port_start": "80"},
                working_dir="/srv/app",
                env=("A=b",),
            ),
            look,
            writable=False,
        ),
        Bundle(
            "as docker does, at a terminal",
            generated(hostname="web", terminal=True, terminal_width=90, terminal_height=20, user="7"),
            look,
        ),
        Bundle(
            "privileged",
            generated(privileged=True),
            ("list:/dev", "call:mount", "call:unshare_nothing", "open:b:254:0", "path:/proc/sys/kernel/hostname"),
            expected={
                "status.CapEff": "000001ffffffffff",
                "status.Seccomp": "0",
                "call.mount": "EFAULT",
                "mount./dev.type": "a device of the machine",
                "mount./sys.options": "nodev,noexec,nosuid,relatime,rw",
                "list./dev/null": "c 0666 0:0 1:3",
                "list./dev/stdin": "l /proc/self/fd/0",
                "device.b:254:0": "mknod allowed read allowed write allowed",
                "path./proc/sys/kernel/hostname.write": "yes",
            },
            without_peer="its /dev would be this host's own",
        ),
        Bundle(
            "volumes of an image",
            put(annotations={"dev.sandboxd.directories": "/data\n/new/volume"}),
            ("path:/data", "path:/new/volume"),
            expected={"path./data": "d 0750 5:6", "path./new/volume": "d 0755 0:0"},
            without_peer="docker makes them before the runtime sees the bundle",
        ),
        Bundle(
            "much at once",
            both(
                put(
                    hostname="all",
                    domainname="together",
                    process__user={"uid": 33, "gid": 44, "umask": 0o27, "additionalGids": [55]},
                    process__cwd="/data",
                    process__noNewPrivileges=True,
                    process__oomScoreAdj=7,
                    process__rlimits=_LIMITS,
                    process__capabilities=_CAPABILITIES,
                    linux__maskedPaths=["/proc/timer_list", "/srv"],
                    linux__readonlyPaths=["/proc/sys", "/etc"],
                    linux__sysctl={"kernel.msgmax": "4096"},
                    linux__rootfsPropagation="rslave",
                ),
                mounted(mount("/run", "tmpfs", "size=1m", "rshared"), mount("/dev/shm", "tmpfs", "size=1m")),
                seccomp(*_SYSCALL_COMPARISONS),
            ),
            (*look, "path:/srv", "path:/etc", "sysctl:kernel/msgmax"),
        ),
    ]


def all_bundles(host_file: str) -> list[Bundle]:
    return [
        *_process_bundles(),
        *_machine_bundles(),
        *_mount_bundles(host_file),
        *_right_bundles(),
        *_limit_bundles(),
        *_combinations(),
    ]
