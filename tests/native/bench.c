/* SPDX-License-Identifier: Apache-2.0
 *
 * A worker with queues, each with the driver of its ring, for tests.
 */
#include "bench.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "check.h"
#include "worker.h"

enum {
    RING_SPACE = 2048,  /* of each area of one of several rings */
    TABLE_ENTRIES = 16, /* of an indirect table */
};

struct bench bench;

int count_fds(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int count = 0;

    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

bool await(int fd)
{
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    uint64_t ignored;

    if (poll(&wait, 1, PATIENCE_MS) != 1)
        return false;
    return read(fd, &ignored, sizeof(ignored)) > 0;
}

bool is_readable(int fd)
{
    struct pollfd look = {.fd = fd, .events = POLLIN};

    return poll(&look, 1, 0) == 1;
}

void push_fd(int fd)
{
    const uint64_t one = 1;

    CHECK_EQUAL(write(fd, &one, sizeof(one)), sizeof(one));
}

struct vhu_queue_status status_of(struct line *line)
{
    struct vhu_queue_status status;

    vhu_queue_status(line->queue, &status);
    return status;
}

struct vhu_queue_status await_applied(struct line *line, uint64_t number)
{
    struct vhu_queue_status status = status_of(line);

    while (status.applied < number && await(bench.event_fd))
        status = status_of(line);
    CHECK(status.applied >= number);
    return status;
}

struct vhu_queue_status want(struct line *line)
{
    return await_applied(line, vhu_queue_want(line->queue, &line->wanted));
}

struct vhu_queue_status await_actual(struct line *line, enum vhu_queue_actual actual)
{
    struct vhu_queue_status status = status_of(line);

    while (status.actual != actual && await(bench.event_fd))
        status = status_of(line);
    CHECK_EQUAL(status.actual, actual);
    return status;
}

/* The driver of a ring, and what connects it to its queue. */
static void connect_line(struct line *line, struct vhu_driver_config *config, int index)
{
    config->ring.desc = (uint8_t *)config->ring.desc + index * RING_SPACE;
    config->ring.driver = (uint8_t *)config->ring.driver + index * RING_SPACE;
    config->ring.device = (uint8_t *)config->ring.device + index * RING_SPACE;
    line->buffers = FAR + (uint64_t)index * 65536;
    CHECK_EQUAL(vhu_driver_create(config, &line->driver), 0);
    line->kick = eventfd(0, EFD_CLOEXEC);
    line->call = eventfd(0, EFD_CLOEXEC);
    line->err = eventfd(0, EFD_CLOEXEC);
    CHECK_EQUAL(vhu_queue_set_fd(line->queue, VHU_FD_KICK, dup(line->kick)), 0);
    CHECK_EQUAL(vhu_queue_set_fd(line->queue, VHU_FD_CALL, dup(line->call)), 0);
    CHECK_EQUAL(vhu_queue_set_fd(line->queue, VHU_FD_ERR, dup(line->err)), 0);
    line->wanted = (struct vhu_queue_wanted){
        .start = 1, .enabled = true, .mem = bench.guest.mem, .config = config->ring};
}

static void open_line(struct line *line, int index, uint64_t features, uint32_t num,
                      uint16_t position)
{
    struct vhu_driver_config config = {.ring = guest_ring(&bench.guest, features, num, position)};

    CHECK_EQUAL(vhu_queue_create(bench.worker, bench.blk, bench.event_fd, &line->queue), 0);
    connect_line(line, &config, index);
}

void open_port_line(struct line *line, int index, struct vhu_worker *worker, uint32_t port,
                    uint32_t ring, uint64_t features, uint16_t position)
{
    struct vhu_driver_config config = {.ring = guest_ring(&bench.guest, features, NUM, position)};

    CHECK_EQUAL(vhu_queue_create_net(worker, bench.net, port, ring, bench.event_fd, &line->queue), 0);
    if (has_feature(features, VIRTIO_F_INDIRECT_DESC)) {
        config.indirect_entries = TABLE_ENTRIES;
        config.indirect_address = TABLES + (uint64_t)index * NUM * TABLE_ENTRIES * 16;
        config.indirect = guest_at(&bench.guest, config.indirect_address);
    }
    connect_line(line, &config, index);
}

void close_line(struct line *line)
{
    vhu_queue_destroy(line->queue);
    vhu_driver_destroy(line->driver);
    close(line->kick);
    close(line->call);
    close(line->err);
}

static void open_guest(void)
{
    memset(&bench, 0, sizeof(bench));
    bench.fds_before = count_fds();
    guest_create(&bench.guest);
    bench.event_fd = eventfd(0, EFD_CLOEXEC);
}

static void open_store(const struct vhu_blk_config *store)
{
    open_guest();
    CHECK_EQUAL(vhu_blk_create(store, &bench.blk), 0);
}

void open_bench(const struct vhu_worker_config *config, int count, uint64_t features,
                uint16_t position)
{
    const struct vhu_blk_config store = {.fd = -1, .buffered_fd = -1, .alignment = 1, .sectors = 64};

    open_store(&store);
    CHECK_EQUAL(vhu_worker_create(config, &bench.worker), 0);
    bench.count = count;
    for (int i = 0; i < count; i++)
        open_line(&bench.lines[i], i, features, NUM, position);
}

void open_bench_with(struct vhu_io_engine *io, uint32_t poll_us, const struct vhu_blk_config *store,
                     uint64_t features, uint32_t num)
{
    const struct vhu_worker_config config = {.poll_us = poll_us};
    int taken = store->fd >= 0; /* and the engine's, which it brought along */

    open_store(store);
    bench.fds_before -= taken + (store->buffered_fd >= 0) + (io->ready_fd >= 0);
    CHECK_EQUAL(vhu_worker_create_with(&config, io, &bench.worker), 0);
    bench.count = 1;
    open_line(&bench.lines[0], 0, features, num, 0);
}

void open_switch(const struct vhu_worker_config *config, const struct vhu_net_config *net)
{
    open_guest();
    CHECK_EQUAL(vhu_net_create(net, &bench.net), 0);
    CHECK_EQUAL(vhu_worker_create(config, &bench.worker), 0);
}

void open_net_bench(const struct vhu_worker_config *config, int ports, uint64_t features,
                    uint16_t position)
{
    const struct vhu_net_config net = {
        .mode = ports == 1 ? VHU_NET_ECHO : VHU_NET_SWITCH,
        .ports = (uint32_t)ports,
    };
    const struct vhu_net_port_config port = {.pairs = 1, .mac = {2}};

    open_switch(config, &net);
    for (uint32_t number = 0, added; number < (uint32_t)ports; number++) {
        CHECK_EQUAL(vhu_net_port_add(bench.net, &port, &added), 0);
        CHECK_EQUAL(added, number);
    }
    bench.count = 2 * ports;
    for (int i = 0; i < bench.count; i++)
        open_port_line(&bench.lines[i], i, bench.worker, (uint32_t)i / 2, (uint32_t)i % 2, features,
                       position);
}

void close_lines(void)
{
    for (int i = 0; i < bench.count; i++)
        close_line(&bench.lines[i]);
}

void close_bench(void)
{
    CHECK_EQUAL(vhu_worker_stop(bench.worker, PATIENCE_MS), 0);
    CHECK_EQUAL(vhu_worker_stop(bench.worker, 0), 0);
    close_lines();
    vhu_worker_destroy(bench.worker);
    vhu_blk_destroy(bench.blk);
    vhu_net_destroy(bench.net);
    guest_destroy(&bench.guest);
    close(bench.event_fd);
    CHECK_EQUAL(count_fds(), bench.fds_before);
}
