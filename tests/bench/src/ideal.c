/* SPDX-License-Identifier: Apache-2.0
 *
 * ideal SOCKET... - the back-end that no back-end can beat: it gives every chain back as it finds it.
 *
 * It checks nothing, translates nothing, transfers nothing and never sleeps while a ring runs, so
 * what a load generator reaches against it is that generator's own ceiling. One thread looks at all
 * rings in turn, and at the sockets once in a while.
 */
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "load.h"
#include "wire.h"

enum {
    MOST_REGIONS = 512,
    PASSES = 4096, /* between two looks at the sockets */
    RENEW = 4096,  /* entries after which the place where a kick is wanted is moved on */
    DESC_NEXT = 1,
    DESC_AVAIL = 1 << 7,
    DESC_USED = 1 << 15,
    EVENT_DISABLE = 1, /* packed: no kicks; split without event index: NO_NOTIFY, NO_INTERRUPT */
    DISK_BYTES = 1 << 30,
};

struct split_desc {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

struct packed_desc {
    uint64_t address;
    uint32_t length;
    uint16_t id;
    _Atomic uint16_t flags;
};

struct split_avail {
    _Atomic uint16_t flags, idx;
    uint16_t ring[];
};

struct split_used {
    _Atomic uint16_t flags, idx;
    struct {
        uint32_t id, length;
    } ring[];
};

struct event {
    _Atomic uint16_t place, flags;
};

struct region {
    uint64_t uva, size;
    char *at;
    size_t mapped;
};

struct disk {
    int listener, connection;
    uint64_t features;
    struct region regions[MOST_REGIONS];
    int count;
    uint32_t num;
    int call;
    bool running;
    uint16_t next, renewed;
    bool wrap;
    union {
        struct split_desc *desc;
        struct packed_desc *packed;
    };
    union {
        struct split_avail *avail;
        struct event *driver;
    };
    union {
        struct split_used *used;
        struct event *device;
    };
};

static void *host_address(const struct disk *disk, uint64_t uva)
{
    for (int i = 0; i < disk->count; i++) {
        const struct region *region = &disk->regions[i];

        if (uva - region->uva < region->size)
            return region->at + (uva - region->uva);
    }
    fprintf(stderr, "a ring lies in no region\n");
    exit(1);
}

static void add_region(struct disk *disk, const struct wire_message *message, int fd)
{
    struct region *region = &disk->regions[disk->count];

    if (disk->count == MOST_REGIONS) {
        fprintf(stderr, "too many regions\n");
        exit(1);
    }
    region->uva = message->region.uva;
    region->size = message->region.size;
    region->mapped = message->region.offset + message->region.size;
    char *at = mmap(NULL, region->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        die("map guest memory");
    region->at = at + message->region.offset;
    disk->count++;
}

/* Ask for a kick at a place that was just passed: none comes until the index has gone all round. */
static void renew(struct disk *disk)
{
    _Atomic uint16_t *place = (_Atomic uint16_t *)&disk->used->ring[disk->num];

    atomic_store_explicit(place, (uint16_t)(disk->next - 1), memory_order_relaxed);
    disk->renewed = disk->next;
}

static void set_address(struct disk *disk, const struct wire_message *message)
{
    disk->desc = host_address(disk, message->addr.desc);
    disk->avail = host_address(disk, message->addr.avail);
    disk->used = host_address(disk, message->addr.used);
    if (disk->features & F_RING_PACKED) {
        disk->device->flags = EVENT_DISABLE;
    } else {
        disk->used->flags = EVENT_DISABLE;
        renew(disk);
    }
}

static void leave(struct disk *disk)
{
    for (int i = 0; i < disk->count; i++) {
        struct region *region = &disk->regions[i];
        size_t offset = region->mapped - region->size;

        munmap(region->at - offset, region->mapped);
    }
    if (disk->call >= 0)
        close(disk->call);
    close(disk->connection);
    disk->connection = disk->call = -1;
    disk->count = 0;
    disk->running = false;
}

static void reply(struct disk *disk, struct wire_message *message, uint64_t value)
{
    if (message->request != GET_CONFIG) {
        message->u64 = value;
        message->size = sizeof(message->u64);
    }
    message->flags = FLAG_VERSION | FLAG_REPLY;
    wire_send(disk->connection, message, -1);
}

/* Requests that are answered with a value; false: it is none of them. */
static bool answer(struct disk *disk, struct wire_message *message)
{
    uint64_t sectors = DISK_BYTES / 512;

    switch (message->request) {
    case GET_FEATURES:
        reply(disk, message,
              F_PROTOCOL_FEATURES | F_VERSION_1 | F_RING_PACKED | F_INDIRECT | F_EVENT_IDX);
        return true;
    case GET_PROTOCOL_FEATURES:
        reply(disk, message, P_MQ | P_REPLY_ACK | P_CONFIG | P_CONFIGURE_MEM_SLOTS);
        return true;
    case GET_QUEUE_NUM:
        reply(disk, message, 1);
        return true;
    case GET_MAX_MEM_SLOTS:
        reply(disk, message, MOST_REGIONS);
        return true;
    case GET_VRING_BASE:
        disk->running = false;
        reply(disk, message, message->state.index | (uint64_t)disk->next << 32);
        return true;
    case GET_CONFIG:
        memset(message->config.data, 0, message->size - CONFIG_HEADER);
        if (message->config.offset == 0)
            memcpy(message->config.data, &sectors, sizeof(sectors));
        reply(disk, message, 0);
        return true;
    default:
        return false;
    }
}

static void obey(struct disk *disk, struct wire_message *message, int fd)
{
    switch (message->request) {
    case SET_FEATURES:
        disk->features = message->u64;
        break;
    case ADD_MEM_REG:
        add_region(disk, message, fd);
        break;
    case SET_VRING_NUM:
        disk->num = message->state.num;
        break;
    case SET_VRING_BASE:
        disk->next = (uint16_t)(message->state.num & ~PACKED_BASE);
        disk->wrap = true;
        break;
    case SET_VRING_ADDR:
        set_address(disk, message);
        break;
    case SET_VRING_CALL:
        if (disk->call >= 0)
            close(disk->call);
        disk->call = fd;
        fd = -1;
        break;
    case SET_VRING_ENABLE:
        disk->running = message->state.num != 0;
        break;
    default:
        break;
    }
    if (fd >= 0)
        close(fd);
}

static void serve_message(struct disk *disk)
{
    struct wire_message message;
    int fd;

    if (!wire_receive(disk->connection, &message, &fd)) {
        leave(disk);
        return;
    }
    bool wants_ack = message.flags & FLAG_NEED_REPLY;
    if (answer(disk, &message))
        return;
    obey(disk, &message, fd);
    if (wants_ack)
        reply(disk, &message, 0);
}

static void call(struct disk *disk, bool wanted)
{
    uint64_t one = 1;

    if (wanted && disk->call >= 0 && write(disk->call, &one, sizeof(one)) < 0)
        die("call the front-end");
}

static bool wants_call(const struct disk *disk, uint16_t old)
{
    if (!(disk->features & F_EVENT_IDX))
        return !(atomic_load_explicit(&disk->avail->flags, memory_order_relaxed) & EVENT_DISABLE);
    const _Atomic uint16_t *place = (const _Atomic uint16_t *)&disk->avail->ring[disk->num];
    uint16_t event = atomic_load_explicit(place, memory_order_relaxed);
    return (uint16_t)(disk->next - event - 1) < (uint16_t)(disk->next - old);
}

static void flip_split(struct disk *disk)
{
    uint16_t idx = atomic_load_explicit(&disk->avail->idx, memory_order_acquire), old = disk->next;
    uint32_t mask = disk->num - 1;

    if (idx == old)
        return;
    for (; disk->next != idx; disk->next++) {
        disk->used->ring[disk->next & mask].id = disk->avail->ring[disk->next & mask];
        disk->used->ring[disk->next & mask].length = 1;
    }
    atomic_store_explicit(&disk->used->idx, idx, memory_order_release);
    if ((uint16_t)(idx - disk->renewed) >= RENEW)
        renew(disk);
    atomic_thread_fence(memory_order_seq_cst);
    call(disk, wants_call(disk, old));
}

static void advance(struct disk *disk)
{
    if (++disk->next == disk->num) {
        disk->next = 0;
        disk->wrap = !disk->wrap;
    }
}

static void flip_packed(struct disk *disk)
{
    bool some = false;

    for (;;) {
        struct packed_desc *first = &disk->packed[disk->next], *last = first;
        uint16_t flags = atomic_load_explicit(&first->flags, memory_order_acquire);
        bool wrap = disk->wrap;

        if (!!(flags & DESC_AVAIL) != wrap || !!(flags & DESC_USED) == wrap)
            break;
        advance(disk);
        while (flags & DESC_NEXT) {
            last = &disk->packed[disk->next];
            flags = atomic_load_explicit(&last->flags, memory_order_relaxed);
            advance(disk);
        }
        first->id = last->id;
        first->length = 1;
        atomic_store_explicit(&first->flags, wrap ? DESC_AVAIL | DESC_USED : 0,
                              memory_order_release);
        some = true;
    }
    if (!some)
        return;
    atomic_thread_fence(memory_order_seq_cst);
    call(disk, atomic_load_explicit(&disk->driver->flags, memory_order_relaxed) != EVENT_DISABLE);
}

/* Look at the sockets; wait for them while no ring runs. */
static void serve_sockets(struct disk *disks, int count, bool wait)
{
    struct pollfd fds[MOST_DISKS];

    for (int i = 0; i < count; i++) {
        bool free_place = disks[i].connection < 0;

        fds[i] = (struct pollfd){free_place ? disks[i].listener : disks[i].connection, POLLIN, 0};
    }
    if (poll(fds, (nfds_t)count, wait ? -1 : 0) < 0)
        die("wait for a front-end");
    for (int i = 0; i < count; i++) {
        if (!fds[i].revents)
            continue;
        if (disks[i].connection >= 0)
            serve_message(&disks[i]);
        else if ((disks[i].connection = accept(disks[i].listener, NULL, NULL)) < 0)
            die("accept a front-end");
    }
}

static void listen_on(struct disk *disk, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    disk->connection = disk->call = -1;
    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    disk->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (disk->listener < 0 ||
        bind(disk->listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(disk->listener, 1) < 0)
        die("listen");
}

int main(int argc, char **argv)
{
    int count = argc - 1;
    struct disk *disks = calloc((size_t)argc, sizeof(*disks));

    if (!disks || count < 1 || count > MOST_DISKS) {
        fprintf(stderr, "usage: ideal SOCKET...\n");
        return 2;
    }
    for (int i = 0; i < count; i++)
        listen_on(&disks[i], argv[i + 1]);
    for (;;) {
        bool running = false;

        for (int i = 0; i < count; i++)
            running |= disks[i].running;
        serve_sockets(disks, count, !running);
        for (int pass = 0; running && pass < PASSES; pass++) {
            for (int i = 0; i < count; i++) {
                if (!disks[i].running)
                    continue;
                if (disks[i].features & F_RING_PACKED)
                    flip_packed(&disks[i]);
                else
                    flip_split(&disks[i]);
            }
        }
    }
}
