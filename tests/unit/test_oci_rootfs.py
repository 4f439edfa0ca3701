"""The mounts that a container's creator hands over, to drives and an assembled root."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.base.errors import SandboxdError
from sandboxd.core.oci.compile import CompiledContainer, compile_container
from sandboxd.core.oci.rootfs import RootfsMount
from tests.support.oci_specs import DISK, EROFS, OVERLAY, WRITABLE, no_files, spec


def build(*mounts: RootfsMount, read_only: bool = False, container_id: str = "web") -> CompiledContainer:
    text = spec(root={"path": "rootfs", "readonly": read_only})
    return compile_container(text, container_id=container_id, rootfs=mounts, read_host_file=no_files)


def refused(*mounts: RootfsMount, read_only: bool = False) -> SandboxdError:
    with pytest.raises(SandboxdError) as caught:
        build(*mounts, read_only=read_only)
    assert caught.value.kind.code == "rootfs_unsupported"
    return caught.value


def overlay(*options: str) -> RootfsMount:
    return replace(OVERLAY, options=options)


def root_mount(container: CompiledContainer) -> tuple[str, str, int, str]:
    (step,) = (step.mount for step in container.plan.prepare if step.mount.target == container.plan.root)
    return step.source, step.type, step.flags, step.data


def test_a_disk_over_an_image() -> None:
    container = build(*WRITABLE)
    disk, image = container.drives
    assert (str(disk.path), disk.read_only) == ("/disks/a.ext4", False)
    assert (str(image.path), image.read_only) == ("/images/a.erofs", True)
    base = "/run/sandboxd/web"
    assert root_mount(container) == (
        "overlay",
        "overlay",
        0,
        f"workdir={base}/0/work,upperdir={base}/0/upper,lowerdir={base}/1",
    )
    sources = [step.mount.source for step in container.plan.prepare if step.HasField("mount")]
    assert sources == [f"block:{disk.serial}", f"block:{image.serial}", "overlay"]
    kinds = [step.WhichOneof("kind") for step in container.plan.prepare]
    upper = next(
        index for index, step in enumerate(container.plan.prepare) if step.make_directory.path.endswith("/upper")
    )
    assert kinds.index("mount") < upper < len(kinds), "made on the disk, once it is mounted"


def test_layers_are_joined_as_the_template_says() -> None:
    layers = [replace(EROFS, source=f"/images/{number}.erofs") for number in range(4)]
    last = overlay("workdir={{ mount 0 }}/w", "upperdir={{ mount 0 }}/u", "lowerdir={{ overlay 1 4 }}", "index=off")
    data = root_mount(build(DISK, *layers, last))[3]
    base = "/run/sandboxd/web"
    assert data.endswith(f"lowerdir={base}/1:{base}/2:{base}/3:{base}/4,index=off")


def test_a_template_may_count_down_and_be_listed() -> None:
    base = "/run/sandboxd/web"
    data = root_mount(build(EROFS, EROFS, EROFS, overlay("lowerdir={{overlay 2 1}}:{{ mount 0 }}/sub")))[3]
    assert data == f"lowerdir={base}/2:{base}/1:{base}/0/sub"


def test_single_images() -> None:
    container = build(EROFS, read_only=True)
    assert root_mount(container)[1:] == ("erofs", 1, "")
    assert root_mount(build(DISK))[1:] == ("ext4", 0, "")
    read_only_disk = replace(DISK, options=("ro", "loop", "noload", "noatime"))
    assert root_mount(build(read_only_disk, read_only=True))[1:] == ("ext4", 1 | 1024, "noload")


def test_a_read_only_root_is_made_so_at_the_end() -> None:
    finish = build(EROFS, read_only=True).plan.finish
    assert [(step.mount_attributes.path, step.mount_attributes.set) for step in finish] == [("/", 1)]


def test_serials_are_unique_and_fit() -> None:
    serials = {drive.serial for name in ("a", "b", "a" * 76) for drive in build(*WRITABLE, container_id=name).drives}
    assert len(serials) == 6 and all(len(serial) <= 20 for serial in serials)


def test_everything_mounted_is_unmounted_in_reverse() -> None:
    plan = build(*WRITABLE).plan
    mounted = [step.mount.target for step in plan.prepare if step.HasField("mount")]
    unmounted = [step.unmount.path for step in plan.cleanup if step.HasField("unmount")]
    assert unmounted == mounted[::-1]


@pytest.mark.parametrize(
    ("mounts", "why"),
    [
        ((), "no root file system"),
        ((EROFS,), "cannot be written"),
        ((DISK, EROFS), "need an overlay"),
        ((RootfsMount("overlay", "overlay", options=("lowerdir=/a:/b",)),), "ext4 or EROFS"),
        ((RootfsMount("bind", "/srv/rootfs", options=("rbind",)),), "ext4 or EROFS"),
        ((RootfsMount("btrfs", "/dev/sda"), EROFS, OVERLAY), "ext4 or EROFS"),
        ((RootfsMount("mkfs/ext4", "/d.img"), EROFS, OVERLAY), "ext4 or EROFS"),
        ((replace(DISK, target="sub"), EROFS, OVERLAY), "below the root"),
        ((*([EROFS] * 17), OVERLAY), "17 disks"),
        ((replace(DISK, source="disk.ext4"),), "absolute"),
        ((replace(DISK, options=("rw",) * 129),), "at most 128 options"),
        ((DISK, EROFS, overlay("lowerdir=" + ":" * 4096)), "of 4096 characters"),
        ((replace(DISK, options=("rw", "dax=always")),), "no such option"),
        ((replace(EROFS, options=("ro", "device=/x")), OVERLAY), "no such option"),
        ((replace(DISK, options=("bind",)),), "no such option"),
        ((DISK, EROFS, overlay("lowerdir=/etc")), "own disks"),
        ((DISK, EROFS, overlay("lowerdir={{ mount 1 }}/../../..")), "own disks"),
        ((DISK, EROFS, overlay("lowerdir={{ mount 2 }}")), "own disks"),
        ((DISK, EROFS, overlay("lowerdir={{ overlay 1 9999 }}")), "own disks"),
        ((DISK, EROFS, overlay("lowerdir={{ source 1 }}")), "own disks"),
        ((DISK, EROFS, overlay("lowerdir={{ mount 1 }},upperdir=/x")), "own disks"),
        ((DISK, EROFS, overlay("lowerdir={{ mount 1 }}", "upperdir=/tmp")), "own disks"),
        ((DISK, EROFS, overlay("upperdir={{ mount 0 }}/u", "workdir={{ mount 0 }}/w")), "needs a lowerdir"),
        ((DISK, EROFS, overlay("lowerdir={{ mount 1 }}", "lowerdir+=/x")), "no such option"),
        ((DISK, EROFS, overlay("lowerdir={{ mount 1 }}", "X-containerd.mkdir.path={{ mount 0 }}/u:9999")), "PATH:MODE"),
        ((DISK, EROFS, overlay("lowerdir={{ mount 1 }}", "X-containerd.mkdir.path=/etc/x")), "own disks"),
    ],
)
def test_other_forms_are_refused(mounts: tuple[RootfsMount, ...], why: str) -> None:
    error = refused(*mounts)
    assert why in error.cause
    assert "erofs" in error.remedy


def test_directories_of_the_disk_take_mode_and_owner() -> None:
    words = ("X-containerd.mkdir.path={{ mount 0 }}/u:0700:5:6", "lowerdir={{ mount 1 }}")
    plan = build(DISK, EROFS, overlay(*words, "upperdir={{ mount 0 }}/u", "workdir={{ mount 0 }}/w")).plan
    (made,) = (step.make_directory for step in plan.prepare if step.make_directory.path.endswith("/0/u"))
    assert (made.mode, made.uid, made.gid) == (0o700, 5, 6)


_words = st.text("lowerdi=/{}mount ovrlay019:.,-_", max_size=40)


@given(st.lists(st.one_of(_words, _words.map(lambda word: f"lowerdir={{{{ {word} }}}}")), max_size=4))
def test_no_option_leads_out_of_the_containers_directory(options: list[str]) -> None:
    try:
        container = build(DISK, EROFS, overlay(*options))
    except SandboxdError as error:
        assert error.kind.code == "rootfs_unsupported"
        return
    data = root_mount(container)[3]
    for option in data.split(","):
        for path in option.partition("=")[2].split(":"):
            assert not path.startswith("/") or path.startswith("/run/sandboxd/web/")
            assert ".." not in path.split("/")
