"""glibc's allocator, told to be modest: mallopt(3), malloc_trim(3).

By default every thread gets an arena of its own, up to eight per CPU, none of which is given back: in a process whose
threads each do a little of everything that is most of its memory. On a C library without these calls nothing happens.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
"""<malloc.h>"""


def be_modest(arenas: int, threshold_bytes: int) -> None:
    """At most `arenas`; blocks and free tops from `threshold_bytes` on go back to the kernel. Before any thread."""
    libc = ctypes.CDLL(None)
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in (
        (_M_ARENA_MAX, arenas),
        (_M_MMAP_THRESHOLD, threshold_bytes),
        (_M_TRIM_THRESHOLD, threshold_bytes),
    ):
        mallopt(parameter, value)
