// Containers: create, start, delete, freeze, update.
#include "agent.h"

#include <ctype.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define CONTAINERS_MAX 256
#define ID_SIZE_MAX 128
#define DEVICE_TIMEOUT_MS 5000
#define CGROUP_TIMEOUT_MS 10000

struct container *containers;
static unsigned container_count;
static struct watch device_events = {.fd = -1};

static const uint64_t namespace_flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET |
                                        CLONE_NEWUSER | CLONE_NEWCGROUP | 0x80 /* CLONE_NEWTIME */;

struct container *container_find(const char *id) {
    for (struct container *container = containers; container; container = container->next)
        if (!strcmp(container->id, id)) return container;
    fault(CODE_NOT_FOUND, "container %.128s does not exist", id);
    return NULL;
}

bool container_busy(const struct container *container) {
    enum process_state state = container->init ? container->init->state : PROCESS_SETTING_UP;
    return state == PROCESS_SETTING_UP || state == PROCESS_STARTING;
}

// --- what a request may say ---

int id_check(const char *what, const char *id) {
    size_t size = strlen(id);
    if (!size || size > ID_SIZE_MAX) return fault(CODE_INVALID_ARGUMENT, "%s is not 1 to %d bytes", what, ID_SIZE_MAX);
    for (size_t i = 0; i < size; i++)
        if (!isalnum((unsigned char)id[i]) && !strchr("_.-", id[i]))
            return fault(CODE_INVALID_ARGUMENT, "%s %.128s has a character outside A-Z a-z 0-9 _ . -", what, id);
    return 0;
}

static int check_namespaces(const Plan *plan) {
    uint64_t seen = 0;
    for (size_t i = 0; i < plan->n_namespaces; i++) {
        const Namespace *namespace = plan->namespaces[i];
        uint64_t flag = namespace->clone_flag;
        if (!flag || (flag & (flag - 1)) || (flag & ~namespace_flags))
            return fault(CODE_INVALID_ARGUMENT, "clone flag %#llx names no namespace", (unsigned long long)flag);
        if (seen & flag) return fault(CODE_INVALID_ARGUMENT, "namespace %#llx is named twice", (unsigned long long)flag);
        seen |= flag;
        if (!*namespace->container_id) continue;
        if (flag == CLONE_NEWNS) return fault(CODE_INVALID_ARGUMENT, "a mount namespace cannot be joined");
        struct container *other = container_find(namespace->container_id);
        if (!other) return -1;
        if (other->ended || container_busy(other))
            return fault(CODE_FAILED_PRECONDITION, "container %.128s is not running", namespace->container_id);
    }
    if ((plan->n_uid_map || plan->n_gid_map) && !(seen & CLONE_NEWUSER))
        return fault(CODE_INVALID_ARGUMENT, "id maps without a user namespace");
    return 0;
}

static int check_plan(const Plan *plan) {
    if (!plan || !plan->process) return fault(CODE_INVALID_ARGUMENT, "no plan, or no process in it");
    if (*plan->root != '/') return fault(CODE_INVALID_ARGUMENT, "the root %.200s is not absolute", plan->root);
    if (*plan->cgroup && !cgroup_path_valid(plan->cgroup))
        return fault(CODE_INVALID_ARGUMENT, "cgroup %.200s is not a path below the top", plan->cgroup);
    if (plan->device_filter.len && !*plan->cgroup)
        return fault(CODE_INVALID_ARGUMENT, "a device filter needs a cgroup");
    if (process_check(plan->process) < 0 || check_namespaces(plan) < 0) return -1;
    if (check_steps(plan->n_prepare, plan->prepare) < 0 || check_steps(plan->n_inside, plan->inside) < 0) return -1;
    return check_steps(plan->n_finish, plan->finish) < 0 ? -1 : check_steps(plan->n_cleanup, plan->cleanup);
}

// --- life ---

static struct container *container_new(struct request *request, const char *id, const Plan *plan) {
    struct container *container = calloc(1, sizeof *container);
    if (!container) return NULL;
    *container = (struct container){.next = containers, .id = (char *)id, .request = request, .plan = plan,
                                    .root_fd = -1, .cgroup_fd = -1};
    container->cgroup_events.fd = container->memory_events.fd = -1;
    containers = container;
    container_count++;
    return container;
}

// Undoes what was done for it and forgets it. Its processes are dead.
static void container_free(struct container *container) {
    struct container **link = &containers;
    while (*link != container) link = &(*link)->next;
    *link = container->next;
    container_count--;
    while (container->execs) process_free(container->execs);
    if (container->init) process_free(container->init);
    close_fd(&container->root_fd);
    close_fd(&container->cgroup_fd);
    watch_close(&container->cgroup_events);
    watch_close(&container->memory_events);
    run_cleanup(container->plan);
    if (*container->plan->cgroup && cgroup_remove(container->plan->cgroup) < 0) complain("%s", the_fault.text);
    request_free(container->request);
    free(container);
    something_changed();
}

static int open_cgroup(struct container *container) {
    const Plan *plan = container->plan;
    if (!*plan->cgroup) return 0;
    container->cgroup_fd = openat(agent.cgroup_fd, plan->cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (container->cgroup_fd < 0) return fault_call("open", plan->cgroup);
    if (!plan->device_filter.len) return 0;
    return cgroup_attach_device_filter(container->cgroup_fd, plan->device_filter);
}

static int build(struct container *container) {
    struct place place = {.root_fd = -1};
    const Plan *plan = container->plan;
    place.root = plan->root;
    int status = run_steps(&place, plan->n_prepare, plan->prepare);
    close_fd(&place.root_fd);
    if (status < 0 || open_cgroup(container) < 0) return -1;
    container->init = process_new(container, NULL, plan->process);
    if (!container->init) return fault_memory();
    return process_start(container->init);
}

static void on_device_event(struct watch *watch, uint32_t events) {
    (void)events;
    char event[4096];
    while (recv(watch->fd, event, sizeof event, 0) > 0 || errno == ENOBUFS) continue;
    something_changed();
}

// The kernel's events are listened to only while a plan waits for a disk.
static enum outcome wait_for_devices(struct request *request, const Plan *plan) {
    const char *serial = missing_block_device(plan->n_prepare, plan->prepare);
    if (!serial) serial = missing_block_device(plan->n_inside, plan->inside);
    if (!serial) {
        watch_close(&device_events);
        return DONE;
    }
    bool listening = device_events.fd >= 0;
    if (!listening) {
        device_events = (struct watch){.fd = uevent_socket(), .lasting = true, .ready = on_device_event};
        if (device_events.fd < 0 || watch_arm(&device_events, EPOLLIN) < 0) return FAILED;
        something_changed();  // it may have come just before; look once more
    }
    return hold(request, DEVICE_TIMEOUT_MS, "block device %.40s", serial);
}

enum outcome handle_create_container(struct request *request, const Sandboxd__Agent__V1__CreateContainerRequest *message) {
    if (!agent.activated) return fault(CODE_FAILED_PRECONDITION, "the guest is not activated");
    if (id_check("container id", message->container_id) < 0) return FAILED;
    if (container_find(message->container_id))
        return fault(CODE_ALREADY_EXISTS, "container %s exists", message->container_id);
    if (container_count >= CONTAINERS_MAX) return fault(CODE_RESOURCE_EXHAUSTED, "%d containers exist", CONTAINERS_MAX);
    if (check_plan(message->plan) < 0) return FAILED;
    enum outcome outcome = wait_for_devices(request, message->plan);
    if (outcome != DONE) return outcome;
    struct container *container = container_new(request, message->container_id, message->plan);
    if (!container) return fault_memory();
    if (build(container) < 0) {
        struct fault fault = the_fault;
        container->request = NULL;
        container_free(container);
        the_fault = fault;
        return FAILED;
    }
    container->init->starter = request->call;
    return KEPT;
}

// The first process never got as far as created: nothing of the container remains.
void container_failed(struct container *container) {
    struct process *init = container->init;
    struct call creator = init->starter;
    struct fault fault = init->fault;
    init->starter.session = 0;
    cgroup_kill(container);
    container_free(container);
    the_fault = fault;
    answer_fault(&creator);
}

void container_created(struct container *container) {
    Sandboxd__Agent__V1__CreateContainerResponse response = SANDBOXD__AGENT__V1__CREATE_CONTAINER_RESPONSE__INIT;
    char path[32];
    snprintf(path, sizeof path, "%d/root", (int)container->init->pid);
    container->root_fd = openat(agent.proc_fd, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    response.pid = container->init->pid;
    answer(&container->init->starter, &response.base);
    something_changed();
}

void container_ended(struct container *container) {
    container->ended = true;
    container->oom_killed = cgroup_oom_kills(container) > 0;
    cgroup_kill(container);
    something_changed();
}

enum outcome handle_start_container(struct request *request, const Sandboxd__Agent__V1__StartContainerRequest *message) {
    (void)message;
    struct container *container = request->container;
    if (container->init->state != PROCESS_CREATED)
        return fault(CODE_FAILED_PRECONDITION, "container %s is not waiting to be started", container->id);
    container->init->starter = request->call;
    process_go(container->init);
    return DONE;
}

enum outcome handle_exec(struct request *request, const Sandboxd__Agent__V1__ExecRequest *message) {
    if (!agent.activated) return fault(CODE_FAILED_PRECONDITION, "the guest is not activated");
    struct container *container = request->container;
    if (container->init->state != PROCESS_RUNNING)
        return fault(CODE_FAILED_PRECONDITION, "container %s is not running", container->id);
    if (id_check("exec id", message->exec_id) < 0) return FAILED;
    if (process_find(container, message->exec_id))
        return fault(CODE_ALREADY_EXISTS, "exec %s exists", message->exec_id);
    if (!message->process) return fault(CODE_INVALID_ARGUMENT, "no process");
    if (process_check(message->process) < 0) return FAILED;
    forget_finished_execs(container);
    struct process *process = process_new(container, message->exec_id, message->process);
    if (!process) return fault_memory();
    if (process_start(process) < 0) {
        process_free(process);
        return FAILED;
    }
    process->starter = request->call;
    process->request = request;
    return KEPT;
}

enum outcome handle_delete_container(struct request *request, const Sandboxd__Agent__V1__DeleteContainerRequest *message) {
    (void)message;
    struct container *container = request->container;
    struct process *init = container->init;
    if (init->state == PROCESS_RUNNING)
        return fault(CODE_FAILED_PRECONDITION, "container %s is running", container->id);
    if (init->state == PROCESS_CREATED) {
        kill(init->pid, SIGKILL);
        return hold(request, CGROUP_TIMEOUT_MS, "the end of container %.60s", container->id);
    }
    bool populated = container->cgroup_fd >= 0 && cgroup_read_flag(container, "populated") == 1;
    for (struct process *exec = container->execs; exec; exec = exec->next) {
        if (exec->state == PROCESS_ENDED) continue;
        kill(exec->pid, SIGKILL);
        populated = true;
    }
    if (populated) {
        cgroup_kill(container);
        cgroup_watch_events(container);
        return hold(request, CGROUP_TIMEOUT_MS, "the end of the processes of container %.50s", container->id);
    }
    container_free(container);
    answer_empty(&request->call, &sandboxd__agent__v1__delete_container_response__descriptor);
    return DONE;
}

enum outcome handle_freeze(struct request *request, const Sandboxd__Agent__V1__FreezeRequest *message) {
    struct container *container = request->container;
    if (container->ended) return fault(CODE_FAILED_PRECONDITION, "container %s has ended", container->id);
    if (container->cgroup_fd < 0) return fault(CODE_FAILED_PRECONDITION, "container %s has no cgroup", container->id);
    if (write_file(container->cgroup_fd, "cgroup.freeze", message->frozen ? "1" : "0", 1) < 0)
        return fault_call("write", "cgroup.freeze");
    cgroup_watch_events(container);
    if (cgroup_read_flag(container, "frozen") != message->frozen) {
        enum outcome outcome = hold(request, CGROUP_TIMEOUT_MS, "freezing or thawing of container %.50s", container->id);
        if (outcome == FAILED) write_file(container->cgroup_fd, "cgroup.freeze", "0", 1);
        return outcome;
    }
    answer_empty(&request->call, &sandboxd__agent__v1__freeze_response__descriptor);
    return DONE;
}

enum outcome handle_update(struct request *request, const Sandboxd__Agent__V1__UpdateRequest *message) {
    struct container *container = request->container;
    if (container->ended) return fault(CODE_FAILED_PRECONDITION, "container %s has ended", container->id);
    if (check_steps(message->n_steps, message->steps) < 0) return FAILED;
    struct place place = {.root_fd = -1, .root = container->plan->root};
    int status = run_steps(&place, message->n_steps, message->steps);
    close_fd(&place.root_fd);
    if (status < 0) return FAILED;
    answer_empty(&request->call, &sandboxd__agent__v1__update_response__descriptor);
    return DONE;
}
