// The steps of a plan, each a function of few system calls.
//
// mount(2) takes names only. Where a name is below a container's root it is resolved first, and the descriptor is then
// named "self/fd/N": the working directory is the guest's /proc.
#include "agent.h"

#include <dirent.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

#define FILE_SIZE_MAX (1u << 20)
#define MOUNT_DATA_MAX 4095
#define SERIAL_SIZE 21  // 20 bytes, virtio 1.2, 5.2.6.1
#define DEVICES_MAX 64

// --- block devices by serial ---

static struct {
    char serial[SERIAL_SIZE];
    char path[48];
} devices[DEVICES_MAX];
static size_t device_count;

// After a restore the same slot may hold another disk.
void forget_block_devices(void) {
    device_count = 0;
}

static void scan_block_devices(void) {
    device_count = 0;
    DIR *directory = opendir("/sys/block");
    if (!directory) return;
    for (struct dirent *entry; device_count < DEVICES_MAX && (entry = readdir(directory));) {
        char path[300];
        if (*entry->d_name == '.' || strlen(entry->d_name) > 32) continue;
        snprintf(path, sizeof path, "/sys/block/%s/serial", entry->d_name);
        ssize_t size = read_file(AT_FDCWD, path, devices[device_count].serial, SERIAL_SIZE);
        if (size <= 0) continue;
        devices[device_count].serial[strcspn(devices[device_count].serial, "\n")] = 0;
        snprintf(devices[device_count].path, sizeof devices->path, "/dev/%.32s", entry->d_name);
        device_count++;
    }
    closedir(directory);
}

static const char *find_block_device(const char *serial) {
    for (size_t i = 0; i < device_count; i++)
        if (!strcmp(devices[i].serial, serial)) return devices[i].path;
    return NULL;
}

static const char *block_serial(const char *source) {
    return strncmp(source, "block:", 6) ? NULL : source + 6;
}

const char *missing_block_device(size_t count, Step **steps) {
    bool scanned = false;
    for (size_t i = 0; i < count; i++) {
        if (steps[i]->kind_case != SANDBOXD__AGENT__V1__STEP__KIND_MOUNT || steps[i]->optional) continue;
        const char *serial = block_serial(steps[i]->mount->source);
        if (!serial || find_block_device(serial)) continue;
        if (!scanned) scan_block_devices();
        scanned = true;
        if (!find_block_device(serial)) return serial;
    }
    return NULL;
}

// --- opening what a step names ---

static int root_of(struct place *place, const Step *step) {
    if (!step->in_root) return -1;
    if (place->root_fd < 0) place->root_fd = open(place->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return place->root_fd;
}

static int open_named(int root, const char *path, uint64_t flags) {
    int fd = open_in_root(root, path, flags, 0);
    return fd < 0 ? fault_call("openat2", path) : fd;
}

static int own(int fd, const char *path, uint32_t uid, uint32_t gid, uint32_t mode) {
    char text[FD_PATH_SIZE];
    if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0) return fault_call("chown", path);
    // chmod by name: fchmod(2) refuses O_PATH descriptors.
    if (fchmodat(agent.proc_fd, fd_path(fd, text, sizeof text), mode & 07777, 0) < 0) return fault_call("chmod", path);
    return 0;
}

// --- steps ---

static int make_directory(int root, const Sandboxd__Agent__V1__MakeDirectory *step) {
    const char *name;
    int parent = open_parent_in_root(root, step->path, true, &name);
    if (parent < 0) return -1;
    bool made = mkdirat(parent, name, 0700) == 0;
    int fd = made ? openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
    if (!made && errno == EEXIST) fd = open_in_root(root, step->path, O_PATH | O_DIRECTORY, 0);
    if (fd < 0) fault_call("mkdir", step->path);
    close(parent);
    if (fd < 0) return -1;
    // One that is there already is the image's: it keeps its owner and mode.
    int status = made ? own(fd, step->path, step->uid, step->gid, step->mode) : 0;
    close(fd);
    return status;
}

static int make_file(int root, const Sandboxd__Agent__V1__MakeFile *step) {
    const char *name;
    struct stat stat;
    int parent = open_parent_in_root(root, step->path, true, &name);
    if (parent < 0) return -1;
    // Not through a symlink: what it names was not checked by anyone. Non-blocking, in case it is a FIFO.
    int fd = openat(parent, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0600);
    if (fd < 0) fault_call("open", step->path);
    close(parent);
    if (fd < 0) return -1;
    int status = 0;
    if (fstat(fd, &stat) < 0 || !S_ISREG(stat.st_mode))
        status = fault(CODE_INTERNAL, "open %.800s: not a regular file", step->path);
    for (size_t done = 0; status == 0 && done < step->content.len;) {
        ssize_t wrote = write(fd, step->content.data + done, step->content.len - done);
        if (wrote < 0) status = fault_call("write", step->path);
        done += wrote > 0 ? wrote : 0;
    }
    if (status == 0) status = own(fd, step->path, step->uid, step->gid, step->mode);
    close(fd);
    return status;
}

static int write_step(int root, const Sandboxd__Agent__V1__Write *step) {
    int fd = open_in_root(root, step->path, O_WRONLY | O_NONBLOCK | O_NOCTTY, 0);
    if (fd < 0) return fault_call("open", step->path);
    ssize_t wrote = write(fd, step->content.data, step->content.len);
    if (wrote < 0) fault_call("write", step->path);
    close(fd);
    if (wrote >= 0 && (size_t)wrote < step->content.len) return fault(CODE_INTERNAL, "write %.800s: cut short", step->path);
    return wrote < 0 ? -1 : 0;
}

static int make_mount_point(int root, const char *path, const char *source, bool bind) {
    const char *name;
    struct stat stat_buffer;
    if (!bind || stat(source, &stat_buffer) < 0 || S_ISDIR(stat_buffer.st_mode)) return make_directories_in_root(root, path);
    int parent = open_parent_in_root(root, path, true, &name);
    if (parent < 0) return -1;
    int fd = openat(parent, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0) fault_call("create", path);
    close(parent);
    return fd < 0 ? -1 : close(fd);
}

static int set_propagation(int root, const char *path, uint64_t propagation) {
    char text[FD_PATH_SIZE];
    int fd = open_named(root, path, O_PATH);  // again: the one opened before is below the new mount
    if (fd < 0) return -1;
    int status = mount(NULL, fd_path(fd, text, sizeof text), NULL, propagation, NULL);
    if (status < 0) fault_call("mount", path);
    close(fd);
    return status;
}

static int mount_step(int root, const Sandboxd__Agent__V1__Mount *step) {
    char text[FD_PATH_SIZE];
    const char *serial = block_serial(step->source), *source = step->source;
    if (serial && !(source = find_block_device(serial))) {
        errno = ENODEV;
        return fault_call("mount", step->source);
    }
    int fd = open_in_root(root, step->target, O_PATH, 0);
    if (fd < 0 && errno == ENOENT && step->make_target) {
        if (make_mount_point(root, step->target, source, step->flags & MS_BIND) < 0) return -1;
        fd = open_in_root(root, step->target, O_PATH, 0);
    }
    if (fd < 0) return fault_call("openat2", step->target);
    int status = mount(source, fd_path(fd, text, sizeof text), step->type, step->flags, *step->data ? step->data : NULL);
    if (status < 0) fault_call("mount", step->target);
    close(fd);
    return status == 0 && step->propagation ? set_propagation(root, step->target, step->propagation) : status;
}

static int mount_attributes(int root, const Sandboxd__Agent__V1__MountAttributes *step) {
    int fd = open_named(root, step->path, O_PATH);
    if (fd < 0) return -1;
    unsigned flags = AT_EMPTY_PATH | (step->recursive ? 0x8000 /* AT_RECURSIVE */ : 0);
    int status = sys_mount_setattr(fd, "", flags, step->set, step->clear);
    if (status < 0) fault_call("mount_setattr", step->path);
    close(fd);
    return status;
}

static int make_node(int root, const Sandboxd__Agent__V1__MakeNode *step) {
    const char *name;
    struct stat stat;
    dev_t device = makedev(step->major, step->minor);
    int parent = open_parent_in_root(root, step->path, true, &name);
    if (parent < 0) return -1;
    int status = mknodat(parent, name, step->mode, device);
    int fd = status == 0 || errno == EEXIST ? openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC) : -1;
    if (fd < 0) fault_call("mknod", step->path);
    close(parent);
    if (fd < 0) return -1;
    if (fstat(fd, &stat) < 0 || (stat.st_mode & S_IFMT) != (step->mode & S_IFMT) || (!S_ISFIFO(stat.st_mode) && stat.st_rdev != device))
        status = fault(CODE_INTERNAL, "mknod %.800s: EEXIST as something else", step->path);
    else
        status = own(fd, step->path, step->uid, step->gid, step->mode);
    close(fd);
    return status;
}

static int make_symlink(int root, const Sandboxd__Agent__V1__MakeSymlink *step) {
    const char *name;
    char there[4096];
    int parent = open_parent_in_root(root, step->path, true, &name);
    if (parent < 0) return -1;
    int status = symlinkat(step->target, parent, name);
    if (status < 0) fault_call("symlink", step->path);
    if (status < 0 && errno == EEXIST) {
        ssize_t size = readlinkat(parent, name, there, sizeof there);
        if (size == (ssize_t)strlen(step->target) && !memcmp(there, step->target, size)) status = 0;
    }
    close(parent);
    return status;
}

// /dev/null over a file: the guest's, or once in the container its own, if it really is one.
static int mask_file(const struct place *place, const char *target, const char *path) {
    struct stat stat_buffer;
    if (place->pivoted && (stat("/dev/null", &stat_buffer) < 0 || !S_ISCHR(stat_buffer.st_mode) || stat_buffer.st_rdev != makedev(1, 3)))
        return fault(CODE_INTERNAL, "mask %.800s: the container's /dev/null is not the null device", path);
    return mount("/dev/null", target, NULL, MS_BIND, NULL) < 0 ? fault_call("mask", path) : 0;
}

static int mask(const struct place *place, int root, const char *path) {
    struct stat stat;
    char target[FD_PATH_SIZE];
    int fd = open_in_root(root, path, O_PATH, 0);
    if (fd < 0) return errno == ENOENT || errno == ENOTDIR ? 0 : fault_call("mask", path);
    fd_path(fd, target, sizeof target);
    int status = fstat(fd, &stat);
    if (status < 0)
        fault_call("mask", path);
    else if (!S_ISDIR(stat.st_mode))
        status = mask_file(place, target, path);
    else if ((status = mount("tmpfs", target, "tmpfs", MS_RDONLY, "size=0k")) < 0)
        fault_call("mask", path);
    close(fd);
    return status;
}

static int read_only(int root, const char *path) {
    char text[FD_PATH_SIZE];
    int fd = open_in_root(root, path, O_PATH, 0);
    if (fd < 0) return errno == ENOENT || errno == ENOTDIR ? 0 : fault_call("read_only", path);
    fd_path(fd, text, sizeof text);
    int status = mount(text, text, NULL, MS_BIND | MS_REC, NULL);
    if (status < 0) fault_call("read_only", path);
    close(fd);
    if (status < 0) return -1;
    Sandboxd__Agent__V1__MountAttributes attributes = SANDBOXD__AGENT__V1__MOUNT_ATTRIBUTES__INIT;
    attributes.path = (char *)path;
    attributes.set = 1;  // MOUNT_ATTR_RDONLY
    return mount_attributes(root, &attributes);
}

static int unmount(int root, const char *path) {
    char text[FD_PATH_SIZE];
    int fd = open_named(root, path, O_PATH);
    if (fd < 0) return -1;
    int status = umount2(fd_path(fd, text, sizeof text), MNT_DETACH);
    if (status < 0) fault_call("umount", path);
    close(fd);
    return status;
}

static int remove_step(int root, const char *path) {
    const char *name;
    int parent = open_parent_in_root(root, path, false, &name);
    if (parent < 0) return -1;
    int status = unlinkat(parent, name, 0);
    if (status < 0 && errno == EISDIR) status = unlinkat(parent, name, AT_REMOVEDIR);
    if (status < 0) fault_call("remove", path);
    close(parent);
    return status;
}

// --- running ---

#define KIND(name) SANDBOXD__AGENT__V1__STEP__KIND_##name

static int run_step(struct place *place, const Step *step) {
    int root = root_of(place, step);
    if (step->in_root && root < 0) return fault_call("open", place->root);
    switch (step->kind_case) {
        case KIND(MAKE_DIRECTORY): return make_directory(root, step->make_directory);
        case KIND(MAKE_FILE): return make_file(root, step->make_file);
        case KIND(WRITE): return write_step(root, step->write);
        case KIND(MOUNT): return mount_step(root, step->mount);
        case KIND(MOUNT_ATTRIBUTES): return mount_attributes(root, step->mount_attributes);
        case KIND(MAKE_NODE): return make_node(root, step->make_node);
        case KIND(MAKE_SYMLINK): return make_symlink(root, step->make_symlink);
        case KIND(MASK): return mask(place, root, step->mask->path);
        case KIND(READ_ONLY): return read_only(root, step->read_only->path);
        case KIND(UNMOUNT): return unmount(root, step->unmount->path);
        case KIND(REMOVE): return remove_step(root, step->remove->path);
        default: return fault(CODE_UNIMPLEMENTED, "a step of kind %d", (int)step->kind_case);
    }
}

int run_steps(struct place *place, size_t count, Step **steps) {
    for (size_t i = 0; i < count; i++)
        if (run_step(place, steps[i]) < 0 && !steps[i]->optional) return -1;
    return 0;
}

void run_cleanup(const Plan *plan) {
    struct place place = {.root_fd = -1, .root = plan->root};
    for (size_t i = 0; i < plan->n_cleanup; i++) run_step(&place, plan->cleanup[i]);
    close_fd(&place.root_fd);
}

// --- checking ---

static const char *path_of(const Step *step) {
    switch (step->kind_case) {
        case KIND(MAKE_DIRECTORY): return step->make_directory->path;
        case KIND(MAKE_FILE): return step->make_file->path;
        case KIND(WRITE): return step->write->path;
        case KIND(MOUNT): return step->mount->target;
        case KIND(MOUNT_ATTRIBUTES): return step->mount_attributes->path;
        case KIND(MAKE_NODE): return step->make_node->path;
        case KIND(MAKE_SYMLINK): return step->make_symlink->path;
        case KIND(MASK): return step->mask->path;
        case KIND(READ_ONLY): return step->read_only->path;
        case KIND(UNMOUNT): return step->unmount->path;
        case KIND(REMOVE): return step->remove->path;
        default: return NULL;
    }
}

int check_steps(size_t count, Step **steps) {
    for (size_t i = 0; i < count; i++) {
        const Step *step = steps[i];
        const char *path = path_of(step);
        if (!path) return fault(CODE_UNIMPLEMENTED, "step %zu is of a kind that this agent does not know", i);
        if (*path != '/') return fault(CODE_INVALID_ARGUMENT, "step %zu: path %.200s is not absolute", i, path);
        if (step->kind_case == KIND(MAKE_FILE) && step->make_file->content.len > FILE_SIZE_MAX)
            return fault(CODE_INVALID_ARGUMENT, "step %zu: %.200s is over %u bytes", i, path, FILE_SIZE_MAX);
        if (step->kind_case == KIND(MOUNT) && strlen(step->mount->data) > MOUNT_DATA_MAX)
            return fault(CODE_INVALID_ARGUMENT, "step %zu: mount data of %.200s is over %d bytes", i, path, MOUNT_DATA_MAX);
    }
    return 0;
}
