// ttrpc over one descriptor: the guest's virtio-console port, or a socket in tests.
//
// Frame (ttrpc PROTOCOL.md): u32 length, u32 stream id, u8 type, u8 flags, big-endian; then length bytes.
// A frame over the limit is refused and skipped, so one bad frame costs its sender an error and no one else anything.
#include "agent.h"

#include <sys/epoll.h>

#define INPUT_SIZE (64u << 10)
// With more than this unsent, no further request is read: a host that does not read cannot fill the guest's memory.
#define OUTPUT_HIGH_WATER (1u << 20)

enum { TYPE_REQUEST = 1, TYPE_RESPONSE = 2 };

struct out {
    struct out *next;
    size_t size, sent;
    uint8_t data[];
};

static struct {
    struct watch watch;
    bool virtio;
    uint32_t session;
    uint8_t *input;
    size_t have, capacity, skip;
    struct out *out, **out_end;
    size_t out_bytes;
} port = {.session = 1};

static uint32_t be32(const uint8_t *bytes) {
    return (uint32_t)bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3];
}

static void put_be32(uint8_t *bytes, uint32_t value) {
    for (int i = 0; i < 4; i++) bytes[i] = value >> (24 - 8 * i);
}

bool call_live(struct call call) {
    return call.session == port.session;
}

struct call call_again(struct call call) {
    return (struct call){call.stream, port.session};
}

void port_new_session(void) {
    if (++port.session == 0) port.session = 1;
    forget_held();
}

static void rearm(void) {
    uint32_t events = port.out_bytes > OUTPUT_HIGH_WATER ? 0 : EPOLLIN;
    watch_arm(&port.watch, events | (port.out ? EPOLLOUT : 0));
}

static void disconnected(void) {
    if (!port.virtio) exit(0);
    port_new_session();
    port.have = port.skip = 0;
    for (struct out *next; port.out; port.out = next) {
        next = port.out->next;
        free(port.out);
    }
    port.out_end = &port.out;
    port.out_bytes = 0;
    // While nobody is there the port is ever ready (EPOLLHUP); edges tell when the host is back.
    watch_arm(&port.watch, EPOLLIN | EPOLLOUT | EPOLLET);
}

// True when all is sent.
bool port_flush(void) {
    while (port.out) {
        struct out *out = port.out;
        ssize_t sent = write(port.watch.fd, out->data + out->sent, out->size - out->sent);
        if (sent <= 0) {
            if (sent < 0 && errno == EINTR) continue;
            return false;
        }
        out->sent += sent;
        port.out_bytes -= sent;
        if (out->sent < out->size) continue;
        port.out = out->next;
        if (!port.out) port.out_end = &port.out;
        free(out);
    }
    return true;
}

static size_t varint(uint8_t *bytes, size_t value) {
    size_t size = 0;
    for (; value >= 0x80; value >>= 7) bytes[size++] = value | 0x80;
    bytes[size++] = value;
    return size;
}

// ttrpc.Response with the message as its field 1 (status) or 2 (payload), packed in place.
static bool send_response(uint32_t stream, int field, const ProtobufCMessage *message) {
    size_t size = protobuf_c_message_get_packed_size(message);
    if (size > FRAME_SIZE_MAX - 16) return false;
    struct out *out = malloc(sizeof *out + FRAME_HEADER_SIZE + 16 + size);
    if (!out) return false;
    uint8_t *body = out->data + FRAME_HEADER_SIZE;
    body[0] = field << 3 | 2;
    size_t length = 1 + varint(body + 1, size);
    length += protobuf_c_message_pack(message, body + length);
    put_be32(out->data, length);
    put_be32(out->data + 4, stream);
    out->data[8] = TYPE_RESPONSE;
    out->data[9] = 0;
    out->next = NULL;
    out->sent = 0;
    out->size = FRAME_HEADER_SIZE + length;
    port.out_bytes += out->size;
    *port.out_end = out;
    port.out_end = &out->next;
    if (port.out == out) port_flush();
    rearm();
    return true;
}

static bool send_fault(uint32_t stream) {
    Ttrpc__Status status = TTRPC__STATUS__INIT;
    status.code = the_fault.code;
    status.message = the_fault.text;
    return send_response(stream, 1, &status.base);
}

void answer(struct call *call, const ProtobufCMessage *response) {
    if (call_live(*call) && !send_response(call->stream, 2, response)) {
        fault(CODE_RESOURCE_EXHAUSTED, "the answer is larger than a frame of %u bytes", FRAME_SIZE_MAX);
        send_fault(call->stream);
    }
    call->session = 0;
}

void answer_empty(struct call *call, const ProtobufCMessageDescriptor *type) {
    ProtobufCMessage response = {.descriptor = type};
    answer(call, &response);
}

void answer_fault(struct call *call) {
    if (call_live(*call)) send_fault(call->stream);
    call->session = 0;
}

static void take_frame(const uint8_t *frame, uint32_t length) {
    uint32_t stream = be32(frame + 4);
    if (frame[8] == TYPE_REQUEST) {
        dispatch((struct call){stream, port.session}, frame + FRAME_HEADER_SIZE, length);
        return;
    }
    fault(CODE_UNIMPLEMENTED, "frame type %u is not a request", frame[8]);
    send_fault(stream);
}

// The whole frames of the input. Returns how many bytes were used up.
static size_t take_frames(void) {
    size_t used = 0;
    while (port.have - used >= FRAME_HEADER_SIZE) {
        const uint8_t *frame = port.input + used;
        uint32_t length = be32(frame);
        if (length > FRAME_SIZE_MAX) {
            fault(CODE_RESOURCE_EXHAUSTED, "a frame of %u bytes is over the limit of %u", length, FRAME_SIZE_MAX);
            send_fault(be32(frame + 4));
            size_t there = port.have - used - FRAME_HEADER_SIZE;
            port.skip = length > there ? length - there : 0;
            used += FRAME_HEADER_SIZE + (length > there ? there : length);
            continue;
        }
        if (port.have - used - FRAME_HEADER_SIZE < length) break;
        used += FRAME_HEADER_SIZE + length;
        take_frame(frame, length);
    }
    return used;
}

// Room for the frame that has begun, whose length was checked; back to the small buffer when it is done.
static void fit_input(void) {
    size_t wanted = INPUT_SIZE;
    if (port.have >= FRAME_HEADER_SIZE) wanted = FRAME_HEADER_SIZE + (size_t)be32(port.input);
    if (wanted < INPUT_SIZE) wanted = INPUT_SIZE;
    if (wanted == port.capacity) return;
    uint8_t *input = realloc(port.input, wanted);
    if (input) {
        port.input = input;
        port.capacity = wanted;
    } else if (wanted > port.capacity) {  // refuse this frame instead of dying of it
        fault_memory();
        send_fault(be32(port.input + 4));
        port.skip = wanted - port.have;
        port.have = 0;
    }
}

static void take_input(size_t got) {
    size_t skipped = got < port.skip ? got : port.skip;
    port.skip -= skipped;
    memmove(port.input + port.have, port.input + port.have + skipped, got - skipped);
    port.have += got - skipped;
    size_t used = take_frames();
    port.have -= used;
    memmove(port.input, port.input + used, port.have);
    fit_input();
}

static void on_port(struct watch *watch, uint32_t events) {
    (void)events;
    port_flush();
    if (port.out_bytes <= OUTPUT_HIGH_WATER) {
        ssize_t got = read(watch->fd, port.input + port.have, port.capacity - port.have);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
            disconnected();
            return;
        }
        if (got > 0) take_input(got);
    }
    rearm();
}

int port_open(int fd, bool virtio) {
    port.watch = (struct watch){.fd = fd, .lasting = true, .ready = on_port};
    port.virtio = virtio;
    port.out_end = &port.out;
    port.capacity = INPUT_SIZE;
    port.input = malloc(port.capacity);
    if (!port.input) return fault_memory();
    return watch_arm(&port.watch, EPOLLIN);
}
