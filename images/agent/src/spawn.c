// A new process: cloned into its cgroup, joined to namespaces, put into its root, and kept waiting for the word.
//
// Where a user namespace is joined, or others are joined before a new one is made, a go-between does the joining and
// then clones the process proper as its sibling: rights over namespaces come from the user namespace one is in.
#include "agent.h"

#include <linux/stat.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#define JOINS_MAX 8
#define SYNC_FD 3  // where the child has its end when nothing else is open
#define STATX_ATTRIBUTES_OFFSET 8  // of stx_attributes in struct statx

struct join {
    int pidfd;
    uint64_t flags;
};

// What one clone needs to know; the child has it in its copy of the memory.
struct launch {
    struct process *process;
    const Plan *plan;
    struct stdio stdio;
    int sync;  // the child's end
    struct join joins[JOINS_MAX];
    int join_count;
    uint64_t joined, made;  // namespace flags
    bool go_between;
};

// --- messages between the agent and the child ---

void report_to_agent(int sync_fd, const struct report *report, int fd) {
    char control[CMSG_SPACE(sizeof fd)] __attribute__((aligned(8))) = {0};
    struct iovec part = {(void *)report, sizeof *report};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    sendmsg(sync_fd, &message, MSG_NOSIGNAL);
}

// Size of the message; 0 at the end; -1 when there is none now.
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
    report_to_agent(sync_fd, &report, -1);
    _exit(126);
}

static void await_agent(int sync_fd, char expected) {
    char word;
    ssize_t got;
    do got = read(sync_fd, &word, 1);
    while (got < 0 && errno == EINTR);
    if (got != 1 || word != expected) _exit(126);
}

// --- the child: namespaces ---

static int join_namespaces(const struct launch *launch) {
    for (int i = 0; i < launch->join_count; i++) {
        uint64_t flags = launch->joins[i].flags & ~(uint64_t)(launch->go_between ? 0 : CLONE_NEWPID);
        if (flags && setns(launch->joins[i].pidfd, (int)flags) < 0) return fault_call("setns", "/proc/PID/ns");
    }
    return 0;
}

// Root of the user namespace, if the namespace has one: until then the process has an id that nothing maps.
static int become_namespace_root(void) {
    if (syscall(SYS_setresgid, 0, 0, 0) < 0 && errno != EINVAL) return fault_call("setresgid", "0");
    if (syscall(SYS_setgroups, 0, NULL) < 0 && errno != EPERM) return fault_call("setgroups", "0");
    if (syscall(SYS_setresuid, 0, 0, 0) < 0 && errno != EINVAL) return fault_call("setresuid", "0");
    return 0;
}

static int new_time_namespace(const Plan *plan) {
    const char *offsets = "";
    for (size_t i = 0; i < plan->n_namespaces; i++)
        if (plan->namespaces[i]->clone_flag == CLONE_NEWTIME) offsets = plan->namespaces[i]->time_offsets;
    if (unshare(CLONE_NEWTIME) < 0) return fault_call("unshare", "CLONE_NEWTIME");
    if (*offsets && write_file(agent.proc_fd, "self/timens_offsets", offsets, strlen(offsets)) < 0)
        return fault_call("write", "/proc/self/timens_offsets");
    int fd = openat(agent.proc_fd, "self/ns/time_for_children", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWTIME) < 0) return fault_call("setns", "/proc/self/ns/time_for_children");
    return close(fd);
}

// Those that clone3(2) cannot make as they are wanted: it roots a new cgroup namespace at the parent's cgroup, and
// enters a new time namespace before its offsets are set.
static int make_late_namespaces(const struct launch *launch) {
    if ((launch->made & CLONE_NEWCGROUP) && unshare(CLONE_NEWCGROUP) < 0) return fault_call("unshare", "CLONE_NEWCGROUP");
    if ((launch->made & CLONE_NEWTIME) && new_time_namespace(launch->plan) < 0) return -1;
    return launch->made & CLONE_NEWNET ? network_lo_up() : 0;
}

// --- the child: root ---

// A mount that a new user namespace inherited is locked to its place, and pivot_root(2) refuses it: a bind of it is not.
static int open_root(const Plan *plan, bool make_mount, bool inherited) {
    uint64_t attributes[32] = {0};  // struct statx, which not every libc declares
    int fd = open(plan->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return fault_call("open", plan->root);
    if (!make_mount) return fd;
    syscall(SYS_statx, fd, "", AT_EMPTY_PATH, 0, attributes);
    if (!inherited && (attributes[STATX_ATTRIBUTES_OFFSET / 8] & STATX_ATTR_MOUNT_ROOT)) return fd;
    close(fd);
    if (mount(plan->root, plan->root, NULL, MS_BIND | MS_REC, NULL) < 0) return fault_call("mount", plan->root);
    fd = open(plan->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? fault_call("open", plan->root) : fd;
}

// pivot_root(".", "."), pivot_root(2) NOTES: the old root lies on top of the new one and is taken away from there.
static int pivot(int root_fd) {
    int old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (old < 0) return fault_call("open", "/");
    if (fchdir(root_fd) < 0 || sys_pivot_root(".", ".") < 0) return fault_call("pivot_root", "root");
    if (fchdir(old) < 0 || mount(NULL, ".", NULL, MS_SLAVE | MS_REC, NULL) < 0) return fault_call("mount", "old root");
    if (umount2(".", MNT_DETACH) < 0) return fault_call("umount", "old root");
    close(old);
    return chdir("/") < 0 ? fault_call("chdir", "/") : 0;
}

static int set_names(const Plan *plan) {
    size_t host = strlen(plan->hostname), domain = strlen(plan->domainname);
    if (host && sethostname(plan->hostname, host) < 0) return fault_call("sethostname", plan->hostname);
    if (domain && setdomainname(plan->domainname, domain) < 0) return fault_call("setdomainname", plan->domainname);
    return 0;
}

// The new mount namespace forgets the guest's peers at once; what propagation the container's root shall have is set
// when it is the root, since pivot_root(2) refuses shared mounts.
static int change_root(const struct launch *launch, struct place *place) {
    const Plan *plan = launch->plan;
    if (!(launch->made & CLONE_NEWNS)) return fchdir(place->root_fd) < 0 || chroot(".") < 0 ? fault_call("chroot", plan->root) : 0;
    if (pivot(place->root_fd) < 0) return -1;
    uint64_t propagation = plan->root_propagation;
    if ((propagation & (MS_SHARED | MS_UNBINDABLE)) && mount(NULL, "/", NULL, propagation, NULL) < 0)
        return fault_call("mount", "/ propagation");
    return 0;
}

static int enter_container(const struct launch *launch, int *master) {
    const Plan *plan = launch->plan;
    bool own_mounts = launch->made & CLONE_NEWNS;
    uint64_t first = MS_REC | (plan->root_propagation & MS_PRIVATE ? MS_PRIVATE : MS_SLAVE);
    if (own_mounts && mount(NULL, "/", NULL, first, NULL) < 0) return fault_call("mount", "/ propagation");
    bool inherited = (launch->made | launch->joined) & CLONE_NEWUSER;
    struct place place = {.root = plan->root, .root_fd = open_root(plan, own_mounts, inherited)};
    if (place.root_fd < 0) return -1;
    if (run_steps(&place, plan->n_inside, plan->inside) < 0) return -1;
    if (plan->process->terminal && terminal_open(launch->process, place.root_fd, plan->console, master) < 0) return -1;
    if (change_root(launch, &place) < 0 || fchdir(agent.proc_fd) < 0) return -1;
    close(place.root_fd);
    place = (struct place){.root = "/", .root_fd = -1, .pivoted = true};
    if (run_steps(&place, plan->n_finish, plan->finish) < 0) return -1;
    close_fd(&place.root_fd);
    return set_names(plan);
}

static int enter_running_container(const struct launch *launch, int *master) {
    if (!launch->process->spec->terminal) return 0;
    int root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root_fd < 0) return fault_call("open", "/");
    if (fchdir(agent.proc_fd) < 0) return fault_call("fchdir", "/proc");
    int status = terminal_open(launch->process, root_fd, false, master);
    close(root_fd);
    return status;
}

// --- the child ---

// A container that waits for its start must not hold other processes' pipes open.
static void close_all_but(const int *keep, size_t count) {
    int low = 3;
    for (;;) {
        int next = INT32_MAX;
        for (size_t i = 0; i < count; i++)
            if (keep[i] >= low && keep[i] < next) next = keep[i];
        if (next > low) syscall(SYS_close_range, low, next == INT32_MAX ? ~0u : (unsigned)next - 1, 0);
        if (next == INT32_MAX) return;
        low = next + 1;
    }
}

static void keep_own_descriptors(const struct launch *launch) {
    int keep[6 + JOINS_MAX] = {launch->sync, agent.proc_fd, agent.null_fd,
                               launch->stdio.in, launch->stdio.out, launch->stdio.err};
    for (int i = 0; i < launch->join_count; i++) keep[6 + i] = launch->joins[i].pidfd;
    close_all_but(keep, 6 + launch->join_count);
}

static int take_stdio(const struct launch *launch) {
    if (launch->process->terminal) return 0;
    const struct stdio *stdio = &launch->stdio;
    if (dup2(stdio->in >= 0 ? stdio->in : agent.null_fd, 0) < 0 || dup2(stdio->out, 1) < 0 || dup2(stdio->err, 2) < 0)
        return fault_call("dup2", "stdio");
    return 0;
}

static int set_up(const struct launch *launch, int *master) {
    struct process *process = launch->process;
    uint64_t user = (launch->made | launch->joined) & CLONE_NEWUSER;
    if (launch->made & CLONE_NEWUSER) await_agent(launch->sync, 'm');
    if (user && become_namespace_root() < 0) return -1;
    // Keys of one container are none of another's business.
    syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL);
    if (make_late_namespaces(launch) < 0) return -1;
    int status = process->exec_id ? enter_running_container(launch, master) : enter_container(launch, master);
    return status < 0 ? -1 : take_stdio(launch);
}

static _Noreturn void child_main(const struct launch *launch) {
    int master = -1;
    if (set_up(launch, &master) < 0) child_failed(launch->sync);
    struct report report = {.kind = REPORT_READY};
    report_to_agent(launch->sync, &report, master);
    close_fd(&master);
    await_agent(launch->sync, 'g');
    if (launch->sync != SYNC_FD && dup3(launch->sync, SYNC_FD, O_CLOEXEC) < 0) _exit(126);
    sys_close_range(SYNC_FD + 1);
    int error = apply_and_execute(launch->process);
    if (error < 0) child_failed(SYNC_FD);
    report = (struct report){.kind = REPORT_EXEC_FAILED, .error = error};
    report_to_agent(SYNC_FD, &report, -1);
    _exit(error == ENOENT ? 127 : 126);
}

static uint64_t clone_flags(const struct launch *launch) {
    return launch->made & ~(uint64_t)(CLONE_NEWCGROUP | CLONE_NEWTIME);
}

static _Noreturn void first_child(const struct launch *launch) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    keep_own_descriptors(launch);
    if (join_namespaces(launch) < 0) child_failed(launch->sync);
    if (!launch->go_between) child_main(launch);
    pid_t pid = sys_clone3(clone_flags(launch) | CLONE_PARENT, -1);
    if (pid == 0) child_main(launch);
    if (pid < 0) {
        fault_call("clone3", launch->process->container->id);
        child_failed(launch->sync);
    }
    struct report report = {.kind = REPORT_MOVED, .error = pid};
    report_to_agent(launch->sync, &report, -1);
    _exit(0);
}

// --- the agent's side ---

static int add_join(struct launch *launch, const struct container *target, uint64_t flag) {
    int pidfd = sys_pidfd_open(target->init->pid);
    if (pidfd < 0) return fault_call("pidfd_open", target->id);
    launch->joined |= flag;
    // The user namespace first: it gives the rights to join the others.
    int at = launch->join_count++;
    if (flag & CLONE_NEWUSER) {
        launch->joins[at] = launch->joins[0];
        at = 0;
    }
    launch->joins[at] = (struct join){pidfd, flag};
    return 0;
}

static int plan_namespaces(struct launch *launch) {
    uint64_t own = 0;
    for (size_t i = 0; i < launch->plan->n_namespaces; i++) {
        const Namespace *namespace = launch->plan->namespaces[i];
        own |= namespace->clone_flag;
        if (launch->process->exec_id) continue;
        struct container *other = *namespace->container_id ? container_find(namespace->container_id) : NULL;
        if (!other)
            launch->made |= namespace->clone_flag;
        else if (add_join(launch, other, namespace->clone_flag) < 0)
            return -1;
    }
    if (launch->process->exec_id) return own ? add_join(launch, launch->process->container, own) : 0;
    launch->go_between = launch->join_count && ((launch->made | launch->joined) & CLONE_NEWUSER);
    return 0;
}

// A pid namespace is entered by the children of who joins it: the agent joins for the time of one clone.
static int enter_pid_namespace(const struct launch *launch) {
    if (!(launch->joined & CLONE_NEWPID) || launch->go_between) return 0;
    if (agent.pid_namespace_fd < 0) agent.pid_namespace_fd = openat(agent.proc_fd, "self/ns/pid", O_RDONLY | O_CLOEXEC);
    if (agent.pid_namespace_fd < 0) return fault_call("open", "/proc/self/ns/pid");
    for (int i = 0; i < launch->join_count; i++)
        if ((launch->joins[i].flags & CLONE_NEWPID) && setns(launch->joins[i].pidfd, CLONE_NEWPID) < 0)
            return fault_call("setns", "/proc/PID/ns/pid");
    return 0;
}

static void leave_pid_namespace(const struct launch *launch) {
    if (!(launch->joined & CLONE_NEWPID) || launch->go_between) return;
    if (setns(agent.pid_namespace_fd, CLONE_NEWPID) < 0) complain("cannot return to the pid namespace of the guest");
}

static int clone_child(struct launch *launch) {
    struct container *container = launch->process->container;
    uint64_t flags = launch->go_between ? 0 : clone_flags(launch);
    pid_t pid = sys_clone3(flags, container->cgroup_fd);
    if (pid < 0 && errno == EBUSY && launch->process->exec_id) {
        // The container moved itself into a cgroup below (systemd does): follow it.
        int cgroup_fd = cgroup_open_of(container->init->pid);
        if (cgroup_fd < 0) return -1;
        pid = sys_clone3(flags, cgroup_fd);
        if (pid) close(cgroup_fd);
    }
    if (pid == 0) first_child(launch);
    return pid < 0 ? fault_call("clone3", container->id) : pid;
}

static int write_map(pid_t pid, const char *name, size_t count, Sandboxd__Agent__V1__IdMap **maps) {
    char path[64], text[4096];
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        size += snprintf(text + size, sizeof text - size, "%u %u %u\n", maps[i]->container_id, maps[i]->host_id, maps[i]->size);
        if (size >= sizeof text) return fault(CODE_INVALID_ARGUMENT, "%s is over %zu bytes", name, sizeof text);
    }
    snprintf(path, sizeof path, "%d/%s", (int)pid, name);
    return write_file(agent.proc_fd, path, text, size) < 0 ? fault_call("write", path) : 0;
}

// Writes the id maps of a new user namespace and lets the child go on.
int spawn_map_ids(struct process *process) {
    const Plan *plan = process->container->plan;
    bool made = false;
    for (size_t i = 0; i < plan->n_namespaces && !process->exec_id; i++)
        made |= plan->namespaces[i]->clone_flag == CLONE_NEWUSER && !*plan->namespaces[i]->container_id;
    if (!made) return 0;
    if (write_map(process->pid, "uid_map", plan->n_uid_map, plan->uid_map) < 0) return -1;
    if (write_map(process->pid, "gid_map", plan->n_gid_map, plan->gid_map) < 0) return -1;
    return send(process->sync.fd, "m", 1, MSG_NOSIGNAL) == 1 ? 0 : fault_call("send", "child");
}

static int start_child(struct launch *launch) {
    struct process *process = launch->process;
    if (plan_namespaces(launch) < 0 || enter_pid_namespace(launch) < 0) return -1;
    int pid = clone_child(launch);
    leave_pid_namespace(launch);
    if (pid < 0) return -1;
    process->pid = pid;
    if (launch->go_between || spawn_map_ids(process) == 0) return 0;
    struct fault fault = the_fault;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    the_fault = fault;
    return -1;
}

int spawn(struct process *process) {
    int sync[2];
    struct launch launch = {.process = process, .plan = process->container->plan, .sync = -1};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sync) < 0) return fault_call("socketpair", "child");
    process->sync.fd = sync[0];
    launch.sync = sync[1];
    int status = stdio_open(process, &launch.stdio);
    if (status == 0) status = start_child(&launch);
    stdio_close_child(&launch.stdio);
    close(launch.sync);
    for (int i = 0; i < launch.join_count; i++) close(launch.joins[i].pidfd);
    return status;
}
