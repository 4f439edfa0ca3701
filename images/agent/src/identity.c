// Who this guest is: Hello, Activate, Shutdown.
#include "agent.h"

#include <linux/random.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <time.h>

#define AGENT_VERSION "0.1.0"
#define ENTROPY_MIN 32
#define ENTROPY_MAX 512
#define INTERFACES_MAX 16

HANDLER(Hello, hello) {
    (void)message;
    MESSAGE(HelloResponse) response = SANDBOXD__AGENT__V1__HELLO_RESPONSE__INIT;
    struct utsname names;
    struct sysinfo memory;
    cpu_set_t cpus;
    port_new_session(&request->call);
    if (uname(&names) < 0 || sysinfo(&memory) < 0) return fault_call("uname", "guest");
    response.agent_version = AGENT_VERSION;
    response.kernel_release = names.release;
    response.kernel_version = names.version;
    response.started_boottime_ns = agent.started_boottime_ns;
    response.modules_boottime_ns = agent.modules_boottime_ns;
    response.now_boottime_ns = boottime_ns();
    response.memory_bytes = (uint64_t)memory.totalram * memory.mem_unit;
    response.vcpus = sched_getaffinity(0, sizeof cpus, &cpus) < 0 ? 1 : CPU_COUNT(&cpus);
    answer(request->call, &response.base);
    return DONE;
}

// Credits the bytes to the kernel's random number generator and makes it use them at once: writing to /dev/urandom
// would do neither (random(4)).
static int reseed(ProtobufCBinaryData entropy) {
    union {
        struct rand_pool_info info;
        uint8_t bytes[sizeof(struct rand_pool_info) + ENTROPY_MAX];
    } pool;
    pool.info.entropy_count = (int)entropy.len * 8;
    pool.info.buf_size = (int)entropy.len;
    memcpy(pool.bytes + offsetof(struct rand_pool_info, buf), entropy.data, entropy.len);
    SCOPED int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    if (fd < 0) return fault_call("open", "/dev/urandom");
    if (ioctl(fd, RNDADDENTROPY, &pool.info) < 0) return fault_call("ioctl", "RNDADDENTROPY");
    return checked(ioctl(fd, RNDRESEEDCRNG), "ioctl", "RNDRESEEDCRNG");
}

static int set_clock(int64_t unix_ns) {
    struct timespec now = {.tv_sec = unix_ns / 1000000000, .tv_nsec = unix_ns % 1000000000};
    // The clock of a host that runs the agent as a test is not this agent's.
    if (!agent.booted) return 0;
    return clock_settime(CLOCK_REALTIME, &now) < 0 ? fault_call("clock_settime", "CLOCK_REALTIME") : 0;
}

static int activate(const MESSAGE(ActivateRequest) * message, char (*names)[16]) {
    if (message->entropy.len < ENTROPY_MIN || message->entropy.len > ENTROPY_MAX)
        return fault(CODE_INVALID_ARGUMENT, "%zu bytes of entropy are not %d to %d", message->entropy.len, ENTROPY_MIN, ENTROPY_MAX);
    if (message->wall_clock_unix_ns <= 0) return fault(CODE_INVALID_ARGUMENT, "the wall clock is before 1970");
    if (message->n_interfaces > INTERFACES_MAX) return fault(CODE_INVALID_ARGUMENT, "over %d interfaces", INTERFACES_MAX);
    if (reseed(message->entropy) < 0 || set_clock(message->wall_clock_unix_ns) < 0) return -1;
    size_t size = strlen(message->hostname);
    if (size && sethostname(message->hostname, size) < 0) return fault_call("sethostname", message->hostname);
    forget_block_devices();
    return network_configure(message->n_interfaces, message->interfaces, names);
}

HANDLER(Activate, activate) {
    MESSAGE(ActivateResponse) response = SANDBOXD__AGENT__V1__ACTIVATE_RESPONSE__INIT;
    char names[INTERFACES_MAX][16] = {{0}}, *pointers[INTERFACES_MAX];
    int status = activate(message, names);
    agent.activated = status == 0;
    if (status < 0) return FAILED;
    for (size_t i = 0; i < message->n_interfaces; i++) pointers[i] = names[i];
    response.wall_clock_unix_ns = wall_clock_ns();
    response.n_interface_names = message->n_interfaces;
    response.interface_names = pointers;
    answer(request->call, &response.base);
    return DONE;
}

HANDLER(Shutdown, shutdown) {
    MESSAGE(ShutdownResponse) response = SANDBOXD__AGENT__V1__SHUTDOWN_RESPONSE__INIT;
    (void)message;
    answer(request->call, &response.base);
    port_flush();
    if (!agent.booted) exit(0);
    sync();
    // A machine without a power button (microvm without ACPI) goes down by a reset, which its VMM does not follow up.
    reboot(RB_POWER_OFF);
    reboot(RB_AUTOBOOT);
    return fault_call("reboot", "guest");
}
