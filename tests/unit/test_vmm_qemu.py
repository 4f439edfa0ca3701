"""QEMU's command line, record by record, and the states of a machine."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from sandboxd.base.errors import SandboxdError
from sandboxd.vmm.lifecycle import ALLOWED, State, require
from sandboxd.vmm.limits import check_memory, memory_boot_min_mib
from sandboxd.vmm.qemu import devices
from sandboxd.vmm.qemu.devices import PassedFd
from sandboxd.vmm.spec import Drive, MachineSpec, Nic

FD = PassedFd(7)


def spec(**values: object) -> MachineSpec:
    return MachineSpec.model_validate({"id": "a", "kernel": "/k", "initrd": "/i", **values})


def after(arguments: list[str], option: str) -> list[str]:
    """The values of an option, which may stand several times."""
    return [value for name, value in itertools.pairwise(arguments) if name == option]


def test_a_comma_in_a_value_starts_no_option() -> None:
    assert devices.options("file", {"path": "a,readonly=off", "on": True, "off": False}) == (
        "file,path=a,,readonly=off,on=on,off=off"
    )


def test_a_read_only_drive_is_shared_and_takes_no_lock() -> None:
    arguments = devices.Disk(3, Drive(serial="root", path=Path("/img"), read_only=True), FD).arguments()
    node = after(arguments, "-blockdev")[0].split(",")
    assert {"driver=file", "read-only=on", "locking=off", "discard=ignore", "filename=/dev/fdset/3"} <= set(node)
    assert after(arguments, "-add-fd") == ["fd=7,set=3"]
    assert "serial=root" in after(arguments, "-device")[0].split(",")


def test_a_writable_drive_locks_and_gives_space_back() -> None:
    arguments = devices.Disk(0, Drive(serial="disk", path=Path("/img"), read_only=False), FD).arguments()
    assert {"read-only=off", "locking=on", "discard=unmap"} <= set(after(arguments, "-blockdev")[0].split(","))


def test_no_record_names_a_path_of_the_sandbox() -> None:
    drive = Drive(serial="disk", path=Path("/secret/disk"), read_only=False)
    nic = Nic(tap="sbx1", mac="02:00:00:00:00:01")
    parts: list[devices.Part] = [devices.Disk(0, drive, FD), devices.NetworkCard(0, nic, FD), devices.Boot(FD, FD, "x")]
    line = " ".join(devices.command_line("qemu", parts))
    assert "secret" not in line and "sbx1" not in line


def test_a_network_card_has_its_mac_and_mtu() -> None:
    arguments = devices.NetworkCard(1, Nic(tap="t", mac="02:00:00:00:00:01", mtu=1400), FD).arguments()
    assert after(arguments, "-netdev") == ["tap,id=net1,fd=7,vhost=off"]
    assert {"netdev=net1", "mac=02:00:00:00:00:01", "host_mtu=1400"} <= set(after(arguments, "-device")[0].split(","))


def test_the_filter_denies_all_that_it_can() -> None:
    (value,) = after(devices.SystemCallFilter().arguments(), "-sandbox")
    assert value == "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


def test_each_acceleration_has_its_processor() -> None:
    tcg, kvm = devices.Processor("tcg", 2).arguments(), devices.Processor("kvm", 1).arguments()
    assert after(tcg, "-accel")[0].startswith("tcg,thread=multi,tb-size=")
    assert (after(tcg, "-cpu"), after(tcg, "-smp")) == (["max,model=64"], ["2"])
    assert (after(kvm, "-accel"), after(kvm, "-cpu")) == (["kvm"], ["host"])


def test_only_an_emulated_kernel_is_told_the_clock_rate() -> None:
    assert "tsc_early_khz=2600000" in devices.kernel_cmdline(spec(), 2_600_000).split()
    assert "tsc_early_khz" not in devices.kernel_cmdline(spec(), 0)
    assert "tsc" not in devices.kernel_cmdline(spec(acceleration="kvm"), 2_600_000)


def test_words_of_the_caller_come_last() -> None:
    assert devices.kernel_cmdline(spec(cmdline_extra="  quiet=no\n x=1 "), 1).endswith(" quiet=no x=1")


@pytest.mark.parametrize("operation", sorted(ALLOWED))
@pytest.mark.parametrize("state", list(State))
def test_a_step_out_of_order_names_both_states(operation: str, state: State) -> None:
    if state in ALLOWED[operation]:
        require(operation, state)
        return
    with pytest.raises(SandboxdError) as caught:
        require(operation, state)
    assert caught.value.kind.code == "machine_wrong_state"
    assert caught.value.context["state"] == state.value
    assert all(allowed.value in caught.value.context["needed"] for allowed in ALLOWED[operation])


def test_too_little_memory_quotes_the_limit() -> None:
    check_memory(memory_boot_min_mib(1), 1)
    with pytest.raises(SandboxdError) as caught:
        check_memory(memory_boot_min_mib(1) - 1, 1)
    assert caught.value.kind.code == "memory_too_small"
    assert str(memory_boot_min_mib(1)) in caught.value.cause
    assert memory_boot_min_mib(8) > memory_boot_min_mib(1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"vcpus": 0},
        {"memory_mib": 1},
        {"unknown": 1},
        {"drives": [{"serial": "A,B", "path": "/x", "read_only": True}]},
        {"nics": [{"tap": "../x", "mac": "02:00:00:00:00:01"}]},
        {"nics": [{"tap": "t", "mac": "02:00:00:00:00:01,script=/x"}]},
    ],
)
def test_a_machine_is_checked_where_it_enters(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        spec(**wrong)
