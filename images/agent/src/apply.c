// The last steps of a child: becomes whom the plan says, gives up what it says, executes.
#include "agent.h"

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define NOFILE_SOFT 1024  // the kernel's own default, for who asks for nothing else
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define DEFAULT_UMASK 022

// struct sched_attr of linux/sched/types.h, which quarrels with sched.h.
struct scheduling {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

// --- from outside ---

static int set_limits(pid_t pid, const Process *spec) {
    struct rlimit limit = {NOFILE_SOFT, RLIM_INFINITY};
    struct rlimit own;
    if (getrlimit(RLIMIT_NOFILE, &own) == 0) limit.rlim_max = own.rlim_max;
    if (prlimit(pid, RLIMIT_NOFILE, &limit, NULL) < 0) return fault_call("prlimit", "RLIMIT_NOFILE");
    for (size_t i = 0; i < spec->n_rlimits; i++) {
        limit = (struct rlimit){spec->rlimits[i]->soft, spec->rlimits[i]->hard};
        char which[32];
        snprintf(which, sizeof which, "resource %u", spec->rlimits[i]->resource);
        if (prlimit(pid, (int)spec->rlimits[i]->resource, &limit, NULL) < 0) return fault_call("prlimit", which);
    }
    return 0;
}

static int set_scheduler(pid_t pid, const MESSAGE(Scheduler) * scheduler) {
    struct scheduling attributes = {
        .size = sizeof attributes,
        .policy = scheduler->policy,
        .flags = scheduler->flags,
        .nice = scheduler->nice,
        .priority = scheduler->priority,
        .runtime = scheduler->runtime_ns,
        .deadline = scheduler->deadline_ns,
        .period = scheduler->period_ns,
    };
    return syscall(SYS_sched_setattr, pid, &attributes, 0) < 0 ? fault_call("sched_setattr", "process") : 0;
}

static int set_affinity(pid_t pid, const Process *spec) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    for (size_t i = 0; i < spec->n_cpu_affinity; i++) {
        if (spec->cpu_affinity[i] >= CPU_SETSIZE) return fault(CODE_INVALID_ARGUMENT, "CPU %u is too large", spec->cpu_affinity[i]);
        CPU_SET(spec->cpu_affinity[i], &cpus);
    }
    return sched_setaffinity(pid, sizeof cpus, &cpus) < 0 ? fault_call("sched_setaffinity", "process") : 0;
}

static int set_oom_score(pid_t pid, int score) {
    char path[32], text[16];
    snprintf(path, sizeof path, "%d/oom_score_adj", (int)pid);
    int size = snprintf(text, sizeof text, "%d", score);
    return write_file(agent.proc_fd, path, text, size) < 0 ? fault_call("write", path) : 0;
}

int apply_from_outside(pid_t pid, const Process *spec) {
    if (spec->maybe_oom_score_adj_case == SANDBOXD__AGENT__V1__PROCESS__MAYBE_OOM_SCORE_ADJ_OOM_SCORE_ADJ &&
        set_oom_score(pid, spec->oom_score_adj) < 0)
        return -1;
    if (spec->scheduler && set_scheduler(pid, spec->scheduler) < 0) return -1;
    if (spec->maybe_io_priority_case == SANDBOXD__AGENT__V1__PROCESS__MAYBE_IO_PRIORITY_IO_PRIORITY &&
        syscall(SYS_ioprio_set, 1 /* IOPRIO_WHO_PROCESS */, pid, spec->io_priority) < 0)
        return fault_call("ioprio_set", "process");
    if (spec->n_cpu_affinity && set_affinity(pid, spec) < 0) return -1;
    return set_limits(pid, spec);
}

// --- in the child ---

static int new_session(bool terminal) {
    if (setsid() < 0 && errno != EPERM) return fault_call("setsid", "process");
    return terminal && ioctl(0, TIOCSCTTY, 0) < 0 ? fault_call("ioctl", "TIOCSCTTY") : 0;
}

// Whoever it becomes may open /dev/stdout again.
static int give_stdio(const Process *spec) {
    struct stat null, stat;
    if (!spec->uid || fstat(0, &null) < 0) return 0;
    for (int fd = 0; fd <= 2; fd++) {
        if (fstat(fd, &stat) < 0 || (S_ISCHR(stat.st_mode) && !spec->terminal)) continue;
        if (fchown(fd, spec->uid, (gid_t)-1) < 0 && errno != EINVAL && errno != EPERM) return fault_call("fchown", "stdio");
    }
    return 0;
}

// Only a directory below the root counts: a name such as /proc/self/fd/7 must not lead out (CVE-2024-21626).
static int inside_root(const char *path) {
    char text[4096];
    if (syscall(SYS_getcwd, text, sizeof text) > 0 && *text == '/') return 0;
    return fault(CODE_INVALID_ARGUMENT, "the working directory %.200s is outside of the container", path);
}

static int enter_directory(const Process *spec, bool make) {
    if (chdir(spec->cwd) == 0) return inside_root(spec->cwd);
    if (errno != ENOENT || !make) return fault_call("chdir", spec->cwd);
    int root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root_fd < 0) return fault_call("open", "/");
    int status = make_directories_in_root(root_fd, spec->cwd);
    close(root_fd);
    if (status < 0) return -1;
    return chdir(spec->cwd) < 0 ? fault_call("chdir", spec->cwd) : inside_root(spec->cwd);
}

static int drop_bounding(uint64_t keep) {
    for (int capability = 0; capability < 64; capability++) {
        if (keep >> capability & 1) continue;
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0) continue;
        if (errno == EINVAL) return 0;  // past the last one
        return fault_call("prctl", "PR_CAPBSET_DROP");
    }
    return 0;
}

static int set_capabilities(uint64_t effective, uint64_t permitted, uint64_t inheritable) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    for (int i = 0; i < 2; i++)
        data[i] = (struct __user_cap_data_struct){effective >> 32 * i, permitted >> 32 * i, inheritable >> 32 * i};
    return syscall(SYS_capset, &header, data) < 0 ? fault_call("capset", "process") : 0;
}

static int raise_ambient(uint64_t ambient) {
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0) return fault_call("prctl", "PR_CAP_AMBIENT");
    for (int capability = 0; capability < 64; capability++)
        if ((ambient >> capability & 1) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) < 0)
            return fault_call("prctl", "PR_CAP_AMBIENT");
    return 0;
}

static int set_ids(const Process *spec) {
    // PR_SET_KEEPCAPS ends with execve.
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0) return fault_call("prctl", "PR_SET_KEEPCAPS");
    if (syscall(SYS_setgroups, spec->n_additional_gids, spec->additional_gids) < 0) return fault_call("setgroups", "process");
    if (syscall(SYS_setresgid, spec->gid, spec->gid, spec->gid) < 0) return fault_call("setresgid", "process");
    if (syscall(SYS_setresuid, spec->uid, spec->uid, spec->uid) < 0) return fault_call("setresuid", "process");
    return 0;
}

static int load_seccomp(const Process *spec) {
    if (!spec->seccomp.len) return 0;
    struct sock_fprog program = {spec->seccomp.len / sizeof(struct sock_filter), (struct sock_filter *)spec->seccomp.data};
    long status = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, spec->seccomp_flags, &program);
    return status ? fault_call("seccomp", "filter") : 0;
}

// Without no_new_privileges a filter needs CAP_SYS_ADMIN, so it is loaded before the last capset; with it, as late as
// possible, so that the filter need not allow what happens here.
static int give_up_rights(const Process *spec) {
    static const MESSAGE(Capabilities) none = SANDBOXD__AGENT__V1__CAPABILITIES__INIT;
    const MESSAGE(Capabilities) *wanted = spec->capabilities ? spec->capabilities : &none;
    uint64_t admin = (uint64_t)1 << CAP_SYS_ADMIN;
    bool early = spec->seccomp.len && !spec->no_new_privileges;
    if (drop_bounding(wanted->bounding) < 0 || set_ids(spec) < 0) return -1;
    if (early && set_capabilities(admin, wanted->permitted | admin, wanted->inheritable) < 0) return -1;
    if (early && load_seccomp(spec) < 0) return -1;
    if (set_capabilities(wanted->effective, wanted->permitted, wanted->inheritable) < 0) return -1;
    if (raise_ambient(wanted->ambient) < 0) return -1;
    if (spec->no_new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return fault_call("prctl", "PR_SET_NO_NEW_PRIVS");
    return early ? 0 : load_seccomp(spec);
}

static char **terminated(size_t count, char **texts) {
    char **list = calloc(count + 1, sizeof *list);
    if (!list) return NULL;
    for (size_t i = 0; i < count; i++) list[i] = texts[i];
    return list;
}

static const char *path_of(char **environment) {
    for (; *environment; environment++)
        if (!strncmp(*environment, "PATH=", 5)) return *environment + 5;
    return DEFAULT_PATH;
}

// execvpe(3), with the errno that tells most: EACCES of a file that is there over ENOENT of those that are not.
static int execute(char **args, char **environment) {
    if (strchr(args[0], '/')) {
        execve(args[0], args, environment);
        return errno;
    }
    int error = ENOENT;
    for (const char *entry = path_of(environment); entry; entry = strchr(entry, ':') ? strchr(entry, ':') + 1 : NULL) {
        char file[4096];
        int size = (int)strcspn(entry, ":");
        if (snprintf(file, sizeof file, "%.*s%s%s", size, entry, size ? "/" : "./", args[0]) >= (int)sizeof file) continue;
        execve(file, args, environment);
        if (errno == EACCES)
            error = EACCES;
        else if (errno != ENOENT && errno != ENOTDIR)
            return errno;
    }
    return error;
}

int apply_and_execute(const struct process *process) {
    const Process *spec = process->spec;
    char **args = terminated(spec->n_args, spec->args), **environment = terminated(spec->n_env, spec->env);
    if (!args || !environment) return fault_memory();
    bool set_umask = spec->maybe_umask_case == SANDBOXD__AGENT__V1__PROCESS__MAYBE_UMASK_UMASK;
    if (new_session(spec->terminal) < 0 || give_stdio(spec) < 0) return -1;
    uint64_t persona = process->container->plan->personality;
    if (persona && personality(persona) < 0) return fault_call("personality", "process");
    bool make = !process->exec_id;
    umask(DEFAULT_UMASK);
    // As root, since it may have to be made; a directory that root may not enter (NFS) is tried again as the user.
    bool entered = enter_directory(spec, make) == 0;
    if (!entered && errno != EACCES) return -1;
    umask(set_umask ? spec->umask & 0777 : DEFAULT_UMASK);
    if (give_up_rights(spec) < 0) return -1;
    if (!entered && enter_directory(spec, false) < 0) return -1;
    return execute(args, environment);
}
