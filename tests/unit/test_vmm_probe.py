"""From what the probe guest did to what machines run on."""

from __future__ import annotations

import errno
from typing import cast

import pytest

from sandboxd.base.errors import SandboxdError
from sandboxd.vmm import probe
from sandboxd.vmm.probe import HARDWARE_MAX_MS, LOOP_ITERATIONS, Virtualisation
from sandboxd.vmm.select import Requested, select


def judged(**values: object) -> Virtualisation:
    ran = {"errno": 0, "call": "", "loop_iterations": LOOP_ITERATIONS, "exit_reason": 2, "ended_as_told": True}
    return probe._judge({**ran, "cpu_ns": 0, **values})


def failed(number: int, call: str = "/dev/kvm") -> Virtualisation:
    return judged(errno=number, call=call, text="the errno's text")


def test_fast_is_hardware() -> None:
    found = judged(cpu_ns=300_000)
    assert (found.kind, found.acceleration, found.remedy) == ("hardware", "kvm", "")


def test_slow_is_emulating_and_says_what_to_do() -> None:
    found = judged(cpu_ns=int(HARDWARE_MAX_MS * 1e6) + 1)
    assert (found.kind, found.acceleration) == ("emulating", "tcg")
    assert "KVM here only emulates stock guests, using TCG" in found.reason
    assert found.elapsed_ms > HARDWARE_MAX_MS and found.loop_iterations == LOOP_ITERATIONS and found.remedy


def test_a_guest_that_did_not_end_as_told_proves_nothing() -> None:
    found = judged(ended_as_told=False, exit_reason=17, cpu_ns=10)
    assert (found.kind, found.acceleration) == ("absent", "tcg")
    assert "17" in found.reason


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (failed(errno.ENOENT), "no KVM here"),
        (failed(errno.ENODEV), "no KVM here"),
        (failed(errno.EACCES), "may not be opened"),
        (failed(errno.EBUSY), "the errno's text"),
        (failed(errno.EINVAL, "KVM_CREATE_VM"), "KVM_CREATE_VM says the errno's text"),
    ],
)
def test_each_failure_has_its_own_reason_and_a_remedy(found: Virtualisation, words: str) -> None:
    assert (found.kind, found.acceleration) == ("absent", "tcg")
    assert words in found.reason and found.remedy


@pytest.mark.parametrize("requested", ["auto", "qemu"])
def test_acceleration_follows_the_probe(requested: Requested) -> None:
    fast, slow = judged(cpu_ns=1), failed(errno.ENOENT)
    assert select(requested, fast) == ("qemu", "kvm", fast.reason)
    assert select(requested, slow) == ("qemu", "tcg", slow.reason)


@pytest.mark.parametrize("requested", ["kvm", "xen", ""])
def test_a_driver_that_there_is_not_is_refused(requested: str) -> None:
    with pytest.raises(SandboxdError) as caught:
        select(cast(Requested, requested), judged(cpu_ns=1))
    assert caught.value.kind.code == "driver_unavailable"
    assert caught.value.context["driver"] == requested
