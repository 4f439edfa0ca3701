// The guest's PID 1: executes the plans of proto/sandboxd/api/agent.proto with plain system calls.
//
// One thread, one epoll loop. Rooms, each a file:
//
//   main       the loop                     boot      from /init to an open port
//   port       ttrpc frames in and out      dispatch  methods, held requests
//   container  create, start, delete        process   exec, exit, wait, signal
//   spawn      clone and what the child does           apply     ids, capabilities, seccomp, execve
//   steps      the steps of a plan          path      names below a root, symlinks confined
//   stdio      streams and terminals        files     the File call, in a helper process
//   cgroup     cgroup files, stats, OOM     network   netlink
//   identity   Hello, Activate, Shutdown    sys       system calls without a wrapper, the error door
//
// If this process dies, the guest's kernel panics. So nothing that a host or a container sends may end it: every
// length is checked, every wait is bounded, and work on a container's own files happens in a helper process.
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "sandboxd/api/agent.pb-c.h"
#include "sandboxd/api/ttrpc.pb-c.h"

#undef stdin  // a macro in some libc, a field of Process
typedef Sandboxd__Agent__V1__Plan Plan;
typedef Sandboxd__Agent__V1__Step Step;
typedef Sandboxd__Agent__V1__Process Process;
typedef Sandboxd__Agent__V1__Namespace Namespace;

// --- sys.c: system calls without a wrapper, and the one error door ---

// gRPC status codes that this agent answers with.
enum code {
    CODE_OK = 0,
    CODE_INVALID_ARGUMENT = 3,
    CODE_DEADLINE_EXCEEDED = 4,
    CODE_NOT_FOUND = 5,
    CODE_ALREADY_EXISTS = 6,
    CODE_RESOURCE_EXHAUSTED = 8,
    CODE_FAILED_PRECONDITION = 9,
    CODE_UNIMPLEMENTED = 12,
    CODE_INTERNAL = 13,
};

struct fault {
    int32_t code;
    char text[1024];
};
// What went wrong last; valid after a function of ours returned -1.
extern struct fault the_fault;

int fault(enum code code, const char *format, ...) __attribute__((format(printf, 2, 3)));
// "CALL PATH: ERRNO NAME", from errno. CODE_INTERNAL.
int fault_call(const char *call, const char *path);
int fault_memory(void);
// A line in the kernel's log: for what no answer can carry.
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

struct clone_args;
struct open_how;
struct mount_attr;
int sys_clone3(uint64_t flags, int cgroup_fd);
int sys_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);
int sys_close_range(unsigned first);
int sys_pivot_root(const char *new_root, const char *put_old);
int sys_mount_setattr(int dir, const char *path, unsigned flags, uint64_t set, uint64_t clear);
int sys_finit_module(int fd);
int sys_pidfd_open(pid_t pid);

uint64_t boottime_ns(void);
int64_t wall_clock_ns(void);
uint64_t monotonic_ms(void);
// Reads at most size - 1 bytes of a small file and ends them with NUL. Length, or -1 with errno.
ssize_t read_file(int dir, const char *path, char *text, size_t size);
// One write(2) of all of it. 0, or -1 with errno.
int write_file(int dir, const char *path, const void *data, size_t size);
void close_fd(int *fd);

// --- the loop (main.c) ---

// One descriptor in the epoll set. A watch fires once and is then silent until armed again.
struct watch {
    int fd;
    uint32_t armed;
    bool registered;
    bool lasting;  // stays armed
    void (*ready)(struct watch *watch, uint32_t events);
    void *owner;
};

struct agent {
    int epoll_fd, proc_fd, null_fd, cgroup_fd, pid_namespace_fd;
    bool booted;  // PID 1 of a guest; otherwise serves a host's socket (tests)
    bool activated;
    uint64_t started_boottime_ns, modules_boottime_ns;
};
extern struct agent agent;

int watch_arm(struct watch *watch, uint32_t events);
void watch_close(struct watch *watch);

// --- port.c: ttrpc over one descriptor ---

#define FRAME_HEADER_SIZE 10
#define FRAME_SIZE_MAX (4u << 20)

// What an answer goes back to. Calls of an earlier session are answered into the void.
struct call {
    uint32_t stream;
    uint32_t session;  // 0: no call
};

int port_open(int fd, bool virtio);
void port_new_session(void);
bool call_live(struct call call);
// The same call, as one of the session that is now.
struct call call_again(struct call call);
void answer(struct call *call, const ProtobufCMessage *response);
void answer_empty(struct call *call, const ProtobufCMessageDescriptor *type);
// Answers with the_fault.
void answer_fault(struct call *call);
bool port_flush(void);

// --- dispatch.c: methods, memory of a request, held requests ---

struct chunk;
struct arena {
    struct chunk *chunks;
    size_t used, limit;
};
void *arena_take(struct arena *arena, size_t size);

struct request {
    struct request *next;
    const struct method *method;
    struct call call;
    struct arena arena;
    ProtobufCMessage *message;
    struct container *container;  // that it names; NULL for calls on the guest itself, and for CreateContainer
    uint64_t deadline_ms;  // of being held; 0: never held
    char why[96];          // what it is held for
};

// What a handler made of its request.
enum outcome {
    FAILED = -1,  // answer with the_fault
    DONE = 0,     // answered, or noted in a long poll; the request's memory goes
    HELD = 1,     // see hold()
    KEPT = 2,     // the handler owns the request now
};

void dispatch(struct call call, const uint8_t *body, size_t size);
// Keeps the request and runs its handler again whenever something changed; after timeout_ms it fails, saying why.
enum outcome hold(struct request *request, unsigned timeout_ms, const char *format, ...) __attribute__((format(printf, 3, 4)));
#define HOLD_FOR_EVER 0xffffffffu
void something_changed(void);
void run_held(void);
int held_timeout_ms(void);
void forget_held(void);
void request_free(struct request *request);
// A C string of a bytes field: no NUL inside, at most PATH_MAX - 1. NULL with the_fault.
char *text_of(struct request *request, ProtobufCBinaryData bytes);

// --- containers and processes ---

enum process_state {
    PROCESS_SETTING_UP,  // the child works on its namespaces and root
    PROCESS_CREATED,     // it waits for the word
    PROCESS_STARTING,    // told to execute
    PROCESS_RUNNING,
    PROCESS_ENDED,       // reaped
};

struct input {  // one WriteInput under way
    struct input *next;
    struct call call;
    size_t size, written;
    bool close;
    uint8_t data[];
};

struct stream {
    struct watch watch;
    struct process *process;
    struct call reader;
    uint32_t max_bytes;
    bool eof, eof_delivered;
    size_t left;  // in the pipe when the process ended
};

struct waiter {
    struct waiter *next;
    struct call call;
};

struct process {
    struct process *next;
    struct container *container;
    char *exec_id;  // NULL: the container's first process
    pid_t pid;
    enum process_state state;
    const Process *spec;      // valid until it runs
    struct request *request;  // holds spec of an exec
    struct call starter;      // Create, Start or Exec, whichever is under way
    struct watch sync;        // seqpacket to the child; ends with its execve
    struct fault fault;       // what the child reported
    bool failed, reaped;
    int exec_errno;
    bool terminal;
    struct stream output[2];
    struct watch input_watch;
    struct input *inputs, **inputs_end;
    size_t input_bytes;
    bool wait_answered;
    struct waiter *waiters;
    uint32_t status, signal;
    int64_t exited_at_ns;
};

struct container {
    struct container *next;
    char *id;
    struct request *request;  // holds plan
    const Plan *plan;
    int root_fd, cgroup_fd;
    struct watch cgroup_events, memory_events;
    struct process *init;
    struct process *execs;
    unsigned exec_count;
    bool ended, oom_killed;
};

extern struct container *containers;
struct container *container_find(const char *id);
// The exec of that id; "": the first process. NULL with the_fault.
struct process *process_find(struct container *container, const char *exec_id);
bool container_busy(const struct container *container);
int id_check(const char *what, const char *id);
// What becomes of a container when its first process waits for the word, failed to get there, has been reaped.
void container_created(struct container *container);
void container_failed(struct container *container);
void container_ended(struct container *container);

struct process *process_new(struct container *container, const char *exec_id, const Process *spec);
void process_free(struct process *process);
int process_check(const Process *spec);
int process_start(struct process *process);
void process_go(struct process *process);
void process_settle(struct process *process);
void reap(void);
void forget_finished_execs(struct container *container);

// spawn.c: clones the child of a new process; the rest happens in the child.
int spawn(struct process *process);
int spawn_map_ids(struct process *process);
// Messages on the sync socket. MOVED: a go-between made the process proper, whose pid is `error`.
struct report {
    enum { REPORT_MOVED, REPORT_READY, REPORT_FAILED, REPORT_EXEC_FAILED } kind;
    int32_t error;
    struct fault fault;
};
void report_to_agent(int sync_fd, const struct report *report, int fd);
ssize_t receive_report(int sync_fd, struct report *report, int *fd);

// apply.c: the last part of the child: becomes what spec says and executes it. Returns only on failure: the errno of
// execve, or -1 with the_fault.
int apply_and_execute(const struct process *process);
// What is set on the child from outside, because it may need rights that the child no longer has.
int apply_from_outside(pid_t pid, const Process *spec);

// --- steps.c, path.c ---

// Where steps find "in_root" paths, and whether the guest's own /dev is still there.
struct place {
    int root_fd;       // opened when first needed
    const char *root;  // its path in the guest
    bool pivoted;
};
int run_steps(struct place *place, size_t count, Step **steps);
void run_cleanup(const Plan *plan);
int check_steps(size_t count, Step **steps);
// The serial of a block device that a step wants and that is not there, or NULL.
const char *missing_block_device(size_t count, Step **steps);
void forget_block_devices(void);

int open_in_root(int root_fd, const char *path, uint64_t flags, uint64_t mode);
int open_parent_in_root(int root_fd, const char *path, bool make, const char **name);
int make_directories_in_root(int root_fd, const char *path);
// A path for calls that take no descriptor: "self/fd/N" below agent.proc_fd, or absolute outside of a container.
const char *fd_path(int fd, char *text, size_t size);
#define FD_PATH_SIZE 32

// --- stdio.c ---

struct stdio {  // the child's ends
    int in, out, err;
};
int stdio_open(struct process *process, struct stdio *child);
void stdio_close_child(struct stdio *child);
int stdio_attach_terminal(struct process *process, int master);
void stdio_process_ended(struct process *process);
bool stdio_drained(struct process *process);
void stdio_close(struct process *process);
void fail_inputs(struct process *process);
// In the child: a terminal of the container's own devpts becomes its stdio; the master goes to the agent.
int terminal_open(const struct process *process, int root_fd, bool console, int *master);

// --- cgroup.c ---

int cgroup_mount(void);
bool cgroup_path_valid(const char *path);
int cgroup_attach_device_filter(int cgroup_fd, ProtobufCBinaryData program);
int cgroup_read_flag(struct container *container, const char *key);
int cgroup_watch_events(struct container *container);
void cgroup_kill(struct container *container);
int cgroup_remove(const char *path);
uint64_t cgroup_oom_kills(struct container *container);
int cgroup_open_of(pid_t pid);
struct pid_list {
    uint32_t *pids;
    size_t count;
};
int cgroup_pids(struct container *container, struct pid_list *list);

// --- network.c ---

int network_lo_up(void);
int network_configure(size_t count, Sandboxd__Agent__V1__Interface **interfaces, char (*names)[16]);
int uevent_socket(void);

// --- files.c ---

// The process of a helper was reaped. False: it is not a helper's.
bool helper_reaped(pid_t pid);
int helpers_timeout_ms(void);
void helpers_expire(void);

// --- handlers, one for each method ---

#define HANDLERS(X) \
    X(Hello, hello) \
    X(Activate, activate) \
    X(CreateContainer, create_container) \
    X(StartContainer, start_container) \
    X(DeleteContainer, delete_container) \
    X(Exec, exec) \
    X(Wait, wait) \
    X(Signal, signal) \
    X(ReadOutput, read_output) \
    X(WriteInput, write_input) \
    X(ResizeTerminal, resize_terminal) \
    X(Freeze, freeze) \
    X(Update, update) \
    X(Stats, stats) \
    X(ListProcesses, list_processes) \
    X(WatchOom, watch_oom) \
    X(File, file) \
    X(Shutdown, shutdown)
#define DECLARE(name, lower) enum outcome handle_##lower(struct request *request, const Sandboxd__Agent__V1__##name##Request *message);
HANDLERS(DECLARE)
#undef DECLARE

// --- boot.c ---

// Everything between the kernel's execve of /init and an open port. The port's descriptor.
int boot(void);
