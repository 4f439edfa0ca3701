"""What this host can run guests on, found by running one: `python3 -m sandboxd.vmm.probe` prints it as JSON.

That /dev/kvm opens proves nothing, nor do the processor's flags: there are KVM flavours that emulate a guest they were
not made for, a thousand times slower, and a stock kernel never comes up. So a guest of three instructions counts down
in a child process, is timed by processor time, and is killed when it does not end.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

LOOP_ITERATIONS = 500_000
"""Of two instructions each. Hardware: 0.2 ms, 7 ms nested in an emulated host. Emulation: 200 to 800 ms (measured)."""
HARDWARE_MAX_MS = 40.0
TIMEOUT_S = 5.0
_REAP_TIMEOUT_S = 1.0

_NO_DEVICE_REMEDY = (
    "On a machine with VT-x or SVM: `modprobe kvm_intel` or `modprobe kvm_amd`; in a virtual machine, let its host "
    "pass nested virtualisation through. Sandboxes run without it, slower."
)
_EMULATING_REMEDY = (
    "Use a host whose KVM has VT-x or SVM (in a virtual machine: nested virtualisation), or a PVM-aware guest kernel. "
    "Sandboxes run without it, slower."
)
_PERMISSION_REMEDY = "Run sandboxd as root, or let its user in: `usermod -aG kvm USER`."


@dataclass(frozen=True, slots=True)
class Virtualisation:
    """What the probe guest showed."""

    kind: Literal["hardware", "emulating", "absent"]
    acceleration: Literal["kvm", "tcg"]
    """What QEMU should use because of it."""
    reason: str
    """For people, a sentence without its full stop."""
    loop_iterations: int
    """That the probe guest did; 0 when none ran."""
    elapsed_ms: float
    """Processor time that they took."""
    remedy: str
    """What would make it better; empty for hardware."""


def probe_virtualisation(timeout_s: float = TIMEOUT_S) -> Virtualisation:
    """Runs the probe guest. Blocking: 0.1 s on hardware, under a second if KVM emulates, never over `timeout_s` + 1 s.

    Never raises: whatever goes wrong is an answer.
    """
    command = [sys.executable, "-I", "-m", "sandboxd.vmm.probe", "--run-guest"]
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        return _absent(f"the probe could not be started ({error.strerror})", _NO_DEVICE_REMEDY)
    try:
        output, errors = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _end(child)
        reason = (
            f"KVM here did not run a guest of {LOOP_ITERATIONS * 2:,} instructions within {timeout_s:g} s, using TCG"
        )
        return Virtualisation("emulating", "tcg", reason, 0, timeout_s * 1000, _EMULATING_REMEDY)
    try:
        return _judge(json.loads(output))
    except (ValueError, KeyError, TypeError):
        words = errors.decode(errors="replace").strip().splitlines()[-1:] or [f"status {child.returncode}"]
        return _absent(f"the probe guest's process failed ({words[0][:200]}), using TCG", _NO_DEVICE_REMEDY)


def _end(child: subprocess.Popen[bytes]) -> None:
    """KILL, and a bounded wait: a process stuck inside the kernel must not keep this one."""
    child.kill()
    try:
        child.communicate(timeout=_REAP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        # It is the kernel's to end now; Popen reaps it whenever that happens.
        for pipe in (child.stdout, child.stderr):
            if pipe:
                pipe.close()


def _judge(found: dict[str, object]) -> Virtualisation:
    """From the child's JSON to an answer."""
    number, call = int(str(found["errno"])), str(found["call"])
    if number:
        return _failed(number, call, str(found["text"]))
    iterations, elapsed_ms = int(str(found["loop_iterations"])), int(str(found["cpu_ns"])) / 1e6
    if not found["ended_as_told"]:
        reason = f"KVM here cannot run guest code (exit reason {found['exit_reason']}), using TCG"
        return Virtualisation("absent", "tcg", reason, 0, elapsed_ms, _EMULATING_REMEDY)
    figures = f"{iterations:,} loop iterations took {elapsed_ms:.1f} ms"
    if elapsed_ms > HARDWARE_MAX_MS:
        reason = f"KVM here only emulates stock guests, using TCG ({figures}; hardware takes under 1 ms)"
        return Virtualisation("emulating", "tcg", reason, iterations, elapsed_ms, _EMULATING_REMEDY)
    return Virtualisation("hardware", "kvm", f"KVM runs guests on hardware ({figures})", iterations, elapsed_ms, "")


def _failed(number: int, call: str, text: str) -> Virtualisation:
    if call != "/dev/kvm":
        return _absent(f"KVM here is unusable: {call} says {text}, using TCG", _NO_DEVICE_REMEDY)
    if number in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return _absent("there is no KVM here: /dev/kvm does not exist or has no driver, using TCG", _NO_DEVICE_REMEDY)
    if number in (errno.EACCES, errno.EPERM):
        return _absent("/dev/kvm may not be opened by this user, using TCG", _PERMISSION_REMEDY)
    return _absent(f"/dev/kvm cannot be opened: {text}, using TCG", _NO_DEVICE_REMEDY)


def _absent(reason: str, remedy: str) -> Virtualisation:
    return Virtualisation("absent", "tcg", reason, 0, 0.0, remedy)


def _run_guest() -> dict[str, object]:
    """In the child: the guest itself, and what became of it."""
    from sandboxd.linux.kvm import KvmError, run_loop

    try:
        run = run_loop(LOOP_ITERATIONS)
    except KvmError as error:
        return {"errno": error.errno or errno.EIO, "call": error.filename, "text": error.strerror}
    return {"errno": 0, "call": "", **dataclasses.asdict(run)}


def main(arguments: list[str]) -> int:
    found = _run_guest() if arguments == ["--run-guest"] else dataclasses.asdict(probe_virtualisation())
    print(json.dumps(found, indent=None if arguments else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
