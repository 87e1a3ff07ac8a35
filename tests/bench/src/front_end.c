/* SPDX-License-Identifier: Apache-2.0
 *
 * A front-end's messages, in libblkio's order, and its memory.
 */
#include "front_end.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "load.h"

int front_end_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int connected = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    if (connected < 0 || connect(connected, (struct sockaddr *)&address, sizeof(address)) < 0)
        die("connect");
    return connected;
}

uint64_t front_end_ask(int socket, uint32_t request)
{
    struct wire_message message = {.request = request, .flags = FLAG_VERSION};
    int fd;

    wire_send(socket, &message, -1);
    if (!wire_receive(socket, &message, &fd))
        die("get an answer");
    return message.u64;
}

void front_end_tell(int socket, struct wire_message *message, uint32_t size, int fd)
{
    int none;

    message->flags = FLAG_VERSION | FLAG_NEED_REPLY;
    message->size = size;
    wire_send(socket, message, fd);
    if (!wire_receive(socket, message, &none) || message->u64 != 0) {
        fprintf(stderr, "the back-end refused request %u\n", message->request);
        exit(1);
    }
}

static void tell_u64(int socket, uint32_t request, uint64_t value, int fd)
{
    struct wire_message message = {.request = request, .u64 = value};

    front_end_tell(socket, &message, sizeof(value), fd);
}

static void tell_state(int socket, uint32_t request, uint32_t index, uint32_t num)
{
    struct wire_message message = {.request = request, .state = {index, num}};

    front_end_tell(socket, &message, sizeof(message.state), -1);
}

static void send_u64(int socket, uint32_t request, uint64_t value)
{
    struct wire_message message = {
        .request = request, .flags = FLAG_VERSION, .size = sizeof(value), .u64 = value};

    wire_send(socket, &message, -1);
}

void front_end_negotiate(int socket, uint64_t features, uint64_t protocol)
{
    struct wire_message owner = {.request = SET_OWNER, .flags = FLAG_VERSION};

    wire_send(socket, &owner, -1);
    uint64_t lacking = features & ~front_end_ask(socket, GET_FEATURES);
    if (lacking) {
        fprintf(stderr, "the back-end lacks features %#llx\n", (unsigned long long)lacking);
        exit(1);
    }
    protocol &= front_end_ask(socket, GET_PROTOCOL_FEATURES);
    send_u64(socket, SET_PROTOCOL_FEATURES, protocol);
    send_u64(socket, SET_FEATURES, features);
}

void guest_make(struct guest *guest, uint64_t size)
{
    guest->size = size;
    guest->gpa = 1ull << 32;
    guest->fd = memfd_create("guest", MFD_CLOEXEC);
    if (guest->fd < 0 || ftruncate(guest->fd, (off_t)size) < 0)
        die("make guest memory");
    guest->at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, guest->fd, 0);
    if (guest->at == MAP_FAILED)
        die("map guest memory");
    memset(guest->at, 0, size);
}

void guest_share(const struct guest *guest, int socket)
{
    struct wire_message message = {.request = ADD_MEM_REG};

    message.added.region.gpa = guest->gpa;
    message.added.region.size = guest->size;
    message.added.region.uva = (uint64_t)(uintptr_t)guest->at;
    front_end_tell(socket, &message, sizeof(message.added), guest->fd);
}

char *guest_take(struct guest *guest, uint64_t size)
{
    char *at = guest->at + guest->used;

    guest->used += (size + GUEST_PAGE - 1) / GUEST_PAGE * GUEST_PAGE;
    if (guest->used > guest->size) {
        fprintf(stderr, "guest memory is too small\n");
        exit(1);
    }
    return at;
}

void front_end_start(int socket, struct guest *guest, uint32_t index,
                     const struct vhu_ring_config *ring, const struct indirect_tables *tables,
                     struct ring_ends *ret)
{
    struct vhu_driver_config config = {.ring = *ring};
    struct wire_message message = {.request = SET_VRING_ADDR, .addr = {.index = index}};
    void **areas[] = {&config.ring.desc, &config.ring.driver, &config.ring.device};
    bool packed = ring->features & F_RING_PACKED;

    for (int i = 0; i < 3; i++)
        *areas[i] = guest_take(guest, vhu_ring_area_size(ring->features, ring->num, i));
    if (tables && tables->at) {
        config.indirect_entries = tables->entries;
        config.indirect = tables->at;
        config.indirect_address = guest_gpa(guest, tables->at);
    }
    errno = -vhu_driver_create(&config, &ret->driver);
    if (errno)
        die("make a ring");
    vhu_driver_call_disable(ret->driver);
    message.addr.desc = (uint64_t)(uintptr_t)config.ring.desc;
    message.addr.avail = (uint64_t)(uintptr_t)config.ring.driver;
    message.addr.used = (uint64_t)(uintptr_t)config.ring.device;
    tell_state(socket, SET_VRING_NUM, index, ring->num);
    tell_state(socket, SET_VRING_BASE, index, packed ? PACKED_BASE | PACKED_BASE << 16 : 0);
    front_end_tell(socket, &message, sizeof(message.addr), -1);
    ret->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ret->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ret->kick < 0 || ret->call < 0)
        die("make an eventfd");
    tell_u64(socket, SET_VRING_KICK, index, ret->kick);
    tell_u64(socket, SET_VRING_CALL, index, ret->call);
    tell_state(socket, SET_VRING_ENABLE, index, 1);
}

void ring_publish(const struct ring_ends *ring)
{
    if (vhu_driver_publish(ring->driver) && eventfd_write(ring->kick, 1) < 0 && errno != EAGAIN)
        die("kick");
}
