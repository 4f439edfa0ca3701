"""The words of a mount's options (config.md, "Linux mount options") and what they are to mount(2) and mount_setattr(2).

Numbers: linux/mount.h.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_REC = 16384
MS_SILENT = 32768
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

ATTR_RDONLY = 0x1
ATTR_NOSUID = 0x2
ATTR_NODEV = 0x4
ATTR_NOEXEC = 0x8
ATTR_ATIME = 0x70
ATTR_NOATIME = 0x10
ATTR_STRICTATIME = 0x20
ATTR_NODIRATIME = 0x80
ATTR_NOSYMFOLLOW = 0x200000

_ATIME_FLAGS = MS_NOATIME | MS_RELATIME | MS_STRICTATIME

_SET = {
    "ro": MS_RDONLY,
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "sync": MS_SYNCHRONOUS,
    "remount": MS_REMOUNT,
    "mand": MS_MANDLOCK,
    "dirsync": MS_DIRSYNC,
    "nosymfollow": MS_NOSYMFOLLOW,
    "noatime": MS_NOATIME,
    "nodiratime": MS_NODIRATIME,
    "bind": MS_BIND,
    "rbind": MS_BIND | MS_REC,
    "silent": MS_SILENT,
    "relatime": MS_RELATIME,
    "iversion": MS_I_VERSION,
    "strictatime": MS_STRICTATIME,
    "lazytime": MS_LAZYTIME,
}
_CLEAR = {
    "rw": MS_RDONLY,
    "suid": MS_NOSUID,
    "dev": MS_NODEV,
    "exec": MS_NOEXEC,
    "async": MS_SYNCHRONOUS,
    "nomand": MS_MANDLOCK,
    "symfollow": MS_NOSYMFOLLOW,
    "atime": MS_NOATIME,
    "diratime": MS_NODIRATIME,
    "loud": MS_SILENT,
    "norelatime": MS_RELATIME,
    "noiversion": MS_I_VERSION,
    "nostrictatime": MS_STRICTATIME,
    "nolazytime": MS_LAZYTIME,
}
_PROPAGATION = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "shared": MS_SHARED,
    "rshared": MS_SHARED | MS_REC,
    "slave": MS_SLAVE,
    "rslave": MS_SLAVE | MS_REC,
    "unbindable": MS_UNBINDABLE,
    "runbindable": MS_UNBINDABLE | MS_REC,
}
# word: (attribute to set, attribute to clear)
_RECURSIVE = {
    "rro": (ATTR_RDONLY, 0),
    "rrw": (0, ATTR_RDONLY),
    "rnosuid": (ATTR_NOSUID, 0),
    "rsuid": (0, ATTR_NOSUID),
    "rnodev": (ATTR_NODEV, 0),
    "rdev": (0, ATTR_NODEV),
    "rnoexec": (ATTR_NOEXEC, 0),
    "rexec": (0, ATTR_NOEXEC),
    "rnodiratime": (ATTR_NODIRATIME, 0),
    "rdiratime": (0, ATTR_NODIRATIME),
    "rrelatime": (0, ATTR_ATIME),
    "rnorelatime": (0, ATTR_ATIME),
    "rnoatime": (ATTR_NOATIME, ATTR_ATIME),
    "ratime": (0, ATTR_ATIME),
    "rstrictatime": (ATTR_STRICTATIME, ATTR_ATIME),
    "rnostrictatime": (0, ATTR_ATIME),
    "rnosymfollow": (ATTR_NOSYMFOLLOW, 0),
    "rsymfollow": (0, ATTR_NOSYMFOLLOW),
}
_REFUSED = {
    "tmpcopyup": "the image's files cannot be copied into a tmpfs",
    "idmap": "id-mapped mounts are not made in a guest",
    "ridmap": "id-mapped mounts are not made in a guest",
}
_ATTRIBUTE_OF = {
    MS_RDONLY: ATTR_RDONLY,
    MS_NOSUID: ATTR_NOSUID,
    MS_NODEV: ATTR_NODEV,
    MS_NOEXEC: ATTR_NOEXEC,
    MS_NODIRATIME: ATTR_NODIRATIME,
    MS_NOSYMFOLLOW: ATTR_NOSYMFOLLOW,
}


@dataclass(slots=True)
class Options:
    """What a mount's words come to."""

    flags: int = 0
    """MS_*, without propagation."""
    cleared: int = 0
    """MS_* that were taken back in so many words ("rw", "suid")."""
    propagation: list[int] = field(default_factory=list)
    """Each applied with a call of its own, in order."""
    recursive_set: int = 0
    recursive_clear: int = 0
    """MOUNT_ATTR_* for the whole tree."""
    data: list[str] = field(default_factory=list)
    """For the file system."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Words that we cannot honour, each with the reason."""

    @property
    def is_bind(self) -> bool:
        return bool(self.flags & MS_BIND)

    def bind_attributes(self) -> tuple[int, int]:
        """(set, clear) of mount_setattr(2) for a bind's own mount: what the words say. The rest stays as it is."""
        to_set = sum(attribute for flag, attribute in _ATTRIBUTE_OF.items() if self.flags & flag)
        to_clear = sum(attribute for flag, attribute in _ATTRIBUTE_OF.items() if self.cleared & flag & ~self.flags)
        if self.flags & _ATIME_FLAGS:
            to_clear |= ATTR_ATIME
            to_set |= ATTR_NOATIME if self.flags & MS_NOATIME else 0
            to_set |= ATTR_STRICTATIME if self.flags & MS_STRICTATIME and not self.flags & MS_NOATIME else 0
        elif self.cleared & (MS_NOATIME | MS_STRICTATIME):
            to_clear |= ATTR_ATIME
        return to_set, to_clear


def parse_options(words: tuple[str, ...] | None) -> Options:
    """In order: a later word takes back an earlier one."""
    options = Options()
    for word in words or ():
        _take(options, word)
    return options


def parse_propagation(word: str) -> int | None:
    """MS_* of one propagation word; None if it is none."""
    return _PROPAGATION.get(word)


def _take(options: Options, word: str) -> None:
    if word in _SET:
        options.flags |= _SET[word]
        options.cleared &= ~_SET[word]
    elif word in _CLEAR:
        options.flags &= ~_CLEAR[word]
        options.cleared |= _CLEAR[word]
    elif word in _PROPAGATION:
        options.propagation.append(_PROPAGATION[word])
    elif word in _RECURSIVE:
        _take_recursive(options, *_RECURSIVE[word])
    elif (name := word.partition("=")[0]) in _REFUSED:
        options.refused.append((word, _REFUSED[name]))
    elif word and word != "defaults":
        options.data.append(word)


def _take_recursive(options: Options, to_set: int, to_clear: int) -> None:
    options.recursive_set = options.recursive_set & ~to_clear | to_set
    options.recursive_clear = options.recursive_clear & ~to_set | to_clear
