// The guest's PID 1: executes the plans of proto/sandboxd/api/agent.proto with plain system calls.
//
// One thread, one epoll loop. Rooms, each a file:
//
//   main       the loop                     boot      from /init to an open port
//   port       ttrpc frames in and out      dispatch  from a frame to a handler, requests that wait
//   container  create, start, delete        process   exec, exit, wait, signal
//   spawn      clone, and what the child does          apply     ids, capabilities, seccomp, execve
//   steps      the steps of a plan          path      names below a root, symlinks confined
//   stdio      streams and terminals        files     the File call, in a helper process
//   cgroup     cgroup files, stats, OOM     network   netlink
//   identity   Hello, Activate, Shutdown    sys       system calls without a wrapper, the error door
//
// If this process dies, the guest's kernel panics. So nothing that a host or a container sends may end it: every
// length is checked, every wait is bounded or belongs to one call only, and work on a container's own files happens in
// a helper process.
//
// A handler runs to its end or asks to be run again: hold(request, what, ...) keeps the request until wake(what).
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
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
#define MESSAGE(name) Sandboxd__Agent__V1__##name
typedef MESSAGE(Plan) Plan;
typedef MESSAGE(Step) Step;
typedef MESSAGE(Process) Process;

// --- sys.c: system calls without a wrapper, and the one error door ---

enum code {  // gRPC status codes that this agent answers with
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
extern struct fault the_fault;  // what went wrong last; valid after a function of ours returned -1

int fault(enum code code, const char *format, ...) __attribute__((format(printf, 2, 3)));
int fault_call(const char *call, const char *path);  // "CALL PATH: ERRNO NAME" from errno, which it keeps
int fault_memory(void);
int checked(long status, const char *call, const char *path);  // status, or fault_call if it is negative
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));  // to the kernel's log

int sys_clone3(uint64_t flags, int cgroup_fd);
int sys_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);
int sys_pidfd_open(pid_t pid);
uint64_t boottime_ns(void);
uint64_t monotonic_ms(void);
int64_t wall_clock_ns(void);
ssize_t read_file(int dir, const char *path, char *text, size_t size);  // at most size - 1 bytes, and a NUL
int write_file(int dir, const char *path, const void *data, size_t size);
void close_fd(int *fd);  // if it is open; keeps errno
#define SCOPED __attribute__((cleanup(close_fd)))  // an int: closed at the end of its scope

// --- main.c: the loop ---

// One descriptor in the epoll set. Fires once and is then silent until armed again, unless lasting.
struct watch {
    int fd;
    uint32_t armed;
    bool registered, lasting;
    void (*ready)(struct watch *watch);
    void *owner;
};
struct agent {
    int epoll_fd, proc_fd, null_fd, cgroup_fd, pid_namespace_fd;
    bool booted;  // PID 1 of a guest; else serves a socket of a host (tests)
    bool activated;
    uint64_t started_boottime_ns, modules_boottime_ns;
};
extern struct agent agent;
int watch_arm(struct watch *watch, uint32_t events);
void watch_close(struct watch *watch);

// --- port.c: ttrpc over one descriptor ---

#define FRAME_HEADER_SIZE 10
#define FRAME_SIZE_MAX (4u << 20)

struct call {  // what an answer goes to; one of an earlier session is answered into the void
    uint32_t stream, session;
};
int port_open(int fd, bool virtio);
bool port_flush(void);  // true when all is sent
void port_new_session(struct call *call);
bool call_live(struct call call);
void answer(struct call call, const ProtobufCMessage *response);
void answer_fault(struct call call);
// For a helper process: an answer (or with NULL the_fault) into a file, and the file's frame to the host.
int answer_into(int fd, struct call call, const ProtobufCMessage *response);
void answer_from(int fd, struct call call);

// --- dispatch.c: requests ---

struct arena {
    uint8_t *memory;
    size_t used, size;
};
struct request {
    struct request *next;
    const struct method *method;
    struct call call;
    ProtobufCMessage *message;
    struct container *container;  // that it names; NULL for the guest itself, and for CreateContainer
    struct arena arena;           // of the message
    unsigned keepers;             // others that need the message beyond the answer
    const void *on;               // held until this is woken
    bool woken, begun;            // begun: the handler's, which runs again
    uint64_t deadline_ms;
    size_t progress, held_bytes;
    pid_t helper;  // its process, with its answer in file
    int file, helper_status;
    char why[96];
};
// What becomes of a request: answered; answered with the_fault; kept until woken; answered with an empty response.
enum outcome { DONE, FAILED = -1, HELD = 1, EMPTY = 2 };
#define FOR_EVER 0xffffffffu

void dispatch(struct call call, const uint8_t *body, size_t size);
enum outcome hold(struct request *request, const void *on, unsigned timeout_ms, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void wake(const void *on);
bool wake_helper(pid_t pid, int status);
void run_held(void);
int held_timeout_ms(void);
void forget_held(void);
void request_free(struct request *request);
void *arena_take(struct arena *arena, size_t size);
char *text_of(struct request *request, ProtobufCBinaryData bytes);  // no NUL in it, at most 4095; NULL with the_fault

// --- containers and processes ---

enum process_state {
    PROCESS_SETTING_UP,  // the child works on its namespaces and root
    PROCESS_CREATED,     // it waits for the word
    PROCESS_STARTING,    // told to execute
    PROCESS_RUNNING,
    PROCESS_ENDED,  // reaped
};
struct stream {
    struct watch watch;
    bool eof, eof_told, wide;
    size_t left;  // in the pipe when the process ended
};
struct process {
    struct process *next;
    struct container *container;
    char *exec_id;  // NULL: the container's first process
    pid_t pid;
    enum process_state state;
    const Process *spec;
    struct request *request;  // of an exec: holds spec
    struct watch sync;        // seqpacket to the child; ends with its execve
    bool failed, reaped, terminal, wait_told;
    struct fault fault;  // why it failed
    int exec_errno;
    struct stream output[2];
    struct watch input;
    struct call writer;  // whose data input takes now
    uint32_t status, signal;
    int64_t exited_at_ns;
};
struct container {
    struct container *next;
    const char *id;
    struct request *request;  // holds plan
    const Plan *plan;
    int root_fd, cgroup_fd;
    struct watch cgroup_events, memory_events;
    struct process *init, *execs;
    unsigned exec_count;
    bool oom_killed;
};
extern struct container *containers;

struct container *container_find(const char *id);  // NULL with the_fault
bool container_busy(const struct container *container);
bool container_ended(const struct container *container);
int id_check(const char *what, const char *id);

struct process *process_new(struct container *container, const char *exec_id, const Process *spec);
void process_free(struct process *process);
struct process *process_find(struct container *container, const char *exec_id);  // NULL with the_fault
int process_check(const Process *spec);
int process_start(struct process *process);
void process_go(struct process *process);
void process_wake(struct process *process);
void reap(void);

// spawn.c: clones a child, which sets itself up, reports and waits for the word.
struct report {
    enum { REPORT_READY, REPORT_FAILED, REPORT_EXEC_FAILED } kind;
    int32_t exec_errno;
    struct fault fault;
};
int spawn(struct process *process);
ssize_t receive_report(int sync_fd, struct report *report, int *fd);  // 0 at the end, -1 when there is none now

// apply.c: becomes what the plan says and executes it. From outside: what the child may no longer have the rights for.
int apply_from_outside(pid_t pid, const Process *spec);
int apply_and_execute(const struct process *process);  // returns on failure: errno of execve, or -1 with the_fault

// --- steps.c, path.c ---

struct place {         // where steps find in_root paths
    const char *root;  // its path in the guest
    int root_fd;       // -1: opened when first needed
    bool pivoted;      // it is the process's root
};
int run_steps(struct place *place, size_t count, Step **steps);
void run_cleanup(const Plan *plan);
const char *missing_block_device(size_t count, Step **steps);  // the serial of one that is not there, or NULL
void forget_block_devices(void);

// root_fd -1: the guest's own root. Paths are absolute.
int open_in_root(int root_fd, const char *path, uint64_t flags, uint64_t mode);
int open_parent_in_root(int root_fd, const char *path, bool make, const char **name);
int make_directories_in_root(int root_fd, const char *path);
int remove_in_root(int root_fd, const char *path);
#define FD_PATH_SIZE 32
const char *fd_path(int fd, char text[FD_PATH_SIZE]);  // "self/fd/N", relative to agent.proc_fd

// --- stdio.c, cgroup.c, network.c, boot.c ---

struct stdio {  // the child's ends
    int in, out, err;
};
int stdio_open(struct process *process, struct stdio *child);
int stdio_attach_terminal(struct process *process, int master);
void stdio_process_ended(struct process *process);
void stdio_close(struct process *process);
bool stdio_drained(struct process *process);
int terminal_open(const struct process *process, int root_fd, bool console, int *master);  // in the child

int cgroup_mount(void);
bool cgroup_path_valid(const char *path);
int cgroup_attach_device_filter(int cgroup_fd, ProtobufCBinaryData program);
int cgroup_flag(struct container *container, const char *key);  // of cgroup.events, watched from now on; -1 unknown
void cgroup_kill(struct container *container);
int cgroup_signal(struct request *request, struct container *container, int number);
int cgroup_remove(const char *path);
uint64_t cgroup_oom_kills(struct container *container);
int cgroup_open_of(pid_t pid);

int network_lo_up(void);
int network_configure(size_t count, MESSAGE(Interface) * *interfaces, char (*names)[16]);
int uevent_socket(void);
int boot(void);  // the port's descriptor

// --- handlers, one for each method ---

#define HANDLERS(X) \
    X(Hello, hello) X(Activate, activate) X(Shutdown, shutdown) \
    X(CreateContainer, create_container) X(StartContainer, start_container) X(DeleteContainer, delete_container) \
    X(Exec, exec) X(Wait, wait) X(Signal, signal) X(Freeze, freeze) X(Update, update) \
    X(ReadOutput, read_output) X(WriteInput, write_input) X(ResizeTerminal, resize_terminal) \
    X(Stats, stats) X(ListProcesses, list_processes) X(WatchOom, watch_oom) X(File, file)
#define HANDLER(name, lower) enum outcome handle_##lower(struct request *request, const MESSAGE(name##Request) * message)
#define DECLARE(name, lower) HANDLER(name, lower);
HANDLERS(DECLARE)
#undef DECLARE
#define UNUSED __attribute__((unused))
