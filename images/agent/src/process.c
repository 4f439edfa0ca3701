// Processes of containers: from the word to execute to the exit status.
//
//   SETTING_UP --ready--> CREATED --go--> STARTING --execve--> RUNNING --reaped--> ENDED
//
// A child that fails on the way reports why and ends; the answer is given when it has been reaped, so that whoever is
// told of a failure finds nothing left of it.
#include "agent.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define EXECS_MAX 4096
#define FINISHED_EXECS_KEPT 256
#define WAITERS_MAX 64
#define GROUPS_MAX 65536

int process_check(const Process *spec) {
    if (!spec->n_args || !*spec->args[0]) return fault(CODE_INVALID_ARGUMENT, "no command");
    if (*spec->cwd != '/') return fault(CODE_INVALID_ARGUMENT, "the working directory %.200s is not absolute", spec->cwd);
    // -1 means "leave as it is" to the kernel: root.
    if (spec->uid == UINT32_MAX || spec->gid == UINT32_MAX) return fault(CODE_INVALID_ARGUMENT, "id -1 is no id");
    if (spec->n_additional_gids > GROUPS_MAX) return fault(CODE_INVALID_ARGUMENT, "over %d groups", GROUPS_MAX);
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
    process->container = container;
    process->spec = spec;
    process->terminal = spec->terminal;
    process->sync.fd = process->input_watch.fd = -1;
    process->output[0].watch.fd = process->output[1].watch.fd = -1;
    process->inputs_end = &process->inputs;
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

static void answer_waiters(struct process *process) {
    Sandboxd__Agent__V1__WaitResponse response = SANDBOXD__AGENT__V1__WAIT_RESPONSE__INIT;
    response.exit_status = process->status;
    response.signal = process->signal;
    response.exited_at_unix_ns = process->exited_at_ns;
    response.oom_killed = process->container->oom_killed;
    for (struct waiter *waiter; (waiter = process->waiters);) {
        process->waiters = waiter->next;
        if (process->state == PROCESS_ENDED) {
            process->wait_answered |= call_live(waiter->call);
            answer(&waiter->call, &response.base);
        } else {
            fault(CODE_NOT_FOUND, "the process never ran");
            answer_fault(&waiter->call);
        }
        free(waiter);
    }
}

// Everyone who still waits for something of it gets an answer.
void process_free(struct process *process) {
    if (process->exec_id) {
        struct process **link = &process->container->execs;
        while (*link && *link != process) link = &(*link)->next;
        if (*link) *link = process->next;
        process->container->exec_count--;
    } else {
        process->container->init = NULL;
    }
    stdio_close(process);
    answer_waiters(process);
    watch_close(&process->sync);
    request_free(process->request);
    free(process->exec_id);
    free(process);
}

// An exec is remembered until its status and the end of its output have been told; those of whom nobody asks, until
// there are many.
void forget_finished_execs(struct container *container) {
    unsigned finished = 0;
    for (struct process *exec = container->execs, *next; exec; exec = next) {
        next = exec->next;
        if (exec->state != PROCESS_ENDED) continue;
        bool told = exec->wait_answered && exec->output[0].eof_delivered && exec->output[1].eof_delivered;
        if (told || ++finished > FINISHED_EXECS_KEPT) process_free(exec);
    }
}

// --- start ---

// Answers whoever asked for the start. Returns false when the process is gone.
static bool tell_starter(struct process *process) {
    struct call starter = process->starter;
    process->starter.session = 0;
    if (process->failed) {
        struct fault fault = process->fault;
        if (process->exec_id) process_free(process);
        the_fault = fault;
        answer_fault(&starter);
        return false;
    }
    if (process->exec_id) {
        Sandboxd__Agent__V1__ExecResponse response = SANDBOXD__AGENT__V1__EXEC_RESPONSE__INIT;
        response.pid = process->pid;
        response.exec_errno = process->exec_errno;
        answer(&starter, &response.base);
    } else {
        Sandboxd__Agent__V1__StartContainerResponse response = SANDBOXD__AGENT__V1__START_CONTAINER_RESPONSE__INIT;
        response.exec_errno = process->exec_errno;
        response.started_boottime_ns = boottime_ns();
        answer(&starter, &response.base);
    }
    return true;
}

static void process_fail(struct process *process) {
    if (!process->failed) process->fault = the_fault;
    process->failed = true;
    if (!process->reaped) kill(process->pid, SIGKILL);  // answered when it has been reaped
}

void process_go(struct process *process) {
    if (apply_from_outside(process->pid, process->spec) < 0 || send(process->sync.fd, "g", 1, MSG_NOSIGNAL) != 1) {
        process_fail(process);
        return;
    }
    process->state = PROCESS_STARTING;
}

static void ready(struct process *process, int master) {
    if (master >= 0 && stdio_attach_terminal(process, master) < 0) {
        process_fail(process);
        return;
    }
    process->state = PROCESS_CREATED;
    if (process->exec_id)
        process_go(process);
    else
        container_created(process->container);
}

// The child closed its end: by execve, or because it is dying.
static void sync_closed(struct process *process) {
    watch_close(&process->sync);
    if (process->state == PROCESS_STARTING && !process->failed && !process->exec_errno) {
        process->state = PROCESS_RUNNING;
        tell_starter(process);
        request_free(process->request);
        process->request = NULL;
        process->spec = NULL;
        something_changed();
    } else if (process->state == PROCESS_SETTING_UP) {
        fault(CODE_INTERNAL, "the process ended while it was set up");
        process_fail(process);
    }
}

// False when there is nothing more to read now.
static bool read_report(struct process *process) {
    struct report report;
    int fd = -1;
    ssize_t size = receive_report(process->sync.fd, &report, &fd);
    if (size < 0) return false;
    if (size == 0) {
        sync_closed(process);
        return false;
    }
    switch (report.kind) {
        case REPORT_MOVED:
            process->pid = report.error;
            if (spawn_map_ids(process) < 0) process_fail(process);
            break;
        case REPORT_READY:
            ready(process, fd);
            fd = -1;
            break;
        case REPORT_FAILED:
            the_fault = report.fault;
            process_fail(process);
            break;
        case REPORT_EXEC_FAILED:
            process->exec_errno = report.error;
            break;
    }
    close_fd(&fd);
    return true;
}

static void on_sync(struct watch *watch, uint32_t events) {
    (void)events;
    struct process *process = watch->owner;
    while (read_report(process)) continue;
}

int process_start(struct process *process) {
    if (process->container->exec_count > EXECS_MAX)
        return fault(CODE_RESOURCE_EXHAUSTED, "container %s has %d execs", process->container->id, EXECS_MAX);
    process->sync = (struct watch){.fd = -1, .lasting = true, .ready = on_sync, .owner = process};
    if (spawn(process) < 0) return -1;
    if (watch_arm(&process->sync, EPOLLIN) == 0) return 0;
    struct fault fault = the_fault;
    kill(process->pid, SIGKILL);
    waitpid(process->pid, NULL, 0);
    the_fault = fault;
    return -1;
}

// --- end ---

static void process_ended(struct process *process, int status) {
    process->reaped = true;
    while (process->sync.fd >= 0 && read_report(process)) continue;
    bool starting = process->state != PROCESS_RUNNING && process->starter.session;
    bool created = process->state != PROCESS_SETTING_UP;
    if (process->exec_errno || process->failed)
        process->status = process->exec_errno == ENOENT ? 127 : 126;
    else
        process->status = WIFSIGNALED(status) ? 128 + (process->signal = WTERMSIG(status)) : WEXITSTATUS(status);
    process->exited_at_ns = wall_clock_ns();
    process->state = PROCESS_ENDED;
    watch_close(&process->sync);
    something_changed();
    if (!process->exec_id && !created) {
        container_failed(process->container);
        return;
    }
    if (!process->exec_id) container_ended(process->container);
    bool exec = process->exec_id;
    if (starting && !tell_starter(process) && exec) return;
    stdio_process_ended(process);
    process_settle(process);
}

void process_settle(struct process *process) {
    if (process->state == PROCESS_ENDED && process->waiters && stdio_drained(process)) answer_waiters(process);
}

static struct process *process_of(pid_t pid) {
    for (struct container *container = containers; container; container = container->next) {
        if (container->init && container->init->pid == pid && container->init->state != PROCESS_ENDED) return container->init;
        for (struct process *exec = container->execs; exec; exec = exec->next)
            if (exec->pid == pid && exec->state != PROCESS_ENDED) return exec;
    }
    return NULL;
}

void reap(void) {
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0;) {
        if (helper_reaped(pid)) continue;
        struct process *process = process_of(pid);  // NULL: an orphan of someone's
        // A go-between of spawn.c tells the pid of the process proper before it ends.
        if (process && process->state == PROCESS_SETTING_UP)
            while (process->pid == pid && process->sync.fd >= 0 && read_report(process)) continue;
        if (process && process->pid == pid) process_ended(process, status);
    }
}

// --- calls ---

enum outcome handle_wait(struct request *request, const Sandboxd__Agent__V1__WaitRequest *message) {
    struct process *process = process_find(request->container, message->exec_id);
    if (!process) return FAILED;
    unsigned count = 0;
    struct waiter **end = &process->waiters;
    for (; *end; end = &(*end)->next) count++;
    if (count >= WAITERS_MAX) return fault(CODE_RESOURCE_EXHAUSTED, "%d calls wait for this process", WAITERS_MAX);
    struct waiter *waiter = malloc(sizeof *waiter);
    if (!waiter) return fault_memory();
    *waiter = (struct waiter){.call = request->call};
    *end = waiter;
    process_settle(process);
    return DONE;
}

static int signal_all(struct container *container, int number) {
    if (container->cgroup_fd < 0) return fault(CODE_FAILED_PRECONDITION, "container %s has no cgroup", container->id);
    if (number == SIGKILL) {
        cgroup_kill(container);
        return 0;
    }
    struct pid_list list = {0};
    int status = cgroup_pids(container, &list);
    for (size_t i = 0; i < list.count; i++)
        if (list.pids[i]) kill((pid_t)list.pids[i], number);
    free(list.pids);
    return status;
}

enum outcome handle_signal(struct request *request, const Sandboxd__Agent__V1__SignalRequest *message) {
    struct process *process = process_find(request->container, message->exec_id);
    if (!process) return FAILED;
    if (message->signal < 1 || message->signal > 64)
        return fault(CODE_INVALID_ARGUMENT, "%u is not a signal (1 to 64)", message->signal);
    if (message->all) {
        if (signal_all(process->container, (int)message->signal) < 0) return FAILED;
    } else if (process->state == PROCESS_ENDED) {
        return fault(CODE_FAILED_PRECONDITION, "the process has ended");
    } else if (kill(process->pid, (int)message->signal) < 0) {
        return fault_call("kill", process->container->id);
    }
    answer_empty(&request->call, &sandboxd__agent__v1__signal_response__descriptor);
    return DONE;
}
