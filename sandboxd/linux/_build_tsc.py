"""Builds sandboxd.linux._tsc: the processor's time stamp counter, which no system call reads."""

from cffi import FFI

ffibuilder = FFI()
ffibuilder.cdef(
    """
    /* One reading of both clocks at the same moment: the counter, and CLOCK_MONOTONIC_RAW in nanoseconds. */
    int sandboxd_read_clocks(uint64_t *ticks, uint64_t *raw_ns);
    """
)
ffibuilder.set_source(
    "sandboxd.linux._tsc",
    r"""
    #include <stdint.h>
    #include <time.h>
    #include <x86intrin.h>

    static uint64_t raw_ns_now(void)
    {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC_RAW, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    }

    static int sandboxd_read_clocks(uint64_t *ticks, uint64_t *raw_ns)
    {
        /* The reading that the scheduler disturbed least: the one with the closest times around it. */
        uint64_t best = UINT64_MAX;
        for (int attempt = 0; attempt < 8; attempt++) {
            uint64_t before = raw_ns_now(), counter = __rdtsc(), after = raw_ns_now();
            if (after - before < best) {
                best = after - before;
                *ticks = counter;
                *raw_ns = before + (after - before) / 2;
            }
        }
        return 0;
    }
    """,
    extra_compile_args=["-O2"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=False)
