// A new process: cloned into its cgroup and namespaces, put into its root, and kept waiting for the word.
#include "agent.h"

#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#define JOINS_MAX 8
#define SYNC_FD 3  // where the child has its end when nothing else is open

// What one clone needs to know; the child has it in its copy of the memory.
struct launch {
    struct process *process;
    const Plan *plan;
    struct stdio stdio;
    int sync;  // the child's end
    struct {
        int pidfd;
        uint64_t flags;
    } joins[JOINS_MAX];
    int join_count;
    uint64_t joined, made;  // namespace flags
};

// --- messages between the agent and the child ---

static void send_report(int sync_fd, const struct report *report, int fd) {
    char control[CMSG_SPACE(sizeof fd)] __attribute__((aligned(8))) = {0};
    struct iovec part = {(void *)report, sizeof *report};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    sendmsg(sync_fd, &message, MSG_NOSIGNAL);
}

ssize_t receive_report(int sync_fd, struct report *report, int *fd) {
    char control[CMSG_SPACE(sizeof *fd)] __attribute__((aligned(8)));
    struct iovec part = {report, sizeof *report};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t size = recvmsg(sync_fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (size < 0) return errno == EAGAIN || errno == EINTR ? -1 : 0;
    struct cmsghdr *header = size ? CMSG_FIRSTHDR(&message) : NULL;
    if (header && header->cmsg_type == SCM_RIGHTS) memcpy(fd, CMSG_DATA(header), sizeof *fd);
    return size == sizeof *report ? size : 0;
}

static _Noreturn void child_failed(int sync_fd) {
    struct report report = {.kind = REPORT_FAILED, .fault = the_fault};
    send_report(sync_fd, &report, -1);
    _exit(126);
}

static void await_agent(int sync_fd, char expected) {
    char word = 0;
    while (read(sync_fd, &word, 1) < 0 && errno == EINTR) continue;
    if (word != expected) _exit(126);
}

// --- the child: namespaces ---

static int join_namespaces(const struct launch *launch) {
    for (int i = 0; i < launch->join_count; i++) {
        uint64_t flags = launch->joins[i].flags & ~(uint64_t)CLONE_NEWPID;
        if (flags && setns(launch->joins[i].pidfd, (int)flags) < 0) return fault_call("setns", "/proc/PID/ns");
    }
    return 0;
}

// Root of the user namespace, if the namespace has one: until then the process has an id that nothing maps.
static int become_namespace_root(void) {
    if (syscall(SYS_setresgid, 0, 0, 0) < 0 && errno != EINVAL) return fault_call("setresgid", "0");
    if (syscall(SYS_setgroups, 0, NULL) < 0 && errno != EPERM) return fault_call("setgroups", "0");
    return syscall(SYS_setresuid, 0, 0, 0) < 0 && errno != EINVAL ? fault_call("setresuid", "0") : 0;
}

static int new_time_namespace(const Plan *plan) {
    const char *offsets = "";
    for (size_t i = 0; i < plan->n_namespaces; i++)
        if (plan->namespaces[i]->clone_flag == CLONE_NEWTIME) offsets = plan->namespaces[i]->time_offsets;
    if (unshare(CLONE_NEWTIME) < 0) return fault_call("unshare", "CLONE_NEWTIME");
    if (*offsets && write_file(agent.proc_fd, "self/timens_offsets", offsets, strlen(offsets)) < 0)
        return fault_call("write", "/proc/self/timens_offsets");
    int fd = openat(agent.proc_fd, "self/ns/time_for_children", O_RDONLY | O_CLOEXEC);
    return fd < 0 ? fault_call("open", "/proc/self/ns/time_for_children") : checked(setns(fd, CLONE_NEWTIME), "setns", "time");
}

// Those that clone3(2) cannot make as they are wanted: it roots a new cgroup namespace at the parent's cgroup, and
// enters a new time namespace before its offsets are set.
static int make_late_namespaces(const struct launch *launch) {
    if ((launch->made & CLONE_NEWCGROUP) && unshare(CLONE_NEWCGROUP) < 0) return fault_call("unshare", "CLONE_NEWCGROUP");
    if ((launch->made & CLONE_NEWTIME) && new_time_namespace(launch->plan) < 0) return -1;
    return launch->made & CLONE_NEWNET ? network_lo_up() : 0;
}

// --- the child: root ---

// pivot_root(".", "."), pivot_root(2) NOTES: the old root lies on top of the new one and is taken away from there.
static int pivot(int root_fd) {
    int old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (old < 0) return fault_call("open", "/");
    if (fchdir(root_fd) < 0 || syscall(SYS_pivot_root, ".", ".") < 0) return fault_call("pivot_root", "root");
    if (fchdir(old) < 0 || mount(NULL, ".", NULL, MS_SLAVE | MS_REC, NULL) < 0) return fault_call("mount", "old root");
    if (umount2(".", MNT_DETACH) < 0) return fault_call("umount", "old root");
    close(old);
    return checked(chdir("/"), "chdir", "/");
}

// What propagation the container's root shall have is set when it is the root: pivot_root(2) refuses shared mounts.
static int change_root(const struct launch *launch, int root_fd) {
    if (!(launch->made & CLONE_NEWNS)) return fchdir(root_fd) < 0 || chroot(".") < 0 ? fault_call("chroot", "root") : 0;
    uint64_t propagation = launch->plan->root_propagation & (MS_SHARED | MS_UNBINDABLE) ? launch->plan->root_propagation : 0;
    if (pivot(root_fd) < 0) return -1;
    return propagation ? checked(mount(NULL, "/", NULL, propagation, NULL), "mount", "/ propagation") : 0;
}

static int enter_container(const struct launch *launch, int *master) {
    const Plan *plan = launch->plan;
    if (launch->made & CLONE_NEWNS) {
        uint64_t first = MS_REC | (plan->root_propagation & MS_PRIVATE ? MS_PRIVATE : MS_SLAVE);
        if (mount(NULL, "/", NULL, first, NULL) < 0) return fault_call("mount", "/ propagation");
        // A mount of this namespace's own: others may not be roots, or are locked (user_namespaces(7)).
        if (mount(plan->root, plan->root, NULL, MS_BIND | MS_REC, NULL) < 0) return fault_call("mount", plan->root);
    }
    struct place place = {.root = plan->root, .root_fd = open(plan->root, O_PATH | O_DIRECTORY | O_CLOEXEC)};
    if (place.root_fd < 0) return fault_call("open", plan->root);
    if (run_steps(&place, plan->n_inside, plan->inside) < 0) return -1;
    if (plan->process->terminal && terminal_open(launch->process, place.root_fd, plan->console, master) < 0) return -1;
    if (change_root(launch, place.root_fd) < 0 || fchdir(agent.proc_fd) < 0) return -1;
    close(place.root_fd);
    place = (struct place){.root = "/", .root_fd = -1, .pivoted = true};
    if (run_steps(&place, plan->n_finish, plan->finish) < 0) return -1;
    close_fd(&place.root_fd);
    size_t host = strlen(plan->hostname), domain = strlen(plan->domainname);
    if (host && sethostname(plan->hostname, host) < 0) return fault_call("sethostname", plan->hostname);
    return domain ? checked(setdomainname(plan->domainname, domain), "setdomainname", plan->domainname) : 0;
}

static int enter_running_container(const struct launch *launch, int *master) {
    if (!launch->process->terminal) return 0;
    int root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root_fd < 0 || fchdir(agent.proc_fd) < 0) return fault_call("open", "/");
    return terminal_open(launch->process, root_fd, false, master);
}

// --- the child ---

// A container that waits for its start must not hold other processes' pipes open.
static void close_all_but_own(const struct launch *launch) {
    int keep[6 + JOINS_MAX] = {launch->sync, agent.proc_fd, agent.null_fd, launch->stdio.in, launch->stdio.out, launch->stdio.err};
    for (int i = 0; i < launch->join_count; i++) keep[6 + i] = launch->joins[i].pidfd;
    for (unsigned low = 3, next = 0; next != INT32_MAX; low = next + 1) {
        next = INT32_MAX;
        for (int i = 0; i < 6 + launch->join_count; i++)
            if (keep[i] >= (int)low && keep[i] < (int)next) next = keep[i];
        if (next > low) syscall(SYS_close_range, low, next == INT32_MAX ? ~0u : next - 1, 0);
    }
}

static int take_stdio(const struct launch *launch) {
    const struct stdio *stdio = &launch->stdio;
    if (launch->process->terminal) return 0;
    if (dup2(stdio->in >= 0 ? stdio->in : agent.null_fd, 0) < 0 || dup2(stdio->out, 1) < 0 || dup2(stdio->err, 2) < 0)
        return fault_call("dup2", "stdio");
    return 0;
}

static int set_up(const struct launch *launch, int *master) {
    if (join_namespaces(launch) < 0) return -1;
    if (launch->made & CLONE_NEWUSER) await_agent(launch->sync, 'm');
    if (((launch->made | launch->joined) & CLONE_NEWUSER) && become_namespace_root() < 0) return -1;
    // Keys of one container are none of another's business.
    syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL);
    if (make_late_namespaces(launch) < 0) return -1;
    int status = launch->process->exec_id ? enter_running_container(launch, master) : enter_container(launch, master);
    return status < 0 ? -1 : take_stdio(launch);
}

static _Noreturn void child_main(const struct launch *launch) {
    sigset_t none;
    int master = -1;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    close_all_but_own(launch);
    if (set_up(launch, &master) < 0) child_failed(launch->sync);
    send_report(launch->sync, &(struct report){.kind = REPORT_READY}, master);
    close_fd(&master);
    await_agent(launch->sync, 'g');
    if (launch->sync != SYNC_FD && dup3(launch->sync, SYNC_FD, O_CLOEXEC) < 0) _exit(126);
    syscall(SYS_close_range, SYNC_FD + 1, ~0u, 0);
    int error = apply_and_execute(launch->process);
    if (error < 0) child_failed(SYNC_FD);
    send_report(SYNC_FD, &(struct report){.kind = REPORT_EXEC_FAILED, .exec_errno = error}, -1);
    _exit(error == ENOENT ? 127 : 126);
}

// --- the agent's side ---

static int add_join(struct launch *launch, const struct container *target, uint64_t flags) {
    int pidfd = sys_pidfd_open(target->init->pid);
    if (pidfd < 0) return fault_call("pidfd_open", target->id);
    launch->joined |= flags;
    launch->joins[launch->join_count].flags = flags;
    launch->joins[launch->join_count++].pidfd = pidfd;
    return 0;
}

static int plan_namespaces(struct launch *launch) {
    uint64_t all = 0;
    bool exec = launch->process->exec_id;
    for (size_t i = 0; i < launch->plan->n_namespaces; i++) {
        const MESSAGE(Namespace) *namespace = launch->plan->namespaces[i];
        struct container *other = exec || !*namespace->container_id ? NULL : container_find(namespace->container_id);
        all |= namespace->clone_flag;
        if (!other) launch->made |= exec ? 0 : namespace->clone_flag;
        if (other && add_join(launch, other, namespace->clone_flag) < 0) return -1;
    }
    return exec && all ? add_join(launch, launch->process->container, all) : 0;
}

// A pid namespace is entered by the children of who joins it: the agent joins for the time of one clone.
static int clone_child(struct launch *launch, int cgroup_fd) {
    uint64_t flags = launch->made & ~(uint64_t)(CLONE_NEWCGROUP | CLONE_NEWTIME);
    if (!(launch->joined & CLONE_NEWPID)) return sys_clone3(flags, cgroup_fd);
    if (agent.pid_namespace_fd < 0) agent.pid_namespace_fd = openat(agent.proc_fd, "self/ns/pid", O_RDONLY | O_CLOEXEC);
    if (agent.pid_namespace_fd < 0) return -1;
    for (int i = 0; i < launch->join_count; i++)
        if ((launch->joins[i].flags & CLONE_NEWPID) && setns(launch->joins[i].pidfd, CLONE_NEWPID) < 0) return -1;
    int pid = sys_clone3(flags, cgroup_fd), error = errno;
    if (pid && setns(agent.pid_namespace_fd, CLONE_NEWPID) < 0) complain("cannot return to the guest's pid namespace");
    errno = error;
    return pid;
}

static int write_map(pid_t pid, const char *name, size_t count, MESSAGE(IdMap) * *maps) {
    char path[64], text[4096];
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        size += snprintf(text + size, sizeof text - size, "%u %u %u\n", maps[i]->container_id, maps[i]->host_id, maps[i]->size);
        if (size >= sizeof text) return fault(CODE_INVALID_ARGUMENT, "%s is over %zu bytes", name, sizeof text);
    }
    snprintf(path, sizeof path, "%d/%s", (int)pid, name);
    return checked(write_file(agent.proc_fd, path, text, size), "write", path);
}

// Writes the id maps of a new user namespace and lets the child go on.
static int map_ids(const struct launch *launch, pid_t pid) {
    const Plan *plan = launch->plan;
    if (!(launch->made & CLONE_NEWUSER)) return 0;
    if (write_map(pid, "uid_map", plan->n_uid_map, plan->uid_map) < 0) return -1;
    if (write_map(pid, "gid_map", plan->n_gid_map, plan->gid_map) < 0) return -1;
    return checked(send(launch->process->sync.fd, "m", 1, MSG_NOSIGNAL), "send", "child") < 0 ? -1 : 0;
}

static int start_child(struct launch *launch) {
    struct container *container = launch->process->container;
    if (plan_namespaces(launch) < 0) return -1;
    int pid = clone_child(launch, container->cgroup_fd), inner = -1;
    // A container may have moved itself into a cgroup below, as systemd does: follow it.
    if (pid < 0 && errno == EBUSY && launch->process->exec_id && (inner = cgroup_open_of(container->init->pid)) >= 0)
        pid = clone_child(launch, inner);
    if (pid == 0) child_main(launch);
    if (pid < 0) fault_call("clone3", container->id);
    close_fd(&inner);
    launch->process->pid = pid;
    if (pid < 0 || map_ids(launch, pid) == 0) return pid < 0 ? -1 : 0;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return -1;
}

int spawn(struct process *process) {
    int sync[2];
    struct launch launch = {.process = process, .plan = process->container->plan};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sync) < 0) return fault_call("socketpair", "child");
    process->sync.fd = sync[0];
    launch.sync = sync[1];
    int status = stdio_open(process, &launch.stdio) < 0 ? -1 : start_child(&launch);
    close_fd(&launch.stdio.in);
    close_fd(&launch.stdio.out);
    close_fd(&launch.stdio.err);
    close(launch.sync);
    for (int i = 0; i < launch.join_count; i++) close(launch.joins[i].pidfd);
    return status;
}
