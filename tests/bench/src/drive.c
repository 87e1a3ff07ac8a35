/* SPDX-License-Identifier: Apache-2.0
 *
 * drive - a closed loop of reads on a ring that somebody else has set up, as a library.
 *
 * Python sets the ring up by vhost-user, or on a device without any back-end, and hands over addresses and
 * eventfds: so one and the same driver is measured either way. It rings a doorbell in memory, or kicks.
 */
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>

#include "load.h"
#include "vhu.h"

enum {
    PARTS = 3,       /* of a request: header, data, status */
    HEADER_BYTES = 16,
    SLOT_BYTES = 64, /* header and status of a request, apart from the next one's */
    STATUS_OFFSET = 32,
    PATIENCE_MS = 5000,
    MORE_NS = 1000000, /* how much longer at a time, while there were too few requests */
};

/* Where everything is; mirrored in bench/driving.py. */
struct drive_ring {
    void *desc, *driver, *device;
    uint64_t features;
    char *buffers; /* room for SLOT_BYTES and the data of each request ... */
    uint64_t gpa;  /* ... and where the device sees it */
    volatile uint16_t *doorbell; /* NULL: there is a kick fd only */
    uint64_t sectors;
    uint32_t num, value; /* what to store in the doorbell */
    int kick, call;
};

struct drive_load {
    double warm, seconds;
    uint64_t least; /* requests in the measuring time, however long that takes */
    uint32_t depth, bytes;
    uint32_t sleep; /* between completions, until the device interrupts; else poll */
};

struct drive_figures {
    struct load_summary summary;
    uint64_t requests, kicks, interrupts; /* from beginning to end */
};

struct drive {
    const struct drive_ring *ring;
    const struct drive_load *load;
    struct drive_figures *figures;
    struct vhu_driver *driver;
    int slot_of[256]; /* by the chain's id */
    uint64_t starts[256];
};

struct blk_header {
    uint32_t type, reserved;
    uint64_t sector;
};

static int begin(struct drive *drive, int slot)
{
    const struct drive_ring *ring = drive->ring;
    uint32_t bytes = drive->load->bytes;
    uint64_t place = (uint64_t)slot * SLOT_BYTES;
    uint64_t data = (uint64_t)drive->load->depth * SLOT_BYTES + (uint64_t)slot * bytes;
    struct blk_header *header = (struct blk_header *)(ring->buffers + place);
    struct vhu_buffer buffers[PARTS] = {{ring->gpa + place, HEADER_BYTES, 0},
                                        {ring->gpa + data, bytes, 1},
                                        {ring->gpa + place + STATUS_OFFSET, 1, 1}};
    uint16_t id;

    *header = (struct blk_header){.sector = load_random() % (ring->sectors - bytes / 512)};
    ring->buffers[place + STATUS_OFFSET] = (char)0xff;
    drive->starts[slot] = now_ns();
    int rc = vhu_driver_add(drive->driver, buffers, PARTS, false, &id);
    if (rc == 0)
        drive->slot_of[id] = slot;
    return rc;
}

static int publish(struct drive *drive)
{
    const struct drive_ring *ring = drive->ring;

    if (!vhu_driver_publish(drive->driver))
        return 0;
    drive->figures->kicks++;
    if (ring->doorbell) {
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        *ring->doorbell = (uint16_t)ring->value;
        return 0;
    }
    return eventfd_write(ring->kick, 1) < 0 && errno != EAGAIN ? -errno : 0;
}

/* Sleep until the device interrupts, unless it has used something meanwhile. */
static int await(struct drive *drive)
{
    struct pollfd call = {.fd = drive->ring->call, .events = POLLIN};
    eventfd_t count;

    if (!vhu_driver_call_enable(drive->driver)) {
        if (poll(&call, 1, PATIENCE_MS) != 1)
            return -ETIMEDOUT;
        if (eventfd_read(call.fd, &count) == 0)
            drive->figures->interrupts++;
    }
    vhu_driver_call_disable(drive->driver);
    return 0;
}

static bool tick(struct drive *drive, struct load_figures *counted, uint64_t now)
{
    if (counted->done < drive->load->least && now >= counted->end)
        counted->end = now + MORE_NS;
    return load_tick(counted, now);
}

/* Take in all that was used. Returns how many requests are under way now, or an errno. */
static int reap(struct drive *drive, struct load_figures *counted, int in_flight)
{
    uint64_t now = now_ns();
    bool go_on = tick(drive, counted, now);
    uint32_t written;
    uint16_t id;
    int found, rc = 0;

    while ((found = vhu_driver_pop(drive->driver, &id, &written)) == 1 && rc == 0) {
        int slot = drive->slot_of[id];
        bool failed = drive->ring->buffers[slot * SLOT_BYTES + STATUS_OFFSET] != 0;

        load_count(counted, drive->starts[slot], now, failed);
        drive->figures->requests++;
        if (go_on)
            rc = begin(drive, slot);
        else
            in_flight--;
    }
    if (rc < 0 || found < 0)
        return rc < 0 ? rc : found;
    return in_flight;
}

static int loop(struct drive *drive, struct load_figures *counted)
{
    int in_flight = (int)drive->load->depth, rc = 0;

    for (int slot = 0; slot < in_flight && rc == 0; slot++)
        rc = begin(drive, slot);
    if (rc == 0)
        rc = publish(drive);
    while (rc == 0 && in_flight > 0) {
        uint64_t before = drive->figures->requests;

        in_flight = reap(drive, counted, in_flight);
        if (in_flight < 0)
            return in_flight;
        rc = publish(drive);
        if (rc == 0 && in_flight > 0 && drive->load->sleep && drive->figures->requests == before)
            rc = await(drive);
    }
    return rc;
}

/* Drive a ring of at most 256 descriptors for a while. 0 or an errno, negative. */
int drive(const struct drive_ring *ring, const struct drive_load *load, struct drive_figures *ret)
{
    struct vhu_driver_config config = {.ring = {.features = ring->features,
                                                .num = ring->num,
                                                .desc = ring->desc,
                                                .driver = ring->driver,
                                                .device = ring->device,
                                                .state = {0, 0, 1, 1}}};
    struct load_options options = {.warm = load->warm, .seconds = load->seconds};
    struct drive drive = {.ring = ring, .load = load, .figures = ret};
    struct load_figures counted;
    int rc = vhu_driver_create(&config, &drive.driver);

    *ret = (struct drive_figures){0};
    if (rc < 0)
        return rc;
    vhu_driver_call_disable(drive.driver);
    load_begin(&counted, &options);
    rc = loop(&drive, &counted);
    load_sum_up(&counted, &ret->summary);
    vhu_driver_destroy(drive.driver);
    return rc;
}
