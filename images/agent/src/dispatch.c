// From a frame's body to a handler, and requests that wait to be run again.
#include "agent.h"

#include <stdarg.h>

#define SERVICE "sandboxd.agent.v1.Agent"
// A message takes more memory than its frame: the smallest submessage is two bytes there, some hundred here.
#define ARENA_SIZE(frame) (((size_t)(frame) * 64 < 48u << 20 ? (size_t)(frame) * 64 : 48u << 20) + 65536)
#define HELD_MAX 4096
#define HELD_BYTES_MAX (32u << 20)

struct method {
    const char *name;
    const ProtobufCMessageDescriptor *type;
    enum outcome (*handle)(struct request *request);
    const ProtobufCMessageDescriptor *response;
};
#define CALL(name, lower) \
    static enum outcome call_##lower(struct request *request) { \
        return handle_##lower(request, (const MESSAGE(name##Request) *)request->message); \
    }
HANDLERS(CALL)
#define ROW(name, lower) \
    {#name, &sandboxd__agent__v1__##lower##_request__descriptor, call_##lower, &sandboxd__agent__v1__##lower##_response__descriptor},
static const struct method methods[] = {HANDLERS(ROW)};

static struct request *held, **held_end = &held;
static size_t held_count, held_bytes;
static bool any_woken;

// --- memory ---

void *arena_take(struct arena *arena, size_t size) {
    if (size > arena->size - arena->used) return NULL;
    void *memory = arena->memory + arena->used;
    arena->used += (size + 15) & ~(size_t)15;
    if (arena->used > arena->size) arena->used = arena->size;
    return memory;
}

static void *arena_alloc(void *arena, size_t size) {
    return arena_take(arena, size);
}

static void arena_keep(void *arena UNUSED, void *memory UNUSED) {}  // goes with the arena

void request_free(struct request *request) {
    if (!request) return;
    close_fd(&request->file);
    if (request->keepers-- > 0) return;
    free(request->arena.memory);
    free(request);
}

char *text_of(struct request *request, ProtobufCBinaryData bytes) {
    if (bytes.len > 4095 || (bytes.len && memchr(bytes.data, 0, bytes.len))) {
        fault(CODE_INVALID_ARGUMENT, "a path is over 4095 bytes or holds a NUL");
        return NULL;
    }
    char *text = arena_take(&request->arena, bytes.len + 1);
    if (!text) return fault_memory(), NULL;
    if (bytes.len) memcpy(text, bytes.data, bytes.len);
    text[bytes.len] = 0;
    return text;
}

// --- requests that wait ---

enum outcome hold(struct request *request, const void *on, unsigned timeout_ms, const char *format, ...) {
    va_list arguments;
    if (!request->deadline_ms) {
        request->deadline_ms = timeout_ms == FOR_EVER ? UINT64_MAX : monotonic_ms() + timeout_ms;
    } else if (request->deadline_ms <= monotonic_ms()) {
        return fault(CODE_DEADLINE_EXCEEDED, "%s did not come about in time", request->why);
    }
    if (held_count >= HELD_MAX || held_bytes > HELD_BYTES_MAX)
        return fault(CODE_RESOURCE_EXHAUSTED, "%zu calls with %zu bytes are waiting", held_count, held_bytes);
    va_start(arguments, format);
    vsnprintf(request->why, sizeof request->why, format, arguments);
    va_end(arguments);
    request->on = on;
    request->woken = false;
    request->next = NULL;
    *held_end = request;
    held_end = &request->next;
    held_count++;
    held_bytes += request->held_bytes = request->arena.used;
    return HELD;
}

void wake(const void *on) {
    for (struct request *request = held; request; request = request->next)
        if (request->on == on) any_woken = request->woken = true;
}

// The helper process of a request was reaped. False: it is nobody's.
bool wake_helper(pid_t pid, int status) {
    for (struct request *request = held; request; request = request->next) {
        if (request->helper != pid) continue;
        request->helper = 0;
        request->helper_status = status;
        any_woken = request->woken = true;
        return true;
    }
    return false;
}

void forget_held(void) {
    for (struct request *next; held; held = next) {
        next = held->next;
        request_free(held);
    }
    held_end = &held;
    held_count = held_bytes = 0;
}

int held_timeout_ms(void) {
    uint64_t first = UINT64_MAX;
    for (struct request *request = held; request; request = request->next)
        if (request->deadline_ms < first) first = request->deadline_ms;
    if (first == UINT64_MAX) return -1;
    uint64_t now = monotonic_ms();
    if (first <= now) any_woken = true;
    return first <= now ? 0 : (int)(first - now) + 1;
}

// --- running ---

static bool creates(const struct request *request) {
    return request->method->type == &sandboxd__agent__v1__create_container_request__descriptor;
}

// The value of a request's field container_id, or NULL.
static const char *container_id_of(const struct request *request) {
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field_by_name(request->method->type, "container_id");
    return field ? *(char *const *)((const uint8_t *)request->message + field->offset) : NULL;
}

static const struct request *creator_of(const char *id) {
    for (const struct request *request = held; request; request = request->next) {
        const char *created = creates(request) ? container_id_of(request) : NULL;
        if (created && !strcmp(created, id)) return request;
    }
    return NULL;
}

// While a container is made or started, calls on it wait: that is what lets a host send CreateContainer,
// StartContainer, Exec and Wait in one go.
static enum outcome find_container(struct request *request) {
    const char *id = container_id_of(request);
    request->container = NULL;
    if (!id || creates(request)) return DONE;
    request->container = container_find(id);
    const void *on = request->container ? (const void *)request->container : creator_of(id);
    if (on && (!request->container || container_busy(request->container)))
        return hold(request, on, FOR_EVER, "the start of container %.60s", id);
    return request->container ? DONE : FAILED;
}

static void run(struct request *request) {
    enum outcome outcome = find_container(request);
    if (outcome == DONE) outcome = request->method->handle(request);
    if (outcome == HELD) return;
    if (outcome == FAILED) answer_fault(request->call);
    if (outcome == EMPTY) answer(request->call, &(ProtobufCMessage){.descriptor = request->method->response});
    if (creates(request)) wake(request);
    request_free(request);
}

// The list is looked through from its head again after each: a handler may add to it and wake others of it.
void run_held(void) {
    while (any_woken) {
        uint64_t now = monotonic_ms();
        any_woken = false;
        for (struct request **link = &held; *link;) {
            struct request *request = *link;
            if (request->woken || request->deadline_ms <= now) {
                *link = request->next;
                if (!*link) held_end = link;
                held_count--;
                held_bytes -= request->held_bytes;
                run(request);
                link = &held;
            } else {
                link = &request->next;
            }
        }
    }
}

static const struct method *method_find(const Ttrpc__Request *call) {
    if (!strcmp(call->service, SERVICE))
        for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
            if (!strcmp(methods[i].name, call->method)) return &methods[i];
    fault(CODE_UNIMPLEMENTED, "this agent has no method %.100s/%.100s", call->service, call->method);
    return NULL;
}

static int unpack(struct request *request, const uint8_t *body, size_t size) {
    ProtobufCAllocator allocator = {arena_alloc, arena_keep, &request->arena};
    Ttrpc__Request *call = ttrpc__request__unpack(&allocator, size, body);
    if (!call) return fault(CODE_INVALID_ARGUMENT, "the frame holds no ttrpc request");
    request->method = method_find(call);
    if (!request->method) return -1;
    request->message = protobuf_c_message_unpack(request->method->type, &allocator, call->payload.len, call->payload.data);
    if (!request->message)
        return fault(CODE_INVALID_ARGUMENT, "the payload is not a well-formed %s", request->method->type->short_name);
    return 0;
}

void dispatch(struct call call, const uint8_t *body, size_t size) {
    run_held();  // who came first is served first
    struct request *request = calloc(1, sizeof *request);
    uint8_t *memory = malloc(ARENA_SIZE(size));
    if (!request || !memory) {
        free(request);
        free(memory);
        fault_memory();
        answer_fault(call);
        return;
    }
    *request = (struct request){.call = call, .arena = {memory, 0, ARENA_SIZE(size)}, .file = -1};
    if (unpack(request, body, size) == 0) {
        run(request);
        return;
    }
    answer_fault(call);
    request_free(request);
}
