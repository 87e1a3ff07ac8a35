/* SPDX-License-Identifier: Apache-2.0
 *
 * Rings whose memory is truncated under them: they break with the reason, the others go on.
 */
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "check.h"
#include "guest.h"

enum { NUM = 16, PATIENCE_MS = 20000, SECTORS = 64, REQUESTS = 50 };

/* A guest with one ring, on a worker that others may share. */
struct disk {
    struct guest guest;
    struct vhu_queue *queue;
    struct vhu_driver *driver;
    struct vhu_queue_wanted wanted;
    int event_fd, kick;
};

static struct vhu_blk *store;

static struct vhu_queue_status status_of(struct disk *disk)
{
    struct vhu_queue_status status;

    vhu_queue_status(disk->queue, &status);
    return status;
}

/* Let the status change. False: it did not, for too long. */
static bool await_change(struct disk *disk)
{
    struct pollfd wait = {.fd = disk->event_fd, .events = POLLIN};
    uint64_t ignored;

    return poll(&wait, 1, PATIENCE_MS) == 1 &&
           read(disk->event_fd, &ignored, sizeof(ignored)) == sizeof(ignored);
}

static struct vhu_queue_status want(struct disk *disk)
{
    uint64_t number = vhu_queue_want(disk->queue, &disk->wanted);
    struct vhu_queue_status status = status_of(disk);

    while (status.applied < number && await_change(disk))
        status = status_of(disk);
    CHECK(status.applied >= number);
    return status;
}

static struct vhu_queue_status await_broken(struct disk *disk)
{
    struct vhu_queue_status status = status_of(disk);

    while (status.actual != VHU_QUEUE_BROKEN && await_change(disk))
        status = status_of(disk);
    CHECK_EQUAL(status.actual, VHU_QUEUE_BROKEN);
    return status;
}

static void open_disk(struct disk *disk, struct vhu_worker *worker, uint64_t features)
{
    uint16_t position = features & FEATURE(RING_PACKED) ? WRAP_BIT : 0;

    memset(disk, 0, sizeof(*disk));
    guest_create(&disk->guest);
    struct vhu_driver_config config = {.ring = guest_ring(&disk->guest, features, NUM, position)};
    disk->event_fd = eventfd(0, EFD_CLOEXEC);
    disk->kick = eventfd(0, EFD_CLOEXEC);
    CHECK_EQUAL(vhu_driver_create(&config, &disk->driver), 0);
    CHECK_EQUAL(vhu_queue_create(worker, store, disk->event_fd, &disk->queue), 0);
    CHECK_EQUAL(vhu_queue_set_fd(disk->queue, VHU_FD_KICK, dup(disk->kick)), 0);
    disk->wanted = (struct vhu_queue_wanted){
        .start = 1, .enabled = true, .mem = disk->guest.mem, .config = config.ring};
    CHECK_EQUAL(want(disk).actual, VHU_QUEUE_RUNNING);
}

static void close_disk(struct disk *disk)
{
    disk->wanted = (struct vhu_queue_wanted){.how = VHU_STOP_ABANDON};
    (void)want(disk);
    vhu_queue_destroy(disk->queue);
    vhu_driver_destroy(disk->driver);
    close(disk->event_fd);
    close(disk->kick);
    guest_destroy(&disk->guest);
}

static void kick(struct disk *disk)
{
    const uint64_t one = 1;

    CHECK_EQUAL(write(disk->kick, &one, sizeof(one)), sizeof(one));
}

/* Put a read of one sector into FAR into the ring. */
static void send(struct disk *disk)
{
    const uint32_t header[4] = {0, 0, 5, 0};
    const struct vhu_buffer buffers[] = {{FAR, 16, 0}, {FAR + 4096, 513, 1}};
    uint16_t id;

    memcpy(guest_at(&disk->guest, FAR), header, sizeof(header));
    CHECK_EQUAL(vhu_driver_add(disk->driver, buffers, 2, false, &id), 0);
    (void)vhu_driver_publish(disk->driver);
    kick(disk);
}

static void exchange(struct disk *disk)
{
    uint32_t written;
    uint16_t id;
    int rc;

    send(disk);
    while ((rc = vhu_driver_pop(disk->driver, &id, &written)) == 0 &&
           status_of(disk).actual == VHU_QUEUE_RUNNING)
        usleep(0);
    CHECK_EQUAL(rc, 1);
    CHECK_EQUAL(written, 513);
}

/* What of the file is left, whether a request is sent after that, and which region counts as lost:
 * in the file HIGH comes first, LOW with the ring is in its middle, FAR with the buffers last. */
static const struct {
    off_t left;
    bool sends;
    uint64_t region;
} losses[] = {
    {0, false, LOW},
    {REGION_SIZE * 2, false, LOW},
    {REGION_SIZE * 4, true, FAR},
    {REGION_SIZE * 4 + 4096, true, FAR}, /* headers are left, the status is not */
};

static void a_ring_breaks_when_its_memory_is_lost_and_no_other_does(void)
{
    const struct vhu_worker_config configs[] = {{.poll_us = 0}, {.poll_us = 50}, {.busy = true}};
    const uint64_t layouts[] = {0, FEATURE(RING_PACKED), FEATURE(EVENT_IDX)};

    for (size_t run = 0; run < 9 * sizeof(losses) / sizeof(losses[0]); run++) {
        struct vhu_worker *worker;
        struct disk bad, good;

        CHECK_EQUAL(vhu_worker_create(&configs[run % 3], &worker), 0);
        open_disk(&bad, worker, layouts[run / 3 % 3]);
        open_disk(&good, worker, layouts[run / 3 % 3]);
        exchange(&bad);
        if (losses[run / 9].sends) {
            /* with the ring stopped, so that the driver here does not meet the loss */
            bad.wanted.enabled = false;
            (void)want(&bad);
            send(&bad);
            CHECK_EQUAL(ftruncate(bad.guest.fd, losses[run / 9].left), 0);
            bad.wanted.enabled = true;
            (void)vhu_queue_want(bad.queue, &bad.wanted);
        } else {
            CHECK_EQUAL(ftruncate(bad.guest.fd, losses[run / 9].left), 0);
            kick(&bad);
        }
        struct vhu_queue_status status = await_broken(&bad);
        CHECK_EQUAL(status.fault, VHU_FAULT_MEMORY);
        CHECK_EQUAL(status.fault_value, losses[run / 9].region);
        for (int i = 0; i < REQUESTS; i++)
            exchange(&good);
        bad.wanted.start = 2; /* a new start of what is lost is none */
        CHECK_EQUAL(want(&bad).fault, VHU_FAULT_MEMORY);
        close_disk(&bad);
        exchange(&good);
        close_disk(&good);
        vhu_worker_destroy(worker);
    }
}

static void a_ring_is_not_started_in_memory_that_was_lost_before(void)
{
    struct vhu_worker_config config = {.poll_us = 0};
    struct vhu_worker *worker;
    struct disk disk;

    CHECK_EQUAL(vhu_worker_create(&config, &worker), 0);
    open_disk(&disk, worker, 0);
    exchange(&disk);
    disk.wanted.start = 0;
    struct vhu_ring_state state = want(&disk).state;
    CHECK_EQUAL(ftruncate(disk.guest.fd, 0), 0);
    disk.wanted.start = 2;
    disk.wanted.config.state = state;
    CHECK_EQUAL(want(&disk).fault, VHU_FAULT_MEMORY);
    disk.wanted.start = 3;
    disk.wanted.config.state.avail = NUM + 1; /* as far from the used index, which is zero now */
    CHECK_EQUAL(want(&disk).fault, VHU_FAULT_MEMORY);
    close_disk(&disk);
    vhu_worker_destroy(worker);
}

static const struct test tests[] = {
    {"a ring breaks when its memory is lost, and no other does",
     a_ring_breaks_when_its_memory_is_lost_and_no_other_does},
    {"a ring is not started in memory that was lost before",
     a_ring_is_not_started_in_memory_that_was_lost_before},
};

int main(void)
{
    struct vhu_blk_config config = {
        .fd = -1, .buffered_fd = -1, .alignment = 1, .sectors = SECTORS};

    CHECK_EQUAL(vhu_blk_create(&config, &store), 0);
    int failed = check_run(tests, sizeof(tests) / sizeof(tests[0]));
    vhu_blk_destroy(store);
    return failed;
}
