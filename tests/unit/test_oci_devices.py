"""Device rules: what the eBPF program decides, against the meaning of the rules, and before the kernel's verifier."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.base.errors import SandboxdError
from sandboxd.core.oci import ebpf
from sandboxd.core.oci.ebpf import Rule, device_program
from tests.support.bpf import run_device_program
from tests.support.oci_specs import compiled

R, W, M = ebpf.ACCESS_READ, ebpf.ACCESS_WRITE, ebpf.ACCESS_MKNOD
BLOCK, CHARACTER = ebpf.DEVICE_BLOCK, ebpf.DEVICE_CHARACTER

_numbers = st.sampled_from((0, 1, 3, 5, 136, 0x7FFFFFFF, 0xFFFFFFFF))
_rules = st.builds(
    Rule,
    allow=st.booleans(),
    device_type=st.sampled_from((None, BLOCK, CHARACTER)),
    major=st.none() | _numbers,
    minor=st.none() | _numbers,
    access=st.integers(0, 7),
).map(lambda rule: rule if rule.device_type else Rule(rule.allow, None, None, None, ebpf.ACCESS_ALL))


def allowed(rules: list[Rule], device_type: int, major: int, minor: int, access: int) -> bool:
    """What the rules mean: each kind of access by the last rule that names it and the device."""
    for bit in (R, W, M):
        if not access & bit:
            continue
        last = [
            rule
            for rule in rules
            if rule.access & bit
            and rule.device_type in (None, device_type)
            and rule.major in (None, major)
            and rule.minor in (None, minor)
        ][-1:]
        if not last or not last[0].allow:
            return False
    return True


@given(st.lists(_rules, max_size=12), st.sampled_from((BLOCK, CHARACTER)), _numbers, _numbers, st.integers(1, 7))
def test_the_program_decides_as_the_rules_say(
    rules: list[Rule], device_type: int, major: int, minor: int, access: int
) -> None:
    program = device_program(rules)
    assert run_device_program(program, device_type, major, minor, access) == allowed(
        rules, device_type, major, minor, access
    )


def test_everything_allowed_needs_no_program() -> None:
    everything = Rule(True, None, None, None, ebpf.ACCESS_ALL)
    assert device_program([everything]) == b""
    assert device_program([Rule(False, CHARACTER, 1, 3, R), everything]) == b""
    assert device_program([everything, Rule(False, CHARACTER, 1, 3, R)]) != b""
    assert device_program([]) != b""


def test_too_many_rules_overflow() -> None:
    with pytest.raises(OverflowError):
        device_program([Rule(True, CHARACTER, number, number, R) for number in range(1000)])


def load(program: bytes) -> int:
    """BPF_PROG_LOAD; 0 or the errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    instructions, licence = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"Apache-2.0")
    fields = (15, len(program) // 8, ctypes.addressof(instructions), ctypes.addressof(licence))
    attributes = ctypes.create_string_buffer(struct.pack("=IIQQ", *fields).ljust(128, b"\0"))
    fd = libc.syscall(321, 5, attributes, 128)
    if fd < 0:
        return ctypes.get_errno()
    os.close(fd)
    return 0


@pytest.fixture(scope="module")
def verifier() -> None:
    status = load(device_program([Rule(True, CHARACTER, 1, 3, R)]))
    if status in (errno.EPERM, errno.ENOSYS):
        pytest.skip("needs CAP_BPF: the kernel lets us load no eBPF program")


@pytest.mark.usefixtures("verifier")
@pytest.mark.parametrize(
    "rules",
    [
        [],
        [Rule(False, None, None, None, 7)],
        [Rule(False, None, None, None, 7), Rule(True, CHARACTER, 1, 3, 7)],
        [Rule(True, None, None, None, 7), Rule(False, BLOCK, None, 0xFFFFFFFF, W), Rule(False, CHARACTER, 9, 9, R | W)],
        [Rule(bool(number % 3), 1 + number % 2, number, None, 1 + number % 7) for number in range(400)],
    ],
)
def test_the_kernels_verifier_takes_it(rules: list[Rule]) -> None:
    assert load(device_program(rules)) == 0


@pytest.mark.usefixtures("verifier")
def test_the_kernels_verifier_takes_the_defaults() -> None:
    assert load(compiled().plan.device_filter) == 0


# --- from config.json ---


def decide(device: str, access: int, *rules: dict[str, object]) -> bool:
    kind, numbers = device.split()
    major, minor = (int(part) for part in numbers.split(":"))
    program = compiled(linux__resources={"devices": list(rules)}).plan.device_filter
    return run_device_program(program, CHARACTER if kind == "c" else BLOCK, major, minor, access)


@pytest.mark.parametrize("device", ["c 1:3", "c 1:5", "c 1:7", "c 1:8", "c 1:9", "c 5:0", "c 5:1", "c 5:2", "c 136:7"])
def test_standard_devices_open_whatever_the_rules_say(device: str) -> None:
    assert decide(device, R | W, {"allow": False, "access": "rwm"})
    assert decide(device, R | W)


def test_nodes_may_be_made_but_not_opened() -> None:
    denied = {"allow": False, "access": "rwm"}
    assert decide("b 8:0", M, denied)
    assert not decide("b 8:0", R, denied)
    assert not decide("b 8:0", R)


def test_wildcards_and_order() -> None:
    deny: dict[str, object] = {"allow": False}
    fuse = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}
    assert decide("c 10:229", R | W, deny, fuse)
    assert not decide("c 10:229", R | W, fuse, deny)
    assert decide("c 10:1", R, {"allow": True, "type": "c", "major": 10, "minor": -1, "access": "r"})
    assert not decide("c 10:1", W, {"allow": True, "type": "c", "major": 10, "access": "r"})
    assert decide("b 7:7", R, {"allow": True, "type": "a", "major": 1})
    assert not decide("b 7:7", W, {"allow": True}, {"allow": False, "type": "b", "major": 7, "minor": 7, "access": "w"})


def test_all_allowed_attaches_nothing() -> None:
    assert compiled(linux__resources={"devices": [{"allow": True, "access": "rwm"}]}).plan.device_filter == b""


def nodes(**changes: object) -> dict[str, tuple[int, int, int]]:
    plan = compiled(**changes).plan
    made = [step.make_node for step in plan.inside if step.HasField("make_node")]
    return {node.path: (node.mode, node.major, node.minor) for node in made}


def test_standard_nodes_and_links() -> None:
    assert nodes()["/dev/null"] == (0o20666, 1, 3) and len(nodes()) == 6
    links = {step.make_symlink.path for step in compiled().plan.inside if step.HasField("make_symlink")}
    assert links == {"/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/ptmx"}


def test_own_nodes_join_and_replace() -> None:
    own = [
        {"type": "b", "path": "/dev/disk", "major": 8, "minor": 1, "fileMode": 0o640, "uid": 1, "gid": 2},
        {"type": "p", "path": "/run/fifo"},
        {"type": "c", "path": "/dev/./null", "major": 1, "minor": 3, "fileMode": 0o600},
    ]
    made = nodes(linux__devices=own)
    assert made["/dev/disk"] == (0o60640, 8, 1)
    assert made["/run/fifo"][0] == 0o10666
    assert made["/dev/null"][0] == 0o20600 and len(made) == 8


def test_nodes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(SandboxdError) as caught:
        compiled(linux__devices=[{"type": "c", "path": "/dev/x"}, {"type": "p", "path": "fifo"}])
    assert "linux.devices[0]" in caught.value.cause and "linux.devices[1].path" in caught.value.cause


def test_a_dev_of_its_own_is_empty_and_an_images_is_not() -> None:
    dev = {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}
    fresh = compiled(mounts=[dev]).plan.inside
    assert not any(step.HasField("remove") for step in fresh)
    of_image = compiled().plan.inside
    assert any(step.HasField("remove") and step.remove.path == "/dev/null" for step in of_image)


def test_the_guests_dev_is_not_touched() -> None:
    assert nodes(mounts=[{"destination": "/dev", "type": "devtmpfs", "source": "devtmpfs"}]) == {}


def test_in_a_user_namespace_nodes_are_made_outside_and_bound() -> None:
    maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    namespaces = [{"type": name} for name in ("mount", "user")]
    fuse = [{"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "uid": 7}]
    plan = compiled(
        linux__namespaces=namespaces, linux__uidMappings=maps, linux__gidMappings=maps, linux__devices=fuse
    ).plan
    assert not any(step.HasField("make_node") for step in plan.inside)
    made = {step.make_node.path for step in plan.prepare if step.HasField("make_node")}
    bound = {step.mount.target: step.mount.source for step in plan.inside if step.HasField("mount")}
    (node,) = (step.make_node for step in plan.prepare if step.HasField("make_node"))
    assert (node.uid, node.gid) == (100007, 100000)
    assert made == {"/dev/sandboxd-web-6"} <= {step.remove.path for step in plan.cleanup if step.HasField("remove")}
    assert bound["/dev/fuse"] == "/dev/sandboxd-web-6" and bound["/dev/null"] == "/dev/null" and len(bound) == 7


def test_an_owner_that_a_user_namespace_does_not_map() -> None:
    maps = [{"containerID": 0, "hostID": 100000, "size": 10}]
    namespaces = [{"type": name} for name in ("mount", "user")]
    device = [{"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "gid": 10}]
    with pytest.raises(SandboxdError) as caught:
        compiled(linux__namespaces=namespaces, linux__uidMappings=maps, linux__gidMappings=maps, linux__devices=device)
    assert "linux.devices[0] = 0:10" in caught.value.cause
