// Containers: create, start, delete, freeze, update.
#include "agent.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#define CONTAINERS_MAX 256
#define ID_SIZE_MAX 128
#define DEVICE_TIMEOUT_MS 5000
#define CGROUP_TIMEOUT_MS 10000
#define CLONE_TIME 0x80  // CLONE_NEWTIME, which not every libc declares

struct container *containers;
static unsigned container_count;

struct container *container_find(const char *id) {
    for (struct container *container = containers; container; container = container->next)
        if (!strcmp(container->id, id)) return container;
    fault(CODE_NOT_FOUND, "container %.128s does not exist", id);
    return NULL;
}

bool container_busy(const struct container *container) {
    return container->init->state == PROCESS_SETTING_UP || container->init->state == PROCESS_STARTING;
}

bool container_ended(const struct container *container) {
    return container->init->state == PROCESS_ENDED;
}

static enum outcome refuse(const struct container *container, const char *state) {
    return fault(CODE_FAILED_PRECONDITION, "container %s %s", container->id, state);
}

// --- what a request may say ---

int id_check(const char *what, const char *id) {
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
    if (*id && strlen(id) <= ID_SIZE_MAX && !id[strspn(id, allowed)]) return 0;
    return fault(CODE_INVALID_ARGUMENT, "%s %.40s is not 1 to %d of A-Z a-z 0-9 _ . -", what, id, ID_SIZE_MAX);
}

static int check_namespaces(const Plan *plan) {
    static const uint64_t known = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWUSER |
                                  CLONE_NEWCGROUP | CLONE_TIME;
    uint64_t seen = 0;
    bool joins = false;
    for (size_t i = 0; i < plan->n_namespaces; i++) {
        uint64_t flag = plan->namespaces[i]->clone_flag;
        const char *other_id = plan->namespaces[i]->container_id;
        if (!(flag & known) || (flag & (flag - 1)) || (seen & flag))
            return fault(CODE_INVALID_ARGUMENT, "clone flag %#llx is no namespace, or named twice", (unsigned long long)flag);
        seen |= flag;
        if (!*other_id) continue;
        struct container *other = container_find(other_id);
        if (!other) return -1;
        if (flag == CLONE_NEWNS) return fault(CODE_INVALID_ARGUMENT, "a mount namespace cannot be joined");
        if (container_ended(other) || container_busy(other)) return refuse(other, "is not running");
        joins = true;
    }
    // Rights over namespaces come from the user namespace that one is in: to have both takes a process in between.
    if (joins && (seen & CLONE_NEWUSER)) return fault(CODE_INVALID_ARGUMENT, "joining is not possible with a user namespace");
    if ((plan->n_uid_map || plan->n_gid_map) && !(seen & CLONE_NEWUSER))
        return fault(CODE_INVALID_ARGUMENT, "id maps without a user namespace");
    return 0;
}

static int check_plan(const Plan *plan) {
    if (!plan || !plan->process) return fault(CODE_INVALID_ARGUMENT, "no plan, or no process in it");
    if (*plan->root != '/') return fault(CODE_INVALID_ARGUMENT, "the root %.200s is not absolute", plan->root);
    if (!cgroup_path_valid(plan->cgroup))
        return fault(CODE_INVALID_ARGUMENT, "cgroup %.200s is not a path below the top", plan->cgroup);
    if (plan->device_filter.len && !*plan->cgroup) return fault(CODE_INVALID_ARGUMENT, "a device filter needs a cgroup");
    return process_check(plan->process) < 0 ? -1 : check_namespaces(plan);
}

// --- disks that are not there yet ---

static void on_device_event(struct watch *watch) {
    char event[4096];
    while (recv(watch->fd, event, sizeof event, 0) > 0 || errno == ENOBUFS) continue;
    wake(watch);
}

// The kernel's events are listened to only while a plan waits for a disk.
static enum outcome wait_for_devices(struct request *request, const Plan *plan) {
    static struct watch events = {.fd = -1, .lasting = true, .ready = on_device_event};
    const char *serial = missing_block_device(plan->n_prepare, plan->prepare);
    if (!serial) serial = missing_block_device(plan->n_inside, plan->inside);
    if (!serial) {
        watch_close(&events);
        return DONE;
    }
    bool listening = events.fd >= 0;
    if (!listening && ((events.fd = uevent_socket()) < 0 || watch_arm(&events, EPOLLIN) < 0)) return FAILED;
    enum outcome outcome = hold(request, &events, DEVICE_TIMEOUT_MS, "block device %.40s", serial);
    if (!listening) wake(&events);  // it may have come just before
    return outcome;
}

// --- life ---

static struct container *container_new(struct request *request, const char *id, const Plan *plan) {
    struct container *container = calloc(1, sizeof *container);
    if (!container) return NULL;
    *container = (struct container){.next = containers, .id = id, .request = request, .plan = plan, .root_fd = -1, .cgroup_fd = -1};
    container->cgroup_events.fd = container->memory_events.fd = -1;
    container->init = process_new(container, NULL, plan->process);
    if (!container->init) {
        free(container);
        return NULL;
    }
    request->keepers++;
    containers = container;
    container_count++;
    return container;
}

// Undoes what was done for it and forgets it. Its processes are dead. Keeps the_fault.
static void container_free(struct container *container) {
    struct fault fault = the_fault;
    struct container **link = &containers;
    while (*link != container) link = &(*link)->next;
    *link = container->next;
    container_count--;
    wake(container);
    while (container->execs) process_free(container->execs);
    process_free(container->init);
    close_fd(&container->root_fd);
    close_fd(&container->cgroup_fd);
    watch_close(&container->cgroup_events);
    watch_close(&container->memory_events);
    run_cleanup(container->plan);
    if (cgroup_remove(container->plan->cgroup) < 0) complain("%s", the_fault.text);
    request_free(container->request);
    free(container);
    the_fault = fault;
}

static int build(struct container *container) {
    const Plan *plan = container->plan;
    struct place place = {.root = plan->root, .root_fd = -1};
    int status = run_steps(&place, plan->n_prepare, plan->prepare);
    close_fd(&place.root_fd);
    if (status < 0) return -1;
    if (*plan->cgroup) {
        container->cgroup_fd = openat(agent.cgroup_fd, plan->cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (container->cgroup_fd < 0) return fault_call("open", plan->cgroup);
        if (plan->device_filter.len && cgroup_attach_device_filter(container->cgroup_fd, plan->device_filter) < 0) return -1;
    }
    return process_start(container->init);
}

static enum outcome begin_container(struct request *request, const MESSAGE(CreateContainerRequest) * message) {
    if (!agent.activated) return fault(CODE_FAILED_PRECONDITION, "the guest is not activated");
    if (id_check("container id", message->container_id) < 0) return FAILED;
    if (container_find(message->container_id)) return fault(CODE_ALREADY_EXISTS, "container %s exists", message->container_id);
    if (container_count >= CONTAINERS_MAX) return fault(CODE_RESOURCE_EXHAUSTED, "%d containers exist", CONTAINERS_MAX);
    if (check_plan(message->plan) < 0) return FAILED;
    enum outcome outcome = wait_for_devices(request, message->plan);
    if (outcome != DONE) return outcome;
    struct container *container = container_new(request, message->container_id, message->plan);
    if (!container) return fault_memory();
    request->begun = true;
    if (build(container) == 0) return DONE;
    container_free(container);
    return FAILED;
}

HANDLER(CreateContainer, create_container) {
    MESSAGE(CreateContainerResponse) response = SANDBOXD__AGENT__V1__CREATE_CONTAINER_RESPONSE__INIT;
    enum outcome outcome = request->begun ? DONE : begin_container(request, message);
    if (outcome != DONE) return outcome;
    struct container *container = container_find(message->container_id);
    if (!container) return FAILED;  // deleted by a call that was served before this one came round again
    if (container_busy(container)) return hold(request, container, FOR_EVER, "set-up of container %.60s", container->id);
    if (container->init->failed) {  // and was reaped: nothing of the container remains
        the_fault = container->init->fault;
        cgroup_kill(container);
        container_free(container);
        return FAILED;
    }
    response.pid = container->init->pid;
    answer(request->call, &response.base);
    return DONE;
}

HANDLER(StartContainer, start_container) {
    MESSAGE(StartContainerResponse) response = SANDBOXD__AGENT__V1__START_CONTAINER_RESPONSE__INIT;
    struct container *container = request->container;
    struct process *init = container->init;
    if (!request->begun && init->state != PROCESS_CREATED) return refuse(container, "is not waiting to be started");
    if (!request->begun) {
        request->begun = true;
        process_go(init);
        return hold(request, container, FOR_EVER, "the start of container %.60s", message->container_id);
    }
    if (init->failed) {
        the_fault = init->fault;
        return FAILED;
    }
    response.exec_errno = init->exec_errno;
    response.started_boottime_ns = boottime_ns();
    answer(request->call, &response.base);
    return DONE;
}

HANDLER(DeleteContainer, delete_container) {
    struct container *container = request->container;
    if (container->init->state == PROCESS_RUNNING) return refuse(container, "is running");
    bool alive = !container_ended(container) || cgroup_flag(container, "populated") == 1;
    if (!container_ended(container)) kill(container->init->pid, SIGKILL);
    for (struct process *exec = container->execs; exec; exec = exec->next) {
        if (exec->state == PROCESS_ENDED) continue;
        kill(exec->pid, SIGKILL);
        alive = true;
    }
    if (alive) {
        cgroup_kill(container);
        return hold(request, container, CGROUP_TIMEOUT_MS, "the end of container %.60s", message->container_id);
    }
    container_free(container);
    return EMPTY;
}

HANDLER(Freeze, freeze) {
    struct container *container = request->container;
    if (container_ended(container)) return refuse(container, "has ended");
    if (container->cgroup_fd < 0) return refuse(container, "has no cgroup");
    if (write_file(container->cgroup_fd, "cgroup.freeze", message->frozen ? "1" : "0", 1) < 0)
        return fault_call("write", "cgroup.freeze");
    if (cgroup_flag(container, "frozen") != message->frozen) {
        enum outcome outcome = hold(request, container, CGROUP_TIMEOUT_MS, "the freezing or thawing of %.50s", container->id);
        if (outcome == FAILED) write_file(container->cgroup_fd, "cgroup.freeze", "0", 1);
        return outcome;
    }
    return EMPTY;
}

HANDLER(Update, update) {
    struct place place = {.root = request->container->plan->root, .root_fd = -1};
    if (container_ended(request->container)) return refuse(request->container, "has ended");
    int status = run_steps(&place, message->n_steps, message->steps);
    close_fd(&place.root_fd);
    return status < 0 ? FAILED : EMPTY;
}
