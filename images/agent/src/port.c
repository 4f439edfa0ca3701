// ttrpc over one descriptor: the guest's virtio-console port, or a socket in tests.
//
// Frame (ttrpc PROTOCOL.md): u32 length, u32 stream id, u8 type, u8 flags, big-endian; then length bytes.
// A frame over the limit is refused and skipped, so one bad frame costs its sender an error and no one else anything.
#include "agent.h"

#include <sys/epoll.h>

// With more than this unsent, no further request is read: a host that does not read cannot fill the guest's memory.
#define OUTPUT_HIGH_WATER (1u << 20)
#define TYPE_REQUEST 1
#define TYPE_RESPONSE 2

struct out {
    struct out *next;
    size_t size, sent;
    uint8_t data[];
};

static struct {
    struct watch watch;
    bool virtio;
    uint32_t session;
    struct out *out, **out_end;
    size_t out_bytes, have, skip;
} port = {.session = 1, .out_end = &port.out};
static uint8_t input[FRAME_HEADER_SIZE + FRAME_SIZE_MAX];  // memory only as far as it was ever filled

static uint32_t be32(const uint8_t *bytes) {
    return (uint32_t)bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3];
}

static void put_be32(uint8_t *bytes, uint32_t value) {
    for (int i = 0; i < 4; i++) bytes[i] = value >> (24 - 8 * i);
}

bool call_live(struct call call) {
    return call.session == port.session;
}

void port_new_session(struct call *call) {
    if (++port.session == 0) port.session = 1;
    if (call) call->session = port.session;
    forget_held();
}

static void rearm(void) {
    watch_arm(&port.watch, (port.out_bytes > OUTPUT_HIGH_WATER ? 0 : EPOLLIN) | (port.out ? EPOLLOUT : 0));
}

static void disconnected(void) {
    if (!port.virtio) exit(0);
    port_new_session(NULL);
    port.have = port.skip = port.out_bytes = 0;
    for (struct out *next; port.out; port.out = next) {
        next = port.out->next;
        free(port.out);
    }
    port.out_end = &port.out;
    // While nobody is there the port is ever ready (EPOLLHUP); edges tell when the host is back.
    watch_arm(&port.watch, EPOLLIN | EPOLLOUT | EPOLLET);
}

// --- out ---

bool port_flush(void) {
    while (port.out) {
        struct out *out = port.out;
        ssize_t sent = write(port.watch.fd, out->data + out->sent, out->size - out->sent);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return false;
        out->sent += sent;
        port.out_bytes -= sent;
        if (out->sent < out->size) continue;
        port.out = out->next;
        if (!port.out) port.out_end = &port.out;
        free(out);
    }
    return true;
}

static void send_frame(struct out *out) {
    port.out_bytes += out->size;
    *port.out_end = out;
    port.out_end = &out->next;
    if (port.out == out) port_flush();
    rearm();
}

static size_t varint(uint8_t *bytes, size_t value) {
    size_t size = 0;
    for (; value >= 0x80; value >>= 7) bytes[size++] = value | 0x80;
    bytes[size++] = value;
    return size;
}

// ttrpc.Response with a message as its field 1 (status) or 2 (payload), packed in place.
static struct out *frame_of(uint32_t stream, int field, const ProtobufCMessage *message) {
    size_t size = protobuf_c_message_get_packed_size(message);
    struct out *out = size > FRAME_SIZE_MAX - 16 ? NULL : calloc(1, sizeof *out + FRAME_HEADER_SIZE + 16 + size);
    if (!out) return NULL;
    uint8_t *body = out->data + FRAME_HEADER_SIZE;
    body[0] = field << 3 | 2;
    size_t length = 1 + varint(body + 1, size);
    length += protobuf_c_message_pack(message, body + length);
    put_be32(out->data, length);
    put_be32(out->data + 4, stream);
    out->data[8] = TYPE_RESPONSE;
    out->size = FRAME_HEADER_SIZE + length;
    return out;
}

static struct out *frame_of_fault(uint32_t stream) {
    Ttrpc__Status status = TTRPC__STATUS__INIT;
    status.code = the_fault.code;
    status.message = the_fault.text;
    return frame_of(stream, 1, &status.base);
}

static struct out *frame_of_answer(uint32_t stream, const ProtobufCMessage *response) {
    struct out *out = response ? frame_of(stream, 2, response) : NULL;
    if (out) return out;
    if (response) fault(CODE_RESOURCE_EXHAUSTED, "the answer does not fit into a frame, or into memory");
    return frame_of_fault(stream);
}

static void send_answer(struct call call, const ProtobufCMessage *response) {
    struct out *out = call_live(call) ? frame_of_answer(call.stream, response) : NULL;
    if (out) send_frame(out);
}

void answer(struct call call, const ProtobufCMessage *response) {
    send_answer(call, response);
}

void answer_fault(struct call call) {
    send_answer(call, NULL);
}

int answer_into(int fd, struct call call, const ProtobufCMessage *response) {
    struct out *out = frame_of_answer(call.stream, response);
    return out && write(fd, out->data, out->size) == (ssize_t)out->size ? 0 : -1;
}

void answer_from(int fd, struct call call) {
    off_t size = lseek(fd, 0, SEEK_END);
    struct out *out = size < FRAME_HEADER_SIZE || !call_live(call) ? NULL : calloc(1, sizeof *out + size);
    if (out && pread(fd, out->data, size, 0) == size) {
        out->size = size;
        send_frame(out);
        return;
    }
    free(out);
    fault(CODE_INTERNAL, "the helper process ended without an answer");
    answer_fault(call);
}

// --- in ---

static void take_frame(const uint8_t *frame, size_t length) {
    struct call call = {be32(frame + 4), port.session};
    if (frame[8] == TYPE_REQUEST) {
        dispatch(call, frame + FRAME_HEADER_SIZE, length);
    } else {
        fault(CODE_UNIMPLEMENTED, "frame type %u is not a request", frame[8]);
        answer_fault(call);
    }
}

// The whole frames of the input. Returns how many bytes were used up.
static size_t take_frames(void) {
    size_t used = 0;
    while (port.have - used >= FRAME_HEADER_SIZE) {
        const uint8_t *frame = input + used;
        size_t there = port.have - used - FRAME_HEADER_SIZE;
        size_t length = be32(frame);
        if (length > FRAME_SIZE_MAX) {
            fault(CODE_RESOURCE_EXHAUSTED, "a frame of %zu bytes is over the limit of %u", length, FRAME_SIZE_MAX);
            answer_fault((struct call){be32(frame + 4), port.session});
            port.skip = length > there ? length - there : 0;
            used += FRAME_HEADER_SIZE + length - port.skip;
            continue;
        }
        if (there < length) break;
        used += FRAME_HEADER_SIZE + length;
        take_frame(frame, length);
    }
    return used;
}

static void take_input(size_t got) {
    size_t skipped = got < port.skip ? got : port.skip;
    port.skip -= skipped;
    port.have += got - skipped;
    memmove(input + port.have - (got - skipped), input + port.have - (got - skipped) + skipped, got - skipped);
    size_t used = take_frames();
    port.have -= used;
    memmove(input, input + used, port.have);
}

static void on_port(struct watch *watch) {
    port_flush();
    if (port.out_bytes <= OUTPUT_HIGH_WATER) {
        ssize_t got = read(watch->fd, input + port.have, sizeof input - port.have);
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
    return watch_arm(&port.watch, EPOLLIN);
}
