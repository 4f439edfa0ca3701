// Preloaded into the peer where root lacks CAP_SYS_RESOURCE: it lifts RLIMIT_MEMLOCK before it loads its device program and
// gives up when it cannot, though kernels since 5.11 do not look at that limit.
#define _GNU_SOURCE
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

int setrlimit(__rlimit_resource_t which, const struct rlimit *limit) {
    if (which == RLIMIT_MEMLOCK && limit->rlim_cur == RLIM_INFINITY) return 0;
    return (int)syscall(SYS_prlimit64, 0, which, limit, 0);
}
