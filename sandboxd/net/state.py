"""What a restart must find: the chosen subnet, the kernel settings as they were, the published ports of each sandbox.

Who is on the network is not written down: the kernel's own tables say it. Ports are, because a reload of the host's
firewall (`nft flush ruleset`) takes them away. Files are replaced, never edited; one that does not read is as good as
none.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, IPvAnyNetwork, TypeAdapter, ValidationError

from sandboxd.base.errors import NETWORK_SETUP_FAILED, SandboxdError
from sandboxd.base.ports import PortMapping

_log = logging.getLogger(__name__)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PORTS = TypeAdapter(tuple[PortMapping, ...])
_FILE_MAX_BYTES = 1 << 20


class SavedNetwork(BaseModel):
    """network.json"""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    boot_id: str = ""
    standing: bool = False
    """Made in this boot and not removed."""
    subnet: IPvAnyNetwork | None = None
    sysctls: dict[str, str] = {}
    """As they were before us, in this boot."""


class State:
    """The files of one network below `directory`."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "network.json"
        self._ports = directory / "ports"

    def standing(self) -> bool:
        """A network was made in this boot and not removed since."""
        return self.load().standing

    def load(self) -> SavedNetwork:
        """What was saved; what it says of another boot is forgotten."""
        text = _read(self._file)
        try:
            saved = SavedNetwork.model_validate_json(text) if text else SavedNetwork()
        except ValidationError:
            _log.warning("%s does not read; starting afresh", self._file)
            saved = SavedNetwork()
        current = boot_id()
        return (
            saved
            if saved.boot_id == current
            else saved.model_copy(update={"boot_id": current, "standing": False, "sysctls": {}})
        )

    def save(self, saved: SavedNetwork) -> None:
        _replace(self._file, saved.model_dump_json().encode())

    def save_ports(self, slot: int, ports: tuple[PortMapping, ...]) -> None:
        _replace(self._ports / f"{slot}.json", _PORTS.dump_json(ports))

    def load_ports(self, slot: int) -> tuple[PortMapping, ...]:
        text = _read(self._ports / f"{slot}.json")
        try:
            return _PORTS.validate_json(text) if text else ()
        except ValidationError:
            _log.warning("the published ports of slot %d do not read and are not published again", slot)
            return ()

    def forget_ports(self, slot: int) -> None:
        (self._ports / f"{slot}.json").unlink(missing_ok=True)

    def slots_with_ports(self) -> Iterator[int]:
        if self._ports.is_dir():
            yield from sorted(int(path.stem) for path in self._ports.glob("*.json") if path.stem.isdecimal())


def boot_id() -> str:
    return _BOOT_ID.read_text().strip()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_FILE_MAX_BYTES)
    except OSError:
        return b""


def _replace(path: Path, data: bytes) -> None:
    """Whole or not at all after a crash of ours. Not synced: after a crash of the host the network is gone as well.

    Raises `network_setup_failed`.
    """
    draft = path.with_suffix(".new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        draft.replace(path)
    except OSError as error:
        reason = f"The kernel says: {error.strerror}."
        raise SandboxdError(NETWORK_SETUP_FAILED, what=f"writing {path}", reason=reason) from error
