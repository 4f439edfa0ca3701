"""The probe guest on this very host, whatever its KVM is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandboxd.linux.tsc import baseline_missing_s, host_tsc_khz
from sandboxd.vmm.probe import TIMEOUT_S, probe_virtualisation

HAS_EXTENSIONS = bool(re.search(r"^flags\s.*\b(vmx|svm)\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE))


def test_the_answer_fits_the_host() -> None:
    began = time.monotonic()
    found = probe_virtualisation()
    assert time.monotonic() - began < TIMEOUT_S + 1
    assert found.acceleration == ("kvm" if found.kind == "hardware" else "tcg")
    assert bool(found.remedy) == (found.kind != "hardware")
    if not Path("/dev/kvm").exists():
        assert found.kind == "absent"
    elif os.access("/dev/kvm", os.R_OK | os.W_OK) and not HAS_EXTENSIONS:
        # A KVM without hardware behind it can only emulate. That it opens must fool nobody.
        assert found.kind == "emulating"
        assert "KVM here only emulates stock guests, using TCG" in found.reason
        assert found.loop_iterations > 0 and found.elapsed_ms > 0


def test_a_guest_that_does_not_end_is_given_up() -> None:
    began = time.monotonic()
    found = probe_virtualisation(timeout_s=0.001)
    assert time.monotonic() - began < 2
    assert (found.kind, found.acceleration, found.loop_iterations) == ("emulating", "tcg", 0)
    assert "within 0.001 s" in found.reason


def test_the_module_prints_json() -> None:
    done = subprocess.run([sys.executable, "-m", "sandboxd.vmm.probe"], capture_output=True, check=True)
    assert {"kind", "acceleration", "reason", "loop_iterations", "elapsed_ms", "remedy"} == json.loads(
        done.stdout
    ).keys()


def test_the_clock_rate_is_what_the_kernel_found() -> None:
    time.sleep(baseline_missing_s())
    first, second = host_tsc_khz(), host_tsc_khz()
    assert first == pytest.approx(second, rel=1e-5)
    boot_log = subprocess.run(["dmesg"], capture_output=True, text=True).stdout
    detected = re.search(r"tsc: Detected ([0-9.]+) MHz", boot_log)
    if not detected:
        pytest.skip("needs the kernel's boot messages, with the rate that it detected")
    assert first == pytest.approx(float(detected[1]) * 1000, rel=1e-3)
