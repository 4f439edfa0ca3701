// The File call: one operation inside a container's root.
//
// A container decides what its files are (a FUSE mount may never answer), so each operation runs in a helper process,
// which is killed when it takes too long. It has the container's user namespace, if there is one: owners are then the
// container's own ids.
#include "agent.h"

#include <dirent.h>
#include <sys/epoll.h>
#include <sys/sysmacros.h>

#define HELPERS_MAX 64
#define HELPER_TIMEOUT_MS 60000
#define READ_SIZE_MAX (256u << 10)
#define LIST_ENTRIES_MAX 1024
#define LIST_SIZE_MAX (1u << 20)
#define ANSWER_SIZE_MAX (LIST_SIZE_MAX + READ_SIZE_MAX)

typedef Sandboxd__Agent__V1__FileRequest FileRequest;
typedef Sandboxd__Agent__V1__FileResponse FileResponse;
typedef Sandboxd__Agent__V1__FileEntry FileEntry;

// --- in the helper: names ---

struct operation {
    const FileRequest *message;
    struct request *request;
    int root_fd;
    const char *path;
    FileResponse response;
    FileEntry entry, *entries[LIST_ENTRIES_MAX];
};

static int open_path(const struct operation *operation, const char *path, uint64_t flags) {
    int fd = open_in_root(operation->root_fd, path, flags, 0);
    return fd < 0 ? fault_call("open", path) : fd;
}

static int open_parent(const struct operation *operation, const char *path, const char **name) {
    return open_parent_in_root(operation->root_fd, path, false, name);
}

static ProtobufCBinaryData bytes_of(struct request *request, const void *data, size_t size) {
    ProtobufCBinaryData bytes = {0, arena_take(&request->arena, size)};
    if (!bytes.data) return bytes;
    memcpy(bytes.data, data, size);
    bytes.len = size;
    return bytes;
}

static int describe(struct operation *operation, int fd, const char *name, FileEntry *entry) {
    struct stat stat;
    char target[4096];
    if (fstat(fd, &stat) < 0) return fault_call("stat", name);
    *entry = (FileEntry)SANDBOXD__AGENT__V1__FILE_ENTRY__INIT;
    entry->name = bytes_of(operation->request, name, strlen(name));
    entry->mode = stat.st_mode;
    entry->uid = stat.st_uid;
    entry->gid = stat.st_gid;
    entry->size = stat.st_size;
    entry->mtime_unix_ns = stat.st_mtim.tv_sec * 1000000000ll + stat.st_mtim.tv_nsec;
    entry->major = major(stat.st_rdev);
    entry->minor = minor(stat.st_rdev);
    entry->inode = stat.st_ino;
    entry->links = stat.st_nlink;
    if (!S_ISLNK(stat.st_mode)) return 0;
    ssize_t size = readlinkat(fd, "", target, sizeof target);
    if (size < 0) return fault_call("readlink", name);
    entry->symlink_target = bytes_of(operation->request, target, size);
    return 0;
}

// --- in the helper: operations ---

static int do_stat(struct operation *operation) {
    bool follow = operation->message->stat->follow;
    int fd = open_path(operation, operation->path, O_PATH | (follow ? 0 : O_NOFOLLOW));
    if (fd < 0) return -1;
    const char *slash = strrchr(operation->path, '/');
    operation->entries[0] = &operation->entry;
    operation->response.n_entries = 1;
    return describe(operation, fd, slash && slash[1] ? slash + 1 : operation->path, &operation->entry);
}

// Names come and go; a listing that cannot find where it stopped says so rather than starting again or ending.
static int skip_to(DIR *directory, const char *after, const char *path) {
    if (!*after) return 0;
    for (struct dirent *entry; (entry = readdir(directory));)
        if (!strcmp(entry->d_name, after)) return 0;
    return fault(CODE_FAILED_PRECONDITION, "%.800s changed while it was listed", path);
}

static int list_entries(struct operation *operation, DIR *directory, size_t max) {
    size_t size = 0, *count = &operation->response.n_entries;
    for (struct dirent *entry; *count < max && size < LIST_SIZE_MAX;) {
        errno = 0;
        if (!(entry = readdir(directory))) {
            operation->response.eof = !errno;
            return errno ? fault_call("readdir", operation->path) : 0;
        }
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        int fd = openat(dirfd(directory), entry->d_name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0) continue;  // gone meanwhile
        FileEntry *listed = arena_take(&operation->request->arena, sizeof *listed);
        int status = listed ? describe(operation, fd, entry->d_name, listed) : fault_memory();
        close(fd);
        if (status < 0) return -1;
        size += 64 + listed->name.len + listed->symlink_target.len;
        operation->entries[(*count)++] = listed;
    }
    return 0;
}

static int do_list(struct operation *operation) {
    uint32_t max = operation->message->list->max_entries;
    const char *after = text_of(operation->request, operation->message->list->after);
    if (!after) return -1;
    if (!max || max > LIST_ENTRIES_MAX) return fault(CODE_INVALID_ARGUMENT, "max_entries %u is not 1 to %d", max, LIST_ENTRIES_MAX);
    int fd = open_path(operation, operation->path, O_RDONLY | O_DIRECTORY);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    if (!directory) return fd < 0 ? -1 : fault_call("opendir", operation->path);
    return skip_to(directory, after, operation->path) < 0 ? -1 : list_entries(operation, directory, max);
}

// Only regular files have bytes to copy: a FIFO would block, a device would do something.
static int reopen_regular(const struct operation *operation, int fd, int flags) {
    struct stat stat;
    char path[FD_PATH_SIZE];
    if (fstat(fd, &stat) < 0) return fault_call("stat", operation->path);
    if (S_ISDIR(stat.st_mode)) return errno = EISDIR, fault_call("open", operation->path);
    if (!S_ISREG(stat.st_mode)) return fault(CODE_INVALID_ARGUMENT, "%.800s is not a regular file", operation->path);
    int file = openat(agent.proc_fd, fd_path(fd, path, sizeof path), flags | O_CLOEXEC);
    return file < 0 ? fault_call("open", operation->path) : file;
}

static int do_read(struct operation *operation) {
    const Sandboxd__Agent__V1__FileRead *read = operation->message->read;
    if (!read->max_bytes || read->max_bytes > READ_SIZE_MAX || read->offset > INT64_MAX)
        return fault(CODE_INVALID_ARGUMENT, "max_bytes %u is not 1 to %u", read->max_bytes, READ_SIZE_MAX);
    int named = open_path(operation, operation->path, O_PATH);
    int fd = named < 0 ? -1 : reopen_regular(operation, named, O_RDONLY);
    uint8_t *data = arena_take(&operation->request->arena, read->max_bytes);
    if (fd < 0 || !data) return fd < 0 ? -1 : fault_memory();
    size_t have = 0;
    ssize_t got = 0;
    while (have < read->max_bytes && (got = pread(fd, data + have, read->max_bytes - have, (off_t)(read->offset + have))) > 0)
        have += got;
    if (got < 0) return fault_call("read", operation->path);
    operation->response.data = (ProtobufCBinaryData){have, data};
    operation->response.eof = have < read->max_bytes;
    return 0;
}

static int open_for_writing(const struct operation *operation, const Sandboxd__Agent__V1__FileWrite *write) {
    int named = open_in_root(operation->root_fd, operation->path, O_PATH, 0);
    if (named >= 0) return reopen_regular(operation, named, O_WRONLY | (write->create ? O_TRUNC : 0));
    if (errno != ENOENT || !write->create) return fault_call("open", operation->path);
    int fd = open_in_root(operation->root_fd, operation->path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, write->mode & 07777);
    return fd < 0 ? fault_call("create", operation->path) : fd;
}

static int do_write(struct operation *operation) {
    const Sandboxd__Agent__V1__FileWrite *write = operation->message->write;
    if (write->offset > INT64_MAX - FRAME_SIZE_MAX) return fault(CODE_INVALID_ARGUMENT, "the offset is too large");
    int fd = open_for_writing(operation, write);
    if (fd < 0) return -1;
    for (size_t done = 0; done < write->data.len;) {
        ssize_t wrote = pwrite(fd, write->data.data + done, write->data.len - done, (off_t)(write->offset + done));
        if (wrote < 0) return fault_call("write", operation->path);
        done += wrote;
    }
    // Some file systems tell of a lack of space only now.
    return close(fd) < 0 ? fault_call("close", operation->path) : 0;
}

static int make_link(const struct operation *operation, int parent, const char *name, const char *existing) {
    char path[FD_PATH_SIZE];
    int fd = open_path(operation, existing, O_PATH | O_NOFOLLOW);
    if (fd < 0) return -1;
    return linkat(agent.proc_fd, fd_path(fd, path, sizeof path), parent, name, AT_SYMLINK_FOLLOW);
}

static int do_make(struct operation *operation) {
    const Sandboxd__Agent__V1__FileMake *make = operation->message->make;
    const char *name, *target = text_of(operation->request, make->symlink_target);
    const char *existing = text_of(operation->request, make->hardlink_of);
    if (!target || !existing) return -1;
    int parent = open_parent(operation, operation->path, &name);
    if (parent < 0) return -1;
    int status;
    if (*existing)
        status = make_link(operation, parent, name, existing);
    else if (S_ISDIR(make->mode))
        status = mkdirat(parent, name, make->mode & 07777);
    else if (S_ISLNK(make->mode))
        status = symlinkat(target, parent, name);
    else if (S_ISFIFO(make->mode) || S_ISCHR(make->mode) || S_ISBLK(make->mode))
        status = mknodat(parent, name, make->mode, makedev(make->major, make->minor));
    else
        return fault(CODE_INVALID_ARGUMENT, "mode %#o is of no type that can be made", make->mode);
    return status < 0 ? fault_call("make", operation->path) : 0;
}

#define SETS(field, FIELD) (set->maybe_##field##_case == SANDBOXD__AGENT__V1__FILE_SET_ATTRIBUTES__MAYBE_##FIELD##_##FIELD)

static int do_set_attributes(struct operation *operation) {
    const Sandboxd__Agent__V1__FileSetAttributes *set = operation->message->set_attributes;
    char path[FD_PATH_SIZE];
    struct stat stat;
    int fd = open_path(operation, operation->path, O_PATH | O_NOFOLLOW);
    if (fd < 0) return -1;
    fd_path(fd, path, sizeof path);
    uid_t uid = SETS(uid, UID) ? set->uid : (uid_t)-1;
    gid_t gid = SETS(gid, GID) ? set->gid : (gid_t)-1;
    if ((SETS(uid, UID) || SETS(gid, GID)) && fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0)
        return fault_call("chown", operation->path);
    if (fstat(fd, &stat) < 0) return fault_call("stat", operation->path);
    // After chown, which takes the setuid bit away. A symlink has no mode of its own.
    if (SETS(mode, MODE) && !S_ISLNK(stat.st_mode) && fchmodat(agent.proc_fd, path, set->mode & 07777, 0) < 0)
        return fault_call("chmod", operation->path);
    if (!SETS(mtime_unix_ns, MTIME_UNIX_NS)) return 0;
    int64_t ns = set->mtime_unix_ns % 1000000000, seconds = set->mtime_unix_ns / 1000000000;
    if (ns < 0) ns += 1000000000, seconds--;
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = seconds, .tv_nsec = ns}};
    return utimensat(fd, "", times, AT_EMPTY_PATH) < 0 ? fault_call("utimensat", operation->path) : 0;
}

static int do_remove(struct operation *operation) {
    const char *name;
    int parent = open_parent(operation, operation->path, &name);
    if (parent < 0) return -1;
    if (unlinkat(parent, name, 0) == 0) return 0;
    return errno == EISDIR && unlinkat(parent, name, AT_REMOVEDIR) == 0 ? 0 : fault_call("remove", operation->path);
}

#define OPERATION(name) SANDBOXD__AGENT__V1__FILE_REQUEST__OPERATION_##name

static int operate(struct operation *operation) {
    switch (operation->message->operation_case) {
        case OPERATION(STAT): return do_stat(operation);
        case OPERATION(LIST): return do_list(operation);
        case OPERATION(READ): return do_read(operation);
        case OPERATION(WRITE): return do_write(operation);
        case OPERATION(MAKE): return do_make(operation);
        case OPERATION(SET_ATTRIBUTES): return do_set_attributes(operation);
        case OPERATION(REMOVE): return do_remove(operation);
        default: return fault(CODE_INVALID_ARGUMENT, "no operation");
    }
}

// --- the helper's process ---

// What the helper writes: a fault's code (0: none), then the fault's text or the packed response.
static void write_all(int fd, const void *data, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t wrote = write(fd, (const uint8_t *)data + done, size - done);
        if (wrote <= 0) _exit(1);
        done += wrote;
    }
}

static _Noreturn void helper_main(struct operation *operation, int pidfd, int pipe_fd) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int status = 0;
    if (pidfd >= 0 && setns(pidfd, CLONE_NEWUSER) < 0) status = fault_call("setns", "user namespace");
    if (status == 0) status = operate(operation);
    int32_t code = status < 0 ? the_fault.code : 0;
    write_all(pipe_fd, &code, sizeof code);
    if (code) {
        write_all(pipe_fd, the_fault.text, strlen(the_fault.text));
    } else {
        size_t size = protobuf_c_message_get_packed_size(&operation->response.base);
        uint8_t *packed = arena_take(&operation->request->arena, size);
        if (!packed) _exit(1);
        protobuf_c_message_pack(&operation->response.base, packed);
        write_all(pipe_fd, packed, size);
    }
    _exit(0);
}

// --- the agent's side ---

struct helper {
    struct helper *next;
    pid_t pid;
    struct call call;
    struct watch pipe;
    uint64_t deadline_ms;
    size_t have, capacity;
    uint8_t *data;
};

static struct helper *helpers;
static unsigned helper_count;

static void helper_answer(struct helper *helper) {
    int32_t code;
    if (helper->have < sizeof code) {
        fault(CODE_INTERNAL, "the file operation was cut off");
        answer_fault(&helper->call);
        return;
    }
    memcpy(&code, helper->data, sizeof code);
    size_t size = helper->have - sizeof code;
    if (code) {
        fault((enum code)code, "%.*s", (int)(size > 1000 ? 1000 : size), (char *)helper->data + sizeof code);
        answer_fault(&helper->call);
        return;
    }
    FileResponse *response = sandboxd__agent__v1__file_response__unpack(NULL, size, helper->data + sizeof code);
    if (response)
        answer(&helper->call, &response->base);
    else if (fault_memory())
        answer_fault(&helper->call);
    sandboxd__agent__v1__file_response__free_unpacked(response, NULL);
}

// The pipe is at its end, or the helper is given up. Its process is reaped by and by.
static void helper_free(struct helper *helper) {
    struct helper **link = &helpers;
    while (*link != helper) link = &(*link)->next;
    *link = helper->next;
    helper_count--;
    if (helper->pid) kill(helper->pid, SIGKILL);
    watch_close(&helper->pipe);
    free(helper->data);
    free(helper);
}

static void on_pipe(struct watch *watch, uint32_t events) {
    (void)events;
    struct helper *helper = watch->owner;
    if (helper->have == helper->capacity) {
        size_t capacity = helper->capacity ? helper->capacity * 2 : 4096;
        uint8_t *data = capacity > 2 * ANSWER_SIZE_MAX ? NULL : realloc(helper->data, capacity);
        if (!data) {
            helper_free(helper);
            return;
        }
        helper->data = data;
        helper->capacity = capacity;
    }
    ssize_t got = read(watch->fd, helper->data + helper->have, helper->capacity - helper->have);
    if (got > 0) {
        helper->have += got;
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        helper_answer(helper);
        helper_free(helper);
    }
}

bool helper_reaped(pid_t pid) {
    for (struct helper *helper = helpers; helper; helper = helper->next) {
        if (helper->pid != pid) continue;
        helper->pid = 0;  // the number may soon be someone else's
        return true;
    }
    return false;
}

int helpers_timeout_ms(void) {
    uint64_t first = UINT64_MAX, now = helpers ? monotonic_ms() : 0;
    for (struct helper *helper = helpers; helper; helper = helper->next)
        if (helper->deadline_ms < first) first = helper->deadline_ms;
    return first == UINT64_MAX ? -1 : first <= now ? 0 : (int)(first - now);
}

void helpers_expire(void) {
    uint64_t now = helpers ? monotonic_ms() : 0;
    for (struct helper *helper = helpers, *next; helper; helper = next) {
        next = helper->next;
        if (helper->deadline_ms > now) continue;
        fault(CODE_DEADLINE_EXCEEDED, "the container's file system did not answer within %d s", HELPER_TIMEOUT_MS / 1000);
        answer_fault(&helper->call);
        helper_free(helper);
    }
}

static int start_helper(struct helper *helper, struct operation *operation, int pidfd) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return fault_call("pipe2", "helper");
    helper->pipe = (struct watch){.fd = ends[0], .lasting = true, .ready = on_pipe, .owner = helper};
    helper->pid = sys_clone3(0, -1);
    if (helper->pid == 0) helper_main(operation, pidfd, ends[1]);
    if (helper->pid < 0) fault_call("clone3", "helper");
    close(ends[1]);
    if (helper->pid > 0 && fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0 && watch_arm(&helper->pipe, EPOLLIN) == 0) return 0;
    if (helper->pid > 0) kill(helper->pid, SIGKILL);
    close(ends[0]);
    return -1;
}

static bool has_user_namespace(const Plan *plan) {
    for (size_t i = 0; i < plan->n_namespaces; i++)
        if (plan->namespaces[i]->clone_flag == CLONE_NEWUSER) return true;
    return false;
}

enum outcome handle_file(struct request *request, const FileRequest *message) {
    struct container *container = request->container;
    if (container->ended || container->root_fd < 0)
        return fault(CODE_FAILED_PRECONDITION, "container %s is not running", container->id);
    if (helper_count >= HELPERS_MAX) return fault(CODE_RESOURCE_EXHAUSTED, "%d file operations are under way", HELPERS_MAX);
    static struct operation operation;
    operation = (struct operation){.message = message, .request = request, .root_fd = container->root_fd};
    operation.path = text_of(request, message->path);
    if (!operation.path) return FAILED;
    if (*operation.path != '/') return fault(CODE_INVALID_ARGUMENT, "path %.200s is not absolute", operation.path);
    operation.response = (FileResponse)SANDBOXD__AGENT__V1__FILE_RESPONSE__INIT;
    operation.response.entries = operation.entries;
    struct helper *helper = calloc(1, sizeof *helper);
    if (!helper) return fault_memory();
    int pidfd = has_user_namespace(container->plan) ? sys_pidfd_open(container->init->pid) : -1;
    int status = start_helper(helper, &operation, pidfd);
    close_fd(&pidfd);
    if (status < 0) {
        free(helper);
        return FAILED;
    }
    helper->call = request->call;
    helper->deadline_ms = monotonic_ms() + HELPER_TIMEOUT_MS;
    helper->next = helpers;
    helpers = helper;
    helper_count++;
    return DONE;
}
