"""Mounts of a config.json to steps: words, flags, order, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.api import agent_pb2 as pb
from sandboxd.base.errors import SandboxdError
from sandboxd.core.oci import mount_options as mo
from sandboxd.core.oci.compile import CompiledContainer, compile_container
from sandboxd.core.oci.hostfile import FILE_MAX_BYTES, HostFile, HostFileRefused, read_host_file
from sandboxd.core.oci.mount_options import parse_options
from tests.support.oci_specs import WRITABLE, compiled, no_files, spec


def mount(destination: str, fs_type: str, *options: str, source: str = "") -> dict[str, Any]:
    return {"destination": destination, "type": fs_type, "source": source or fs_type, "options": list(options)}


def steps_for(*mounts: dict[str, Any], **changes: Any) -> list[pb.Step]:
    """Steps of `inside` that mount, re-mount or change a mount."""
    inside = compiled(mounts=list(mounts), **changes).plan.inside
    return [step for step in inside if step.HasField("mount") or step.HasField("mount_attributes")]


# --- words ---


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (("ro", "nosuid", "nodev", "noexec"), 15),
        (("ro", "rw"), 0),
        (("rw", "ro"), mo.MS_RDONLY),
        (("rbind",), mo.MS_BIND | mo.MS_REC),
        (("relatime", "nodiratime"), mo.MS_RELATIME | mo.MS_NODIRATIME),
        (("strictatime", "sync", "dirsync", "mand", "silent"), 0x1000000 | 16 | 128 | 64 | 32768),
        (("sync", "async", "mand", "nomand", "silent", "loud"), 0),
        (("nosymfollow", "lazytime", "iversion"), 256 | 1 << 25 | 1 << 23),
        (("nosymfollow", "symfollow", "lazytime", "nolazytime", "iversion", "noiversion"), 0),
        (("defaults",), 0),
    ],
)
def test_words_are_flags(words: tuple[str, ...], flags: int) -> None:
    options = parse_options(words)
    assert (options.flags, options.data) == (flags, [])


def test_what_is_no_flag_is_data() -> None:
    assert parse_options(("size=64k", "mode=755", "nosuid", "uid=5")).data == ["size=64k", "mode=755", "uid=5"]


def test_propagation_keeps_its_order() -> None:
    assert parse_options(("rslave", "shared")).propagation == [mo.MS_SLAVE | mo.MS_REC, mo.MS_SHARED]


@pytest.mark.parametrize(
    ("words", "attributes"),
    [
        (("rro",), (1, 0)),
        (("rro", "rrw"), (0, 1)),
        (("rro", "rnosuid", "rnoexec", "rnodev"), (15, 0)),
        (("rnoatime",), (0x10, 0x70)),
        (("rnoatime", "rrelatime"), (0, 0x70)),
        (("rstrictatime", "rnodiratime"), (0xA0, 0x70)),
        (("rnosymfollow",), (0x200000, 0)),
    ],
)
def test_recursive_words_are_attributes(words: tuple[str, ...], attributes: tuple[int, int]) -> None:
    options = parse_options(words)
    assert (options.recursive_set, options.recursive_clear) == attributes


@pytest.mark.parametrize(
    ("words", "attributes"),
    [
        (("rbind",), (0, 0)),
        (("ro", "nosuid"), (3, 0)),
        (("rw", "exec"), (0, 9)),
        (("ro", "rw"), (0, 1)),
        (("noatime",), (0x10, 0x70)),
        (("relatime",), (0, 0x70)),
        (("strictatime",), (0x20, 0x70)),
        (("atime",), (0, 0x70)),
        (("nosymfollow", "nodiratime"), (0x200080, 0)),
    ],
)
def test_a_binds_words_change_only_what_they_say(words: tuple[str, ...], attributes: tuple[int, int]) -> None:
    assert parse_options(words).bind_attributes() == attributes


@given(st.lists(st.sampled_from(sorted({*mo._SET, *mo._CLEAR, *mo._PROPAGATION, *mo._RECURSIVE})), max_size=12))
def test_attributes_never_contradict_themselves(words: list[str]) -> None:
    """mount_setattr(2): a bit is set or cleared, and atime's bits are cleared as a whole before one is set."""
    options = parse_options(tuple(words))
    for to_set, to_clear in (options.bind_attributes(), (options.recursive_set, options.recursive_clear)):
        assert to_set & to_clear & ~mo.ATTR_ATIME == 0
        assert to_set & mo.ATTR_ATIME == 0 or to_clear & mo.ATTR_ATIME == mo.ATTR_ATIME
        assert to_clear & mo.ATTR_ATIME in (0, mo.ATTR_ATIME)


# --- file systems of the guest ---


def test_a_file_system_without_source() -> None:
    (step,) = steps_for(mount("/run", "tmpfs", "nosuid", "mode=755", "size=1m"))
    assert step.in_root and step.mount.make_target
    assert (step.mount.target, step.mount.type, step.mount.flags, step.mount.data) == (
        "/run",
        "tmpfs",
        2,
        "mode=755,size=1m",
    )


def test_a_cgroup_mount_is_version_2() -> None:
    (step,) = steps_for(mount("/sys/fs/cgroup", "cgroup", "ro"))
    assert (step.mount.type, step.mount.flags) == ("cgroup2", 1)


def test_propagation_is_a_call_of_its_own() -> None:
    native, propagation = steps_for(mount("/mnt", "tmpfs", "rshared"))
    assert native.mount.flags == 0
    assert (propagation.mount.target, propagation.mount.flags) == ("/mnt", mo.MS_SHARED | mo.MS_REC)


def test_a_read_only_tmpfs_is_filled_first() -> None:
    plan = compiled(mounts=[mount("/a", "tmpfs", "ro"), mount("/a/b", "tmpfs"), mount("/c", "tmpfs", "ro")]).plan
    flags = {step.mount.target: step.mount.flags for step in plan.inside if step.HasField("mount")}
    assert flags == {"/a": 0, "/a/b": 0, "/c": 1}
    late = [step.mount_attributes for step in plan.finish if step.HasField("mount_attributes")]
    assert [(each.path, each.set) for each in late] == [("/a", 1)]


def test_destinations_are_cleaned_and_relative_ones_are_below_the_root() -> None:
    targets = [step.mount.target for step in steps_for(mount("a//b/../c/", "tmpfs"), mount("/../../etc", "tmpfs"))]
    assert targets == ["/a/c", "/etc"]


def test_remount() -> None:
    plain, bind = steps_for(mount("/proc", "proc", "remount", "ro"), mount("/x", "none", "bind", "remount", "ro"))
    assert plain.mount.flags == mo.MS_REMOUNT | mo.MS_RDONLY and not plain.mount.make_target
    assert (bind.mount_attributes.path, bind.mount_attributes.set) == ("/x", 1)


@pytest.mark.parametrize(
    ("refused", "path"),
    [
        (mount("/", "tmpfs"), "destination"),
        (mount("", "tmpfs"), "destination"),
        (mount("/a", "ext4", source="/dev/sda"), "type"),
        (mount("/a", "overlay", "lowerdir=/etc"), "type"),
        (mount("/a", "nfs", source="host:/"), "type"),
        (mount("/a", "tmpfs", "tmpcopyup"), "options"),
        (mount("/a", "tmpfs", "idmap"), "options"),
        (mount("/a", "tmpfs", "ridmap=x"), "options"),
        (mount("/a", "tmpfs", "x" * 4096), "options"),
        ({**mount("/a", "tmpfs"), "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}, "uidMappings"),
    ],
)
def test_what_cannot_be_mounted_is_refused(refused: dict[str, Any], path: str) -> None:
    with pytest.raises(SandboxdError) as caught:
        compiled(mounts=[refused])
    assert f"mounts[0].{path}" in caught.value.cause


# --- user namespaces: the kernel lets its root mount less ---

MAPS = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def in_user_namespace(*mounts: dict[str, Any], cgroup: bool = False) -> pb.Plan:
    namespaces = [{"type": name} for name in ("mount", "user", *(("cgroup",) if cgroup else ()))]
    maps = {"linux__uidMappings": MAPS, "linux__gidMappings": MAPS}
    return compiled(mounts=list(mounts), linux__namespaces=namespaces, **maps).plan


def test_sysfs_is_bound_there() -> None:
    plan = in_user_namespace(mount("/sys", "sysfs", "ro", "nosuid"))
    bind, attributes, cgroups = plan.inside[:3]
    assert (cgroups.mount_attributes.path, cgroups.mount_attributes.set) == ("/sys/fs/cgroup", 1)
    assert (bind.mount.source, bind.mount.flags) == ("/sys", mo.MS_BIND | mo.MS_REC)
    assert (attributes.mount_attributes.path, attributes.mount_attributes.set) == ("/sys", 3)
    assert "/sys" in {step.make_directory.path for step in plan.prepare if step.in_root}


@pytest.mark.parametrize("own_namespace", [True, False])
def test_cgroups_are_bound_unless_their_namespace_is_own(own_namespace: bool) -> None:
    plan = in_user_namespace(mount("/sys/fs/cgroup", "cgroup"), cgroup=own_namespace)
    first = plan.inside[0].mount
    assert (first.type, first.source) == (("cgroup2", "cgroup") if own_namespace else ("", "/sys/fs/cgroup"))


def test_mount_points_of_a_tmpfs_are_made_inside() -> None:
    plan = in_user_namespace(mount("/dev", "tmpfs"), mount("/dev/shm", "tmpfs"))
    assert [step.make_directory.path for step in plan.prepare if step.in_root] == ["/dev"]


# --- files of the host ---


def with_files(*mounts: dict[str, Any], files: dict[str, bytes], **changes: Any) -> CompiledContainer:
    def read(path: str) -> HostFile:
        if path not in files:
            raise HostFileRefused("its source is a directory of the host")
        return HostFile(files[path], 0o640, 7, 8)

    return compile_container(
        spec(mounts=list(mounts), **changes), container_id="web", rootfs=WRITABLE, read_host_file=read
    )


def test_a_file_is_carried_over_by_content() -> None:
    bind = mount("/etc/hosts", "bind", "rbind", "ro", "rprivate", source="/h/hosts")
    plan = with_files(bind, files={"/h/hosts": b"127.0.0.1\n"}).plan
    (made,) = (step.make_file for step in plan.prepare if step.HasField("make_file"))
    assert (made.content, made.mode, made.uid, made.gid) == (b"127.0.0.1\n", 0o640, 7, 8)
    bound, read_only, propagation = plan.inside[:3]
    assert (bound.mount.source, bound.mount.target, bound.mount.flags) == (made.path, "/etc/hosts", mo.MS_BIND)
    assert (read_only.mount_attributes.set, propagation.mount.flags) == (1, mo.MS_PRIVATE | mo.MS_REC)
    assert made.path in {step.remove.path for step in plan.cleanup if step.HasField("remove")}


def test_all_that_cannot_be_carried_is_named() -> None:
    binds = [mount(f"/mnt/{name}", "bind", "rbind", source=f"/srv/{name}") for name in ("a", "b")]
    with pytest.raises(SandboxdError) as caught:
        with_files(*binds, files={})
    assert caught.value.kind.code == "host_bind_unsupported"
    assert "/srv/a -> /mnt/a" in caught.value.cause and "mounts[1]" in caught.value.cause
    assert "sandboxctl cp" in caught.value.remedy


def test_all_files_together_have_a_limit() -> None:
    binds = [mount(f"/f{number}", "bind", source="/big") for number in range(3)]
    with pytest.raises(SandboxdError, match="host"):
        with_files(*binds, files={"/big": b"x" * FILE_MAX_BYTES})


def test_the_order_of_removal_is_that_of_making_reversed() -> None:
    plan = with_files(mount("/f", "bind", source="/f"), files={"/f": b""}).plan
    made = [step.make_directory.path or step.make_file.path for step in plan.prepare if not step.HasField("mount")]
    own = [path for path in made if path.startswith("/run/sandboxd/web") and "/0/" not in path]
    removed = [step.remove.path for step in plan.cleanup if step.HasField("remove")]
    assert removed == [path for path in reversed(own) if path]


def test_reading_a_file(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(b"text")
    path.chmod(0o604)
    file = read_host_file(str(path))
    assert (file.content, file.mode, file.uid) == (b"text", 0o604, os.getuid())
    path.write_bytes(b"x" * FILE_MAX_BYTES)
    assert len(read_host_file(str(path)).content) == FILE_MAX_BYTES


def test_what_is_no_small_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "big").write_bytes(b"x" * (FILE_MAX_BYTES + 1))
    for name, why in (("fifo", "not a regular"), ("", "a directory"), ("big", "1 MiB"), ("none", "No such file")):
        with pytest.raises(HostFileRefused, match=why):
            read_host_file(str(tmp_path / name))
    with pytest.raises(HostFileRefused, match="absolute"):
        read_host_file("etc/hosts")
    with pytest.raises(HostFileRefused):
        no_files("/x")
