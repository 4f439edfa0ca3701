"""What guests boot from, and the daemon."""

from __future__ import annotations

from collections.abc import Iterable

from sandboxd import __version__
from sandboxd.base.errors import SandboxdError
from sandboxd.cli.doctor.finding import Finding, Fix, Patient
from sandboxd.cli.version import daemon as running_daemon


def boot_files(patient: Patient) -> Iterable[Finding]:
    """Kernel and initrd; the initrd is made if only that is missing, as the next start would do."""
    from sandboxd.guest.boot import prepare_guest

    try:
        image = prepare_guest(patient.config.data_dir, patient.config.machine.kernel)
    except SandboxdError as error:
        fix = None if patient.config.machine.kernel else Fix(guest_kernel=True)
        yield Finding("error", "guest kernel", f"{error.message}: {error.cause}", error.remedy, fix)
        return
    yield Finding("ok", "guest kernel", f"{image.release}, with its initrd")


def daemon(patient: Patient) -> Iterable[Finding]:
    pid, version = running_daemon(patient.location)
    if not pid:
        yield Finding("ok", "sandboxd", "not running; the first command starts it")
    elif version and version != __version__:
        detail = f"process {pid} is version {version}, and this is {__version__}"
        yield Finding(
            "warning", "sandboxd", detail, f"kill {pid}  # sandboxes run on; the next command starts the new one"
        )
    else:
        yield Finding("ok", "sandboxd", f"running as process {pid}, version {version or 'unknown'}")
