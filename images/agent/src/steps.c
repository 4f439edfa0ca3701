// The steps of a plan, each a function of few system calls.
//
// mount(2) takes names only. What is below a container's root is resolved first, and the descriptor is then named
// "self/fd/N": the working directory is the guest's /proc.
#include "agent.h"

#include <dirent.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#define FILE_SIZE_MAX (1u << 20)
#define MOUNT_DATA_MAX 4095
#define SERIAL_SIZE 21  // 20 bytes, virtio 1.2, 5.2.6.1
#define DEVICES_MAX 64
#define CREATE (O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

// --- block devices by serial ---

static struct {
    char serial[SERIAL_SIZE], path[48];
} devices[DEVICES_MAX];
static size_t device_count;

// After a restore the same slot may hold another disk.
void forget_block_devices(void) {
    device_count = 0;
}

static void scan_block_devices(void) {
    char path[300];
    DIR *directory = opendir("/sys/block");
    device_count = 0;
    for (struct dirent *entry; directory && device_count < DEVICES_MAX && (entry = readdir(directory));) {
        char *serial = devices[device_count].serial;
        snprintf(path, sizeof path, "/sys/block/%s/serial", entry->d_name);
        if (*entry->d_name == '.' || read_file(AT_FDCWD, path, serial, SERIAL_SIZE) <= 0) continue;
        serial[strcspn(serial, "\n")] = 0;
        snprintf(devices[device_count++].path, sizeof devices->path, "/dev/%.40s", entry->d_name);
    }
    if (directory) closedir(directory);
}

// What mount(2) calls a source: "block:SERIAL" is looked up, the rest is as it is. NULL: no such device.
static const char *resolve_source(const char *source) {
    if (strncmp(source, "block:", 6)) return source;
    for (size_t i = 0; i < device_count; i++)
        if (!strcmp(devices[i].serial, source + 6)) return devices[i].path;
    return NULL;
}

const char *missing_block_device(size_t count, Step **steps) {
    for (size_t i = 0; i < count; i++) {
        if (steps[i]->kind_case != SANDBOXD__AGENT__V1__STEP__KIND_MOUNT || steps[i]->optional) continue;
        const char *source = steps[i]->mount->source;
        if (!resolve_source(source)) scan_block_devices();
        if (!resolve_source(source)) return source + 6;
    }
    return NULL;
}

// --- what several steps do ---

static int own(int fd, const char *path, uint32_t uid, uint32_t gid, uint32_t mode) {
    char text[FD_PATH_SIZE];
    if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0) return fault_call("chown", path);
    // chmod by name: fchmod(2) refuses O_PATH descriptors.
    return checked(fchmodat(agent.proc_fd, fd_path(fd, text), mode & 07777, 0), "chmod", path);
}

// A mount(2) upon what path names now, so upon the topmost mount there. source NULL: itself.
static int mount_on(int root, const char *source, const char *path, const char *type, uint64_t flags, const char *data) {
    char text[FD_PATH_SIZE];
    SCOPED int fd = open_in_root(root, path, O_PATH, 0);
    if (fd < 0) return fault_call("open", path);
    fd_path(fd, text);
    return checked(mount(source ? source : text, text, type, flags, data), "mount", path);
}

// --- steps ---

static int make_directory(int root, const MESSAGE(MakeDirectory) * step) {
    const char *name;
    SCOPED int parent = open_parent_in_root(root, step->path, true, &name);
    if (parent < 0) return -1;
    bool made = mkdirat(parent, name, 0700) == 0;
    if (!made && errno != EEXIST) return fault_call("mkdir", step->path);
    // One that is there already, be it by way of a symlink, is the image's: it keeps its owner and mode.
    SCOPED int fd = made ? openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
                         : open_in_root(root, step->path, O_PATH | O_DIRECTORY, 0);
    if (fd < 0) return fault_call("mkdir", step->path);
    return made ? own(fd, step->path, step->uid, step->gid, step->mode) : 0;
}

static int make_file(int root, const MESSAGE(MakeFile) * step) {
    const char *name;
    struct stat stat;
    ssize_t wrote;
    if (step->content.len > FILE_SIZE_MAX) return fault(CODE_INVALID_ARGUMENT, "%.200s is over %u bytes", step->path, FILE_SIZE_MAX);
    SCOPED int parent = open_parent_in_root(root, step->path, true, &name);
    if (parent < 0) return -1;
    SCOPED int fd = openat(parent, name, CREATE | O_TRUNC, 0600);
    if (fd < 0) return fault_call("open", step->path);
    if (fstat(fd, &stat) < 0 || !S_ISREG(stat.st_mode)) return errno = EEXIST, fault_call("open", step->path);
    for (size_t done = 0; done < step->content.len; done += wrote)
        if ((wrote = write(fd, step->content.data + done, step->content.len - done)) < 0) return fault_call("write", step->path);
    return own(fd, step->path, step->uid, step->gid, step->mode);
}

static int write_step(int root, const MESSAGE(Write) * step) {
    SCOPED int fd = open_in_root(root, step->path, O_WRONLY | O_NONBLOCK | O_NOCTTY, 0);
    if (fd < 0) return fault_call("open", step->path);
    ssize_t wrote = write(fd, step->content.data, step->content.len);
    if (wrote >= 0 && (size_t)wrote < step->content.len) return errno = EIO, fault_call("write", step->path);
    return wrote < 0 ? fault_call("write", step->path) : 0;
}

static int make_mount_point(int root, const char *path, const char *source, bool bind) {
    const char *name;
    struct stat stat_buffer;
    if (!bind || stat(source, &stat_buffer) < 0 || S_ISDIR(stat_buffer.st_mode)) return make_directories_in_root(root, path);
    SCOPED int parent = open_parent_in_root(root, path, true, &name);
    if (parent < 0) return -1;
    SCOPED int fd = openat(parent, name, CREATE | O_EXCL, 0644);
    return fd < 0 ? fault_call("open", path) : 0;
}

static int mount_step(int root, const MESSAGE(Mount) * step) {
    const char *source = resolve_source(step->source), *data = *step->data ? step->data : NULL;
    if (!source) return errno = ENODEV, fault_call("mount", step->source);
    // The kernel would cut it there and say nothing.
    if (strlen(step->data) > MOUNT_DATA_MAX)
        return fault(CODE_INVALID_ARGUMENT, "mount data of %.200s is over %d bytes", step->target, MOUNT_DATA_MAX);
    SCOPED int there = step->make_target ? open_in_root(root, step->target, O_PATH, 0) : -1;
    bool make = step->make_target && there < 0 && errno == ENOENT;
    if (make && make_mount_point(root, step->target, source, step->flags & MS_BIND) < 0) return -1;
    if (mount_on(root, source, step->target, step->type, step->flags, data) < 0) return -1;
    return step->propagation ? mount_on(root, "", step->target, NULL, step->propagation, NULL) : 0;
}

static int mount_attributes(int root, const char *path, uint64_t set, uint64_t clear, bool recursive) {
    uint64_t attributes[4] = {set, clear, 0, 0};  // struct mount_attr of linux/mount.h, which quarrels with sys/mount.h
    unsigned flags = AT_EMPTY_PATH | (recursive ? 0x8000 /* AT_RECURSIVE */ : 0);
    SCOPED int fd = open_in_root(root, path, O_PATH, 0);
    if (fd < 0) return fault_call("open", path);
    return checked(syscall(SYS_mount_setattr, fd, "", flags, attributes, sizeof attributes), "mount_setattr", path);
}

static int make_node(int root, const MESSAGE(MakeNode) * step) {
    const char *name;
    struct stat stat;
    dev_t device = makedev(step->major, step->minor);
    SCOPED int parent = open_parent_in_root(root, step->path, true, &name);
    if (parent < 0) return -1;
    if (mknodat(parent, name, step->mode, device) < 0 && errno != EEXIST) return fault_call("mknod", step->path);
    SCOPED int fd = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &stat) < 0) return fault_call("mknod", step->path);
    bool same = (stat.st_mode & S_IFMT) == (step->mode & S_IFMT) && (S_ISFIFO(stat.st_mode) || stat.st_rdev == device);
    return same ? own(fd, step->path, step->uid, step->gid, step->mode) : (errno = EEXIST, fault_call("mknod", step->path));
}

static int make_symlink(int root, const MESSAGE(MakeSymlink) * step) {
    const char *name;
    char there[4096];
    SCOPED int parent = open_parent_in_root(root, step->path, true, &name);
    if (parent < 0) return -1;
    if (symlinkat(step->target, parent, name) == 0) return 0;
    ssize_t size = errno == EEXIST ? readlinkat(parent, name, there, sizeof there) : -1;
    bool same = size == (ssize_t)strlen(step->target) && !memcmp(there, step->target, size);
    return same ? 0 : fault_call("symlink", step->path);
}

// The kind of what is there: 0 for nothing, which masks and read-only paths pass over.
static int kind_of(int root, const char *path) {
    struct stat stat = {0};
    SCOPED int fd = open_in_root(root, path, O_PATH, 0);
    if (fd < 0) return errno == ENOENT || errno == ENOTDIR ? 0 : fault_call("open", path);
    return fstat(fd, &stat) < 0 ? fault_call("stat", path) : (int)(stat.st_mode & S_IFMT);
}

// A file gets /dev/null over it: the guest's, or once in the container its own, if it really is one.
static int mask(const struct place *place, int root, const char *path) {
    struct stat null;
    int kind = kind_of(root, path);
    if (kind <= 0) return kind;
    if (kind == S_IFDIR) return mount_on(root, "tmpfs", path, "tmpfs", MS_RDONLY, "size=0k");
    if (place->pivoted && (stat("/dev/null", &null) < 0 || !S_ISCHR(null.st_mode) || null.st_rdev != makedev(1, 3)))
        return fault(CODE_INTERNAL, "mask %.800s: the container's /dev/null is not the null device", path);
    return mount_on(root, "/dev/null", path, NULL, MS_BIND, NULL);
}

static int read_only(int root, const char *path) {
    int kind = kind_of(root, path);
    if (kind <= 0) return kind;
    if (mount_on(root, NULL, path, NULL, MS_BIND | MS_REC, NULL) < 0) return -1;
    return mount_attributes(root, path, 1 /* MOUNT_ATTR_RDONLY */, 0, false);
}

static int unmount(int root, const char *path) {
    char text[FD_PATH_SIZE];
    SCOPED int fd = open_in_root(root, path, O_PATH, 0);
    return fd < 0 ? fault_call("open", path) : checked(umount2(fd_path(fd, text), MNT_DETACH), "umount", path);
}

int remove_in_root(int root_fd, const char *path) {
    const char *name;
    SCOPED int parent = open_parent_in_root(root_fd, path, false, &name);
    if (parent < 0) return -1;
    int status = unlinkat(parent, name, 0);
    if (status < 0 && errno == EISDIR) status = unlinkat(parent, name, AT_REMOVEDIR);
    return checked(status, "remove", path);
}

// --- running ---

#define KIND(name) SANDBOXD__AGENT__V1__STEP__KIND_##name

static int run_step(struct place *place, const Step *step) {
    const MESSAGE(MountAttributes) *attributes = step->mount_attributes;
    if (step->in_root && place->root_fd < 0) place->root_fd = open(place->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (step->in_root && place->root_fd < 0) return fault_call("open", place->root);
    int root = step->in_root ? place->root_fd : -1;
    switch (step->kind_case) {
        case KIND(MAKE_DIRECTORY): return make_directory(root, step->make_directory);
        case KIND(MAKE_FILE): return make_file(root, step->make_file);
        case KIND(WRITE): return write_step(root, step->write);
        case KIND(MOUNT): return mount_step(root, step->mount);
        case KIND(MOUNT_ATTRIBUTES):
            return mount_attributes(root, attributes->path, attributes->set, attributes->clear, attributes->recursive);
        case KIND(MAKE_NODE): return make_node(root, step->make_node);
        case KIND(MAKE_SYMLINK): return make_symlink(root, step->make_symlink);
        case KIND(MASK): return mask(place, root, step->mask->path);
        case KIND(READ_ONLY): return read_only(root, step->read_only->path);
        case KIND(UNMOUNT): return unmount(root, step->unmount->path);
        case KIND(REMOVE): return remove_in_root(root, step->remove->path);
        default: return fault(CODE_UNIMPLEMENTED, "a step is of a kind that this agent does not know");
    }
}

int run_steps(struct place *place, size_t count, Step **steps) {
    for (size_t i = 0; i < count; i++)
        if (run_step(place, steps[i]) < 0 && !steps[i]->optional) return -1;
    return 0;
}

void run_cleanup(const Plan *plan) {
    struct place place = {.root = plan->root, .root_fd = -1};
    for (size_t i = 0; i < plan->n_cleanup; i++) run_step(&place, plan->cleanup[i]);
    close_fd(&place.root_fd);
}
