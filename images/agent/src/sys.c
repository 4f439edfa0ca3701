// System calls that libc has no wrapper for, small files, and the one error door.
#include "agent.h"

#include <linux/openat2.h>
#include <linux/sched.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <time.h>

struct fault the_fault;

static const struct {
    int number;
    const char *name;
} errno_names[] = {
#define NAME(x) {x, #x}
    NAME(EPERM), NAME(ENOENT), NAME(ESRCH), NAME(EINTR), NAME(EIO), NAME(ENXIO), NAME(E2BIG), NAME(ENOEXEC), NAME(EBADF),
    NAME(ECHILD), NAME(EAGAIN), NAME(ENOMEM), NAME(EACCES), NAME(EFAULT), NAME(ENOTBLK), NAME(EBUSY), NAME(EEXIST),
    NAME(EXDEV), NAME(ENODEV), NAME(ENOTDIR), NAME(EISDIR), NAME(EINVAL), NAME(ENFILE), NAME(EMFILE), NAME(ENOTTY),
    NAME(ETXTBSY), NAME(EFBIG), NAME(ENOSPC), NAME(ESPIPE), NAME(EROFS), NAME(EMLINK), NAME(EPIPE), NAME(EDOM),
    NAME(ERANGE), NAME(ENAMETOOLONG), NAME(ENOSYS), NAME(ENOTEMPTY), NAME(ELOOP), NAME(ENODATA), NAME(EOVERFLOW),
    NAME(EUCLEAN), NAME(EUSERS), NAME(EOPNOTSUPP), NAME(EADDRINUSE), NAME(EADDRNOTAVAIL), NAME(ENETDOWN),
    NAME(ENETUNREACH), NAME(ECONNRESET), NAME(ENOBUFS), NAME(ETIMEDOUT), NAME(ESTALE), NAME(EDQUOT), NAME(EAFNOSUPPORT),
#undef NAME
};

static const char *errno_name(int number) {
    for (size_t i = 0; i < sizeof errno_names / sizeof *errno_names; i++)
        if (errno_names[i].number == number) return errno_names[i].name;
    return "ERRNO";
}

int fault(enum code code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    the_fault.code = code;
    vsnprintf(the_fault.text, sizeof the_fault.text, format, arguments);
    va_end(arguments);
    // It may quote names that a container made up, and protobuf strings have to be UTF-8.
    for (char *at = the_fault.text; *at; at++)
        if (*at < ' ' || *at == 0x7f) *at = '?';
    return -1;
}

int fault_call(const char *call, const char *path) {
    int error = errno;
    fault(CODE_INTERNAL, "%s %.800s: %s %s", call, path, errno_name(error), strerror(error));
    errno = error;
    return -1;
}

int fault_memory(void) {
    return fault(CODE_RESOURCE_EXHAUSTED, "the guest's agent is out of memory");
}

int checked(long status, const char *call, const char *path) {
    return status < 0 ? fault_call(call, path) : (int)status;
}

void complain(const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    SCOPED int fd = agent.booted ? open("/dev/kmsg", O_WRONLY | O_CLOEXEC) : dup(STDERR_FILENO);
    dprintf(fd, "<3>sandboxd agent: %s\n", text);
}

int sys_clone3(uint64_t flags, int cgroup_fd) {
    struct clone_args arguments = {.flags = flags, .exit_signal = SIGCHLD};
    if (cgroup_fd >= 0) {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup_fd;
    }
    return syscall(SYS_clone3, &arguments, sizeof arguments);
}

int sys_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve) {
    struct open_how how = {.flags = flags | O_CLOEXEC, .mode = mode, .resolve = resolve};
    int fd = -1;
    // EAGAIN: a rename or mount raced with "..", openat2(2) asks to try again.
    for (int tries = 0; tries < 32; tries++) {
        fd = syscall(SYS_openat2, dir, path, &how, sizeof how);
        if (fd >= 0 || errno != EAGAIN) break;
    }
    return fd;
}

int sys_pidfd_open(pid_t pid) {
    return syscall(SYS_pidfd_open, pid, 0);
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec now = {0};
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

uint64_t boottime_ns(void) {
    return clock_ns(CLOCK_BOOTTIME);
}

int64_t wall_clock_ns(void) {
    return (int64_t)clock_ns(CLOCK_REALTIME);
}

uint64_t monotonic_ms(void) {
    return clock_ns(CLOCK_MONOTONIC) / 1000000;
}

ssize_t read_file(int dir, const char *path, char *text, size_t size) {
    SCOPED int fd = openat(dir, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return -1;
    size_t have = 0;
    ssize_t got = 0;
    while (have < size - 1 && (got = read(fd, text + have, size - 1 - have)) > 0) have += got;
    text[have] = 0;
    return got < 0 ? -1 : (ssize_t)have;
}

int write_file(int dir, const char *path, const void *data, size_t size) {
    SCOPED int fd = openat(dir, path, O_WRONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    ssize_t written = fd < 0 ? -1 : write(fd, data, size);
    if (written >= 0 && written < (ssize_t)size) errno = EIO;
    return written == (ssize_t)size ? 0 : -1;
}

void close_fd(int *fd) {
    int error = errno;
    if (*fd >= 0) close(*fd);
    *fd = -1;
    errno = error;
}
