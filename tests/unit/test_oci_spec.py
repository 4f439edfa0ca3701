"""The door: config.json texts to records."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.base.errors import SandboxdError
from sandboxd.core.oci.spec import CONFIG_MAX_BYTES, parse_process, parse_resources, parse_spec
from tests.support.oci_specs import config, spec


def refusal(text: bytes) -> SandboxdError:
    with pytest.raises(SandboxdError) as caught:
        parse_spec(text)
    assert caught.value.kind.code == "oci_spec_invalid"
    return caught.value


def test_every_linux_property_has_a_place() -> None:
    """Names as the specification writes them, capitals included."""
    parsed = spec(
        linux__uidMappings=[{"containerID": 0, "hostID": 1000, "size": 1}],
        linux__intelRdt={"closID": "guaranteed"},
        linux__resources={
            "memory": {"disableOOMKiller": True, "kernelTCP": 5, "checkBeforeUpdate": True, "useHierarchy": True},
            "blockIO": {"throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 1}], "leafWeight": 10},
            "network": {"classID": 7, "priorities": [{"name": "eth0", "priority": 1}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
        },
        process__execCPUAffinity={"initial": "0", "final": "1"},
        process__ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 3},
        linux__seccomp={
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {
                    "names": ["read"],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": 2,
                    "args": [{"index": 1, "value": 2, "op": "X"}],
                }
            ],
        },
    )
    assert parsed.linux is not None and parsed.process is not None
    assert parsed.linux.uid_mappings is not None and parsed.linux.uid_mappings[0].host_id == 1000
    assert parsed.linux.intel_rdt is not None and parsed.linux.intel_rdt.clos_id == "guaranteed"
    resources = parsed.linux.resources
    assert resources is not None and resources.memory is not None and resources.block_io is not None
    assert resources.memory.disable_oom_killer and resources.memory.kernel_tcp == 5
    assert resources.block_io.throttle_read_iops_device is not None
    assert resources.network is not None and resources.network.class_id == 7
    assert parsed.process.exec_cpu_affinity is not None and parsed.process.exec_cpu_affinity.final == "1"
    assert parsed.process.io_priority is not None and parsed.process.io_priority.io_class == "IOPRIO_CLASS_BE"


def test_unknown_properties_are_passed_over() -> None:
    """config.md, "Extensibility": runtimes must not fail on what they do not know."""
    text = config(process__invented=1, linux__tomorrow={"a": []}, nonsense=None)
    assert parse_spec(json.dumps(text).encode()).process is not None


def test_all_faults_are_reported_together_with_their_paths() -> None:
    text = config(process__cwd=7, linux__namespaces=[{"type": "mount"}, {"type": "wardrobe"}], hostname="x" * 65)
    cause = refusal(json.dumps(text).encode()).cause
    assert "process.cwd = 7" in cause
    assert "linux.namespaces[1].type = wardrobe" in cause
    assert "hostname = " in cause


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("process__args", ["a\0b"]),
        ("process__env", ["A=\0"]),
        ("process__user", {"uid": -1}),
        ("process__user", {"uid": 1 << 32}),
        ("process__user", {"uid": "0"}),
        ("process__user", {"umask": 0o10000}),
        ("process__oomScoreAdj", 1001),
        ("process__oomScoreAdj", 1.5),
        ("process__consoleSize", {"height": 70000, "width": 1}),
        ("process__rlimits", [{"type": "RLIMIT_CPU", "soft": -1, "hard": 1}]),
        ("mounts", [{"destination": "/a" * 3000}]),
        ("linux__devices", [{"type": "x", "path": "/dev/x"}]),
        ("linux__resources", {"devices": [{"allow": True, "access": "rwx"}]}),
        ("linux__resources", {"hugepageLimits": [{"pageSize": "../1", "limit": 0}]}),
        ("linux__resources", {"memory": {"limit": 1 << 63}}),
        ("linux__personality", {"domain": "BSD"}),
        ("linux__timeOffsets", {"realtime": {"secs": 1}}),
        ("linux__seccomp", {"syscalls": []}),
        ("ociVersion", "2.0.0"),
        ("ociVersion", "1.0"),
    ],
)
def test_values_out_of_their_range_are_refused(field: str, value: Any) -> None:
    refusal(json.dumps(config(**{field: value})).encode())


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"{", b'"x"', b"\xff\xfe", b'{"ociVersion":"1.0.2",}', b"[" * 10000]
)
def test_what_is_no_object_is_refused(text: bytes) -> None:
    refusal(text)


def test_a_text_over_the_limit_is_not_even_parsed() -> None:
    error = refusal(b" " * (CONFIG_MAX_BYTES + 1))
    assert str(CONFIG_MAX_BYTES) in error.cause


@pytest.mark.parametrize("version", ["1.0.0", "1.0.2-dev", "1.2.1", "1.3.0+build"])
def test_all_versions_1_are_read(version: str) -> None:
    assert spec(ociVersion=version).oci_version == version


def test_a_long_report_is_cut() -> None:
    text = config(process__args=[1] * 100)
    cause = refusal(json.dumps(text).encode()).cause
    assert len(cause.splitlines()) == 21 and cause.endswith("and 80 more")


def test_quoted_values_are_printable_and_short() -> None:
    cause = refusal(json.dumps(config(process__cwd=["\x1b[31m" + "y" * 500])).encode()).cause
    assert "\x1b" not in cause and len(cause) < 400


def test_process_and_resources_alone() -> None:
    assert parse_process(b'{"args":["a"],"cwd":"/"}').args == ("a",)
    pids = parse_resources(b'{"pids":{"limit":3}}').pids
    assert pids is not None and pids.limit == 3
    with pytest.raises(SandboxdError, match="process"):
        parse_process(b"{}")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=12,
)
_PATHS = st.sampled_from(
    [
        *("process__user", "process__env", "process__rlimits", "mounts", "hooks", "linux__resources", "linux__devices"),
        *("linux__seccomp", "linux__sysctl", "linux__namespaces", "annotations", "root", "linux__timeOffsets"),
    ]
)


@given(_PATHS, _JSON)
def test_whatever_stands_there_is_a_record_or_a_refusal(path: str, value: Any) -> None:
    try:
        parse_spec(json.dumps(config(**{path: value})).encode())
    except SandboxdError as error:
        assert error.kind.code == "oci_spec_invalid" and error.cause


@given(st.binary(max_size=200))
def test_whatever_bytes_are_a_record_or_a_refusal(text: bytes) -> None:
    refusal(text)
