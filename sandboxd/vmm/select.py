"""Which driver and which acceleration a machine gets: what was asked for, against what the probe guest showed."""

from __future__ import annotations

from typing import Literal

from sandboxd.base.errors import DRIVER_UNAVAILABLE, SandboxdError
from sandboxd.vmm.probe import Virtualisation

Requested = Literal["auto", "qemu", "kvm"]


def select(
    requested: Requested, virtualisation: Virtualisation
) -> tuple[Literal["qemu", "kvm"], Literal["tcg", "kvm"], str]:
    """(driver, acceleration, reason). Raises driver_unavailable."""
    if requested == "kvm":
        raise SandboxdError(
            DRIVER_UNAVAILABLE,
            driver=requested,
            reason=f"sandboxd's own KVM driver is not built yet. Of this host: {virtualisation.reason}.",
        )
    if requested not in ("auto", "qemu"):
        raise SandboxdError(DRIVER_UNAVAILABLE, driver=requested, reason="There are `auto`, `qemu` and `kvm`.")
    return "qemu", virtualisation.acceleration, virtualisation.reason
