"""nftables through libnftables: rule sets that are applied whole or not at all.

`run` speaks libnftables-json(5), for elements and listings; `load` speaks nft(8)'s own language, for whole tables: it
reads as what an administrator sees in `nft list ruleset`, and JSON cannot declare a map whose data is a concatenation.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NewType

from sandboxd.base.errors import NFTABLES_REFUSED, SandboxdError
from sandboxd.linux._nftables import ffi, lib

Json = Mapping[str, object]
EventSocket = NewType("EventSocket", socket.socket)

_REASON_MAX = 600

# nfnetlink: linux/netfilter/nfnetlink.h and nf_tables.h.
_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES = 7
_NFNL_SUBSYS_NFTABLES = 10
_DELETIONS = frozenset({2, 5, 8, 11})
"""NFT_MSG_DELTABLE, DELCHAIN, DELRULE, DELSET."""
_NLMSG_HEADER = struct.Struct("=IHHII")
_NFGENMSG_BYTES = 4
_NLA_HEADER = struct.Struct("=HH")
_NLA_TYPE_MASK = 0x3FFF


def run(ruleset: Sequence[Json], *, dry: bool = False) -> dict[str, object]:
    """Applies commands in one transaction and returns what they print, both as libnftables-json(5) has it.

    `dry` has the kernel check everything and then forget it. Raises `nftables_refused` with nft's own text; nothing is
    changed then.
    """
    answer = _execute(json.dumps({"nftables": list(ruleset)}), lib.NFT_CTX_OUTPUT_JSON, dry)
    return dict(json.loads(answer)) if answer.strip() else {}


def load(text: str, *, dry: bool = False) -> None:
    """Applies a rule set in nft(8)'s language in one transaction. Raises `nftables_refused`."""
    _execute(text, 0, dry)


def describe(family: str, table: str) -> str:
    """The table as nft prints it, without elements and counters. Raises `nftables_refused` where there is none."""
    return _execute(f"list table {family} {table}", lib.NFT_CTX_OUTPUT_TERSE | lib.NFT_CTX_OUTPUT_STATELESS, False)


def _execute(command: str, flags: int, dry: bool) -> str:
    context = lib.nft_ctx_new(lib.NFT_CTX_DEFAULT)
    if context == ffi.NULL:
        raise SandboxdError(NFTABLES_REFUSED, reason="libnftables gives no context (out of memory, or no netlink).")
    try:
        lib.nft_ctx_output_set_flags(context, flags)
        lib.nft_ctx_set_dry_run(context, dry)
        if lib.nft_ctx_buffer_output(context) or lib.nft_ctx_buffer_error(context):
            raise SandboxdError(NFTABLES_REFUSED, reason="libnftables cannot buffer its output.")
        status = lib.nft_run_cmd_from_buffer(context, command.encode())
        if status:
            raise SandboxdError(NFTABLES_REFUSED, reason=_reason(_text(lib.nft_ctx_get_error_buffer(context))))
        return _text(lib.nft_ctx_get_output_buffer(context))
    finally:
        lib.nft_ctx_free(context)


def _text(pointer: object) -> str:
    return str(ffi.string(pointer).decode(errors="replace")) if pointer != ffi.NULL else ""


def _reason(text: str) -> str:
    """nft's complaint on one line: where many elements are refused it repeats itself."""
    lines = dict.fromkeys(line.strip() for line in text.splitlines() if "rror" in line)
    return " ".join(lines)[:_REASON_MAX] or text.strip()[:_REASON_MAX] or "nft gave no reason."


def open_events() -> EventSocket:
    """A non-blocking netlink socket that hears of every change to the rule sets of this network namespace."""
    events = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER
    )
    try:
        events.bind((0, 1 << (_NFNLGRP_NFTABLES - 1)))
    except OSError:
        events.close()
        raise
    return EventSocket(events)


def read_deletions(events: EventSocket) -> set[str] | None:
    """What is waiting on the socket: names of tables of which something was deleted; None: events were lost."""
    names: set[str] = set()
    while True:
        try:
            names.update(deletions(events.recv(1 << 17)))
        except BlockingIOError:
            return names
        except OSError:  # ENOBUFS: the kernel dropped some
            return None


def deletions(datagram: bytes) -> Iterator[str]:
    """Names of the tables from which a datagram of nftables events says that something was deleted."""
    offset = 0
    while offset + _NLMSG_HEADER.size <= len(datagram):
        length, kind, _, _, _ = _NLMSG_HEADER.unpack_from(datagram, offset)
        if length < _NLMSG_HEADER.size or offset + length > len(datagram):
            return
        if kind >> 8 == _NFNL_SUBSYS_NFTABLES and kind & 0xFF in _DELETIONS:
            yield from _first_attribute(datagram[offset + _NLMSG_HEADER.size + _NFGENMSG_BYTES : offset + length])
        offset += (length + 3) & ~3


def _first_attribute(attributes: bytes) -> Iterator[str]:
    """In all four messages attribute 1 is the table's name."""
    offset = 0
    while offset + _NLA_HEADER.size <= len(attributes):
        length, kind = _NLA_HEADER.unpack_from(attributes, offset)
        if length < _NLA_HEADER.size or offset + length > len(attributes):
            return
        if kind & _NLA_TYPE_MASK == 1:
            yield attributes[offset + _NLA_HEADER.size : offset + length].rstrip(b"\0").decode(errors="replace")
            return
        offset += (length + 3) & ~3
