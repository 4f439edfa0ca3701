"""Where the daemon keeps what, in one place."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from sandboxd.base.errors import DAEMON_DIRECTORY_UNUSABLE, SandboxdError
from sandboxd.core.config import Config

DEFAULT_RUN_DIR = Path("/run/sandboxd")
OUTPUT_LOG = "log.json"
DISK = "disk.ext4"
BUNDLE = "bundle"


@dataclass(frozen=True, slots=True)
class Paths:
    """`run_dir` is lost with a power cut; `data_dir` stays."""

    data_dir: Path
    run_dir: Path

    @classmethod
    def of(cls, config: Config) -> Paths:
        return cls(config.data_dir, config.run_dir)

    @property
    def database(self) -> Path:
        return self.data_dir / "state.db"

    @property
    def images(self) -> Path:
        return self.data_dir / "images"

    @property
    def disk_templates(self) -> Path:
        return self.data_dir / "disks"

    @property
    def network_state(self) -> Path:
        return self.data_dir / "network"

    @property
    def sandboxes_data(self) -> Path:
        return self.data_dir / "sandboxes"

    @property
    def sandboxes_run(self) -> Path:
        return self.run_dir / "sandboxes"

    @property
    def pid_file(self) -> Path:
        return self.run_dir / "sandboxd.pid"

    @property
    def version_file(self) -> Path:
        return self.run_dir / "sandboxd.version"

    @property
    def lock_file(self) -> Path:
        return self.run_dir / "sandboxd.lock"

    @property
    def virtualisation(self) -> Path:
        return self.run_dir / "virtualisation.json"

    @property
    def cgroup(self) -> str:
        """Of all sandboxes of this daemon; two daemons of one host, told apart by their run_dir, have two."""
        if self.run_dir == DEFAULT_RUN_DIR:
            return "sandboxd"
        return "sandboxd-" + hashlib.sha256(os.fsencode(self.run_dir)).hexdigest()[:8]

    def data_of(self, sandbox_id: str) -> Path:
        return self.sandboxes_data / sandbox_id

    def run_of(self, sandbox_id: str) -> Path:
        return self.sandboxes_run / sandbox_id

    def log_of(self, sandbox_id: str) -> Path:
        return self.data_of(sandbox_id) / OUTPUT_LOG

    def make(self) -> None:
        """Makes the directories. Raises daemon_directory_unusable."""
        for path, mode in (
            (self.run_dir, 0o711),
            (self.sandboxes_run, 0o700),
            (self.data_dir, 0o711),
            (self.sandboxes_data, 0o700),
        ):
            try:
                path.mkdir(mode=mode, parents=True, exist_ok=True)
                if (owner := path.stat().st_uid) != os.geteuid():
                    # Who owns it can put anything in our files' places.
                    reason = f"It belongs to user {owner}, and has to belong to user {os.geteuid()}."
                    raise SandboxdError(DAEMON_DIRECTORY_UNUSABLE, path=path, reason=reason)
                path.chmod(mode)
            except OSError as error:
                raise SandboxdError(DAEMON_DIRECTORY_UNUSABLE, path=path, reason=f"{error.strerror}.") from None
