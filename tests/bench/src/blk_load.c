/* SPDX-License-Identifier: Apache-2.0
 *
 * blk_load - a closed loop of random reads or writes over libblkio's virtio-blk-vhost-user driver.
 *
 * Each disk keeps `depth` requests in flight; whatever completes is started again at once. With
 * --sleep it uses a queue with a completion event and sleeps on it, else a poll queue.
 */
#include <blkio.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "load.h"

enum { QUEUE_SIZE = 256, PAGE = 4096 };

struct disk {
    struct blkio *blkio;
    struct blkioq *queue;
    uint64_t blocks;
    char **buffers;   /* of each slot */
    uint64_t *starts; /* ns */
};

static void check(const char *what, int result)
{
    if (result >= 0)
        return;
    fprintf(stderr, "cannot %s: %s (%s)\n", what, strerror(-result), blkio_get_error_msg());
    exit(1);
}

static void allocate_buffers(struct disk *disk, const struct load_options *options)
{
    size_t each = (size_t)(options->depth + options->regions - 1) / (size_t)options->regions;
    size_t length = (each * options->bytes + PAGE - 1) / PAGE * PAGE;
    char **first = calloc((size_t)options->regions, sizeof(*first));

    disk->buffers = calloc((size_t)options->depth, sizeof(*disk->buffers));
    disk->starts = calloc((size_t)options->depth, sizeof(*disk->starts));
    if (!first || !disk->buffers || !disk->starts)
        die("allocate");
    for (int i = 0; i < options->regions; i++) {
        struct blkio_mem_region region;

        check("allocate memory", blkio_alloc_mem_region(disk->blkio, &region, length));
        check("share memory", blkio_map_mem_region(disk->blkio, &region));
        memset(region.addr, 0x5a, region.len);
        first[i] = region.addr;
    }
    for (int slot = 0; slot < options->depth; slot++)
        disk->buffers[slot] =
            first[slot % options->regions] + (size_t)(slot / options->regions) * options->bytes;
    free(first);
}

static void open_disk(struct disk *disk, const char *path, const struct load_options *options)
{
    uint64_t capacity;

    check("create a client", blkio_create("virtio-blk-vhost-user", &disk->blkio));
    check("name the socket", blkio_set_str(disk->blkio, "path", path));
    check("connect", blkio_connect(disk->blkio));
    if (options->poll) {
        check("ask for no queue", blkio_set_int(disk->blkio, "num-queues", 0));
        check("ask for a poll queue", blkio_set_int(disk->blkio, "num-poll-queues", 1));
    }
    check("set the queue's size", blkio_set_int(disk->blkio, "queue-size", QUEUE_SIZE));
    check("start", blkio_start(disk->blkio));
    check("get the capacity", blkio_get_uint64(disk->blkio, "capacity", &capacity));
    disk->blocks = capacity / options->bytes;
    disk->queue =
        options->poll ? blkio_get_poll_queue(disk->blkio, 0) : blkio_get_queue(disk->blkio, 0);
    if (!disk->queue || !disk->blocks) {
        fprintf(stderr, "the disk at %s has no queue or no room\n", path);
        exit(1);
    }
    allocate_buffers(disk, options);
}

static void begin(struct disk *disk, int slot, const struct load_options *options)
{
    uint64_t start = load_random() % disk->blocks * options->bytes;
    void *data = (void *)(uintptr_t)slot;

    disk->starts[slot] = now_ns();
    if (options->write)
        blkioq_write(disk->queue, start, disk->buffers[slot], options->bytes, data, 0);
    else
        blkioq_read(disk->queue, start, disk->buffers[slot], options->bytes, data, 0);
}

/* Start what was queued, and take in what has ended, at least `least` requests. */
static void serve(struct disk *disk, int least, struct blkio_completion *ended,
                  const struct load_options *options, struct load_figures *figures,
                  uint64_t *in_flight)
{
    int count = blkioq_do_io(disk->queue, ended, least, options->depth, NULL);

    check("do I/O", count);
    uint64_t now = now_ns();
    bool go_on = load_tick(figures, now);
    for (int i = 0; i < count; i++) {
        int slot = (int)(uintptr_t)ended[i].user_data;

        load_count(figures, disk->starts[slot], now, ended[i].ret != 0);
        if (go_on)
            begin(disk, slot, options);
        else
            --*in_flight;
    }
}

int main(int argc, char **argv)
{
    struct load_options options;
    struct load_figures figures;

    load_parse(argc, argv, &options);
    struct disk *disks = calloc((size_t)options.disks, sizeof(*disks));
    struct blkio_completion *ended = calloc((size_t)options.depth, sizeof(*ended));
    if (!disks || !ended)
        die("allocate");
    for (int i = 0; i < options.disks; i++)
        open_disk(&disks[i], options.sockets[i], &options);
    load_begin(&figures, &options);
    for (int i = 0; i < options.disks; i++) {
        for (int slot = 0; slot < options.depth; slot++)
            begin(&disks[i], slot, &options);
    }
    uint64_t in_flight = (uint64_t)options.disks * (uint64_t)options.depth;
    while (in_flight > 0) {
        for (int i = 0; i < options.disks; i++)
            serve(&disks[i], options.disks == 1, ended, &options, &figures, &in_flight);
    }
    int status = load_print(&figures);
    usleep((useconds_t)(options.linger * 1e6));
    for (int i = 0; i < options.disks; i++)
        blkio_destroy(&disks[i].blkio);
    return status;
}
