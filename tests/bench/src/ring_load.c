/* SPDX-License-Identifier: Apache-2.0
 *
 * ring_load - a closed loop of random reads or writes over the engine's own driver side.
 *
 * It speaks to any back-end, but knows what libblkio does not: packed rings and indirect descriptors.
 * One disk, one ring, always polling; its few messages come in libblkio's order.
 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "load.h"
#include "vhu.h"
#include "wire.h"

enum {
    QUEUE_SIZE = 256,
    PARTS = 3, /* of a request: header, data, status */
    HEADER_BYTES = 16,
    SLOT_BYTES = 64, /* header and status of a request, apart from the next one's */
    STATUS_OFFSET = 32,
    PAGE = 4096,
    BLK_IN = 0,
    BLK_OUT = 1,
};

struct guest {
    char *at;
    uint64_t gpa, size, used;
    int fd;
};

struct blk_header {
    uint32_t type, reserved;
    uint64_t sector;
};

struct disk {
    int socket, kick;
    uint64_t blocks, features;
    struct guest guest;
    struct vhu_driver *driver;
    char *slots, *data, *tables;
    int *slot_of; /* by the chain's id */
    uint64_t *starts;
};

static uint64_t ask(int socket, uint32_t request)
{
    struct wire_message message = {.request = request, .flags = FLAG_VERSION};
    int fd;

    wire_send(socket, &message, -1);
    if (!wire_receive(socket, &message, &fd))
        die("get an answer");
    return message.u64;
}

static void tell(int socket, struct wire_message *message, uint32_t size, int fd)
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

    tell(socket, &message, sizeof(value), fd);
}

static void tell_state(int socket, uint32_t request, uint32_t num)
{
    struct wire_message message = {.request = request, .state = {0, num}};

    tell(socket, &message, sizeof(message.state), -1);
}

static void connect_to(struct disk *disk, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    disk->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (disk->socket < 0 ||
        connect(disk->socket, (struct sockaddr *)&address, sizeof(address)) < 0)
        die("connect");
}

static void send_u64(int socket, uint32_t request, uint64_t value)
{
    struct wire_message message = {
        .request = request, .flags = FLAG_VERSION, .size = sizeof(value), .u64 = value};

    wire_send(socket, &message, -1);
}

static uint64_t capacity(int socket)
{
    struct wire_message message = {.request = GET_CONFIG,
                                   .flags = FLAG_VERSION,
                                   .size = CONFIG_HEADER + BLK_CONFIG_SIZE,
                                   .config = {.size = BLK_CONFIG_SIZE}};
    uint64_t sectors;
    int fd;

    wire_send(socket, &message, -1);
    if (!wire_receive(socket, &message, &fd))
        die("get the configuration");
    memcpy(&sectors, message.config.data, sizeof(sectors));
    return sectors * 512;
}

static void negotiate(struct disk *disk, const struct load_options *options)
{
    uint64_t wanted = F_PROTOCOL_FEATURES | F_VERSION_1 | F_EVENT_IDX;
    uint64_t protocol = P_REPLY_ACK | P_CONFIG | P_CONFIGURE_MEM_SLOTS;
    struct wire_message owner = {.request = SET_OWNER, .flags = FLAG_VERSION};

    if (options->packed)
        wanted |= F_RING_PACKED;
    if (options->indirect)
        wanted |= F_INDIRECT;
    wire_send(disk->socket, &owner, -1);
    disk->features = ask(disk->socket, GET_FEATURES) & wanted;
    if (disk->features != wanted) {
        fprintf(stderr, "the back-end lacks features %#llx\n",
                (unsigned long long)(wanted & ~disk->features));
        exit(1);
    }
    protocol &= ask(disk->socket, GET_PROTOCOL_FEATURES);
    send_u64(disk->socket, SET_PROTOCOL_FEATURES, protocol);
    send_u64(disk->socket, SET_FEATURES, disk->features);
    disk->blocks = capacity(disk->socket) / options->bytes;
}

static void share_memory(struct disk *disk, uint64_t size)
{
    struct guest *guest = &disk->guest;
    struct wire_message message = {.request = ADD_MEM_REG};

    guest->size = size;
    guest->gpa = 1ull << 32;
    guest->fd = memfd_create("guest", MFD_CLOEXEC);
    if (guest->fd < 0 || ftruncate(guest->fd, (off_t)size) < 0)
        die("make guest memory");
    guest->at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, guest->fd, 0);
    if (guest->at == MAP_FAILED)
        die("map guest memory");
    memset(guest->at, 0, size);
    message.added.region.gpa = guest->gpa;
    message.added.region.size = size;
    message.added.region.uva = (uint64_t)(uintptr_t)guest->at;
    tell(disk->socket, &message, sizeof(message.added), guest->fd);
}

static char *take(struct guest *guest, uint64_t size)
{
    char *at = guest->at + guest->used;

    guest->used += (size + PAGE - 1) / PAGE * PAGE;
    if (guest->used > guest->size) {
        fprintf(stderr, "guest memory is too small\n");
        exit(1);
    }
    return at;
}

static uint64_t gpa_of(const struct guest *guest, const void *at)
{
    return guest->gpa + (uint64_t)((const char *)at - guest->at);
}

static void start_ring(struct disk *disk, const struct load_options *options)
{
    struct vhu_driver_config config = {
        .ring = {.features = disk->features, .num = QUEUE_SIZE, .state = {0, 0, 1, 1}}};
    struct wire_message message = {.request = SET_VRING_ADDR};
    void **areas[] = {&config.ring.desc, &config.ring.driver, &config.ring.device};

    for (int i = 0; i < 3; i++)
        *areas[i] = take(&disk->guest, vhu_ring_area_size(disk->features, QUEUE_SIZE, i));
    if (options->indirect) {
        config.indirect_entries = PARTS;
        config.indirect = disk->tables;
        config.indirect_address = gpa_of(&disk->guest, disk->tables);
    }
    errno = -vhu_driver_create(&config, &disk->driver);
    if (errno)
        die("make a ring");
    vhu_driver_call_disable(disk->driver);
    message.addr.desc = (uint64_t)(uintptr_t)config.ring.desc;
    message.addr.avail = (uint64_t)(uintptr_t)config.ring.driver;
    message.addr.used = (uint64_t)(uintptr_t)config.ring.device;
    tell_state(disk->socket, SET_VRING_NUM, QUEUE_SIZE);
    tell_state(disk->socket, SET_VRING_BASE, options->packed ? PACKED_BASE | PACKED_BASE << 16 : 0);
    tell(disk->socket, &message, sizeof(message.addr), -1);
    disk->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (disk->kick < 0 || call < 0)
        die("make an eventfd");
    tell_u64(disk->socket, SET_VRING_KICK, 0, disk->kick);
    tell_u64(disk->socket, SET_VRING_CALL, 0, call);
    tell_state(disk->socket, SET_VRING_ENABLE, 1);
    close(call);
}

static void open_disk(struct disk *disk, const struct load_options *options)
{
    uint64_t data = (uint64_t)options->depth * options->bytes;
    uint64_t tables = (uint64_t)QUEUE_SIZE * PARTS * 16;

    connect_to(disk, options->sockets[0]);
    negotiate(disk, options);
    share_memory(disk, data + tables + 64 * PAGE);
    disk->slots = take(&disk->guest, (uint64_t)options->depth * SLOT_BYTES);
    disk->data = take(&disk->guest, data);
    disk->tables = take(&disk->guest, tables);
    disk->slot_of = calloc(QUEUE_SIZE, sizeof(*disk->slot_of));
    disk->starts = calloc((size_t)options->depth, sizeof(*disk->starts));
    if (!disk->slot_of || !disk->starts)
        die("allocate");
    start_ring(disk, options);
}

static void begin(struct disk *disk, int slot, const struct load_options *options)
{
    char *place = disk->slots + slot * SLOT_BYTES;
    struct blk_header *header = (struct blk_header *)place;
    uint64_t gpa = gpa_of(&disk->guest, place);
    uint64_t data = gpa_of(&disk->guest, disk->data + (uint64_t)slot * options->bytes);
    struct vhu_buffer buffers[PARTS] = {
        {gpa, HEADER_BYTES, 0}, {data, options->bytes, !options->write}, {gpa + STATUS_OFFSET, 1, 1}};
    uint16_t id;

    header->type = options->write ? BLK_OUT : BLK_IN;
    header->sector = load_random() % disk->blocks * (options->bytes / 512);
    disk->starts[slot] = now_ns();
    errno = -vhu_driver_add(disk->driver, buffers, PARTS, options->indirect, &id);
    if (errno)
        die("add a request; at most a third of the ring's size fits without --indirect");
    disk->slot_of[id] = slot;
}

static void publish(struct disk *disk)
{
    if (vhu_driver_publish(disk->driver) && eventfd_write(disk->kick, 1) < 0 && errno != EAGAIN)
        die("kick");
}

int main(int argc, char **argv)
{
    struct load_options options;
    struct load_figures figures;
    struct disk disk = {0};

    load_parse(argc, argv, &options);
    if (options.disks != 1 || options.regions != 1 || !options.poll) {
        fprintf(stderr, "ring_load takes one disk and one region, and polls\n");
        return 2;
    }
    open_disk(&disk, &options);
    load_begin(&figures, &options);
    for (int slot = 0; slot < options.depth; slot++)
        begin(&disk, slot, &options);
    publish(&disk);
    for (int in_flight = options.depth; in_flight > 0;) {
        uint32_t written;
        uint16_t id;
        int found = vhu_driver_pop(disk.driver, &id, &written);
        uint64_t now = now_ns();
        bool go_on = load_tick(&figures, now);

        for (; found == 1; found = vhu_driver_pop(disk.driver, &id, &written)) {
            int slot = disk.slot_of[id];

            load_count(&figures, disk.starts[slot], now,
                       disk.slots[slot * SLOT_BYTES + STATUS_OFFSET] != 0);
            if (go_on)
                begin(&disk, slot, &options);
            else
                in_flight--;
        }
        if (found < 0) {
            fprintf(stderr, "the back-end returned a request that it does not have\n");
            return 1;
        }
        publish(&disk);
    }
    int status = load_print(&figures);
    usleep((useconds_t)(options.linger * 1e6));
    vhu_driver_destroy(disk.driver);
    return status;
}
