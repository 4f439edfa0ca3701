// The loop: one event at a time, so that a handler may free whatever it likes.
#include "agent.h"

#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>

// Of the agent and, as hard limit, of containers that ask for none: one descriptor for each stream of each process.
#define DESCRIPTORS_MAX 524288

struct agent agent = {.epoll_fd = -1, .proc_fd = -1, .null_fd = -1, .cgroup_fd = -1, .pid_namespace_fd = -1};

int watch_arm(struct watch *watch, uint32_t events) {
    if (watch->registered && watch->armed == events) return 0;
    struct epoll_event event = {.events = events | (watch->lasting ? 0 : EPOLLONESHOT), .data.ptr = watch};
    int operation = watch->registered ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(agent.epoll_fd, operation, watch->fd, &event) < 0) return fault_call("epoll_ctl", "watch");
    watch->registered = true;
    watch->armed = events;
    return 0;
}

void watch_close(struct watch *watch) {
    // The child of a clone may hold the same open file for a moment: leave the set by name, not by close(2).
    if (watch->registered) epoll_ctl(agent.epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    watch->registered = false;
    close_fd(&watch->fd);
}

static void on_signal(struct watch *watch) {
    struct signalfd_siginfo info;
    if (read(watch->fd, &info, sizeof info) == sizeof info) reap();
}

static _Noreturn void loop(void) {
    for (;;) {
        run_held();
        struct epoll_event event;
        if (epoll_wait(agent.epoll_fd, &event, 1, held_timeout_ms()) <= 0) continue;
        struct watch *watch = event.data.ptr;
        if (!watch->lasting) watch->armed = 0;
        watch->ready(watch);
    }
}

// What the loop and the children rely on. Signals wait in a signalfd; nothing of a container may look into this process.
static int prepare(void) {
    static struct watch signals = {.fd = -1, .lasting = true, .ready = on_signal};
    sigset_t blocked;
    struct rlimit descriptors = {DESCRIPTORS_MAX, DESCRIPTORS_MAX};
    umask(0);
    prctl(PR_SET_DUMPABLE, 0);
    setrlimit(RLIMIT_NOFILE, &descriptors);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGPIPE);  // not ignored, which a container would inherit
    sigaddset(&blocked, SIGCHLD);
    sigprocmask(SIG_SETMASK, &blocked, NULL);
    agent.proc_fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    agent.null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    agent.cgroup_fd = open("/sys/fs/cgroup", O_PATH | O_DIRECTORY | O_CLOEXEC);
    agent.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    signals.fd = signalfd(-1, &blocked, SFD_CLOEXEC | SFD_NONBLOCK);
    if (agent.proc_fd < 0 || agent.null_fd < 0 || agent.epoll_fd < 0 || signals.fd < 0)
        return fault_call("open", "/proc, /dev/null, epoll or signalfd");
    // Paths of descriptors are written "self/fd/N", which works where a container's own /proc is another one or none.
    if (fchdir(agent.proc_fd) < 0) return fault_call("fchdir", "/proc");
    return watch_arm(&signals, EPOLLIN);
}

static int start(int argc, char **argv) {
    int fd = -1;
    agent.started_boottime_ns = agent.modules_boottime_ns = boottime_ns();
    if (argc == 3 && !strcmp(argv[1], "--fd")) {
        char *end;
        fd = (int)strtol(argv[2], &end, 10);
        if (*end || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
            return fault(CODE_INVALID_ARGUMENT, "--fd %s is not an open descriptor", argv[2]);
    } else if (getpid() != 1) {
        return fault(CODE_INVALID_ARGUMENT, "usage: agent --fd N, or as /init of a guest");
    } else if (agent.booted = true, (fd = boot()) < 0) {
        return -1;
    }
    if (prepare() < 0) return -1;
    if (network_lo_up() < 0) complain("%s", the_fault.text);  // a kernel without a network still runs containers
    return port_open(fd, agent.booted);
}

int main(int argc, char **argv) {
    if (start(argc, argv) == 0) loop();
    complain("%s", the_fault.text);
    return 1;
}
