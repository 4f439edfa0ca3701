"""The guest's initrd: the agent as /init, the modules that the machine needs in the order to load them, nothing else.

An uncompressed newc archive (Documentation/driver-api/early-userspace/buffer-format.rst), the same bytes for the same
input. Under TCG a compressed one is no faster (within the noise, measured), and unpacking it takes memory.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandboxd.base.errors import MODULES_UNUSABLE, SandboxdError
from sandboxd.guest.unpack import unpack_module

MODULES = (
    "virtio_mmio",  # every device of the machine
    "virtio_console",  # the agent's port: first, the agent waits for it
    "virtio_blk",  # images and disks
    "virtio_net",
    "virtio_rng",  # entropy
    "erofs",  # images
    "overlay",  # a container's root
)
"""What the machine needs; what these depend on is found in modules.dep. A kernel may have any of them built in."""

MODULES_DEP_MAX_BYTES = 4 << 20
_DIRECTORIES = ("dev", "lib", "proc", "run", "sys", "tmp")
_SIGNATURE_MAGIC = b"~Module signature appended~\n"
_SIGNATURE_LENGTH = struct.Struct(">8xI")
"""struct module_signature (include/linux/module_signature.h): its last field is the signature's length."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive. Owner root, time 0."""

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def build_initrd(agent: bytes, modules: Sequence[tuple[str, bytes]]) -> bytes:
    """The archive. `modules`: (file name, content) in load order; the agent reads their paths from /modules."""
    entries = [Entry(name, stat.S_IFDIR | 0o755) for name in _DIRECTORIES]
    entries.append(Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    entries.append(Entry("init", stat.S_IFREG | 0o755, agent))
    entries += [Entry(f"lib/{name}", stat.S_IFREG | 0o644, content) for name, content in modules]
    order = "".join(f"/lib/{name}\n" for name, _ in modules)
    entries.append(Entry("modules", stat.S_IFREG | 0o644, order.encode()))
    return write_cpio(entries)


def write_cpio(entries: Iterable[Entry]) -> bytes:
    """A newc archive of the entries, in their order; a directory comes before what is in it."""
    archive = bytearray()
    for inode, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], start=1):
        name = entry.name.encode() + b"\0"
        fields = (
            inode if entry.mode else 0,
            entry.mode,
            0,
            0,
            1,
            0,
            len(entry.content),
            0,
            0,
            *entry.device,
            len(name),
            0,
        )
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        archive += bytes(-len(archive) % 4) + entry.content
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def collect_modules(directory: Path, data_dir: Path, names: Sequence[str] = MODULES) -> list[tuple[str, bytes]]:
    """(file name, content) of the named modules and all that they need, in load order, without those built in.

    `directory`: lib/modules/RELEASE with depmod's modules.dep. A name found nowhere raises modules_unusable, as does a
    directory without modules.dep.
    """
    try:
        needs = _read_dependencies(directory / "modules.dep")
        built_in = _read_built_in(directory / "modules.builtin")
        by_name = {_module_name(path): path for path in needs}
        missing = [name for name in names if name not in by_name and name not in built_in]
        if missing:
            raise ValueError(f"This kernel has no module {', '.join(missing)}, neither loadable nor built in.")
        order = _load_order([by_name[name] for name in names if name in by_name], needs)
        return [(_plain_name(path), _strip_signature(unpack_module(directory / path))) for path in order]
    except OSError as error:
        reason = f"Reading {error.filename} says: {error.strerror}."
    except (ValueError, EOFError) as error:
        reason = str(error)
    raise SandboxdError(MODULES_UNUSABLE, path=directory, reason=reason, data_dir=data_dir)


def _read_dependencies(path: Path) -> dict[str, list[str]]:
    """modules.dep (depmod(8)): a line per module, "PATH: PATH...", what has to be loaded first standing last."""
    with path.open() as file:
        text = file.read(MODULES_DEP_MAX_BYTES)
    lines = (line.partition(":") for line in text.splitlines())
    return {module: needs.split() for module, _, needs in lines}


def _read_built_in(path: Path) -> frozenset[str]:
    if not path.exists():
        return frozenset()
    return frozenset(_module_name(line) for line in path.read_text().splitlines())


def _load_order(wanted: Sequence[str], needs: dict[str, list[str]]) -> list[str]:
    order: dict[str, None] = {}
    for module in wanted:
        for path in [*reversed(needs[module]), module]:
            if path not in needs or path.startswith("/") or ".." in Path(path).parts:
                raise ValueError(f"modules.dep names {path[:200]}, which it does not list or which lies elsewhere.")
            order[path] = None
    return list(order)


def _module_name(path: str) -> str:
    """As the kernel writes it: no directory, no suffix, underscores."""
    return Path(path).name.partition(".ko")[0].replace("-", "_")


def _plain_name(path: str) -> str:
    return Path(path).name.partition(".ko")[0] + ".ko"


def _strip_signature(module: bytes) -> bytes:
    """Without the signature at its end: checking a dozen costs 40 ms of every boot under TCG (measured).

    What a signature would protect is settled here: the host, which chose the kernel, chose the modules with it. The
    kernel marks itself tainted (E), as it does with any module built on the spot.
    """
    if not module.endswith(_SIGNATURE_MAGIC):
        return module
    end = len(module) - len(_SIGNATURE_MAGIC) - _SIGNATURE_LENGTH.size
    if end < 0:
        raise ValueError("a module's signature is malformed")
    (length,) = _SIGNATURE_LENGTH.unpack_from(module, end)
    if length > end:
        raise ValueError("a module's signature is longer than the module")
    return module[: end - length]
