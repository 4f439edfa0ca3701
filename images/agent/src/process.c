// Processes of containers: from the word to execute to the exit status.
//
//   SETTING_UP --ready--> CREATED --go--> STARTING --execve--> RUNNING --reaped--> ENDED
//
// A child that fails on the way reports why and ends; the call is answered when it has been reaped, so that whoever is
// told of a failure finds nothing left of it.
#include "agent.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define EXECS_MAX 4096
#define FINISHED_EXECS_KEPT 256

int process_check(const Process *spec) {
    if (!spec->n_args || !*spec->args[0]) return fault(CODE_INVALID_ARGUMENT, "no command");
    if (*spec->cwd != '/') return fault(CODE_INVALID_ARGUMENT, "the working directory %.200s is not absolute", spec->cwd);
    // -1 means "leave as it is" to the kernel: root.
    if (spec->uid == UINT32_MAX || spec->gid == UINT32_MAX) return fault(CODE_INVALID_ARGUMENT, "id -1 is no id");
    if (spec->seccomp.len % sizeof(struct sock_filter) || spec->seccomp.len / sizeof(struct sock_filter) > BPF_MAXINSNS)
        return fault(CODE_INVALID_ARGUMENT, "the seccomp program is not 0 to %d instructions", BPF_MAXINSNS);
    if (spec->seccomp_flags & SECCOMP_FILTER_FLAG_NEW_LISTENER)
        return fault(CODE_INVALID_ARGUMENT, "seccomp listeners are not supported");
    if (spec->terminal_width > UINT16_MAX || spec->terminal_height > UINT16_MAX)
        return fault(CODE_INVALID_ARGUMENT, "the terminal is over %d wide or high", UINT16_MAX);
    return 0;
}

struct process *process_find(struct container *container, const char *exec_id) {
    if (!*exec_id) return container->init;
    for (struct process *exec = container->execs; exec; exec = exec->next)
        if (!strcmp(exec->exec_id, exec_id)) return exec;
    fault(CODE_NOT_FOUND, "container %s has no exec %.128s", container->id, exec_id);
    return NULL;
}

struct process *process_new(struct container *container, const char *exec_id, const Process *spec) {
    struct process *process = calloc(1, sizeof *process);
    if (!process) return NULL;
    *process = (struct process){.container = container, .spec = spec, .terminal = spec->terminal};
    process->sync.fd = process->input.fd = process->output[0].watch.fd = process->output[1].watch.fd = -1;
    if (!exec_id) return process;
    process->exec_id = strdup(exec_id);
    if (!process->exec_id) {
        free(process);
        return NULL;
    }
    process->next = container->execs;
    container->execs = process;
    container->exec_count++;
    return process;
}

void process_free(struct process *process) {
    struct process **link = &process->container->execs;
    while (*link && *link != process) link = &(*link)->next;
    if (*link) {
        *link = process->next;
        process->container->exec_count--;
    }
    process_wake(process);
    stdio_close(process);
    watch_close(&process->sync);
    request_free(process->request);
    free(process->exec_id);
    free(process);
}

// Everyone who waits for anything of it has another look.
void process_wake(struct process *process) {
    wake(process);
    wake(&process->output[0]);
    wake(&process->output[1]);
    wake(&process->input);
    wake(&process->writer);
    if (!process->exec_id) wake(process->container);
}

// An exec is remembered until its status and the end of its output have been told; those of whom nobody asks, until
// there are many.
static void forget_finished_execs(struct container *container) {
    unsigned finished = 0;
    for (struct process *exec = container->execs, *next; exec; exec = next) {
        next = exec->next;
        if (exec->state != PROCESS_ENDED) continue;
        bool told = exec->wait_told && exec->output[0].eof_told && exec->output[1].eof_told;
        if (told || ++finished > FINISHED_EXECS_KEPT) process_free(exec);
    }
}

// --- start ---

static void process_fail(struct process *process) {
    if (!process->failed) process->fault = the_fault;
    process->failed = true;
    if (!process->reaped) kill(process->pid, SIGKILL);
}

void process_go(struct process *process) {
    process->state = PROCESS_STARTING;
    if (apply_from_outside(process->pid, process->spec) < 0 || checked(send(process->sync.fd, "g", 1, MSG_NOSIGNAL), "send", "child") < 0)
        process_fail(process);
}

static void process_ready(struct process *process, int master) {
    struct container *container = process->container;
    char path[32];
    if (master >= 0 && stdio_attach_terminal(process, master) < 0) {
        process_fail(process);
        return;
    }
    process->state = PROCESS_CREATED;
    if (process->exec_id) {
        process_go(process);
    } else {
        snprintf(path, sizeof path, "%d/root", (int)process->pid);
        container->root_fd = openat(agent.proc_fd, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    }
    process_wake(process);
}

// The child closed its end: by execve, or because it is dying.
static void sync_closed(struct process *process) {
    watch_close(&process->sync);
    if (process->state == PROCESS_STARTING && !process->failed && !process->exec_errno) {
        process->state = PROCESS_RUNNING;
        process_wake(process);
    } else if (process->state == PROCESS_SETTING_UP) {
        fault(CODE_INTERNAL, "the process ended while it was set up");
        process_fail(process);
    }
}

// False when there is nothing more to read now.
static bool read_report(struct process *process) {
    struct report report;
    int fd = -1;
    ssize_t size = process->sync.fd < 0 ? -1 : receive_report(process->sync.fd, &report, &fd);
    if (size == 0) sync_closed(process);
    if (size <= 0) return false;
    if (report.kind == REPORT_READY) {
        process_ready(process, fd);
    } else if (report.kind == REPORT_EXEC_FAILED) {
        process->exec_errno = report.exec_errno;
    } else {
        the_fault = report.fault;
        process_fail(process);
    }
    return true;
}

static void on_sync(struct watch *watch) {
    while (read_report(watch->owner)) continue;
}

int process_start(struct process *process) {
    process->sync = (struct watch){.fd = -1, .lasting = true, .ready = on_sync, .owner = process};
    if (spawn(process) < 0) return -1;
    if (watch_arm(&process->sync, EPOLLIN) == 0) return 0;
    process_fail(process);
    waitpid(process->pid, NULL, 0);
    the_fault = process->fault;
    return -1;
}

static enum outcome begin_exec(struct request *request, const MESSAGE(ExecRequest) * message) {
    struct container *container = request->container;
    if (!agent.activated) return fault(CODE_FAILED_PRECONDITION, "the guest is not activated");
    if (container->init->state != PROCESS_RUNNING)
        return fault(CODE_FAILED_PRECONDITION, "container %s is not running", container->id);
    if (id_check("exec id", message->exec_id) < 0) return FAILED;
    if (process_find(container, message->exec_id)) return fault(CODE_ALREADY_EXISTS, "exec %s exists", message->exec_id);
    if (!message->process) return fault(CODE_INVALID_ARGUMENT, "no process");
    if (process_check(message->process) < 0) return FAILED;
    forget_finished_execs(container);
    if (container->exec_count >= EXECS_MAX) return fault(CODE_RESOURCE_EXHAUSTED, "%d execs exist", EXECS_MAX);
    struct process *process = process_new(container, message->exec_id, message->process);
    if (!process) return fault_memory();
    request->begun = true;
    process->request = request;
    request->keepers++;
    if (process_start(process) == 0) return DONE;
    process_free(process);
    return FAILED;
}

HANDLER(Exec, exec) {
    MESSAGE(ExecResponse) response = SANDBOXD__AGENT__V1__EXEC_RESPONSE__INIT;
    enum outcome outcome = request->begun ? DONE : begin_exec(request, message);
    if (outcome != DONE) return outcome;
    struct process *process = process_find(request->container, message->exec_id);
    if (!process) return FAILED;
    if (process->state < PROCESS_RUNNING) return hold(request, process, FOR_EVER, "the start of exec %.60s", message->exec_id);
    if (process->failed) {
        the_fault = process->fault;
        process_free(process);
        return FAILED;
    }
    response.pid = process->pid;
    response.exec_errno = process->exec_errno;
    answer(request->call, &response.base);
    return DONE;
}

// --- end ---

static void process_ended(struct process *process, int status) {
    process->reaped = true;
    while (read_report(process)) continue;
    process->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    process->status = process->signal ? 128 + process->signal : (uint32_t)WEXITSTATUS(status);
    if (process->exec_errno) process->status = process->exec_errno == ENOENT ? 127 : 126;
    if (process->failed) process->status = 126;
    process->exited_at_ns = wall_clock_ns();
    process->state = PROCESS_ENDED;
    watch_close(&process->sync);
    if (!process->exec_id) {
        process->container->oom_killed = cgroup_oom_kills(process->container) > 0;
        cgroup_kill(process->container);
    }
    stdio_process_ended(process);
    process_wake(process);
    wake(process->container);  // it may be all that a deletion waits for
}

static struct process *process_of(pid_t pid) {
    for (struct container *container = containers; container; container = container->next) {
        if (container->init->pid == pid && !container_ended(container)) return container->init;
        for (struct process *exec = container->execs; exec; exec = exec->next)
            if (exec->pid == pid && exec->state != PROCESS_ENDED) return exec;
    }
    return NULL;  // an orphan of someone's
}

void reap(void) {
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0;) {
        struct process *process = wake_helper(pid, status) ? NULL : process_of(pid);
        if (process) process_ended(process, status);
    }
}

HANDLER(Wait, wait) {
    MESSAGE(WaitResponse) response = SANDBOXD__AGENT__V1__WAIT_RESPONSE__INIT;
    struct process *process = process_find(request->container, message->exec_id);
    if (!process) return FAILED;
    if (process->state != PROCESS_ENDED || !stdio_drained(process)) return hold(request, process, FOR_EVER, "the process's end");
    process->wait_told = true;
    response.exit_status = process->status;
    response.signal = process->signal;
    response.exited_at_unix_ns = process->exited_at_ns;
    response.oom_killed = process->container->oom_killed;
    answer(request->call, &response.base);
    return DONE;
}

HANDLER(Signal, signal) {
    struct process *process = process_find(request->container, message->exec_id);
    if (!process) return FAILED;
    if (message->signal < 1 || message->signal > 64)
        return fault(CODE_INVALID_ARGUMENT, "%u is not a signal (1 to 64)", message->signal);
    int status;
    if (message->all)
        status = cgroup_signal(request, process->container, (int)message->signal);
    else if (process->state == PROCESS_ENDED)
        status = fault(CODE_FAILED_PRECONDITION, "the process has ended");
    else
        status = checked(kill(process->pid, (int)message->signal), "kill", process->container->id);
    return status < 0 ? FAILED : EMPTY;
}
