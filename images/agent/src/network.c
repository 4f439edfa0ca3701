// Links, addresses, routes and neighbours by rtnetlink(7), and the kernel's events about devices.
#include "agent.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>


typedef MESSAGE(Interface) Interface;

struct message {
    struct nlmsghdr header;
    uint8_t body[512];
};

struct address {
    int family, prefix;
    size_t size;
    uint8_t bytes[16];
};

int uevent_socket(void) {
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
    if (fd < 0) return fault_call("socket", "NETLINK_KOBJECT_UEVENT");
    if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
    fault_call("bind", "NETLINK_KOBJECT_UEVENT");
    close(fd);
    return -1;
}

// --- messages ---

static void *begin(struct message *message, int type, int flags, size_t size) {
    memset(message, 0, sizeof *message);
    message->header.nlmsg_type = type;
    message->header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    message->header.nlmsg_len = NLMSG_LENGTH(size);
    return message->body;
}

static void attribute(struct message *message, int type, const void *data, size_t size) {
    size_t at = NLMSG_ALIGN(message->header.nlmsg_len);
    struct rtattr *attribute = (struct rtattr *)((uint8_t *)message + at);
    if (at + RTA_SPACE(size) > sizeof *message) return;  // sizes are ours: 16 bytes at most
    attribute->rta_type = type;
    attribute->rta_len = RTA_LENGTH(size);
    memcpy(RTA_DATA(attribute), data, size);
    message->header.nlmsg_len = at + RTA_LENGTH(size);
}

static int transact(int fd, struct message *message, const char *what) {
    struct {
        struct nlmsghdr header;
        struct nlmsgerr error;
        uint8_t rest[1024];
    } reply;
    if (send(fd, message, message->header.nlmsg_len, 0) < 0) return fault_call("netlink", what);
    ssize_t got = recv(fd, &reply, sizeof reply, 0);
    if (got < (ssize_t)(sizeof reply.header + sizeof reply.error) || reply.header.nlmsg_type != NLMSG_ERROR)
        return fault(CODE_INTERNAL, "netlink %.200s: no acknowledgement", what);
    errno = -reply.error.error;
    return errno ? fault_call("netlink", what) : 0;
}

// --- parsing ---

static int parse_address(const char *text, struct address *address) {
    char copy[64];
    const char *slash = strchr(text, '/');
    size_t size = slash ? (size_t)(slash - text) : strlen(text);
    if (size >= sizeof copy) return fault(CODE_INVALID_ARGUMENT, "%.80s is no address", text);
    memcpy(copy, text, size);
    copy[size] = 0;
    address->family = strchr(copy, ':') ? AF_INET6 : AF_INET;
    address->size = address->family == AF_INET6 ? 16 : 4;
    char *end = "";
    address->prefix = slash ? (int)strtol(slash + 1, &end, 10) : (int)address->size * 8;
    bool prefix_valid = address->prefix >= 0 && address->prefix <= (int)address->size * 8 && !*end && !(slash && !slash[1]);
    if (inet_pton(address->family, copy, address->bytes) != 1 || !prefix_valid)
        return fault(CODE_INVALID_ARGUMENT, "%.80s is no address", text);
    return 0;
}

// --- links ---

// The name of the interface with this MAC, from what the kernel shows of each.
static int find_link(const char *mac, char name[IF_NAMESIZE]) {
    DIR *directory = opendir("/sys/class/net");
    bool found = false;
    for (struct dirent *entry; directory && !found && (entry = readdir(directory));) {
        char path[320], text[64];
        snprintf(path, sizeof path, "/sys/class/net/%s/address", entry->d_name);
        if (*entry->d_name == '.' || read_file(AT_FDCWD, path, text, sizeof text) < 0) continue;
        text[strcspn(text, "\n")] = 0;
        found = !strcmp(text, mac);
        snprintf(name, IF_NAMESIZE, "%.*s", IF_NAMESIZE - 1, entry->d_name);
    }
    if (directory) closedir(directory);
    if (found) return 0;
    errno = ENODEV;
    return fault_call("interface", mac);
}

static int set_up(int fd, int index, uint32_t mtu) {
    struct message message;
    struct ifinfomsg *body = begin(&message, RTM_NEWLINK, 0, sizeof *body);
    body->ifi_index = index;
    body->ifi_flags = body->ifi_change = IFF_UP;
    if (mtu) attribute(&message, IFLA_MTU, &mtu, sizeof mtu);
    return transact(fd, &message, "link up");
}

int network_lo_up(void) {
    SCOPED int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    return fd < 0 ? fault_call("socket", "NETLINK_ROUTE") : set_up(fd, 1, 0);  // lo is every network namespace's first
}

// --- addresses, routes, neighbours ---

static int add_address(int fd, int index, const char *text) {
    struct address address;
    struct message message;
    uint32_t flags = IFA_F_NODAD;  // no one else is on this link to ask
    if (parse_address(text, &address) < 0) return -1;
    struct ifaddrmsg *body = begin(&message, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, sizeof *body);
    body->ifa_family = address.family;
    body->ifa_prefixlen = address.prefix;
    body->ifa_index = index;
    attribute(&message, IFA_LOCAL, address.bytes, address.size);
    attribute(&message, IFA_ADDRESS, address.bytes, address.size);
    if (address.family == AF_INET6) attribute(&message, IFA_FLAGS, &flags, sizeof flags);
    return transact(fd, &message, text);
}

static int add_route(int fd, int index, const MESSAGE(Route) * route) {
    struct address destination, gateway;
    struct message message;
    if (parse_address(route->destination, &destination) < 0) return -1;
    if (*route->gateway && parse_address(route->gateway, &gateway) < 0) return -1;
    struct rtmsg *body = begin(&message, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, sizeof *body);
    body->rtm_family = destination.family;
    body->rtm_dst_len = destination.prefix;
    body->rtm_table = RT_TABLE_MAIN;
    body->rtm_protocol = RTPROT_STATIC;
    body->rtm_scope = *route->gateway ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
    body->rtm_type = RTN_UNICAST;
    if (destination.prefix) attribute(&message, RTA_DST, destination.bytes, destination.size);
    if (*route->gateway) attribute(&message, RTA_GATEWAY, gateway.bytes, gateway.size);
    attribute(&message, RTA_OIF, &index, sizeof index);
    return transact(fd, &message, route->destination);
}

static int add_neighbour(int fd, int index, const MESSAGE(Neighbour) * neighbour) {
    struct address address;
    struct message message;
    uint8_t mac[6];
    if (parse_address(neighbour->address, &address) < 0) return -1;
    if (sscanf(neighbour->mac, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5) != 6)
        return fault(CODE_INVALID_ARGUMENT, "%.40s is no MAC address", neighbour->mac);
    struct ndmsg *body = begin(&message, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, sizeof *body);
    body->ndm_family = address.family;
    body->ndm_ifindex = index;
    body->ndm_state = NUD_PERMANENT;
    attribute(&message, NDA_DST, address.bytes, address.size);
    attribute(&message, NDA_LLADDR, mac, sizeof mac);
    return transact(fd, &message, neighbour->address);
}

// --- the whole ---

static int configure(int fd, const Interface *interface, char name[IF_NAMESIZE]) {
    if (find_link(interface->mac, name) < 0) return -1;
    int index = (int)if_nametoindex(name);
    if (set_up(fd, index, interface->mtu) < 0) return -1;
    for (size_t i = 0; i < interface->n_addresses; i++)
        if (add_address(fd, index, interface->addresses[i]) < 0) return -1;
    for (size_t i = 0; i < interface->n_neighbours; i++)
        if (add_neighbour(fd, index, interface->neighbours[i]) < 0) return -1;
    for (size_t i = 0; i < interface->n_routes; i++)
        if (add_route(fd, index, interface->routes[i]) < 0) return -1;
    return 0;
}

int network_configure(size_t count, Interface **interfaces, char (*names)[16]) {
    if (!count) return 0;
    SCOPED int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0) return fault_call("socket", "NETLINK_ROUTE");
    for (size_t i = 0; i < count; i++)
        if (configure(fd, interfaces[i], names[i]) < 0) return -1;
    return 0;
}
