"""Who a container's process is: `name|uid[:group|gid]` looked up in the image's /etc/passwd and /etc/group.

The texts come from an image, so any line may be rubbish; a line that cannot be read is passed over, as in docker.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sandboxd.base.errors import UNKNOWN_USER, SandboxdError

ID_MAX = (1 << 31) - 1
"""docker's limit; -1 and its neighbours mean "none" to the kernel."""
GROUPS_MAX = 65536


@dataclass(frozen=True, slots=True)
class Account:
    """`additional_gids` begins with `gid`: a process cannot shed it by setgid, as in docker since 20.10.18."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...]
    home: str


@dataclass(frozen=True, slots=True)
class _User:
    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    gid: int
    members: tuple[str, ...]


def resolve_account(user: str, passwd: bytes, group: bytes) -> Account:
    """`user` empty means root. Names come first, numbers then. Raises `unknown_user`."""
    wanted_user, _, wanted_group = user.partition(":")
    found = _find_user(wanted_user or "0", passwd)
    groups: tuple[int, ...] = ()
    if wanted_group:
        gid = _find_group(wanted_group, group)
    else:
        gid, groups = found.gid, _memberships(found.name, group)
    return Account(found.uid, gid, tuple(dict.fromkeys((gid, *groups))), found.home or "/")


def group_ids(names: tuple[str, ...], group: bytes) -> tuple[int, ...]:
    """Of --group-add: names or numbers. Raises `unknown_user`."""
    return tuple(_find_group(name, group) for name in names)


def _find_user(wanted: str, passwd: bytes) -> _User:
    users = list(_users(passwd))
    by_name = next((user for user in users if user.name == wanted), None)
    if by_name is not None:
        return by_name
    uid = _number(wanted)
    if uid is None:
        raise _unknown("user", wanted, "/etc/passwd")
    by_uid = next((user for user in users if user.uid == uid), None)
    return by_uid or _User(name="", uid=uid, gid=0, home="/root" if uid == 0 else "/")


def _find_group(wanted: str, group: bytes) -> int:
    by_name = next((entry.gid for entry in _groups(group) if entry.name == wanted), None)
    if by_name is not None:
        return by_name
    gid = _number(wanted)
    if gid is None:
        raise _unknown("group", wanted, "/etc/group")
    return gid


def _memberships(user: str, group: bytes) -> tuple[int, ...]:
    if not user:
        return ()
    return tuple(entry.gid for entry in _groups(group) if user in entry.members)[:GROUPS_MAX]


def _unknown(what: str, name: str, file: str) -> SandboxdError:
    reason = f"The image's {file} has no entry of this name, and it is no number from 0 to {ID_MAX}."
    return SandboxdError(UNKNOWN_USER, what=what, name=name[:80], reason=reason)


def _users(passwd: bytes) -> Iterator[_User]:
    """name:password:uid:gid:comment:home:shell"""
    for fields in _lines(passwd):
        if len(fields) < 4:
            continue
        uid, gid = _number(fields[2]), _number(fields[3])
        if uid is not None and gid is not None:
            yield _User(fields[0], uid, gid, fields[5] if len(fields) > 5 else "")


def _groups(group: bytes) -> Iterator[_Group]:
    """name:password:gid:member,member"""
    for fields in _lines(group):
        gid = _number(fields[2]) if len(fields) > 2 else None
        if gid is not None:
            yield _Group(fields[0], gid, tuple(fields[3].split(",")) if len(fields) > 3 else ())


def _lines(text: bytes) -> Iterator[list[str]]:
    for line in text.decode("utf-8", "surrogateescape").split("\n"):
        if line and not line.startswith("#"):
            yield line.strip().split(":")


def _number(text: str) -> int | None:
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        return None
    number = int(text)
    return number if number <= ID_MAX else None
