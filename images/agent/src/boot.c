// From the kernel's execve of /init to an open port, in as few system calls as will do: code that runs once is what
// costs in an emulated machine.
#include "agent.h"

#include <dirent.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define PORT_NAME "agent"
#define PORT_TIMEOUT_MS 30000
#define ROOT "/newroot"

static const struct {
    const char *source, *target, *type;
    unsigned long flags;
    const char *data;
} mounts[] = {
    {"proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
    {"sysfs", "sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
    {"devtmpfs", "dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755"},
    {"devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"},
};

// The initramfs cannot be pivoted away from (pivot_root(2), EINVAL), which every container does. So the guest's root
// is a tmpfs on top of it; /run and /tmp are directories of that.
static int new_root(void) {
    if (mkdir(ROOT, 0755) < 0 && errno != EEXIST) return fault_call("mkdir", ROOT);
    if (mount("tmpfs", ROOT, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755") < 0) return fault_call("mount", ROOT);
    if (chdir(ROOT) < 0) return fault_call("chdir", ROOT);
    if (mkdir("run", 0755) < 0 || mkdir("tmp", 01777) < 0 || chmod("tmp", 01777) < 0) return fault_call("mkdir", "/run, /tmp");
    for (size_t i = 0; i < sizeof mounts / sizeof *mounts; i++) {
        if (mkdir(mounts[i].target, 0755) < 0 && errno != EEXIST) return fault_call("mkdir", mounts[i].target);
        if (mount(mounts[i].source, mounts[i].target, mounts[i].type, mounts[i].flags, mounts[i].data) < 0)
            return fault_call("mount", mounts[i].target);
    }
    return 0;
}

static int enter_new_root(void) {
    if (mount(".", "/", NULL, MS_MOVE, NULL) < 0) return fault_call("mount", "/");
    if (chroot(".") < 0 || chdir("/") < 0) return fault_call("chroot", "/");
    return 0;
}

// The kernel gives PID 1 no open files when the initrd has no /dev/console; later code relies on 0 to 2 being taken.
static int open_stdio(void) {
    int fd;
    do fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd < 3);
    if (fd < 0) return fault_call("open", "/dev/null");
    return close(fd);
}

static int load_module(const char *path) {
    SCOPED int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fault_call("open", path);
    unlink(path);  // the initramfs is memory
    return syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST ? fault_call("finit_module", path) : 0;
}

// /modules: one path a line, in the order of their dependencies. A kernel with everything built in has no such file.
static int load_modules(void) {
    char list[16384];
    ssize_t size = read_file(AT_FDCWD, "/modules", list, sizeof list);
    if (size < 0) return errno == ENOENT ? 0 : fault_call("read", "/modules");
    if (size == sizeof list - 1) return fault(CODE_INTERNAL, "/modules is over %zu bytes", sizeof list - 2);
    for (char *rest = list, *path; (path = strtok_r(rest, "\n", &rest));)
        if (load_module(path) < 0) return -1;
    return 0;
}

// --- the port ---

static int open_port_named(const char *device) {
    char path[320], name[32];
    snprintf(path, sizeof path, "/sys/class/virtio-ports/%.200s/name", device);
    if (read_file(AT_FDCWD, path, name, sizeof name) < 0) return -1;
    name[strcspn(name, "\n")] = 0;
    if (strcmp(name, PORT_NAME)) return -1;
    snprintf(path, sizeof path, "/dev/%.200s", device);
    return open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
}

static int find_port(void) {
    int fd = -1;
    DIR *directory = opendir("/sys/class/virtio-ports");
    if (!directory) return -1;
    for (struct dirent *entry; fd < 0 && (entry = readdir(directory));)
        if (*entry->d_name != '.') fd = open_port_named(entry->d_name);
    closedir(directory);
    return fd;
}

// The port appears when host and driver have shaken hands, its name a little later; both are announced.
static int wait_for_port(void) {
    int events = uevent_socket();
    if (events < 0) return -1;
    uint64_t deadline = monotonic_ms() + PORT_TIMEOUT_MS;
    int fd;
    while ((fd = find_port()) < 0) {
        char event[4096];
        uint64_t now = monotonic_ms();
        struct pollfd wait = {.fd = events, .events = POLLIN};
        if (now >= deadline || poll(&wait, 1, (int)(deadline - now)) == 0) {
            fault(CODE_DEADLINE_EXCEEDED, "no virtio-console port named " PORT_NAME " after %d s", PORT_TIMEOUT_MS / 1000);
            break;
        }
        while (recv(events, event, sizeof event, 0) > 0) continue;
    }
    close(events);
    return fd;
}

int boot(void) {
    if (new_root() < 0 || load_modules() < 0) return -1;
    agent.modules_boottime_ns = boottime_ns();
    if (enter_new_root() < 0 || open_stdio() < 0) return -1;
    if (cgroup_mount() < 0) complain("%s", the_fault.text);  // containers that ask for a cgroup are refused one by one
    return wait_for_port();
}
