/* SPDX-License-Identifier: Apache-2.0
 *
 * ring_load - a closed loop of random reads or writes over the engine's own driver side.
 *
 * It speaks to any back-end, but knows what libblkio does not: packed rings and indirect descriptors.
 * One disk, one ring, always polling; its few messages come in libblkio's order.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "front_end.h"
#include "load.h"

enum {
    QUEUE_SIZE = 256,
    PARTS = 3, /* of a request: header, data, status */
    HEADER_BYTES = 16,
    SLOT_BYTES = 64, /* header and status of a request, apart from the next one's */
    STATUS_OFFSET = 32,
    BLK_IN = 0,
    BLK_OUT = 1,
};

struct blk_header {
    uint32_t type, reserved;
    uint64_t sector;
};

struct disk {
    int socket;
    uint64_t blocks, features;
    struct guest guest;
    struct ring_ends ring;
    char *slots, *data, *tables;
    int *slot_of; /* by the chain's id */
    uint64_t *starts;
};

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
    disk->features = F_PROTOCOL_FEATURES | F_VERSION_1 | F_EVENT_IDX;
    if (options->packed)
        disk->features |= F_RING_PACKED;
    if (options->indirect)
        disk->features |= F_INDIRECT;
    front_end_negotiate(disk->socket, disk->features,
                        P_REPLY_ACK | P_CONFIG | P_CONFIGURE_MEM_SLOTS);
    disk->blocks = capacity(disk->socket) / options->bytes;
}

static void start_ring(struct disk *disk, const struct load_options *options)
{
    const struct vhu_ring_config config = {
        .features = disk->features, .num = QUEUE_SIZE, .state = {0, 0, 1, 1}};
    const struct indirect_tables tables = {options->indirect ? disk->tables : NULL, PARTS};

    front_end_start(disk->socket, &disk->guest, 0, &config, &tables, &disk->ring);
}

static void open_disk(struct disk *disk, const struct load_options *options)
{
    uint64_t data = (uint64_t)options->depth * options->bytes;
    uint64_t tables = (uint64_t)QUEUE_SIZE * PARTS * 16;

    disk->socket = front_end_connect(options->sockets[0]);
    negotiate(disk, options);
    guest_make(&disk->guest, data + tables + 64 * GUEST_PAGE);
    guest_share(&disk->guest, disk->socket);
    disk->slots = guest_take(&disk->guest, (uint64_t)options->depth * SLOT_BYTES);
    disk->data = guest_take(&disk->guest, data);
    disk->tables = guest_take(&disk->guest, tables);
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
    uint64_t gpa = guest_gpa(&disk->guest, place);
    uint64_t data = guest_gpa(&disk->guest, disk->data + (uint64_t)slot * options->bytes);
    struct vhu_buffer buffers[PARTS] = {
        {gpa, HEADER_BYTES, 0}, {data, options->bytes, !options->write}, {gpa + STATUS_OFFSET, 1, 1}};
    uint16_t id;

    header->type = options->write ? BLK_OUT : BLK_IN;
    header->sector = load_random() % disk->blocks * (options->bytes / 512);
    disk->starts[slot] = now_ns();
    errno = -vhu_driver_add(disk->ring.driver, buffers, PARTS, options->indirect, &id);
    if (errno)
        die("add a request; at most a third of the ring's size fits without --indirect");
    disk->slot_of[id] = slot;
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
    ring_publish(&disk.ring);
    for (int in_flight = options.depth; in_flight > 0;) {
        uint32_t written;
        uint16_t id;
        int found = vhu_driver_pop(disk.ring.driver, &id, &written);
        uint64_t now = now_ns();
        bool go_on = load_tick(&figures, now);

        for (; found == 1; found = vhu_driver_pop(disk.ring.driver, &id, &written)) {
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
        ring_publish(&disk.ring);
    }
    int status = load_print(&figures);
    usleep((useconds_t)(options.linger * 1e6));
    vhu_driver_destroy(disk.ring.driver);
    return status;
}
