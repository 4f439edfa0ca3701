// Prints what a process finds itself in, one "key=value" a line: two runtimes given the same config.json must agree.
//
//   probe [file:PATH] [list:DIR] [path:PATH] [sysctl:NAME] [open:TYPE:MAJOR:MINOR] [call:NAME]...
//
// Values are escaped: bytes outside of ' '..'~' and '\' become \xNN. A thing that cannot be had prints "!ERRNO".
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

static char text[1 << 16];

static void print_value(const char *value, size_t size) {
    for (size_t i = 0; i < size; i++) {
        unsigned char byte = value[i];
        if (byte < ' ' || byte > '~' || byte == '\\')
            printf("\\x%02x", byte);
        else
            putchar(byte);
    }
    putchar('\n');
}

static void say(const char *key, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    printf("%s=", key);
    print_value(text, size < (int)sizeof text ? size : (int)sizeof text - 1);
}

static ssize_t slurp(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return -1;
    ssize_t size = 0, got;
    while ((got = read(fd, text + size, sizeof text - 1 - size)) > 0) size += got;
    int error = errno;
    close(fd);
    errno = error;
    if (got < 0) return -1;
    text[size] = 0;
    return size;
}

static void say_file(const char *key, const char *path) {
    ssize_t size = slurp(path);
    if (size < 0) {
        say(key, "!%s", strerrorname_np(errno));
        return;
    }
    while (size && text[size - 1] == '\n') size--;
    printf("%s=", key);
    print_value(text, size);
}

// --- identity ---

static int by_number(const void *left, const void *right) {
    gid_t a = *(const gid_t *)left, b = *(const gid_t *)right;
    return a < b ? -1 : a > b;
}

static void ids(void) {
    uid_t uid[3];
    gid_t gid[3], groups[256];
    getresuid(&uid[0], &uid[1], &uid[2]);
    getresgid(&gid[0], &gid[1], &gid[2]);
    say("uid", "%u %u %u", uid[0], uid[1], uid[2]);
    say("gid", "%u %u %u", gid[0], gid[1], gid[2]);
    int count = getgroups(256, groups), at = 0;
    qsort(groups, count > 0 ? count : 0, sizeof *groups, by_number);
    char list[4096] = "";
    for (int i = 0; i < count; i++) at += snprintf(list + at, sizeof list - at, "%s%u", i ? " " : "", groups[i]);
    say("groups", "%s", list);
}

static void status_lines(void) {
    static const char *const names[] = {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"};
    FILE *file = fopen("/proc/self/status", "re");
    char line[512], key[64];
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            size_t size = strlen(names[i]);
            if (strncmp(line, names[i], size) || line[size] != ':') continue;
            snprintf(key, sizeof key, "status.%s", names[i]);
            say(key, "%s", line + size + 2);
        }
    }
    if (file) fclose(file);
}

static void limits(void) {
    for (int which = 0; which < RLIM_NLIMITS; which++) {
        struct rlimit limit;
        char key[32];
        getrlimit(which, &limit);
        snprintf(key, sizeof key, "rlimit.%d", which);
        say(key, "%llu %llu", (unsigned long long)limit.rlim_cur, (unsigned long long)limit.rlim_max);
    }
}

struct scheduling {  // struct sched_attr, linux/sched/types.h
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

static void scheduling(void) {
    struct scheduling attributes = {.size = sizeof attributes};
    syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0);
    say("scheduler", "policy %u nice %d priority %u flags %llu runtime %llu deadline %llu period %llu", attributes.policy,
        attributes.nice, attributes.priority, (unsigned long long)attributes.flags,
        (unsigned long long)attributes.runtime, (unsigned long long)attributes.deadline,
        (unsigned long long)attributes.period);
    say("ioprio", "%ld", syscall(SYS_ioprio_get, 1, 0));
    cpu_set_t cpus;
    sched_getaffinity(0, sizeof cpus, &cpus);
    say("cpus", "%d", CPU_COUNT(&cpus));
}

static void process(void) {
    char cwd[4096];
    mode_t mask = umask(0);
    umask(mask);
    say("umask", "%04o", mask);
    say("cwd", "%s", getcwd(cwd, sizeof cwd) ? cwd : strerrorname_np(errno));
    say("pid", "%d", getpid());
    say("session", "%s %s", getsid(0) == getpid() ? "own" : "other", getpgid(0) == getpid() ? "own" : "other");
    say("personality", "%#x", personality(0xffffffff));
    say_file("oom_score_adj", "/proc/self/oom_score_adj");
    say("keep_caps", "%d", prctl(PR_GET_KEEPCAPS));
    say("dumpable", "%d", prctl(PR_GET_DUMPABLE));
    say("pdeathsig", "%d", ({ int signal = 0; prctl(PR_GET_PDEATHSIG, &signal); signal; }));
    say("securebits", "%#x", prctl(PR_GET_SECUREBITS));
}

// Signals 32 and 33 are the C library's own: one that is spawned by glibc's posix_spawn finds them ignored.
#define INTERNAL_SIGNALS 0x180000000ull

static void signals(void) {
    FILE *file = fopen("/proc/self/status", "re");
    char line[512], key[64];
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, "SigBlk:", 7) && strncmp(line, "SigIgn:", 7)) continue;
        snprintf(key, sizeof key, "signals.%.6s", line);
        say(key, "%016llx", strtoull(line + 8, NULL, 16) & ~INTERNAL_SIGNALS);
    }
    if (file) fclose(file);
}

static void names(void) {
    struct utsname name;
    uname(&name);
    say("hostname", "%s", name.nodename);
    say("domainname", "%s", name.domainname);
    say("machine", "%s", name.machine);
}

static void environment(void) {
    extern char **environ;
    for (char **entry = environ; *entry; entry++) {
        char key[256];
        size_t size = strcspn(*entry, "=");
        snprintf(key, sizeof key, "env.%.*s", (int)size, *entry);
        say(key, "%s", (*entry)[size] ? *entry + size + 1 : "");
    }
}

static void namespaces(void) {
    static const char *const kinds[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char path[64], key[32], target[64];
        snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[i]);
        snprintf(key, sizeof key, "ns.%s", kinds[i]);
        ssize_t size = readlink(path, target, sizeof target - 1);
        if (size < 0)
            say(key, "!%s", strerrorname_np(errno));
        else
            say(key, "%.*s", (int)size, target);
    }
    say_file("uid_map", "/proc/self/uid_map");
    say_file("gid_map", "/proc/self/gid_map");
    say_file("setgroups", "/proc/self/setgroups");
    say_file("timens_offsets", "/proc/self/timens_offsets");
    say_file("cgroup", "/proc/self/cgroup");
}

static void terminal(void) {
    struct winsize size = {0};
    say("tty", "%d %d %d", isatty(0), isatty(1), isatty(2));
    if (isatty(0) && ioctl(0, TIOCGWINSZ, &size) == 0) say("tty.size", "%ux%u", size.ws_col, size.ws_row);
    char name[256];
    if (isatty(0)) say("tty.name", "%s", ttyname_r(0, name, sizeof name) == 0 ? name : "!");
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC);
    say("tty.controlling", "%s", fd >= 0 ? "yes" : strerrorname_np(errno));
    if (fd >= 0) close(fd);
}

static void descriptors(void) {
    DIR *directory = opendir("/proc/self/fd");
    char list[1024] = "";
    size_t at = 0;
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        if (*entry->d_name != '.' && atoi(entry->d_name) != dirfd(directory))
            at += snprintf(list + at, sizeof list - at, "%s%s", at ? " " : "", entry->d_name);
    say("fds", "%s", list);
    if (directory) closedir(directory);
}

// --- files ---

// mountinfo (proc(5)): id parent major:minor root target options optional... - type source super-options
static void mounts(void) {
    FILE *file = fopen("/proc/self/mountinfo", "re");
    char line[8192];
    for (int number = 0; file && fgets(line, sizeof line, file); number++) {
        char root[2048], target[2048], options[1024], tags[512] = "", kind[64], source[2048], super[2048], key[64];
        char *dash = strstr(line, " - ");
        int used = 0;
        if (!dash || sscanf(line, "%*s %*s %*s %2047s %2047s %1023s%n", root, target, options, &used) != 3) continue;
        if (line + used < dash) snprintf(tags, sizeof tags, "%.*s", (int)(dash - line - used - 1), line + used + 1);
        if (sscanf(dash, " - %63s %2047s %2047s", kind, source, super) != 3) continue;
        snprintf(key, sizeof key, "mount.%03d", number);
        say(key, "%s|%s|%s|%s|%s|%s|%s", target, kind, root, options, tags, source, super);
    }
    if (file) fclose(file);
}

static void describe(const char *key, const char *path) {
    struct stat stat;
    char target[4096];
    if (lstat(path, &stat) < 0) {
        say(key, "!%s", strerrorname_np(errno));
        return;
    }
    char kind = S_ISDIR(stat.st_mode) ? 'd' : S_ISCHR(stat.st_mode) ? 'c' : S_ISBLK(stat.st_mode) ? 'b' :
                S_ISLNK(stat.st_mode) ? 'l' : S_ISFIFO(stat.st_mode) ? 'p' : S_ISSOCK(stat.st_mode) ? 's' : '-';
    if (kind == 'l') {
        ssize_t size = readlink(path, target, sizeof target - 1);
        say(key, "l %.*s", (int)(size < 0 ? 0 : size), target);
    } else if (kind == 'c' || kind == 'b') {
        say(key, "%c %04o %u:%u %u:%u", kind, stat.st_mode & 07777, stat.st_uid, stat.st_gid, major(stat.st_rdev), minor(stat.st_rdev));
    } else {
        say(key, "%c %04o %u:%u", kind, stat.st_mode & 07777, stat.st_uid, stat.st_gid);
    }
}

static int by_name(const struct dirent **left, const struct dirent **right) {
    return strcmp((*left)->d_name, (*right)->d_name);
}

static void list(const char *directory) {
    struct dirent **entries;
    char path[4096], key[4608];
    snprintf(key, sizeof key, "list.%s", directory);
    int count = scandir(directory, &entries, NULL, by_name);
    if (count < 0) say(key, "!%s", strerrorname_np(errno));
    for (int i = 0; i < count; i++) {
        if (strcmp(entries[i]->d_name, ".") && strcmp(entries[i]->d_name, "..")) {
            snprintf(path, sizeof path, "%s/%s", directory, entries[i]->d_name);
            snprintf(key, sizeof key, "list.%s", path);
            describe(key, path);
        }
        free(entries[i]);
    }
    if (count >= 0) free(entries);
}

// What is at a path, whether it can be read and written, and how many entries a directory shows.
static void look(const char *path) {
    char key[4096];
    struct statvfs file_system;
    snprintf(key, sizeof key, "path.%s", path);
    describe(key, path);
    if (statvfs(path, &file_system) < 0) return;
    snprintf(key, sizeof key, "path.%s.flags", path);
    say(key, "%#lx", file_system.f_flag & ~0x20UL);
    snprintf(key, sizeof key, "path.%s.write", path);
    say(key, "%s", access(path, W_OK) == 0 ? "yes" : strerrorname_np(errno));
    DIR *directory = opendir(path);
    if (!directory) return;
    int count = 0;
    while (readdir(directory)) count++;
    closedir(directory);
    snprintf(key, sizeof key, "path.%s.empty", path);
    say(key, "%s", count == 2 ? "yes" : "no");
}

static void contents(const char *path) {
    char key[4096];
    snprintf(key, sizeof key, "file.%s", path);
    say_file(key, path);
}

static void sysctl(const char *name) {
    char path[512], key[512];
    snprintf(path, sizeof path, "/proc/sys/%s", name);
    snprintf(key, sizeof key, "sysctl.%s", name);
    say_file(key, path);
}

// --- rights over devices: EPERM is what a device controller says; a device that is not there is allowed ---

static const char *verdict(int result) {
    return result >= 0 || errno != EPERM ? "allowed" : "denied";
}

static void device(const char *words) {
    char type, key[128], path[] = "/dev/probe-node";
    unsigned number[2];
    if (sscanf(words, "%c:%u:%u", &type, &number[0], &number[1]) != 3) return;
    mode_t mode = (type == 'b' ? S_IFBLK : S_IFCHR) | 0666;
    unlink(path);
    int made = mknod(path, mode, makedev(number[0], number[1]));
    const char *make = verdict(made), *read = "-", *write = "-";
    if (made == 0) {
        int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
        read = verdict(fd);
        if (fd >= 0) close(fd);
        fd = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY);
        write = verdict(fd);
        if (fd >= 0) close(fd);
        unlink(path);
    }
    snprintf(key, sizeof key, "device.%s", words);
    say(key, "mknod %s read %s write %s", make, read, write);
}

// --- system calls, with arguments that do no harm where they are let through ---

struct call {
    const char *name;
    long number, arguments[6];
};
static const struct call calls[] = {
    {"add_key", SYS_add_key, {0}},
    {"bpf", SYS_bpf, {-1, 0, 0}},
    {"chroot", SYS_chroot, {(long)"/probe-is-not-there"}},
    {"clock_settime", SYS_clock_settime, {-1, 0}},
    {"clone_newuser", SYS_clone, {CLONE_NEWUSER | CLONE_FS, 0}},
    {"clone3", SYS_clone3, {0, 0}},
    {"delete_module", SYS_delete_module, {0, 0}},
    {"finit_module", SYS_finit_module, {-1, 0, 0}},
    {"fsopen", SYS_fsopen, {0, 0}},
    {"getpid", SYS_getpid, {0}},
    {"io_uring_setup", SYS_io_uring_setup, {0, 0}},
    {"iopl", SYS_iopl, {9}},
    {"kcmp", SYS_kcmp, {0, 0, -1}},
    {"kexec_load", SYS_kexec_load, {0, 0, 0, -1}},
    {"keyctl", SYS_keyctl, {-1}},
    {"mount", SYS_mount, {0, 0, 0, 0}},
    {"open_by_handle_at", SYS_open_by_handle_at, {-1, 0, 0}},
    {"perf_event_open", SYS_perf_event_open, {0, 0, 0, -1, 0}},
    {"pivot_root", SYS_pivot_root, {0, 0}},
    {"process_vm_readv", SYS_process_vm_readv, {-1, 0, 0, 0, 0, 0}},
    {"ptrace", SYS_ptrace, {-1, 0, 0, 0}},
    {"quotactl", SYS_quotactl, {-1, 0, 0, 0}},
    {"reboot", SYS_reboot, {0, 0, 0, 0}},
    {"sethostname", SYS_sethostname, {0, -1}},
    {"setns", SYS_setns, {-1, 0}},
    {"socket_raw", SYS_socket, {2, 3, 1}},
    {"socket_vsock", SYS_socket, {40, 1, 0}},
    {"swapon", SYS_swapon, {0, 0}},
    {"syslog", SYS_syslog, {-1, 0, 0}},
    {"umount2", SYS_umount2, {0, 0}},
    {"unshare", SYS_unshare, {-1}},
    {"unshare_nothing", SYS_unshare, {0}},
    {"userfaultfd", SYS_userfaultfd, {-1}},
    {"vhangup_as_getppid", SYS_getppid, {0}},
};

// Each in a child: a filter may kill.
static void try_call(const struct call *call) {
    int ends[2], status = 0;
    int32_t error = -1;
    if (pipe2(ends, O_CLOEXEC) < 0) return;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        const long *argument = call->arguments;
        errno = 0;
        long result = syscall(call->number, argument[0], argument[1], argument[2], argument[3], argument[4], argument[5]);
        error = result < 0 ? errno : 0;
        if (call->number == SYS_clone && result == 0) _exit(0);
        if (write(ends[1], &error, sizeof error) < 0) _exit(1);
        _exit(0);
    }
    close(ends[1]);
    if (read(ends[0], &error, sizeof error) < 0) error = -1;
    close(ends[0]);
    if (child > 0) waitpid(child, &status, 0);
    char key[64];
    snprintf(key, sizeof key, "call.%s", call->name);
    if (WIFSIGNALED(status))
        say(key, "signal %d", WTERMSIG(status));
    else
        say(key, "%s", error > 0 ? strerrorname_np(error) : error == 0 ? "ok" : "?");
}

static void try_calls(const char *name) {
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (!strcmp(name, "all") || !strcmp(name, calls[i].name)) try_call(&calls[i]);
}

static void extra(const char *argument) {
    static const struct {
        const char *word;
        void (*act)(const char *rest);
    } table[] = {{"file:", contents}, {"list:", list}, {"path:", look}, {"sysctl:", sysctl}, {"open:", device}, {"call:", try_calls}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (!strncmp(argument, table[i].word, strlen(table[i].word))) table[i].act(argument + strlen(table[i].word));
}

int main(int count, char **arguments) {
    ids();
    status_lines();
    limits();
    scheduling();
    process();
    signals();
    names();
    environment();
    namespaces();
    terminal();
    descriptors();
    mounts();
    for (int i = 1; i < count; i++) extra(arguments[i]);
    printf("end=\n");
    return fflush(stdout) == 0 ? 0 : 1;
}
