// cgroup v2: one cgroup for each container, its files read raw, its events waited for.
#include "agent.h"

#include <dirent.h>
#include <linux/bpf.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#define DEPTH_MAX 64  // a container may make cgroups of its own, but not make us recurse for ever
#define STATISTIC_SIZE_MAX 16384
#define DEVICE_PROGRAM_MAX 4096

// Every controller that the kernel has, for all cgroups below. Who makes a cgroup in between passes them on.
int cgroup_mount(void) {
    char names[512], wanted[600];
    size_t size = 0;
    if (mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, "nsdelegate") < 0)
        return fault_call("mount", "/sys/fs/cgroup");
    if (read_file(AT_FDCWD, "/sys/fs/cgroup/cgroup.controllers", names, sizeof names) < 0)
        return fault_call("read", "/sys/fs/cgroup/cgroup.controllers");
    for (char *rest = names, *name; (name = strtok_r(rest, " \n", &rest));)
        size += snprintf(wanted + size, sizeof wanted - size, "+%s ", name);
    return checked(write_file(AT_FDCWD, "/sys/fs/cgroup/cgroup.subtree_control", wanted, size), "write", "cgroup.subtree_control");
}

// --- one cgroup ---

// Relative and without "." or ".."; empty: none.
bool cgroup_path_valid(const char *path) {
    for (const char *name = path; *path && name; name = strchr(name, '/') ? strchr(name, '/') + 1 : NULL) {
        size_t size = strcspn(name, "/");
        if (!size || (size <= 2 && !strncmp(name, "..", size)) || size > 255) return false;
    }
    return true;
}

int cgroup_attach_device_filter(int cgroup_fd, ProtobufCBinaryData program) {
    union bpf_attr load = {.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE}, attach = {0};
    if (program.len % sizeof(struct bpf_insn) || program.len / sizeof(struct bpf_insn) > DEVICE_PROGRAM_MAX)
        return fault(CODE_INVALID_ARGUMENT, "the device filter is not 1 to %d instructions", DEVICE_PROGRAM_MAX);
    load.insns = (uintptr_t)program.data;
    load.insn_cnt = program.len / sizeof(struct bpf_insn);
    load.license = (uintptr_t) "Apache-2.0";
    SCOPED int fd = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load);
    if (fd < 0) return fault_call("bpf", "BPF_PROG_LOAD");
    attach.target_fd = cgroup_fd;
    attach.attach_bpf_fd = fd;
    attach.attach_type = BPF_CGROUP_DEVICE;
    attach.attach_flags = BPF_F_ALLOW_MULTI;
    return checked(syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach), "bpf", "BPF_PROG_ATTACH");
}

// The number after "key " in a flat keyed file; -1 when it is not there.
static int64_t keyed(const char *text, const char *key) {
    size_t size = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (!strncmp(line, key, size) && line[size] == ' ') return strtoll(line + size, NULL, 10);
    return -1;
}

// Events files become ready again with each change after a read of the same open file (cgroup-v2.rst, "[Un]populated
// Notification"), so the read that answers is the one that rearms.
static void on_event(struct watch *watch) {
    wake(watch->owner);
}

static int64_t read_events(struct container *container, struct watch *watch, const char *name, const char *key) {
    char text[512];
    if (container->cgroup_fd < 0) return -1;
    if (watch->fd < 0) {
        int fd = openat(container->cgroup_fd, name, O_RDONLY | O_CLOEXEC);
        *watch = (struct watch){.fd = fd, .ready = on_event, .owner = container};
    }
    ssize_t size = watch->fd < 0 ? -1 : pread(watch->fd, text, sizeof text - 1, 0);
    if (size < 0 || watch_arm(watch, EPOLLPRI) < 0) return -1;
    text[size] = 0;
    return keyed(text, key);
}

int cgroup_flag(struct container *container, const char *key) {
    return (int)read_events(container, &container->cgroup_events, "cgroup.events", key);
}

uint64_t cgroup_oom_kills(struct container *container) {
    int64_t kills = read_events(container, &container->memory_events, "memory.events", "oom_kill");
    return kills < 0 ? 0 : kills;
}

void cgroup_kill(struct container *container) {
    if (container->cgroup_fd >= 0) write_file(container->cgroup_fd, "cgroup.kill", "1", 1);
}

// The cgroup that a process is in now.
int cgroup_open_of(pid_t pid) {
    char path[32], text[4200], *line;
    snprintf(path, sizeof path, "%d/cgroup", (int)pid);
    if (read_file(agent.proc_fd, path, text, sizeof text) < 0 || !(line = strstr(text, "0::/"))) return -1;
    line[strcspn(line, "\n")] = 0;
    return openat(agent.cgroup_fd, line[4] ? line + 4 : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

// --- trees of cgroups ---

struct visitor {
    int (*visit)(struct visitor *visitor, int fd);                      // each cgroup
    int (*leave)(struct visitor *visitor, int parent, const char *name);  // each below the first, after those below it
    struct arena *arena;
    uint32_t *pids;
    size_t count;
    int number;
};

static int walk(struct visitor *visitor, int fd, int depth) {
    DIR *directory = depth < DEPTH_MAX ? fdopendir(fd) : NULL;
    if (!directory) {
        close(fd);
        return fault(CODE_INTERNAL, "cgroups are nested over %d deep, or memory is short", DEPTH_MAX);
    }
    int status = visitor->visit ? visitor->visit(visitor, fd) : 0;
    for (struct dirent *entry; status == 0 && (entry = readdir(directory));) {
        if (entry->d_type != DT_DIR || !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        int child = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (child < 0) continue;  // gone meanwhile
        status = walk(visitor, child, depth + 1);
        if (status == 0 && visitor->leave) status = visitor->leave(visitor, fd, entry->d_name);
    }
    closedir(directory);
    return status;
}

static int remove_one(struct visitor *visitor UNUSED, int parent, const char *name) {
    return unlinkat(parent, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? fault_call("rmdir", name) : 0;
}

int cgroup_remove(const char *path) {
    struct visitor visitor = {.leave = remove_one};
    int fd = *path ? openat(agent.cgroup_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd < 0) return 0;  // it never got as far
    return walk(&visitor, fd, 0) < 0 ? -1 : remove_one(&visitor, agent.cgroup_fd, path);
}

// Pids of one cgroup into the arena, where nothing else is put meanwhile.
static int take_pids(struct visitor *visitor, int fd) {
    char *text = malloc(1 << 20);
    ssize_t size = text ? read_file(fd, "cgroup.procs", text, 1 << 20) : -1;  // fails in a threaded one: listed above it
    int status = 0;
    for (char *at = text, *end; size > 0 && status == 0 && *at; at = end + 1) {
        uint32_t pid = strtoul(at, &end, 10), *place = arena_take(visitor->arena, 4 * sizeof pid);
        if (*end != '\n') break;
        if (!place) status = fault(CODE_RESOURCE_EXHAUSTED, "the container has over %zu processes", visitor->count);
        if (place && visitor->number && pid) kill((pid_t)pid, visitor->number);
        if (place && !visitor->pids) visitor->pids = place;
        if (place) visitor->pids[visitor->count++] = pid;
    }
    free(text);
    return status;
}

// Signals (or with 0 lists) every process of the container's cgroup and of those below it.
static int each_pid(struct visitor *visitor, struct request *request, struct container *container) {
    int fd = container->cgroup_fd < 0 ? -1 : openat(container->cgroup_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return fault(CODE_FAILED_PRECONDITION, "container %s has no cgroup", container->id);
    visitor->visit = take_pids;
    visitor->arena = &request->arena;
    return walk(visitor, fd, 0);
}

int cgroup_signal(struct request *request, struct container *container, int number) {
    struct visitor visitor = {.number = number};
    if (number != SIGKILL || container->cgroup_fd < 0) return each_pid(&visitor, request, container);
    cgroup_kill(container);
    return 0;
}

HANDLER(ListProcesses, list_processes) {
    MESSAGE(ListProcessesResponse) response = SANDBOXD__AGENT__V1__LIST_PROCESSES_RESPONSE__INIT;
    struct visitor visitor = {0};
    (void)message;
    if (each_pid(&visitor, request, request->container) < 0) return FAILED;
    response.n_pids = visitor.count;
    response.pids = visitor.pids;
    answer(request->call, &response.base);
    return DONE;
}

HANDLER(WatchOom, watch_oom) {
    MESSAGE(WatchOomResponse) response = SANDBOXD__AGENT__V1__WATCH_OOM_RESPONSE__INIT;
    response.oom_kills = cgroup_oom_kills(request->container);
    if (response.oom_kills <= message->seen && !container_ended(request->container))
        return hold(request, request->container, FOR_EVER, "an OOM kill in container %.60s", request->container->id);
    answer(request->call, &response.base);
    return DONE;
}

// --- statistics ---

typedef MESSAGE(StatsResponse__FilesEntry) FilesEntry;

static void add_text(MESSAGE(StatsResponse) * response, struct arena *arena, const char *key, const char *text) {
    FilesEntry *entry = arena_take(arena, sizeof *entry);
    char *copy = entry ? arena_take(arena, strlen(text) + 1) : NULL;
    if (!copy) return;
    *entry = (FilesEntry)SANDBOXD__AGENT__V1__STATS_RESPONSE__FILES_ENTRY__INIT;
    entry->key = (char *)key;
    entry->value = strcpy(copy, text);
    for (; *copy; copy++)
        if (*copy < 0) *copy = '?';  // interfaces may have any name, protobuf strings may not
    response->files[response->n_files++] = entry;
}

HANDLER(Stats, stats) {
    static const char *const names[] = {
        "cgroup.events", "cpu.max", "cpu.stat", "cpu.weight", "cpuset.cpus.effective", "io.stat", "memory.current",
        "memory.events", "memory.high", "memory.low", "memory.max", "memory.peak", "memory.stat", "memory.swap.current",
        "memory.swap.max", "pids.current", "pids.max", "net/dev", "meminfo",
    };
    static const size_t count = sizeof names / sizeof *names;
    static char text[STATISTIC_SIZE_MAX];
    MESSAGE(StatsResponse) response = SANDBOXD__AGENT__V1__STATS_RESPONSE__INIT;
    FilesEntry *entries[sizeof names / sizeof *names + 1];
    struct container *container = request->container;
    struct statfs root;
    char net[32];
    (void)message;
    snprintf(net, sizeof net, "%d/net/dev", container_ended(container) ? 1 : (int)container->init->pid);
    response.files = entries;
    for (size_t i = 0; i < count; i++) {
        bool of_proc = i >= count - 2;
        const char *path = i == count - 2 ? net : names[i];
        if (read_file(of_proc ? agent.proc_fd : container->cgroup_fd, path, text, sizeof text) >= 0)
            add_text(&response, &request->arena, names[i], text);
    }
    if (container->root_fd >= 0 && fstatfs(container->root_fd, &root) == 0) {
        unsigned long long block = root.f_bsize;
        snprintf(text, sizeof text, "%llu %llu %llu %llu %llu", root.f_blocks * block, root.f_bfree * block,
                 root.f_bavail * block, (unsigned long long)root.f_files, (unsigned long long)root.f_ffree);
        add_text(&response, &request->arena, "statfs", text);
    }
    response.taken_unix_ns = wall_clock_ns();
    answer(request->call, &response.base);
    return DONE;
}
