// cgroup v2: one cgroup for each container, its files read raw, its events waited for.
#include "agent.h"

#include <ctype.h>
#include <dirent.h>
#include <linux/bpf.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#define DEPTH_MAX 64       // a container may make cgroups of its own, but not make us recurse for ever
#define PIDS_MAX 65536
#define STATISTIC_SIZE_MAX 16384
#define DEVICE_PROGRAM_MAX 4096

// --- boot ---

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
    if (size && write_file(AT_FDCWD, "/sys/fs/cgroup/cgroup.subtree_control", wanted, size) < 0)
        return fault_call("write", "/sys/fs/cgroup/cgroup.subtree_control");
    return 0;
}

// --- one cgroup ---

bool cgroup_path_valid(const char *path) {
    if (!*path || *path == '/' || strlen(path) > 1024) return false;
    for (const char *name = path; name; name = strchr(name, '/') ? strchr(name, '/') + 1 : NULL) {
        size_t size = strcspn(name, "/");
        if (!size || !strncmp(name, ".", size) || (size == 2 && !strncmp(name, "..", 2))) return false;
    }
    return true;
}

int cgroup_attach_device_filter(int cgroup_fd, ProtobufCBinaryData program) {
    union bpf_attr load = {.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE};
    if (program.len % sizeof(struct bpf_insn) || program.len / sizeof(struct bpf_insn) > DEVICE_PROGRAM_MAX)
        return fault(CODE_INVALID_ARGUMENT, "the device filter is not 1 to %d instructions", DEVICE_PROGRAM_MAX);
    load.insns = (uintptr_t)program.data;
    load.insn_cnt = program.len / sizeof(struct bpf_insn);
    load.license = (uintptr_t) "Apache-2.0";
    int fd = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load);
    if (fd < 0) return fault_call("bpf", "BPF_PROG_LOAD");
    union bpf_attr attach = {0};
    attach.target_fd = cgroup_fd;
    attach.attach_bpf_fd = fd;
    attach.attach_type = BPF_CGROUP_DEVICE;
    attach.attach_flags = BPF_F_ALLOW_MULTI;
    int status = syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach);
    if (status < 0) fault_call("bpf", "BPF_PROG_ATTACH");
    close(fd);
    return status;
}

// The number after "key " in a flat keyed file; -1 when it is not there.
static int64_t keyed(const char *text, const char *key) {
    size_t size = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (!strncmp(line, key, size) && line[size] == ' ') return strtoll(line + size, NULL, 10);
    return -1;
}

int cgroup_read_flag(struct container *container, const char *key) {
    char text[256];
    if (read_file(container->cgroup_fd, "cgroup.events", text, sizeof text) < 0) return -1;
    return (int)keyed(text, key);
}

// Events files become ready again with each change after a read of the same open file (cgroup-v2.rst, "[Un]populated
// Notification"). Reading here and waking whoever is held costs one look at each of them.
static void on_event(struct watch *watch, uint32_t events) {
    (void)events;
    char text[512];
    ssize_t got = pread(watch->fd, text, sizeof text, 0);
    if (got >= 0) watch_arm(watch, EPOLLPRI);
    something_changed();
}

static int watch_file(struct container *container, struct watch *watch, const char *name) {
    char text[512];
    if (watch->fd >= 0) return 0;
    *watch = (struct watch){.fd = openat(container->cgroup_fd, name, O_RDONLY | O_CLOEXEC), .ready = on_event};
    if (watch->fd < 0 || pread(watch->fd, text, sizeof text, 0) < 0) return fault_call("read", name);
    return watch_arm(watch, EPOLLPRI);
}

int cgroup_watch_events(struct container *container) {
    return watch_file(container, &container->cgroup_events, "cgroup.events");
}

void cgroup_kill(struct container *container) {
    if (container->cgroup_fd >= 0) write_file(container->cgroup_fd, "cgroup.kill", "1", 1);
}

uint64_t cgroup_oom_kills(struct container *container) {
    char text[512];
    if (container->cgroup_fd < 0 || read_file(container->cgroup_fd, "memory.events", text, sizeof text) < 0) return 0;
    int64_t kills = keyed(text, "oom_kill");
    return kills < 0 ? 0 : kills;
}

// The cgroup that a process is in now.
int cgroup_open_of(pid_t pid) {
    char path[32], text[4200];
    snprintf(path, sizeof path, "%d/cgroup", (int)pid);
    if (read_file(agent.proc_fd, path, text, sizeof text) < 0) return fault_call("read", path);
    char *line = strstr(text, "0::/");
    if (!line) return fault(CODE_INTERNAL, "process %d is in no cgroup", (int)pid);
    line[strcspn(line, "\n")] = 0;
    int fd = openat(agent.cgroup_fd, line[4] ? line + 4 : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? fault_call("open", line) : fd;
}

// --- trees of cgroups ---

// Calls visit for each cgroup below and including fd, the deepest first. Closes fd.
static int walk(int fd, int depth, int (*visit)(int fd, void *data), int (*left)(int parent, const char *name), void *data) {
    DIR *directory = depth < DEPTH_MAX ? fdopendir(fd) : NULL;
    if (!directory) {
        close(fd);
        return fault(CODE_INTERNAL, "cgroups are nested more than %d deep", DEPTH_MAX);
    }
    int status = 0;
    for (struct dirent *entry; status == 0 && (entry = readdir(directory));) {
        if (entry->d_type != DT_DIR || !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        int child = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (child < 0) continue;  // gone meanwhile
        status = walk(child, depth + 1, visit, left, data);
        if (status == 0 && left) status = left(fd, entry->d_name);
    }
    if (status == 0 && visit) status = visit(fd, data);
    closedir(directory);
    return status;
}

static int remove_child(int parent, const char *name) {
    return unlinkat(parent, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? fault_call("rmdir", name) : 0;
}

int cgroup_remove(const char *path) {
    int fd = openat(agent.cgroup_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? 0 : fault_call("open", path);
    if (walk(fd, 0, NULL, remove_child, NULL) < 0) return -1;
    return unlinkat(agent.cgroup_fd, path, AT_REMOVEDIR) < 0 ? fault_call("rmdir", path) : 0;
}

static int take_pid(struct pid_list *list, uint32_t pid) {
    if (list->count >= PIDS_MAX) return fault(CODE_RESOURCE_EXHAUSTED, "the container has over %d processes", PIDS_MAX);
    if (list->count % 256 == 0) {
        uint32_t *pids = realloc(list->pids, (list->count + 256) * sizeof *pids);
        if (!pids) return fault_memory();
        list->pids = pids;
    }
    list->pids[list->count++] = pid;
    return 0;
}

static int take_pids(int fd, void *data) {
    struct pid_list *list = data;
    int status = 0;
    int procs = openat(fd, "cgroup.procs", O_RDONLY | O_CLOEXEC);
    FILE *file = procs < 0 ? NULL : fdopen(procs, "r");
    if (!file) {
        close_fd(&procs);
        return 0;  // gone, or a threaded cgroup: its processes are listed above
    }
    for (unsigned pid; status == 0 && fscanf(file, "%u", &pid) == 1;) status = take_pid(list, pid);
    fclose(file);
    return status;
}

int cgroup_pids(struct container *container, struct pid_list *list) {
    int fd = openat(container->cgroup_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? fault_call("open", container->plan->cgroup) : walk(fd, 0, take_pids, NULL, list);
}

// --- calls ---

enum outcome handle_list_processes(struct request *request, const Sandboxd__Agent__V1__ListProcessesRequest *message) {
    (void)message;
    Sandboxd__Agent__V1__ListProcessesResponse response = SANDBOXD__AGENT__V1__LIST_PROCESSES_RESPONSE__INIT;
    struct container *container = request->container;
    if (container->cgroup_fd < 0) return fault(CODE_FAILED_PRECONDITION, "container %s has no cgroup", container->id);
    struct pid_list list = {0};
    int status = cgroup_pids(container, &list);
    response.n_pids = list.count;
    response.pids = list.pids;
    if (status == 0) answer(&request->call, &response.base);
    free(list.pids);
    return status < 0 ? FAILED : DONE;
}

enum outcome handle_watch_oom(struct request *request, const Sandboxd__Agent__V1__WatchOomRequest *message) {
    Sandboxd__Agent__V1__WatchOomResponse response = SANDBOXD__AGENT__V1__WATCH_OOM_RESPONSE__INIT;
    struct container *container = request->container;
    if (!container->ended && container->cgroup_fd < 0)
        return fault(CODE_FAILED_PRECONDITION, "container %s has no cgroup", container->id);
    if (!container->ended && watch_file(container, &container->memory_events, "memory.events") < 0) return FAILED;
    response.oom_kills = cgroup_oom_kills(container);
    if (response.oom_kills <= message->seen && !container->ended)
        return hold(request, HOLD_FOR_EVER, "an OOM kill in container %.60s", container->id);
    answer(&request->call, &response.base);
    return DONE;
}

// --- statistics ---

static const char *const cgroup_files[] = {
    "cgroup.events", "cpu.max", "cpu.stat", "cpu.weight", "cpuset.cpus.effective", "io.stat", "memory.current",
    "memory.events", "memory.high", "memory.low", "memory.max", "memory.peak", "memory.stat", "memory.swap.current",
    "memory.swap.max", "pids.current", "pids.max",
};
#define CGROUP_FILE_COUNT (sizeof cgroup_files / sizeof *cgroup_files)

struct statistics {
    struct request *request;
    size_t count;
    Sandboxd__Agent__V1__StatsResponse__FilesEntry entries[CGROUP_FILE_COUNT + 3], *pointers[CGROUP_FILE_COUNT + 3];
};

static void add_text(struct statistics *statistics, const char *key, const char *text, size_t size) {
    char *copy = arena_take(&statistics->request->arena, size + 1);
    if (!copy) return;
    for (size_t i = 0; i < size; i++) copy[i] = (unsigned char)text[i] < 0x7f ? text[i] : '?';  // names of interfaces
    copy[size] = 0;
    Sandboxd__Agent__V1__StatsResponse__FilesEntry *entry = &statistics->entries[statistics->count];
    *entry = (Sandboxd__Agent__V1__StatsResponse__FilesEntry)SANDBOXD__AGENT__V1__STATS_RESPONSE__FILES_ENTRY__INIT;
    entry->key = (char *)key;
    entry->value = copy;
    statistics->pointers[statistics->count++] = entry;
}

static void add_file(struct statistics *statistics, const char *key, int dir, const char *path) {
    static char text[STATISTIC_SIZE_MAX];
    ssize_t size = read_file(dir, path, text, sizeof text);
    if (size >= 0) add_text(statistics, key, text, size);
}

static void add_root(struct statistics *statistics, int root_fd) {
    struct statfs root;
    char text[128];
    if (root_fd < 0 || fstatfs(root_fd, &root) < 0) return;
    unsigned long long block = root.f_bsize;
    int size = snprintf(text, sizeof text, "%llu %llu %llu %llu %llu", root.f_blocks * block, root.f_bfree * block,
                        root.f_bavail * block, (unsigned long long)root.f_files, (unsigned long long)root.f_ffree);
    add_text(statistics, "statfs", text, size);
}

enum outcome handle_stats(struct request *request, const Sandboxd__Agent__V1__StatsRequest *message) {
    (void)message;
    Sandboxd__Agent__V1__StatsResponse response = SANDBOXD__AGENT__V1__STATS_RESPONSE__INIT;
    struct container *container = request->container;
    struct statistics statistics = {.request = request};
    for (size_t i = 0; container->cgroup_fd >= 0 && i < CGROUP_FILE_COUNT; i++)
        add_file(&statistics, cgroup_files[i], container->cgroup_fd, cgroup_files[i]);
    char path[32];
    bool alive = container->init && !container->ended;
    snprintf(path, sizeof path, "%d/net/dev", alive ? (int)container->init->pid : 1);
    add_file(&statistics, "net/dev", agent.proc_fd, path);
    add_file(&statistics, "meminfo", agent.proc_fd, "meminfo");
    add_root(&statistics, container->root_fd);
    response.taken_unix_ns = wall_clock_ns();
    response.n_files = statistics.count;
    response.files = statistics.pointers;
    answer(&request->call, &response.base);
    return DONE;
}
