"""Small machines that run the programs we make: eBPF of device filters, classic BPF of seccomp filters.

They know the instructions that our programs use and no others: an unknown one is an error, not a guess.
"""

from __future__ import annotations

import struct

_WORD = 0xFFFFFFFF


def run_device_program(program: bytes, device_type: int, major: int, minor: int, access: int) -> bool:
    """Whether the program allows the access. An empty program means that none is attached."""
    if not program:
        return True
    context = struct.pack("=III", access << 16 | device_type, major, minor)
    registers = [0] * 11
    at = 0
    for _ in range(len(program)):
        code, pair, offset, immediate = struct.unpack_from("=BBhi", program, at * 8)
        destination, source = pair & 15, pair >> 4
        at += 1
        if code == 0x61:
            assert source == 1, "only the context may be read"
            registers[destination] = struct.unpack_from("=I", context, offset)[0]
        elif code == 0xBC:
            registers[destination] = registers[source] & _WORD
        elif code == 0xB7:
            registers[destination] = immediate
        elif code == 0x54:
            registers[destination] = registers[destination] & immediate & _WORD
        elif code == 0x74:
            registers[destination] = (registers[destination] & _WORD) >> immediate
        elif code in (0x56, 0x16):
            equal = registers[destination] & _WORD == immediate & _WORD
            at += offset if equal is (code == 0x16) else 0
        elif code == 0x95:
            return bool(registers[0])
        else:
            raise AssertionError(f"unknown eBPF instruction {code:#x}")
    raise AssertionError("the program does not end")


def run_seccomp_program(program: bytes, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """SECCOMP_RET_* of one system call."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=IIQ6Q", number, architecture, 0, *padded)
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("=HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif code == 0x06:
            return int(value)
        elif code == 0x05:
            at += value
        elif code == 0x54:
            accumulator &= value
        elif code in (0x15, 0x25, 0x35, 0x45):
            holds = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[code]
            at += if_true if holds else if_false
        else:
            raise AssertionError(f"unknown BPF instruction {code:#x}")
