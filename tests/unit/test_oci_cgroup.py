"""linux.resources to cgroup v2 files. Expected values are those of runc 1.1 and crun 1.8, by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.base.errors import SandboxdError
from sandboxd.core.oci.cgroup import compile_resources, weight_of_shares
from sandboxd.core.oci.spec import parse_resources
from tests.support.oci_specs import compiled

GIB = 1 << 30


def written(resources: dict[str, Any]) -> list[tuple[str, str]]:
    plan = compiled(linux__resources=resources).plan
    prefix = f"/sys/fs/cgroup/{plan.cgroup}/"
    writes = [step.write for step in plan.prepare if step.HasField("write") and step.write.path.startswith(prefix)]
    return [(write.path.removeprefix(prefix), write.content.decode()) for write in writes]


@pytest.mark.parametrize(
    ("resources", "files"),
    [
        ({}, []),
        ({"cpu": {"shares": 1024}}, [("cpu.weight", "39")]),
        ({"cpu": {"shares": 2}}, [("cpu.weight", "1")]),
        ({"cpu": {"shares": 262144}}, [("cpu.weight", "10000")]),
        ({"cpu": {"shares": 0}}, []),
        ({"cpu": {"quota": 50000, "period": 100000}}, [("cpu.max", "50000 100000")]),
        ({"cpu": {"quota": 50000}}, [("cpu.max", "50000 100000")]),
        ({"cpu": {"period": 20000}}, [("cpu.max", "max 20000")]),
        ({"cpu": {"quota": -1, "period": 1000}}, [("cpu.max", "max 1000")]),
        (
            {"cpu": {"quota": 1000, "burst": 500, "idle": 1}},
            [("cpu.idle", "1"), ("cpu.max", "1000 100000"), ("cpu.max.burst", "500")],
        ),
        ({"cpu": {"cpus": "0-1,3", "mems": "0"}}, [("cpuset.cpus", "0-1,3"), ("cpuset.mems", "0")]),
        ({"memory": {"limit": GIB}}, [("memory.max", str(GIB))]),
        ({"memory": {"limit": 0}}, []),
        ({"memory": {"limit": -1}}, [("memory.swap.max", "max"), ("memory.max", "max")]),
        ({"memory": {"limit": GIB, "swap": 2 * GIB}}, [("memory.swap.max", str(GIB)), ("memory.max", str(GIB))]),
        ({"memory": {"limit": GIB, "swap": GIB}}, [("memory.swap.max", "0"), ("memory.max", str(GIB))]),
        ({"memory": {"limit": GIB, "swap": -1}}, [("memory.swap.max", "max"), ("memory.max", str(GIB))]),
        ({"memory": {"reservation": 4096, "kernel": -1, "kernelTCP": 0}}, [("memory.low", "4096")]),
        ({"pids": {"limit": 100}}, [("pids.max", "100")]),
        ({"pids": {"limit": -1}}, [("pids.max", "max")]),
        ({"pids": {"limit": 0}}, [("pids.max", "max")]),
        ({"blockIO": {"weight": 10}}, [("io.weight", "default 1")]),
        ({"blockIO": {"weight": 1000}}, [("io.weight", "default 10000")]),
        ({"blockIO": {"weight": 0}}, []),
        ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 500}]}}, [("io.weight", "8:0 4950")]),
        (
            {
                "blockIO": {
                    "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1024}],
                    "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}],
                }
            },
            [("io.max", "8:0 rbps=1024"), ("io.max", "8:16 wiops=max")],
        ),
        (
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 4}]},
            [("hugetlb.2MB.max", "4"), ("hugetlb.2MB.rsvd.max", "4")],
        ),
        (
            {"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10}}},
            [("rdma.max", "mlx5_1 hca_handle=3 hca_object=10")],
        ),
        ({"unified": {"memory.high": "1G", "pids.max": "7"}}, [("memory.high", "1G"), ("pids.max", "7")]),
        ({"network": {"classID": 0, "priorities": []}}, []),
    ],
)
def test_values(resources: dict[str, Any], files: list[tuple[str, str]]) -> None:
    assert written(resources) == files


@pytest.mark.parametrize(
    ("resources", "path"),
    [
        ({"memory": {"swap": GIB}}, "memory.swap"),
        ({"memory": {"limit": GIB, "swap": GIB - 1}}, "memory.swap"),
        ({"memory": {"swappiness": 60}}, "memory.swappiness"),
        ({"memory": {"disableOOMKiller": True}}, "memory.disableOOMKiller"),
        ({"memory": {"useHierarchy": False}}, "memory.useHierarchy"),
        ({"memory": {"kernel": 4096}}, "memory.kernel"),
        ({"memory": {"kernelTCP": 4096}}, "memory.kernelTCP"),
        ({"cpu": {"realtimeRuntime": 1}}, "cpu.realtimeRuntime"),
        ({"cpu": {"realtimePeriod": 1}}, "cpu.realtimeRuntime"),
        ({"cpu": {"cpus": "0-1; reboot"}}, "cpu.cpus"),
        ({"cpu": {"mems": "0\n1"}}, "cpu.mems"),
        ({"blockIO": {"weight": 9}}, "blockIO.weight"),
        ({"blockIO": {"weight": 1001}}, "blockIO.weight"),
        ({"blockIO": {"leafWeight": 10}}, "blockIO.leafWeight"),
        (
            {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 10}]}},
            "blockIO.weightDevice[0].leafWeight",
        ),
        ({"network": {"classID": 1}}, "network"),
        ({"network": {"priorities": [{"name": "eth0", "priority": 1}]}}, "network"),
        ({"rdma": {"a\nb": {"hcaHandles": 1}}}, "rdma"),
        ({"unified": {"cgroup.procs": "1"}}, "unified.cgroup.procs"),
        ({"unified": {"cgroup.freeze": "1"}}, "unified.cgroup.freeze"),
        ({"unified": {"../memory.max": "1"}}, "unified"),
        ({"unified": {"memory.max/x": "1"}}, "unified"),
        ({"unified": {"nonsense.max": "1"}}, "unified"),
        ({"unified": {"memory": "1"}}, "unified"),
    ],
)
def test_what_cgroup_v2_cannot_do_is_refused(resources: dict[str, Any], path: str) -> None:
    with pytest.raises(SandboxdError) as caught:
        compiled(linux__resources=resources)
    assert f"linux.resources.{path}" in caught.value.cause


def test_controllers_are_enabled_on_the_way_down() -> None:
    def enabled(resources: dict[str, Any]) -> list[str]:
        prepare = compiled(linux__resources=resources).plan.prepare
        return [step.write.content.decode() for step in prepare if step.write.path.endswith("subtree_control")]

    assert enabled({}) == ["+cpuset +cpu +io +memory +pids"] * 2
    assert enabled({"rdma": {"x": {"hcaHandles": 1}}}) == ["+cpuset +cpu +io +memory +pids +rdma"] * 2


def test_a_swap_limit_that_is_none_may_fail() -> None:
    steps = compiled(linux__resources={"memory": {"limit": GIB, "swap": GIB}}).plan.prepare
    assert [step.optional for step in steps if step.write.path.endswith("swap.max")] == [True]
    steps = compiled(linux__resources={"memory": {"limit": GIB, "swap": GIB + 1}}).plan.prepare
    assert [step.optional for step in steps if step.write.path.endswith("swap.max")] == [False]


@given(st.integers(0, 1 << 40))
def test_weights_stay_in_range(shares: int) -> None:
    assert 1 <= weight_of_shares(shares) <= 10000
    assert weight_of_shares(shares) <= weight_of_shares(shares + 1)


def test_update() -> None:
    steps = compile_resources(parse_resources(b'{"memory":{"limit":4096},"cpu":{"shares":2}}'), "containers/web")
    assert [(step.write.path, step.write.content) for step in steps] == [
        ("/sys/fs/cgroup/containers/web/cpu.weight", b"1"),
        ("/sys/fs/cgroup/containers/web/memory.max", b"4096"),
    ]
    for text in (b'{"devices":[{"allow":true}]}', b'{"memory":{"checkBeforeUpdate":true}}', b'{"memory":{"swap":1}}'):
        with pytest.raises(SandboxdError, match="resources"):
            compile_resources(parse_resources(text), "containers/web")
