// From a frame's body to a handler: unpacks into an arena of bounded size, and runs held requests again when
// something changed.
#include "agent.h"

#define SERVICE "sandboxd.agent.v1.Agent"
#define ARENA_SIZE_MAX (32u << 20)
#define ARENA_CHUNK_SIZE (16u << 10)
#define HELD_MAX 1024

struct chunk {
    struct chunk *next;
    size_t size, used;
    _Alignas(16) uint8_t data[];
};

struct method {
    const char *name;
    const ProtobufCMessageDescriptor *type;
    enum outcome (*handle)(struct request *request);
};

#define CALL(name, lower) \
    static enum outcome call_##lower(struct request *request) { \
        return handle_##lower(request, (const Sandboxd__Agent__V1__##name##Request *)request->message); \
    }
HANDLERS(CALL)

static const struct method methods[] = {
#define ROW(name, lower) {#name, &sandboxd__agent__v1__##lower##_request__descriptor, call_##lower},
    HANDLERS(ROW)
#undef ROW
};

static bool creates(const struct method *method) {
    return method->type == &sandboxd__agent__v1__create_container_request__descriptor;
}

static struct request *held, **held_end = &held;
static unsigned held_count;
static bool changed;

// --- memory of a request ---

void *arena_take(struct arena *arena, size_t size) {
    if (size > arena->limit) return NULL;
    size = (size + 15) & ~(size_t)15;
    if (arena->used + size > arena->limit) return NULL;
    struct chunk *chunk = arena->chunks;
    if (!chunk || chunk->size - chunk->used < size) {
        size_t room = size > ARENA_CHUNK_SIZE ? size : ARENA_CHUNK_SIZE;
        chunk = malloc(sizeof *chunk + room);
        if (!chunk) return NULL;
        *chunk = (struct chunk){.next = arena->chunks, .size = room};
        arena->chunks = chunk;
    }
    void *memory = chunk->data + chunk->used;
    chunk->used += size;
    arena->used += size;
    return memory;
}

static void *arena_alloc(void *arena, size_t size) {
    return arena_take(arena, size);
}

static void arena_keep(void *arena, void *memory) {
    (void)arena, (void)memory;  // goes with the arena
}

void request_free(struct request *request) {
    if (!request) return;
    for (struct chunk *chunk = request->arena.chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        free(chunk);
    }
    free(request);
}

char *text_of(struct request *request, ProtobufCBinaryData bytes) {
    if (bytes.len > 4095 || memchr(bytes.data ? bytes.data : (uint8_t *)"", 0, bytes.len)) {
        fault(CODE_INVALID_ARGUMENT, "a path is over 4095 bytes or holds a NUL");
        return NULL;
    }
    char *text = arena_take(&request->arena, bytes.len + 1);
    if (!text) {
        fault_memory();
        return NULL;
    }
    if (bytes.len) memcpy(text, bytes.data, bytes.len);
    text[bytes.len] = 0;
    return text;
}

// --- held requests ---

enum outcome hold(struct request *request, unsigned timeout_ms, const char *format, ...) {
    if (!request->deadline_ms) {
        request->deadline_ms = timeout_ms == HOLD_FOR_EVER ? UINT64_MAX : monotonic_ms() + timeout_ms;
    } else if (request->deadline_ms <= monotonic_ms()) {
        return fault(CODE_DEADLINE_EXCEEDED, "%s did not come about in time", request->why);
    }
    if (held_count >= HELD_MAX) return fault(CODE_RESOURCE_EXHAUSTED, "more than %d calls are waiting", HELD_MAX);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(request->why, sizeof request->why, format, arguments);
    va_end(arguments);
    request->next = NULL;
    *held_end = request;
    held_end = &request->next;
    held_count++;
    return HELD;
}

void something_changed(void) {
    changed = true;
}

void forget_held(void) {
    for (struct request *next; held; held = next) {
        next = held->next;
        request_free(held);
    }
    held_end = &held;
    held_count = 0;
}

int held_timeout_ms(void) {
    uint64_t first = UINT64_MAX, now = monotonic_ms();
    for (struct request *request = held; request; request = request->next)
        if (request->deadline_ms < first) first = request->deadline_ms;
    if (first == UINT64_MAX) return -1;
    return first <= now ? 0 : first - now > 60000 ? 60000 : (int)(first - now);
}

// --- running ---

// The value of a request's field container_id, or NULL.
static const char *container_id_of(const struct request *request) {
    const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field_by_name(request->method->type, "container_id");
    return field ? *(char *const *)((const uint8_t *)request->message + field->offset) : NULL;
}

static bool creation_is_held(const char *id) {
    for (const struct request *request = held; request; request = request->next)
        if (creates(request->method) && !strcmp(container_id_of(request), id)) return true;
    return false;
}

// While a container is made or started, calls on it wait: that is what lets a host send CreateContainer,
// StartContainer, Exec and Wait in one go.
static enum outcome find_container(struct request *request) {
    const char *id = container_id_of(request);
    request->container = NULL;
    if (!id || creates(request->method)) return DONE;
    request->container = container_find(id);
    if (request->container ? container_busy(request->container) : creation_is_held(id))
        return hold(request, HOLD_FOR_EVER, "the start of container %.60s", id);
    return request->container ? DONE : FAILED;
}

static void run(struct request *request) {
    enum outcome outcome = find_container(request);
    if (outcome == DONE) outcome = request->method->handle(request);
    if (outcome == FAILED) answer_fault(&request->call);
    if (outcome == FAILED || outcome == DONE) request_free(request);
}

void run_held(void) {
    while (changed) {
        changed = false;
        struct request *list = held;
        held = NULL;
        held_end = &held;
        held_count = 0;
        for (struct request *next; list; list = next) {
            next = list->next;
            // A Hello among them forgets the session that they belong to.
            if (call_live(list->call))
                run(list);
            else
                request_free(list);
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
    struct request *request = calloc(1, sizeof *request);
    if (!request) {
        fault_memory();
        answer_fault(&call);
        return;
    }
    request->call = call;
    request->arena.limit = ARENA_SIZE_MAX;
    if (unpack(request, body, size) < 0) {
        answer_fault(&call);
        request_free(request);
        return;
    }
    run(request);
}
