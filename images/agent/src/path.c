// Names below a container's root. Images are hostile: a symlink, "..", or a name in /proc must not lead out, so the
// kernel resolves them (openat2(2), RESOLVE_IN_ROOT).
#include "agent.h"

#include <linux/openat2.h>

#define CONFINED (RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
#define DIRECTORY_MODE 0755

// root_fd -1: a path of the guest, resolved as usual.
int open_in_root(int root_fd, const char *path, uint64_t flags, uint64_t mode) {
    if (root_fd < 0) return sys_openat2(AT_FDCWD, path, flags, mode, 0);
    return sys_openat2(root_fd, *path ? path : ".", flags, mode, CONFINED);
}

const char *fd_path(int fd, char *text, size_t size) {
    snprintf(text, size, "self/fd/%d", fd);
    return text;
}

// The directory named by the first `size` bytes of path, opened, and made if `parent` (the one before it) lacks it.
static int enter(int root_fd, int parent, const char *path, size_t size, const char *name, size_t name_size) {
    char text[4096];
    if (size >= sizeof text) return errno = ENAMETOOLONG, -1;
    memcpy(text, path, size);
    text[size] = 0;
    int fd = open_in_root(root_fd, text, O_PATH | O_DIRECTORY, 0);
    if (fd >= 0 || errno != ENOENT) return fd;
    memcpy(text, name, name_size);
    text[name_size] = 0;
    if (mkdirat(parent, text, DIRECTORY_MODE) < 0) return -1;  // EEXIST: a symlink to nowhere
    return sys_openat2(parent, text, O_PATH | O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
}

// Opens the directory named by the first `size` bytes of path, making what is missing on the way.
static int make_way(int root_fd, const char *path, size_t size) {
    int at = root_fd < 0 ? open("/", O_PATH | O_DIRECTORY | O_CLOEXEC) : open_in_root(root_fd, ".", O_PATH | O_DIRECTORY, 0);
    for (size_t start = 0, end; at >= 0 && start < size; start = end) {
        while (start < size && path[start] == '/') start++;
        for (end = start; end < size && path[end] != '/';) end++;
        if (end == start) break;
        int next = enter(root_fd, at, path, end, path + start, end - start);
        int error = errno;
        close(at);
        errno = error;
        at = next;
    }
    return at;
}

// The directory that holds the last name of path; *name points into path. "", "/", "." and ".." are no names.
int open_parent_in_root(int root_fd, const char *path, bool make, const char **name) {
    char text[4096];
    const char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    size_t size = *name - path;
    if (!**name || !strcmp(*name, ".") || !strcmp(*name, "..")) return fault(CODE_INVALID_ARGUMENT, "%.800s names nothing", path);
    if (size >= sizeof text) return fault(CODE_INVALID_ARGUMENT, "a path is over %zu bytes", sizeof text);
    memcpy(text, path, size);
    text[size] = 0;
    int fd = open_in_root(root_fd, text, O_PATH | O_DIRECTORY, 0);
    if (fd < 0 && errno == ENOENT && make) fd = make_way(root_fd, path, size);
    return fd < 0 ? fault_call("openat2", path) : fd;
}

int make_directories_in_root(int root_fd, const char *path) {
    int fd = make_way(root_fd, path, strlen(path));
    if (fd < 0) return fault_call("mkdir", path);
    return close(fd);
}
