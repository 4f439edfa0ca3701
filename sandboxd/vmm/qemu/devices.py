"""QEMU's command line as typed records: each knows its own arguments, none knows another.

Source: qemu(1) of QEMU 7.2, `qemu-system-x86_64 -device NAME,help`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NewType, Protocol

from sandboxd.vmm.spec import Drive, MachineSpec, Nic

PassedFd = NewType("PassedFd", int)
"""A descriptor that the QEMU process inherits under the same number."""

TRANSLATION_CACHE_MIB = 128
"""TCG's cache of translated code; only what is used takes memory. A full cache is dropped whole."""


class Part(Protocol):
    """A piece of the command line."""

    def arguments(self) -> list[str]: ...


def options(first: str, values: Mapping[str, object]) -> str:
    """`first,key=value,...` with QEMU's quoting (a comma is doubled); booleans read on and off."""
    words = [first]
    for key, value in values.items():
        text = ("on" if value else "off") if isinstance(value, bool) else str(value)
        words.append(f"{key}={text.replace(',', ',,')}")
    return ",".join(words)


def command_line(program: str, parts: Iterable[Part]) -> list[str]:
    return [program, *(argument for part in parts for argument in part.arguments())]


@dataclass(frozen=True, slots=True)
class Board:
    """The microvm machine: virtio-mmio, two IO-APICs, ACPI tables, one UART for the console.

    No PIC and no PIT: the guest is told its TSC's rate and calibrates its local APIC by that. The RTC stays: a stock
    kernel waits a whole second, twice, for one that does not answer (measured).
    """

    def arguments(self) -> list[str]:
        machine = {
            "acpi": True,
            "ioapic2": True,
            "pcie": False,
            "pic": False,
            "pit": False,
            "rtc": True,
            "isa-serial": True,
            "auto-kernel-cmdline": False,
            "dump-guest-core": False,
            "mem-merge": False,
        }
        return ["-M", options("microvm", machine), "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]


@dataclass(frozen=True, slots=True)
class Processor:
    """Accelerator, model, number."""

    acceleration: str
    vcpus: int

    def arguments(self) -> list[str]:
        return ["-accel", self._accelerator(), "-cpu", self._model(), "-smp", str(self.vcpus)]

    def _accelerator(self) -> str:
        if self.acceleration == "kvm":
            return "kvm"
        return options("tcg", {"thread": "multi", "tb-size": TRANSLATION_CACHE_MIB})

    def _model(self) -> str:
        # TCG's `max` calls itself family 15, model 107, for which Linux knows AMD's erratum 400: the local APIC timer
        # is taken to stop when idle, so idling goes through the PIT, and without a PIT nothing ever wakes up. Model 64
        # is the last one before the erratum.
        return "host" if self.acceleration == "kvm" else "max,model=64"


@dataclass(frozen=True, slots=True)
class Memory:
    size_mib: int

    def arguments(self) -> list[str]:
        return ["-m", f"size={self.size_mib}M"]


@dataclass(frozen=True, slots=True)
class Boot:
    """Kernel and initrd through descriptors, so that the process needs no way to their paths."""

    kernel: PassedFd
    initrd: PassedFd
    cmdline: str

    def arguments(self) -> list[str]:
        return [
            *("-kernel", f"/proc/self/fd/{self.kernel}"),
            *("-initrd", f"/proc/self/fd/{self.initrd}"),
            *("-append", self.cmdline),
        ]


@dataclass(frozen=True, slots=True)
class Console:
    """The UART, written to a stream socket."""

    socket: PassedFd

    def arguments(self) -> list[str]:
        chardev = options("socket", {"id": "console", "fd": self.socket})
        return ["-chardev", chardev, "-serial", "chardev:console"]


@dataclass(frozen=True, slots=True)
class AgentPort:
    """virtio-console, one port named "agent", on a stream socket."""

    socket: PassedFd

    def arguments(self) -> list[str]:
        return [
            *("-chardev", options("socket", {"id": "agent", "fd": self.socket})),
            *("-device", options("virtio-serial-device", {"id": "ports", "max_ports": 2})),
            *("-device", options("virtserialport", {"bus": "ports.0", "nr": 1, "chardev": "agent", "name": "agent"})),
        ]


@dataclass(frozen=True, slots=True)
class Entropy:
    def arguments(self) -> list[str]:
        return [
            *("-object", options("rng-random", {"id": "entropy", "filename": "/dev/urandom"})),
            *("-device", options("virtio-rng-device", {"rng": "entropy"})),
        ]


@dataclass(frozen=True, slots=True)
class Disk:
    """virtio-blk on a raw image, which QEMU sees as a descriptor only.

    Raw bytes straight from the file: no format is probed, so nothing that a guest writes at the start of its disk can
    make the image mean something else. A read-only image takes no lock, so that any number of machines share it.
    """

    index: int
    drive: Drive
    image: PassedFd

    def arguments(self) -> list[str]:
        name = f"disk{self.index}"
        node = {
            "node-name": name,
            "filename": f"/dev/fdset/{self.index}",
            "aio": "threads",
            "cache.direct": False,
            "read-only": self.drive.read_only,
            "auto-read-only": False,
            "discard": "ignore" if self.drive.read_only else "unmap",
            "locking": "off" if self.drive.read_only else "on",
        }
        device = {"drive": name, "serial": self.drive.serial, "num-queues": 1}
        return [
            *("-add-fd", options(f"fd={self.image}", {"set": self.index})),
            *("-blockdev", options("driver=file", node)),
            *("-device", options("virtio-blk-device", device)),
        ]


@dataclass(frozen=True, slots=True)
class NetworkCard:
    index: int
    nic: Nic
    tap: PassedFd

    def arguments(self) -> list[str]:
        device = {"netdev": f"net{self.index}", "mac": self.nic.mac, "host_mtu": self.nic.mtu}
        return [
            *("-netdev", options("tap", {"id": f"net{self.index}", "fd": self.tap, "vhost": False})),
            *("-device", options("virtio-net-device", device)),
        ]


@dataclass(frozen=True, slots=True)
class Control:
    """QMP on a stream socket."""

    socket: PassedFd

    def arguments(self) -> list[str]:
        chardev = options("socket", {"id": "control", "fd": self.socket})
        return ["-chardev", chardev, "-mon", options("chardev=control", {"mode": "control"})]


@dataclass(frozen=True, slots=True)
class SystemCallFilter:
    """QEMU's own seccomp sandbox, as tight as it goes."""

    def arguments(self) -> list[str]:
        deny = dict.fromkeys(("obsolete", "elevateprivileges", "spawn", "resourcecontrol"), "deny")
        return ["-sandbox", options("on", deny)]


def kernel_cmdline(spec: MachineSpec, tsc_khz: int) -> str:
    """What a stock kernel is told. Everything but the console and the panic rule saves boot time (measured, TCG)."""
    words = [
        "quiet",
        # A panic ends the machine at once, and a triple fault is the shortest way there.
        *("panic=-1", "reboot=t"),
        # The UART shows a panic before any driver is up, at no measurable cost while the kernel is quiet.
        *("console=ttyS0", "earlyprintk=ttyS0", "8250.nr_uarts=1"),
        # There is no keyboard to wait for and no PCI to scan.
        *("i8042.noaux", "i8042.nomux", "i8042.nopnp", "i8042.dumbkbd", "pci=off"),
        # Testing every cipher against known answers at every boot is a fifth of it.
        "cryptomgr.notests",
    ]
    if spec.acceleration == "tcg":
        # The guest's counter is the host's. Without a PIT there is nothing to measure it by, and with one the measuring
        # fails on a busy host.
        words += ["tsc=reliable", *([f"tsc_early_khz={tsc_khz}"] if tsc_khz else [])]
    return " ".join([*words, *spec.cmdline_extra.split()])
