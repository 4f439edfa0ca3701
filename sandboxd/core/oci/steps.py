"""Makers of single steps, one for each kind; and the assembly that the rooms of `compile` add them to."""

from __future__ import annotations

from sandboxd.api import agent_pb2 as pb

GUEST_DIR = "/run/sandboxd"
"""Of the guest. One directory per container below it: rootfs mounts, the assembled root, embedded files."""
CGROUP_ROOT = "/sys/fs/cgroup"
CGROUP_PARENT = "containers"


class Assembly:
    """A plan while it grows. Undo steps are run last first, whatever became of each."""

    def __init__(self, container_id: str, user_namespace: bool) -> None:
        self.container_id = container_id
        self.directory = f"{GUEST_DIR}/{container_id}"
        self.root = f"{self.directory}/root"
        self.cgroup = f"{CGROUP_PARENT}/{container_id}"
        self.user_namespace = user_namespace
        self.prepare: list[pb.Step] = []
        self.inside: list[pb.Step] = []
        self.finish: list[pb.Step] = []
        self._undo: list[pb.Step] = []
        self.make_directory(self.directory, mode=0o711)

    @property
    def cleanup(self) -> list[pb.Step]:
        return list(reversed(self._undo))

    def make_directory(self, path: str, mode: int = 0o755) -> str:
        """In `prepare`, removed again; answers the path."""
        self.prepare.append(directory(path, mode))
        self._undo.append(remove(path))
        return path

    def make_file(self, name: str, content: bytes, mode: int, uid: int, gid: int) -> str:
        """A file of the container's directory in the guest, removed again; answers its path."""
        path = f"{self.directory}/{name}"
        made = pb.MakeFile(path=path, mode=mode, uid=uid, gid=gid, content=content)
        self.prepare.append(pb.Step(make_file=made))
        self._undo.append(remove(path))
        return path

    def make_node(self, number: int, node: pb.MakeNode) -> str:
        """A device node in the guest's own /dev (/run opens no devices), removed again; answers its path."""
        path = f"/dev/sandboxd-{self.container_id}-{number}"
        made = pb.MakeNode()
        made.CopyFrom(node)
        made.path = path
        self.prepare.append(pb.Step(make_node=made))
        self._undo.append(remove(path))
        return path

    def mount(self, source: str, target: str, fs_type: str, flags: int, data: str) -> None:
        """In `prepare`, in the guest's own mount namespace; unmounted again."""
        self.prepare.append(mount(source, target, fs_type, flags, data))
        self._undo.append(pb.Step(unmount=pb.Path(path=target)))


def directory(path: str, mode: int = 0o755, *, in_root: bool = False, optional: bool = False) -> pb.Step:
    return pb.Step(in_root=in_root, optional=optional, make_directory=pb.MakeDirectory(path=path, mode=mode))


def remove(path: str, *, in_root: bool = False, optional: bool = False) -> pb.Step:
    return pb.Step(in_root=in_root, optional=optional, remove=pb.Path(path=path))


def symlink(path: str, target: str, *, in_root: bool = False, optional: bool = False) -> pb.Step:
    return pb.Step(in_root=in_root, optional=optional, make_symlink=pb.MakeSymlink(path=path, target=target))


def write(path: str, content: str, *, optional: bool = False) -> pb.Step:
    return pb.Step(optional=optional, write=pb.Write(path=path, content=content.encode()))


def mount(
    source: str,
    target: str,
    fs_type: str,
    flags: int,
    data: str = "",
    *,
    propagation: int = 0,
    in_root: bool = False,
    make_target: bool = False,
) -> pb.Step:
    made = pb.Mount(
        source=source,
        target=target,
        type=fs_type,
        flags=flags,
        data=data,
        propagation=propagation,
        make_target=make_target,
    )
    return pb.Step(in_root=in_root, mount=made)


def attributes(path: str, to_set: int, to_clear: int, *, recursive: bool = False, in_root: bool = False) -> pb.Step:
    made = pb.MountAttributes(path=path, set=to_set, clear=to_clear, recursive=recursive)
    return pb.Step(in_root=in_root, mount_attributes=made)
