// The File call: one operation inside a container's root.
//
// A container decides what its files are (a FUSE mount may never answer), so each operation runs in a helper process,
// which an alarm ends when it takes too long. It joins the container's user namespace, if there is one: owners are then
// the container's own ids. What it allocates goes with it.
#include "agent.h"

#include <dirent.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#define HELPER_TIMEOUT_S 60
#define READ_SIZE_MAX (256u << 10)
#define LIST_ENTRIES_MAX 1024
#define LIST_SIZE_MAX (1u << 20)

typedef MESSAGE(FileEntry) FileEntry;

static struct {
    const MESSAGE(FileRequest) * message;
    struct request *request;
    int root_fd;
    const char *path;
    MESSAGE(FileResponse) response;
    FileEntry *entries[LIST_ENTRIES_MAX];
} job;

static int open_path(const char *path, uint64_t flags) {
    return checked(open_in_root(job.root_fd, path, flags, 0), "open", path);
}

static ProtobufCBinaryData bytes_of(const void *data, size_t size) {
    ProtobufCBinaryData bytes = {size, malloc(size + 1)};
    if (!bytes.data) _exit(1);
    memcpy(bytes.data, data, size);
    return bytes;
}

// --- looking ---

static int describe(int fd, const char *name) {
    struct stat stat;
    char target[4096];
    FileEntry *entry = malloc(sizeof *entry);
    if (!entry) return fault_memory();
    if (fstat(fd, &stat) < 0) return fault_call("stat", name);
    ssize_t size = S_ISLNK(stat.st_mode) ? readlinkat(fd, "", target, sizeof target) : 0;
    if (size < 0) return fault_call("readlink", name);
    *entry = (FileEntry)SANDBOXD__AGENT__V1__FILE_ENTRY__INIT;
    entry->name = bytes_of(name, strlen(name));
    entry->mode = stat.st_mode;
    entry->uid = stat.st_uid;
    entry->gid = stat.st_gid;
    entry->size = stat.st_size;
    entry->mtime_unix_ns = stat.st_mtim.tv_sec * 1000000000ll + stat.st_mtim.tv_nsec;
    entry->major = major(stat.st_rdev);
    entry->minor = minor(stat.st_rdev);
    entry->inode = stat.st_ino;
    entry->links = stat.st_nlink;
    entry->symlink_target = bytes_of(target, size);
    job.entries[job.response.n_entries++] = entry;
    return 64 + (int)(entry->name.len + size);
}

static int do_stat(void) {
    int fd = open_path(job.path, O_PATH | (job.message->stat->follow ? 0 : O_NOFOLLOW));
    const char *name = strrchr(job.path, '/') + 1;
    return fd < 0 ? -1 : describe(fd, *name ? name : "/");
}

// Names come and go; a listing that cannot find where it stopped says so rather than starting again or ending.
static int skip_to(DIR *directory, const char *after) {
    if (!*after) return 0;
    for (struct dirent *entry; (entry = readdir(directory));)
        if (!strcmp(entry->d_name, after)) return 0;
    return fault(CODE_FAILED_PRECONDITION, "%.800s changed while it was listed", job.path);
}

static int do_list(void) {
    uint32_t max = job.message->list->max_entries;
    const char *after = text_of(job.request, job.message->list->after);
    if (!after) return -1;
    if (!max || max > LIST_ENTRIES_MAX) return fault(CODE_INVALID_ARGUMENT, "max_entries %u is not 1 to %d", max, LIST_ENTRIES_MAX);
    int fd = open_path(job.path, O_RDONLY | O_DIRECTORY);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    if (!directory || skip_to(directory, after) < 0) return -1;
    size_t size = 0;
    for (struct dirent *entry; job.response.n_entries < max && size < LIST_SIZE_MAX;) {
        errno = 0;
        if (!(entry = readdir(directory))) {
            job.response.eof = !errno;
            return errno ? fault_call("readdir", job.path) : 0;
        }
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        fd = openat(dirfd(directory), entry->d_name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0) continue;  // gone meanwhile
        int added = describe(fd, entry->d_name);
        if (added < 0) return -1;
        size += added;
        close(fd);
    }
    return 0;
}

// --- reading and writing ---

// Only regular files have bytes to copy: a FIFO would block, a device would do something.
static int reopen_regular(int fd, int flags) {
    struct stat stat;
    char path[FD_PATH_SIZE];
    if (fstat(fd, &stat) < 0) return fault_call("stat", job.path);
    if (!S_ISREG(stat.st_mode)) return fault(CODE_INVALID_ARGUMENT, "%.800s is not a regular file", job.path);
    return checked(openat(agent.proc_fd, fd_path(fd, path), flags | O_CLOEXEC), "open", job.path);
}

static int do_read(void) {
    const MESSAGE(FileRead) *wanted = job.message->read;
    if (!wanted->max_bytes || wanted->max_bytes > READ_SIZE_MAX || wanted->offset > INT64_MAX - READ_SIZE_MAX)
        return fault(CODE_INVALID_ARGUMENT, "max_bytes %u is not 1 to %u, or the offset too large", wanted->max_bytes, READ_SIZE_MAX);
    int named = open_path(job.path, O_PATH), fd = named < 0 ? -1 : reopen_regular(named, O_RDONLY);
    uint8_t *data = malloc(wanted->max_bytes);
    if (fd < 0 || !data) return fd < 0 ? -1 : fault_memory();
    size_t have = 0;
    ssize_t got = 1;
    while (have < wanted->max_bytes && (got = pread(fd, data + have, wanted->max_bytes - have, wanted->offset + have)) > 0) have += got;
    job.response.data = (ProtobufCBinaryData){have, data};
    job.response.eof = have < wanted->max_bytes;
    return checked(got, "read", job.path);
}

static int open_for_writing(const MESSAGE(FileWrite) * given) {
    int named = open_in_root(job.root_fd, job.path, O_PATH, 0);
    if (named >= 0) return reopen_regular(named, O_WRONLY | (given->create ? O_TRUNC : 0));
    if (errno != ENOENT || !given->create) return fault_call("open", job.path);
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
    return checked(open_in_root(job.root_fd, job.path, flags, given->mode & 07777), "create", job.path);
}

static int do_write(void) {
    const MESSAGE(FileWrite) *given = job.message->write;
    if (given->offset > INT64_MAX - FRAME_SIZE_MAX) return fault(CODE_INVALID_ARGUMENT, "the offset is too large");
    int fd = open_for_writing(given);
    if (fd < 0) return -1;
    ssize_t wrote = 0;
    for (size_t done = 0; done < given->data.len && wrote >= 0; done += wrote)
        if ((wrote = pwrite(fd, given->data.data + done, given->data.len - done, given->offset + done)) < 0)
            return fault_call("write", job.path);
    return checked(close(fd), "close", job.path);  // some file systems tell of a lack of space only now
}

// --- changing ---

static int make_link(int parent, const char *name, const char *existing) {
    char path[FD_PATH_SIZE];
    int fd = open_path(existing, O_PATH | O_NOFOLLOW);
    return fd < 0 ? -1 : linkat(agent.proc_fd, fd_path(fd, path), parent, name, AT_SYMLINK_FOLLOW);
}

static int do_make(void) {
    const MESSAGE(FileMake) *make = job.message->make;
    const char *name, *target = text_of(job.request, make->symlink_target), *existing = text_of(job.request, make->hardlink_of);
    int parent = target && existing ? open_parent_in_root(job.root_fd, job.path, false, &name) : -1;
    if (parent < 0) return -1;
    if (*existing) return checked(make_link(parent, name, existing), "link", job.path);
    switch (make->mode & S_IFMT) {
        case S_IFDIR: return checked(mkdirat(parent, name, make->mode & 07777), "mkdir", job.path);
        case S_IFLNK: return checked(symlinkat(target, parent, name), "symlink", job.path);
        case S_IFIFO:
        case S_IFCHR:
        case S_IFBLK: return checked(mknodat(parent, name, make->mode, makedev(make->major, make->minor)), "mknod", job.path);
        default: return fault(CODE_INVALID_ARGUMENT, "mode %#o is of no type that can be made", make->mode);
    }
}

#define SETS(field, FIELD) (set->maybe_##field##_case == SANDBOXD__AGENT__V1__FILE_SET_ATTRIBUTES__MAYBE_##FIELD##_##FIELD)

static int do_set_attributes(void) {
    const MESSAGE(FileSetAttributes) *set = job.message->set_attributes;
    char path[FD_PATH_SIZE];
    struct stat stat;
    int fd = open_path(job.path, O_PATH | O_NOFOLLOW);
    if (fd < 0) return -1;
    uid_t uid = SETS(uid, UID) ? set->uid : (uid_t)-1;
    gid_t gid = SETS(gid, GID) ? set->gid : (gid_t)-1;
    if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0 || fstat(fd, &stat) < 0) return fault_call("chown", job.path);
    // After chown, which takes the setuid bit away. A symlink has no mode of its own.
    if (SETS(mode, MODE) && !S_ISLNK(stat.st_mode) && fchmodat(agent.proc_fd, fd_path(fd, path), set->mode & 07777, 0) < 0)
        return fault_call("chmod", job.path);
    if (!SETS(mtime_unix_ns, MTIME_UNIX_NS)) return 0;
    int64_t ns = set->mtime_unix_ns % 1000000000, seconds = set->mtime_unix_ns / 1000000000;
    if (ns < 0) ns += 1000000000, seconds--;
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = seconds, .tv_nsec = ns}};
    return checked(utimensat(fd, "", times, AT_EMPTY_PATH), "utimensat", job.path);
}

static int do_remove(void) {
    return remove_in_root(job.root_fd, job.path);
}

// --- the helper and who waits for it ---

static int operate(void) {
    static int (*const operations[])(void) = {
#define OPERATION(name, function) [SANDBOXD__AGENT__V1__FILE_REQUEST__OPERATION_##name] = function
        OPERATION(STAT, do_stat), OPERATION(LIST, do_list),     OPERATION(READ, do_read),
        OPERATION(WRITE, do_write), OPERATION(MAKE, do_make), OPERATION(SET_ATTRIBUTES, do_set_attributes),
        OPERATION(REMOVE, do_remove),
    };
    size_t which = job.message->operation_case;
    if (which >= sizeof operations / sizeof *operations || !operations[which]) return fault(CODE_INVALID_ARGUMENT, "no operation");
    return operations[which]();
}

static _Noreturn void helper_main(struct request *request, const struct container *container) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    alarm(HELPER_TIMEOUT_S);
    int pidfd = -1, status = 0;
    for (size_t i = 0; i < container->plan->n_namespaces && status == 0; i++)
        if (container->plan->namespaces[i]->clone_flag == CLONE_NEWUSER)
            status = (pidfd = sys_pidfd_open(container->init->pid)) < 0 ? -1 : setns(pidfd, CLONE_NEWUSER);
    if (checked(status, "setns", "user namespace") == 0) status = operate();
    _exit(answer_into(request->file, request->call, status < 0 ? NULL : &job.response.base) < 0);
}

static enum outcome begin_file(struct request *request, const MESSAGE(FileRequest) * message) {
    struct container *container = request->container;
    if (container_ended(container) || container->root_fd < 0)
        return fault(CODE_FAILED_PRECONDITION, "container %s is not running", container->id);
    memset(&job, 0, offsetof(__typeof__(job), entries));
    job.response = (MESSAGE(FileResponse))SANDBOXD__AGENT__V1__FILE_RESPONSE__INIT;
    job.response.entries = job.entries;
    job.message = message;
    job.request = request;
    job.root_fd = container->root_fd;
    job.path = text_of(request, message->path);
    if (!job.path) return FAILED;
    if (*job.path != '/') return fault(CODE_INVALID_ARGUMENT, "path %.200s is not absolute", job.path);
    request->file = memfd_create("answer", MFD_CLOEXEC);
    if (request->file < 0) return fault_call("memfd_create", "answer");
    request->helper = sys_clone3(0, -1);
    if (request->helper == 0) helper_main(request, container);
    if (request->helper < 0) return fault_call("clone3", "helper");
    request->begun = true;
    return hold(request, request, FOR_EVER, "the helper process");
}

HANDLER(File, file) {
    if (!request->begun) return begin_file(request, message);
    if (WIFSIGNALED(request->helper_status) && WTERMSIG(request->helper_status) == SIGALRM)
        return fault(CODE_DEADLINE_EXCEEDED, "the container's file system did not answer within %d s", HELPER_TIMEOUT_S);
    answer_from(request->file, request->call);
    return DONE;
}
