// Streams of a process: pipes, or a terminal of the container's own devpts.
//
// Output is read only when someone asks for it, so a full pipe holds the writer back; a call with input is answered
// when the reader took all of it.
#include "agent.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

#define READ_SIZE_MAX (256u << 10)
#define BUSY_PIPE (32 << 10)

static void on_ready(struct watch *watch) {
    wake(watch->owner);
}

// --- output ---

static void end_output(struct stream *stream) {
    watch_close(&stream->watch);
    stream->eof = true;
}

// What is in the pipe now is the end: children of the process that still hold it have no one to write for.
void stdio_process_ended(struct process *process) {
    for (int i = 0; i < 2; i++) {
        int left = 0;
        if (!process->output[i].eof) ioctl(process->output[i].watch.fd, FIONREAD, &left);
        process->output[i].left = left > 0 ? left : 0;
    }
    watch_close(&process->input);
}

bool stdio_drained(struct process *process) {
    for (int i = 0; i < 2; i++) {
        struct stream *stream = &process->output[i];
        if (stream->eof || (!process->terminal && !stream->left)) continue;
        // Unlike FIONREAD, poll(2) sees what is still on its way through a terminal.
        struct pollfd wait = {.fd = stream->watch.fd, .events = POLLIN};
        if (!process->terminal || (poll(&wait, 1, 0) > 0 && (wait.revents & POLLIN))) return false;
    }
    return true;
}

HANDLER(ReadOutput, read_output) {
    MESSAGE(ReadOutputResponse) response = SANDBOXD__AGENT__V1__READ_OUTPUT_RESPONSE__INIT;
    static uint8_t buffer[READ_SIZE_MAX];
    struct process *process = process_find(request->container, message->exec_id);
    if (!process) return FAILED;
    unsigned which = message->stream - SANDBOXD__AGENT__V1__STREAM__STREAM_STDOUT;
    if (which > 1) return fault(CODE_INVALID_ARGUMENT, "stream %d is neither stdout nor stderr", message->stream);
    size_t size = message->max_bytes;
    if (!size || size > READ_SIZE_MAX) return fault(CODE_INVALID_ARGUMENT, "max_bytes %zu is not 1 to %u", size, READ_SIZE_MAX);
    struct stream *stream = &process->output[which];
    bool ended = process->state == PROCESS_ENDED, counted = ended && !process->terminal;
    if (!stream->eof && stream->watch.fd < 0 && !ended) return hold(request, process, FOR_EVER, "the terminal");
    if (counted && size > stream->left) size = stream->left;
    ssize_t got = stream->eof || !size ? 0 : read(stream->watch.fd, buffer, size);
    if (got < 0 && (errno == EAGAIN || errno == EINTR) && !ended) {
        if (watch_arm(&stream->watch, EPOLLIN) < 0) return FAILED;
        return hold(request, stream, FOR_EVER, "output");
    }
    if (got <= 0) end_output(stream);  // end of file; EIO: no one has the terminal open
    if (got > 0 && counted) stream->left -= got;
    if (got > BUSY_PIPE && !stream->wide) {  // twice the throughput; one that says little need not pay for it
        stream->wide = true;
        fcntl(stream->watch.fd, F_SETPIPE_SZ, READ_SIZE_MAX);
    }
    response.data = (ProtobufCBinaryData){got > 0 ? got : 0, buffer};
    response.eof = stream->eof_told = stream->eof;
    answer(request->call, &response.base);
    if (ended) wake(process);
    return DONE;
}

// --- input ---

// Takes what fits. Returns true when the call is done, for whatever reason.
static bool take_input(struct request *request, struct process *process, const MESSAGE(WriteInputRequest) * message) {
    while (request->progress < message->data.len && process->input.fd >= 0) {
        const uint8_t *data = message->data.data + request->progress;
        ssize_t wrote = write(process->input.fd, data, message->data.len - request->progress);
        if (wrote > 0) request->progress += wrote;
        if (wrote >= 0 || errno == EINTR) continue;
        if (errno == EAGAIN && watch_arm(&process->input, EPOLLOUT) == 0) return false;
        watch_close(&process->input);  // EPIPE, or EIO of a terminal
    }
    return true;
}

HANDLER(WriteInput, write_input) {
    MESSAGE(WriteInputResponse) response = SANDBOXD__AGENT__V1__WRITE_INPUT_RESPONSE__INIT;
    struct process *process = process_find(request->container, message->exec_id);
    if (!process) return FAILED;
    if (process->terminal && process->state == PROCESS_SETTING_UP) return hold(request, process, FOR_EVER, "the terminal");
    if (call_live(process->writer) && process->writer.stream != request->call.stream)
        return hold(request, &process->writer, FOR_EVER, "the input before this");
    process->writer = request->call;
    if (!take_input(request, process, message)) {
        enum outcome outcome = hold(request, &process->input, FOR_EVER, "room for input");
        if (outcome == HELD) return HELD;
    }
    process->writer.session = 0;
    wake(&process->writer);
    response.closed = process->input.fd < 0;
    // A terminal has no end to close; whoever types sends its end-of-file character.
    if (message->close && !process->terminal) watch_close(&process->input);
    if (request->progress < message->data.len && !response.closed) return FAILED;
    answer(request->call, &response.base);
    return DONE;
}

// --- opening and closing ---

static int pipe_for(struct watch *ours, void *owner, int *theirs, bool we_write) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return fault_call("pipe2", "stdio");
    *ours = (struct watch){.fd = ends[we_write], .ready = on_ready, .owner = owner};
    *theirs = ends[!we_write];
    return checked(fcntl(ours->fd, F_SETFL, O_NONBLOCK), "fcntl", "stdio");
}

int stdio_open(struct process *process, struct stdio *child) {
    struct stream *out = &process->output[0], *err = &process->output[1];
    *child = (struct stdio){-1, -1, -1};
    if (process->terminal) {
        err->eof = err->eof_told = true;
        return 0;
    }
    if (process->spec->stdin && pipe_for(&process->input, &process->input, &child->in, true) < 0) return -1;
    return pipe_for(&out->watch, out, &child->out, false) < 0 ? -1 : pipe_for(&err->watch, err, &child->err, false);
}

int stdio_attach_terminal(struct process *process, int master) {
    struct stream *out = &process->output[0];
    out->watch = (struct watch){.fd = master, .ready = on_ready, .owner = out};
    // Input and output of one open file, each with a watch of its own: epoll tells them apart by descriptor.
    int input = process->spec->stdin ? fcntl(master, F_DUPFD_CLOEXEC, 0) : -1;
    process->input = (struct watch){.fd = input, .ready = on_ready, .owner = &process->input};
    return checked(fcntl(master, F_SETFL, O_NONBLOCK), "fcntl", "terminal");
}

void stdio_close(struct process *process) {
    end_output(&process->output[0]);
    end_output(&process->output[1]);
    watch_close(&process->input);
}

// --- terminal ---

// The multiplexer of the devpts at /dev/pts, else what /dev/ptmx is, as long as it is a real one.
static int open_ptmx(int root_fd) {
    static const char *const names[] = {"/dev/pts/ptmx", "/dev/ptmx"};
    for (size_t i = 0; i < 2; i++) {
        struct stat stat;
        char path[FD_PATH_SIZE];
        SCOPED int fd = open_in_root(root_fd, names[i], O_PATH, 0);
        if (fd < 0 || fstat(fd, &stat) < 0 || !S_ISCHR(stat.st_mode) || stat.st_rdev != makedev(5, 2)) continue;
        int master = openat(agent.proc_fd, fd_path(fd, path), O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (master >= 0) return master;
    }
    return fault(CODE_INTERNAL, "open /dev/pts/ptmx: ENODEV there is no devpts");
}

static int bind_console(int root_fd, int slave) {
    char source[FD_PATH_SIZE], target[FD_PATH_SIZE];
    const char *name;
    SCOPED int parent = open_parent_in_root(root_fd, "/dev/console", true, &name);
    if (parent < 0) return -1;
    SCOPED int made UNUSED = openat(parent, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0600);
    SCOPED int fd = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    return checked(mount(fd_path(slave, source), fd_path(fd, target), NULL, MS_BIND, NULL), "mount", "/dev/console");
}

int terminal_open(const struct process *process, int root_fd, bool console, int *master) {
    const Process *spec = process->spec;
    struct winsize size = {.ws_col = spec->terminal_width, .ws_row = spec->terminal_height};
    int unlocked = 0;
    *master = open_ptmx(root_fd);
    if (*master < 0 || checked(ioctl(*master, TIOCSPTLCK, &unlocked), "ioctl", "TIOCSPTLCK") < 0) return -1;
    int slave = checked(ioctl(*master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC), "ioctl", "TIOCGPTPEER");
    if (slave < 0) return -1;
    if (size.ws_col && size.ws_row && ioctl(*master, TIOCSWINSZ, &size) < 0) return fault_call("ioctl", "TIOCSWINSZ");
    if (console && bind_console(root_fd, slave) < 0) return -1;
    for (int fd = 0; fd <= 2; fd++)
        if (dup2(slave, fd) < 0) return fault_call("dup2", "terminal");
    return close(slave);
}

HANDLER(ResizeTerminal, resize_terminal) {
    struct process *process = process_find(request->container, message->exec_id);
    if (!process) return FAILED;
    if (!process->terminal) return fault(CODE_FAILED_PRECONDITION, "the process has no terminal");
    if (message->width > UINT16_MAX || message->height > UINT16_MAX)
        return fault(CODE_INVALID_ARGUMENT, "the terminal is over %d wide or high", UINT16_MAX);
    if (process->state == PROCESS_SETTING_UP) return hold(request, process, FOR_EVER, "the terminal");
    struct winsize size = {.ws_col = message->width, .ws_row = message->height};
    if (process->output[0].watch.fd < 0) return fault(CODE_FAILED_PRECONDITION, "the terminal is closed");
    if (ioctl(process->output[0].watch.fd, TIOCSWINSZ, &size) < 0) return fault_call("ioctl", "TIOCSWINSZ");
    return EMPTY;
}
