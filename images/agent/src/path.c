// Names below a container's root. Images are hostile: a symlink, "..", or a name in /proc must not lead out, so the
// kernel resolves them (openat2(2), RESOLVE_IN_ROOT).
#include "agent.h"

#include <linux/openat2.h>

#define DIRECTORY_MODE 0755
#define WALK (O_PATH | O_DIRECTORY)

int open_in_root(int root_fd, const char *path, uint64_t flags, uint64_t mode) {
    if (*path != '/') return errno = EINVAL, -1;
    if (root_fd < 0) return sys_openat2(AT_FDCWD, path, flags, mode, 0);
    return sys_openat2(root_fd, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

const char *fd_path(int fd, char text[FD_PATH_SIZE]) {
    snprintf(text, FD_PATH_SIZE, "self/fd/%d", fd);
    return text;
}

// Opens the directory named by the first `size` bytes of path, making what is missing on the way: each name is made
// below the directory that the names before it lead to.
static int make_way(int root_fd, const char *path, size_t size) {
    char text[4096];
    SCOPED int at = open_in_root(root_fd, "/", WALK, 0);
    for (size_t start = 0, end; at >= 0 && start < size; start = end) {
        while (start < size && path[start] == '/') start++;
        for (end = start; end < size && path[end] != '/';) end++;
        if (end == start) break;
        snprintf(text, sizeof text, "%.*s", (int)end, path);
        int next = open_in_root(root_fd, text, WALK, 0);
        if (next < 0 && errno == ENOENT) {
            snprintf(text, sizeof text, "%.*s", (int)(end - start), path + start);
            if (mkdirat(at, text, DIRECTORY_MODE) == 0)  // EEXIST: a symlink to nowhere
                next = sys_openat2(at, text, WALK, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
        }
        close_fd(&at);
        at = next;
    }
    int found = at;
    at = -1;
    return found;
}

// The directory that holds the last name of path; *name points into path. "", "/", "." and ".." are no names.
int open_parent_in_root(int root_fd, const char *path, bool make, const char **name) {
    char text[4096];
    const char *slash = strrchr(path, '/');
    size_t size = slash ? slash + 1 - path : 0;
    *name = path + size;
    if (*path != '/' || size >= sizeof text || !**name || !strcmp(*name, ".") || !strcmp(*name, ".."))
        return fault(CODE_INVALID_ARGUMENT, "%.800s is no absolute path that names something", path);
    snprintf(text, sizeof text, "%.*s", (int)size, path);
    int fd = open_in_root(root_fd, text, WALK, 0);
    if (fd < 0 && errno == ENOENT && make) fd = make_way(root_fd, path, size);
    return checked(fd, "open", path);
}

int make_directories_in_root(int root_fd, const char *path) {
    if (strlen(path) >= 4096) return errno = ENAMETOOLONG, fault_call("mkdir", path);
    int fd = make_way(root_fd, path, strlen(path));
    return fd < 0 ? fault_call("mkdir", path) : close(fd);
}
