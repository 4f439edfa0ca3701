// Streams of a process: pipes, or a terminal of the container's own devpts.
//
// Output is read only when someone asks for it, so a full pipe holds the writer back; input is taken from a queue as
// the reader makes room, and its call is answered then.
#include "agent.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

#define READ_SIZE_MAX (256u << 10)
#define INPUT_QUEUE_MAX (8u << 20)

static uint8_t buffer[READ_SIZE_MAX];

// --- output ---

static void answer_output(struct stream *stream, size_t size, bool eof) {
    Sandboxd__Agent__V1__ReadOutputResponse response = SANDBOXD__AGENT__V1__READ_OUTPUT_RESPONSE__INIT;
    response.data.data = buffer;
    response.data.len = size;
    response.eof = eof;
    if (eof) stream->eof_delivered = call_live(stream->reader);
    answer(&stream->reader, &response.base);
}

static void end_output(struct stream *stream) {
    watch_close(&stream->watch);
    stream->eof = true;
}

// Answers the stream's reader if there is something to tell.
static void serve_output(struct stream *stream) {
    if (!call_live(stream->reader)) return;
    struct process *process = stream->process;
    bool ended = process->state == PROCESS_ENDED;
    if (!stream->eof && ended && !process->terminal && stream->left == 0) end_output(stream);
    if (stream->eof) {
        answer_output(stream, 0, true);
        return;
    }
    size_t size = stream->max_bytes;
    if (ended && !process->terminal && stream->left < size) size = stream->left;
    ssize_t got = read(stream->watch.fd, buffer, size);
    if (got > 0) {
        if (ended) stream->left -= (size_t)got < stream->left ? (size_t)got : stream->left;
        answer_output(stream, got, false);
    } else if (got < 0 && (errno == EAGAIN || errno == EINTR) && !ended) {
        if (watch_arm(&stream->watch, EPOLLIN) < 0) answer_fault(&stream->reader);
    } else {  // end of file; EIO: no one has the terminal open
        end_output(stream);
        answer_output(stream, 0, true);
    }
}

static void on_output(struct watch *watch, uint32_t events) {
    (void)events;
    struct stream *stream = watch->owner;
    serve_output(stream);
    process_settle(stream->process);
}

// What is in the pipe now is the end: children of the process that still hold it have no one to write for.
void stdio_process_ended(struct process *process) {
    for (int i = 0; i < 2; i++) {
        struct stream *stream = &process->output[i];
        int left = 0;
        if (!stream->eof && !process->terminal) ioctl(stream->watch.fd, FIONREAD, &left);
        stream->left = left > 0 ? left : 0;
        serve_output(stream);
    }
    fail_inputs(process);
}

bool stdio_drained(struct process *process) {
    for (int i = 0; i < 2; i++) {
        struct stream *stream = &process->output[i];
        if (stream->eof) continue;
        if (!process->terminal && stream->left) return false;
        // Unlike FIONREAD, poll(2) sees what is still on its way through the terminal.
        struct pollfd wait = {.fd = stream->watch.fd, .events = POLLIN};
        if (process->terminal && poll(&wait, 1, 0) > 0 && (wait.revents & POLLIN)) return false;
    }
    return true;
}

enum outcome handle_read_output(struct request *request, const Sandboxd__Agent__V1__ReadOutputRequest *message) {
    struct process *process = process_find(request->container, message->exec_id);
    if (!process) return FAILED;
    unsigned which = message->stream - SANDBOXD__AGENT__V1__STREAM__STREAM_STDOUT;
    if (which > 1) return fault(CODE_INVALID_ARGUMENT, "stream %d is neither stdout nor stderr", message->stream);
    if (!message->max_bytes || message->max_bytes > READ_SIZE_MAX)
        return fault(CODE_INVALID_ARGUMENT, "max_bytes %u is not 1 to %u", message->max_bytes, READ_SIZE_MAX);
    if (process->terminal && process->state == PROCESS_SETTING_UP)
        return hold(request, HOLD_FOR_EVER, "the terminal of container %.60s", request->container->id);
    struct stream *stream = &process->output[which];
    if (call_live(stream->reader)) return fault(CODE_FAILED_PRECONDITION, "the stream is being read by another call");
    stream->reader = request->call;
    stream->max_bytes = message->max_bytes;
    serve_output(stream);
    process_settle(process);
    return DONE;
}

// --- input ---

static void pop_input(struct process *process, bool closed) {
    Sandboxd__Agent__V1__WriteInputResponse response = SANDBOXD__AGENT__V1__WRITE_INPUT_RESPONSE__INIT;
    struct input *input = process->inputs;
    process->inputs = input->next;
    if (!process->inputs) process->inputs_end = &process->inputs;
    process->input_bytes -= input->size;
    response.closed = closed;
    answer(&input->call, &response.base);
    free(input);
}

void fail_inputs(struct process *process) {
    watch_close(&process->input_watch);
    while (process->inputs) pop_input(process, true);
}

static void serve_input(struct process *process) {
    while (process->inputs) {
        struct input *input = process->inputs;
        if (process->input_watch.fd < 0) {
            fail_inputs(process);
            return;
        }
        if (input->written < input->size) {
            ssize_t wrote = write(process->input_watch.fd, input->data + input->written, input->size - input->written);
            if (wrote < 0 && errno == EINTR) continue;
            if (wrote < 0 && errno != EAGAIN) {  // EPIPE, or EIO of a terminal
                fail_inputs(process);
                return;
            }
            input->written += wrote > 0 ? wrote : 0;
            if (input->written < input->size) {
                if (watch_arm(&process->input_watch, EPOLLOUT) < 0) fail_inputs(process);
                return;
            }
        }
        // A terminal has no end to close; whoever types sends its end-of-file character.
        if (input->close && !process->terminal) watch_close(&process->input_watch);
        pop_input(process, false);
    }
}

static void on_input(struct watch *watch, uint32_t events) {
    (void)events;
    serve_input(watch->owner);
}

enum outcome handle_write_input(struct request *request, const Sandboxd__Agent__V1__WriteInputRequest *message) {
    struct process *process = process_find(request->container, message->exec_id);
    if (!process) return FAILED;
    if (process->terminal && process->state == PROCESS_SETTING_UP)
        return hold(request, HOLD_FOR_EVER, "the terminal of container %.60s", request->container->id);
    if (process->input_bytes + message->data.len > INPUT_QUEUE_MAX)
        return fault(CODE_RESOURCE_EXHAUSTED, "over %u bytes of input are waiting to be taken", INPUT_QUEUE_MAX);
    struct input *input = malloc(sizeof *input + message->data.len);
    if (!input) return fault_memory();
    *input = (struct input){.call = request->call, .size = message->data.len, .close = message->close};
    if (input->size) memcpy(input->data, message->data.data, input->size);
    *process->inputs_end = input;
    process->inputs_end = &input->next;
    process->input_bytes += input->size;
    if (process->inputs == input) serve_input(process);
    return DONE;
}

// --- opening and closing ---

static void watch_output(struct process *process, int which, int fd) {
    struct stream *stream = &process->output[which];
    stream->watch = (struct watch){.fd = fd, .ready = on_output, .owner = stream};
}

static int pipe_for(int *ours, int *theirs, bool we_write) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return fault_call("pipe2", "stdio");
    *ours = ends[we_write];
    *theirs = ends[!we_write];
    if (fcntl(*ours, F_SETFL, O_NONBLOCK) < 0) return fault_call("fcntl", "stdio");
    return 0;
}

int stdio_open(struct process *process, struct stdio *child) {
    *child = (struct stdio){-1, -1, -1};
    for (int i = 0; i < 2; i++) process->output[i].process = process;
    process->input_watch = (struct watch){.fd = -1, .ready = on_input, .owner = process};
    if (process->terminal) {
        process->output[1].eof = process->output[1].eof_delivered = true;
        return 0;
    }
    int out = -1, err = -1;
    int status = process->spec->stdin ? pipe_for(&process->input_watch.fd, &child->in, true) : 0;
    if (status == 0) status = pipe_for(&out, &child->out, false);
    if (status == 0) status = pipe_for(&err, &child->err, false);
    watch_output(process, 0, out);
    watch_output(process, 1, err);
    return status;
}

void stdio_close_child(struct stdio *child) {
    close_fd(&child->in);
    close_fd(&child->out);
    close_fd(&child->err);
}

int stdio_attach_terminal(struct process *process, int master) {
    watch_output(process, 0, master);
    if (fcntl(master, F_SETFL, O_NONBLOCK) < 0) return fault_call("fcntl", "terminal");
    // Input and output of one open file, each with a watch of its own: epoll tells them apart by descriptor.
    process->input_watch.fd = process->spec->stdin ? fcntl(master, F_DUPFD_CLOEXEC, 0) : -1;
    something_changed();
    return 0;
}

void stdio_close(struct process *process) {
    for (int i = 0; i < 2; i++) {
        struct stream *stream = &process->output[i];
        end_output(stream);
        if (call_live(stream->reader)) answer_output(stream, 0, true);
    }
    fail_inputs(process);
}

// --- terminal ---

// The multiplexer of the devpts at /dev/pts, else what /dev/ptmx is, as long as it is a real one.
static int open_ptmx(int root_fd) {
    static const char *const names[] = {"dev/pts/ptmx", "dev/ptmx"};
    for (size_t i = 0; i < 2; i++) {
        struct stat stat;
        char path[FD_PATH_SIZE];
        int fd = open_in_root(root_fd, names[i], O_PATH, 0);
        if (fd < 0) continue;
        bool real = fstat(fd, &stat) == 0 && S_ISCHR(stat.st_mode) && stat.st_rdev == makedev(5, 2);
        int master = real ? openat(agent.proc_fd, fd_path(fd, path, sizeof path), O_RDWR | O_NOCTTY | O_CLOEXEC) : -1;
        int error = real ? errno : ENODEV;
        close(fd);
        if (master >= 0) return master;
        errno = error;
    }
    return fault_call("open", "/dev/pts/ptmx");
}

static int bind_console(int root_fd, int slave) {
    char source[FD_PATH_SIZE], target[FD_PATH_SIZE];
    const char *name;
    int fd = open_in_root(root_fd, "dev/console", O_PATH, 0);
    if (fd < 0) {
        int parent = open_parent_in_root(root_fd, "dev/console", true, &name);
        if (parent < 0) return -1;
        int made = openat(parent, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0600);
        close(parent);
        if (made < 0) return fault_call("create", "/dev/console");
        close(made);
        fd = open_in_root(root_fd, "dev/console", O_PATH, 0);
        if (fd < 0) return fault_call("open", "/dev/console");
    }
    int status = mount(fd_path(slave, source, sizeof source), fd_path(fd, target, sizeof target), NULL, MS_BIND, NULL);
    if (status < 0) fault_call("mount", "/dev/console");
    close(fd);
    return status;
}

int terminal_open(const struct process *process, int root_fd, bool console, int *master) {
    const Process *spec = process->spec;
    *master = open_ptmx(root_fd);
    if (*master < 0) return -1;
    int unlocked = 0;
    if (ioctl(*master, TIOCSPTLCK, &unlocked) < 0) return fault_call("ioctl", "TIOCSPTLCK");
    int slave = ioctl(*master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0) return fault_call("ioctl", "TIOCGPTPEER");
    struct winsize size = {.ws_col = spec->terminal_width, .ws_row = spec->terminal_height};
    if (size.ws_col && size.ws_row && ioctl(*master, TIOCSWINSZ, &size) < 0) return fault_call("ioctl", "TIOCSWINSZ");
    if (console && bind_console(root_fd, slave) < 0) return -1;
    for (int fd = 0; fd <= 2; fd++)
        if (dup2(slave, fd) < 0) return fault_call("dup2", "terminal");
    close(slave);
    return 0;
}

enum outcome handle_resize_terminal(struct request *request, const Sandboxd__Agent__V1__ResizeTerminalRequest *message) {
    struct process *process = process_find(request->container, message->exec_id);
    if (!process) return FAILED;
    if (!process->terminal) return fault(CODE_FAILED_PRECONDITION, "the process has no terminal");
    if (message->width > UINT16_MAX || message->height > UINT16_MAX)
        return fault(CODE_INVALID_ARGUMENT, "the terminal is over %d wide or high", UINT16_MAX);
    if (process->state == PROCESS_SETTING_UP)
        return hold(request, HOLD_FOR_EVER, "the terminal of container %.60s", request->container->id);
    struct winsize size = {.ws_col = message->width, .ws_row = message->height};
    if (process->output[0].eof) return fault(CODE_FAILED_PRECONDITION, "the terminal is closed");
    if (ioctl(process->output[0].watch.fd, TIOCSWINSZ, &size) < 0) return fault_call("ioctl", "TIOCSWINSZ");
    answer_empty(&request->call, &sandboxd__agent__v1__resize_terminal_response__descriptor);
    return DONE;
}
