/* SPDX-License-Identifier: Apache-2.0
 *
 * The control plane of ideal back-ends: it believes whatever the front-end says.
 */
#include "back_end.h"

#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "load.h"

enum {
    PASSES = 4096, /* between two looks at the sockets */
    MOST_SOCKETS = 16,
    INDEX_MASK = 0xFF,
};

static void *host_address(const struct served *served, uint64_t uva)
{
    for (int i = 0; i < served->count; i++) {
        const struct region *region = &served->regions[i];

        if (uva - region->uva < region->size)
            return region->at + (uva - region->uva);
    }
    fprintf(stderr, "a ring lies in no region\n");
    exit(1);
}

static void add_region(struct served *served, const struct wire_region *wanted, int fd)
{
    struct region *region = &served->regions[served->count];

    if (served->count == MOST_REGIONS) {
        fprintf(stderr, "too many regions\n");
        exit(1);
    }
    region->uva = wanted->uva;
    region->size = wanted->size;
    region->mapped = wanted->offset + wanted->size;
    char *at = mmap(NULL, region->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        die("map guest memory");
    region->at = at + wanted->offset;
    served->count++;
}

static void drop_regions(struct served *served)
{
    for (int i = 0; i < served->count; i++) {
        struct region *region = &served->regions[i];
        size_t offset = region->mapped - region->size;

        munmap(region->at - offset, region->mapped);
    }
    served->count = 0;
}

static void find_areas(const struct served *served, struct ring *ring)
{
    ring->desc = host_address(served, ring->uva[0]);
    ring->avail = host_address(served, ring->uva[1]);
    ring->used = host_address(served, ring->uva[2]);
}

/* Rings that were there before are in the new memory, too. */
static void set_table(struct served *served, const struct wire_message *message, int fd)
{
    if (message->table.count != 1) {
        fprintf(stderr, "the front-end's memory should be in one file\n");
        exit(1);
    }
    drop_regions(served);
    add_region(served, &message->table.region[0], fd);
    for (int i = 0; i < MOST_RINGS; i++) {
        if (served->rings[i].uva[0])
            find_areas(served, &served->rings[i]);
    }
}

static void set_address(struct served *served, const struct wire_message *message)
{
    struct ring *ring = &served->rings[message->addr.index];

    ring->features = served->features;
    ring->uva[0] = message->addr.desc;
    ring->uva[1] = message->addr.avail;
    ring->uva[2] = message->addr.used;
    find_areas(served, ring);
    ring_begin(ring);
}

static void leave(struct served *served)
{
    drop_regions(served);
    for (int i = 0; i < MOST_RINGS; i++) {
        if (served->rings[i].call >= 0)
            close(served->rings[i].call);
        served->rings[i] = (struct ring){.call = -1};
    }
    close(served->connection);
    served->connection = -1;
}

static void reply(struct served *served, struct wire_message *message, uint64_t value)
{
    if (message->request != GET_CONFIG) {
        message->u64 = value;
        message->size = sizeof(message->u64);
    }
    message->flags = FLAG_VERSION | FLAG_REPLY;
    wire_send(served->connection, message, -1);
}

static uint64_t stop(struct ring *ring, uint32_t index)
{
    uint32_t base = ring->next;

    ring->running = false;
    if (ring->features & F_RING_PACKED) {
        base |= ring->wrap ? PACKED_BASE : 0;
        base |= base << 16;
    }
    return index | (uint64_t)base << 32;
}

/* Requests that are answered with a value; false: it is none of them. */
static bool answer(const struct back_end *back_end, struct served *served, struct wire_message *message)
{
    switch (message->request) {
    case GET_FEATURES:
        reply(served, message, back_end->features);
        return true;
    case GET_PROTOCOL_FEATURES:
        reply(served, message, back_end->protocol_features);
        return true;
    case GET_QUEUE_NUM:
        reply(served, message, 1);
        return true;
    case GET_MAX_MEM_SLOTS:
        reply(served, message, MOST_REGIONS);
        return true;
    case GET_VRING_BASE:
        reply(served, message,
              stop(&served->rings[message->state.index], message->state.index));
        return true;
    case GET_CONFIG:
        memset(message->config.data, 0, message->size - CONFIG_HEADER);
        if (message->config.offset == 0)
            memcpy(message->config.data, &back_end->sectors, sizeof(back_end->sectors));
        reply(served, message, 0);
        return true;
    default:
        return false;
    }
}

static void set_call(struct ring *ring, int fd)
{
    if (ring->call >= 0)
        close(ring->call);
    ring->call = fd;
}

static void set_base(struct ring *ring, uint32_t base)
{
    ring->next = (uint16_t)(base & ~PACKED_BASE);
    ring->wrap = true;
}

static void obey(struct served *served, struct wire_message *message, int fd)
{
    struct ring *rings = served->rings;

    switch (message->request) {
    case SET_FEATURES:
        served->features = message->u64;
        break;
    case SET_MEM_TABLE:
        set_table(served, message, fd);
        break;
    case ADD_MEM_REG:
        add_region(served, &message->added.region, fd);
        break;
    case SET_VRING_NUM:
        rings[message->state.index].num = message->state.num;
        break;
    case SET_VRING_BASE:
        set_base(&rings[message->state.index], message->state.num);
        break;
    case SET_VRING_ADDR:
        set_address(served, message);
        break;
    case SET_VRING_CALL:
        set_call(&rings[message->u64 & INDEX_MASK], fd);
        return;
    case SET_VRING_ENABLE:
        rings[message->state.index].running =
            message->state.num != 0 && rings[message->state.index].uva[0];
        break;
    default:
        break;
    }
    if (fd >= 0)
        close(fd);
}

static bool names_a_ring(const struct back_end *back_end, const struct wire_message *message)
{
    switch (message->request) {
    case SET_VRING_NUM:
    case SET_VRING_BASE:
    case SET_VRING_ADDR:
    case SET_VRING_ENABLE:
    case GET_VRING_BASE:
        return message->state.index < back_end->rings;
    case SET_VRING_CALL:
        return (message->u64 & INDEX_MASK) < back_end->rings;
    default:
        return true;
    }
}

static void serve_message(const struct back_end *back_end, struct served *served)
{
    struct wire_message message;
    int fd;

    if (!wire_receive(served->connection, &message, &fd)) {
        leave(served);
        return;
    }
    if (!names_a_ring(back_end, &message)) {
        fprintf(stderr, "request %u names a ring that is not there\n", message.request);
        exit(1);
    }
    bool wants_ack = message.flags & FLAG_NEED_REPLY;
    if (answer(back_end, served, &message))
        return;
    obey(served, &message, fd);
    if (wants_ack)
        reply(served, &message, 0);
}

/* Look at the sockets; wait for them while no ring runs. */
static void serve_sockets(const struct back_end *back_end, struct served *served, int count, bool wait)
{
    struct pollfd fds[MOST_SOCKETS];

    for (int i = 0; i < count; i++) {
        bool free_place = served[i].connection < 0;

        fds[i] = (struct pollfd){free_place ? served[i].listener : served[i].connection, POLLIN, 0};
    }
    if (poll(fds, (nfds_t)count, wait ? -1 : 0) < 0)
        die("wait for a front-end");
    for (int i = 0; i < count; i++) {
        if (!fds[i].revents)
            continue;
        if (served[i].connection >= 0)
            serve_message(back_end, &served[i]);
        else if ((served[i].connection = accept(served[i].listener, NULL, NULL)) < 0)
            die("accept a front-end");
    }
}

static void listen_on(struct served *served, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    served->connection = -1;
    for (int i = 0; i < MOST_RINGS; i++)
        served->rings[i].call = -1;
    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    served->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (served->listener < 0 ||
        bind(served->listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(served->listener, 1) < 0)
        die("listen");
}

static bool any_runs(const struct served *served, int count)
{
    for (int i = 0; i < count; i++) {
        for (int ring = 0; ring < MOST_RINGS; ring++) {
            if (served[i].rings[ring].running)
                return true;
        }
    }
    return false;
}

void back_end_run(const struct back_end *back_end, char *const *paths, int count)
{
    struct served *served = calloc((size_t)count, sizeof(*served));

    if (!served || count > MOST_SOCKETS) {
        fprintf(stderr, "at most %d sockets can be served\n", MOST_SOCKETS);
        exit(2);
    }
    for (int i = 0; i < count; i++)
        listen_on(&served[i], paths[i]);
    for (;;) {
        bool running = any_runs(served, count);

        serve_sockets(back_end, served, count, !running);
        for (int pass = 0; running && pass < PASSES; pass++)
            back_end->pass(served, count);
    }
}
