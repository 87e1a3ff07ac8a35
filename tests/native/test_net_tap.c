/* SPDX-License-Identifier: Apache-2.0
 *
 * A TAP's queues. A socket that keeps messages apart stands for the device: frames are read and written in the same
 * way, and the device is removed when the other end is closed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "bench.h"
#include "check.h"
#include "net.h"
#include "net_tap.h"

enum {
    HEADER = 12,
    SPACE = 0x1000, /* of each buffer */
    TAP = 0,        /* ports */
    GUEST = 1,
    OTHER = 2,
    LARGE = 60000,
    LARGE_SPACE = 0x4000,
};

#define VERSION_1 (1ULL << 32)
#define MERGE (1ULL << 15)
#define TAKES (1ULL << NET_F_GUEST_CSUM | 1ULL << NET_F_GUEST_TSO4)

static const struct vhu_worker_config sleepy = {.poll_us = 0}, polling = {.poll_us = 50};
static const struct vhu_net_port_config one_pair = {.pairs = 1, .mac = {2}};
static const struct net_header nothing;

/* The device's other end: what the kernel sends comes from here. */
static int kernel, event_fd;
static struct vhu_queue *tap;
static struct vhu_worker *second;
static struct line receives, sends;

/* ---- Frames ------------------------------------------------------------------------------------ */

/* Byte `i` of a frame: two addresses, then numbers that count on from `seed`. */
static uint8_t frame_byte(uint32_t i, uint8_t seed)
{
    static const uint8_t addresses[12] = {2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1};

    return i < sizeof(addresses) ? addresses[i] : (uint8_t)(seed + i);
}

static void fill(uint8_t *to, uint32_t length, uint8_t seed)
{
    for (uint32_t i = 0; i < length; i++)
        to[i] = frame_byte(i, seed);
}

static void check_bytes(const uint8_t *bytes, uint32_t from, uint32_t length, uint8_t seed)
{
    for (uint32_t i = 0; i < length && !check_failures; i++)
        CHECK_EQUAL(bytes[i], frame_byte(from + i, seed));
}

static void kernel_sends_bytes(const void *bytes, uint32_t length)
{
    CHECK_EQUAL(send(kernel, bytes, length, 0), length);
}

static void kernel_sends(const struct net_header *header, uint32_t length, uint8_t seed)
{
    static uint8_t bytes[TAP_FRAME];

    memcpy(bytes, header, HEADER);
    fill(bytes + HEADER, length, seed);
    kernel_sends_bytes(bytes, HEADER + length);
}

static void kernel_receives(uint32_t length, uint8_t seed)
{
    static uint8_t bytes[TAP_FRAME];

    ssize_t got;

    do
        got = recv(kernel, bytes, sizeof(bytes), 0);
    while (got < 0 && errno == EINTR); /* io_uring does that to those who wait with a timeout */
    CHECK_EQUAL(got, HEADER + length);
    CHECK_EQUAL(memcmp(bytes, &nothing, HEADER), 0);
    check_bytes(bytes + HEADER, 0, length, seed);
}

/* ---- The guest --------------------------------------------------------------------------------- */

static void kick(struct line *line)
{
    if (vhu_driver_publish(line->driver))
        push_fd(line->kick);
}

static uint64_t space(const struct line *line, uint32_t slot)
{
    return line->buffers + (uint64_t)slot * SPACE;
}

static void offer_at(uint64_t address, uint32_t length)
{
    const struct vhu_buffer buffer = {address, length, 1};
    uint16_t id;

    memset(guest_at(&bench.guest, address), 0xee, length);
    CHECK_EQUAL(vhu_driver_add(receives.driver, &buffer, 1, false, &id), 0);
    kick(&receives);
}

static void offer(uint32_t slot, uint32_t length)
{
    offer_at(space(&receives, slot), length);
}

/* Wait for the next used chain of a ring; returns how much was written, -1 for a failure. */
static int64_t finish(struct line *line)
{
    uint32_t written;
    uint16_t id;

    for (;;) {
        int rc = vhu_driver_pop(line->driver, &id, &written);
        if (rc != 0)
            return rc == 1 ? (int64_t)written : -1;
        if (!vhu_driver_call_enable(line->driver) && !await(line->call))
            return -1;
    }
}

/* Send a frame whose header and first bytes are in one buffer, and the rest in another. */
static void guest_sends(uint32_t length, uint8_t seed)
{
    const uint64_t address = space(&sends, 0);
    const struct vhu_buffer buffers[] = {{address, HEADER + 20, 0},
                                         {address + HEADER + 20, length - 20, 0}};
    uint8_t *bytes = guest_at(&bench.guest, address);
    uint16_t id;

    memset(bytes, 0, HEADER);
    fill(bytes + HEADER, length, seed);
    CHECK_EQUAL(vhu_driver_add(sends.driver, buffers, 2, false, &id), 0);
    kick(&sends);
}

static const uint8_t *received(uint32_t slot)
{
    return guest_at(&bench.guest, space(&receives, slot));
}

/* The frame in a buffer, the first of `buffers`. */
static void check_received(uint32_t slot, uint32_t length, uint8_t seed, uint8_t buffers)
{
    const struct net_header header = {.num_buffers = buffers};

    CHECK_EQUAL(memcmp(received(slot), &header, HEADER), 0);
    check_bytes(received(slot) + HEADER, 0, length, seed);
}

static struct vhu_net_counters counters_of(uint32_t port, bool sender)
{
    struct vhu_net_counters counters;

    vhu_net_counters(bench.net, port, sender, &counters);
    return counters;
}

static void await_drops(uint32_t port, bool sender, enum vhu_net_drop reason, uint64_t count)
{
    for (int tries = 0; counters_of(port, sender).drops[reason] < count && tries < PATIENCE_MS; tries++)
        usleep(1000);
    CHECK_EQUAL(counters_of(port, sender).drops[reason], count);
}

/* ---- Opening and closing ----------------------------------------------------------------------- */

/* A file that stands for a queue of a device; its other end comes out in `kernel`. */
static int open_device(void)
{
    const struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
    int ends[2];

    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    CHECK_EQUAL(fcntl(ends[1], F_SETFL, O_NONBLOCK), 0);
    CHECK_EQUAL(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
    kernel = ends[0];
    return ends[1];
}

static void add_port(uint32_t number)
{
    uint32_t added;

    CHECK_EQUAL(vhu_net_port_add(bench.net, &one_pair, &added), 0);
    CHECK_EQUAL(added, number);
}

static enum vhu_queue_actual actual_of_tap(void)
{
    struct vhu_queue_status status;

    vhu_queue_status(tap, &status);
    return status.actual;
}

static void await_tap(enum vhu_queue_actual actual)
{
    while (actual_of_tap() != actual && await(event_fd))
        continue;
    CHECK_EQUAL(actual_of_tap(), actual);
}

/* A TAP at the first port, a guest at the second, and a third where nobody is. */
static void open_all(const struct vhu_worker_config *config, uint64_t features, int ports, bool shared)
{
    const struct vhu_net_config net = {.mode = VHU_NET_SWITCH, .ports = 4, .shared = shared};
    uint16_t position = has_feature(features, VIRTIO_F_RING_PACKED) ? WRAP_BIT : 0;

    open_switch(config, &net);
    for (int number = 0; number < ports; number++)
        add_port((uint32_t)number);
    second = NULL;
    if (shared)
        CHECK_EQUAL(vhu_worker_create(config, &second), 0);
    struct vhu_worker *guests = shared ? second : bench.worker;
    open_port_line(&receives, 0, guests, GUEST, 0, features, position);
    open_port_line(&sends, 1, guests, GUEST, 1, features, position);
    CHECK_EQUAL(want(&receives).actual, VHU_QUEUE_RUNNING);
    CHECK_EQUAL(want(&sends).actual, VHU_QUEUE_RUNNING);
    event_fd = eventfd(0, EFD_CLOEXEC);
    CHECK_EQUAL(vhu_queue_create_tap(bench.worker, bench.net, TAP, 0, open_device(), TAKES, event_fd, &tap),
                0);
    await_tap(VHU_QUEUE_RUNNING);
}

static void close_all(void)
{
    if (second)
        CHECK_EQUAL(vhu_worker_stop(second, PATIENCE_MS), 0);
    vhu_queue_destroy(tap);
    CHECK_EQUAL(vhu_worker_stop(bench.worker, PATIENCE_MS), 0);
    close_line(&receives);
    close_line(&sends);
    vhu_worker_destroy(second);
    if (kernel >= 0)
        close(kernel);
    close(event_fd);
    close_bench();
}

static const uint64_t layouts[] = {VERSION_1, VERSION_1 | FEATURE(RING_PACKED),
                                   VERSION_1 | FEATURE(RING_PACKED) | FEATURE(IN_ORDER)};

#define FOR_EACH_LAYOUT(features)                                                       \
    for (size_t i_ = 0; i_ < sizeof(layouts) / sizeof(layouts[0]) && !check_failures; i_++) \
        for (uint64_t features = layouts[i_], once_ = 1; once_; once_ = 0)

/* ---- Tests ------------------------------------------------------------------------------------- */

/* What was counted: that may come a little after the frames. */
static void await_frames(uint32_t port, bool sender, uint64_t frames, uint64_t bytes)
{
    for (int tries = 0; counters_of(port, sender).bytes < bytes && tries < PATIENCE_MS; tries++)
        usleep(1000);
    CHECK_EQUAL(counters_of(port, sender).frames, frames);
    CHECK_EQUAL(counters_of(port, sender).bytes, bytes);
}

/* With three ports frames take the way by our memory, with two they do not: there is always a buffer more than it
 * takes. */
static void pass_frames(const struct vhu_worker_config *config, uint64_t features, int ports, bool shared)
{
    enum { SLOTS_USED = 8, ROUNDS = 40, BYTES = 60 + 460 + 860, FIRST = 200, LOOK_AT = 40 };
    uint32_t offered = 0, taken = 0;

    open_all(config, features, ports, shared);
    offer(offered++, 2000);
    offer(offered++, 2000);
    kernel_sends(&nothing, 60, FIRST); /* by our memory, where the thread looked before there was a buffer */
    CHECK_EQUAL(finish(&receives), HEADER + 60);
    check_received(taken++, 60, FIRST, 1);
    for (uint8_t round = 0; round < ROUNDS && !check_failures; round++) {
        for (uint8_t i = 0; i < 3; i++)
            offer(offered++ % SLOTS_USED, 2000);
        for (uint8_t i = 0; i < 3; i++)
            kernel_sends(&nothing, 60u + 400u * i, (uint8_t)(round + i));
        for (uint8_t i = 0; i < 3; i++) {
            CHECK_EQUAL(finish(&receives), HEADER + 60 + 400 * i);
            check_received(taken++ % SLOTS_USED, 60u + 400u * i, (uint8_t)(round + i), 1);
        }
        guest_sends(1514, round);
        kernel_receives(1514, round);
        CHECK_EQUAL(finish(&sends), 0);
    }
    await_frames(TAP, true, 1 + 3 * ROUNDS, 60 + ROUNDS * BYTES);
    await_frames(GUEST, false, 1 + 3 * ROUNDS, 60 + ROUNDS * BYTES);
    await_frames(TAP, false, ROUNDS, ROUNDS * 1514);
    uint8_t there = tap->tap->in[HEADER + LOOK_AT];
    CHECK_EQUAL(there == 0 || there == frame_byte(LOOK_AT, FIRST), ports == 2);
    close_all();
}

static void test_only_receiver(void)
{
    FOR_EACH_LAYOUT(features)
        pass_frames(&sleepy, features, 2, false);
    pass_frames(&polling, VERSION_1 | MERGE, 2, false);
}

static void test_several_receivers(void)
{
    FOR_EACH_LAYOUT(features)
        pass_frames(&sleepy, features, 3, false);
}

static void test_two_workers(void)
{
    pass_frames(&polling, VERSION_1, 2, true);
    pass_frames(&polling, VERSION_1 | FEATURE(RING_PACKED), 3, true);
}

/* A frame in the first four buffers of 500 bytes. */
static void check_merged(uint8_t seed)
{
    CHECK_EQUAL(finish(&receives), 500);
    check_received(0, 500 - HEADER, seed, 4);
    for (uint32_t slot = 1; slot < 4; slot++) {
        uint32_t from = slot * 500 - HEADER, length = slot < 3 ? 500 : 1800 - from;

        CHECK_EQUAL(finish(&receives), length);
        check_bytes(received(slot), from, length, seed);
    }
}

static void test_merged(void)
{
    FOR_EACH_LAYOUT(features) {
        open_all(&sleepy, features | MERGE, 2, false);
        /* the first is longer than was to be expected */
        for (uint8_t round = 0; round < 5; round++) {
            for (uint32_t slot = 0; slot < 6; slot++)
                offer(slot, 500);
            kernel_sends(&nothing, 1800, round);
            check_merged(round);
            kernel_sends(&nothing, 100, round);
            CHECK_EQUAL(finish(&receives), HEADER + 100);
            check_received(4, 100, round, 1);
            kernel_sends(&nothing, 14, round);
            CHECK_EQUAL(finish(&receives), HEADER + 14);
        }
        close_all();
    }
}

static void test_large(void)
{
    open_all(&sleepy, VERSION_1 | MERGE, 2, false);
    for (uint8_t round = 0; round < 3; round++) {
        for (uint32_t slot = 0; slot < 4; slot++)
            offer_at(FAR + slot * LARGE_SPACE, LARGE_SPACE);
        kernel_sends(&nothing, LARGE, round);
        for (uint32_t slot = 0; slot < 4; slot++)
            CHECK_EQUAL(finish(&receives), slot < 3 ? LARGE_SPACE : HEADER + LARGE - 3 * LARGE_SPACE);
        check_bytes((uint8_t *)guest_at(&bench.guest, FAR) + HEADER, 0, LARGE, round);
    }
    close_all();
}

static void test_bad(void)
{
    static const struct net_header unknown = {.flags = NET_NEEDS_CSUM, .gso_type = 99, .gso_size = 1};
    static uint8_t bytes[TAP_FRAME + 1];

    for (int ports = 2; ports <= 3; ports++) {
        open_all(&sleepy, VERSION_1, ports, false);
        offer(0, 2000);
        kernel_sends(&unknown, 100, 1);
        await_drops(TAP, true, VHU_NET_DROP_HEADER, 1);
        kernel_sends_bytes(bytes, HEADER + 13);
        await_drops(TAP, true, VHU_NET_DROP_LENGTH, 1);
        kernel_sends_bytes(bytes, sizeof(bytes));
        await_drops(TAP, true, VHU_NET_DROP_LENGTH, 2);
        fill(bytes + HEADER, 100, 2);
        bytes[HEADER + 6] = 1; /* its source is a group */
        kernel_sends_bytes(bytes, HEADER + 100);
        await_drops(TAP, true, VHU_NET_DROP_SPOOFED, 1);
        kernel_sends(&nothing, 100, 3);
        CHECK_EQUAL(finish(&receives), HEADER + 100);
        check_received(0, 100, 3, 1);
        close_all();
    }
}

static void test_no_buffer(void)
{
    for (int ports = 2; ports <= 3; ports++) {
        open_all(&sleepy, VERSION_1, ports, false);
        kernel_sends(&nothing, 100, 1);
        await_drops(GUEST, false, VHU_NET_DROP_NO_BUFFER, 1);
        offer(0, 50);
        kernel_sends(&nothing, 100, 2);
        await_drops(GUEST, false, VHU_NET_DROP_TOO_LARGE, 1);
        vhu_net_port_set_link(bench.net, TAP, false);
        kernel_sends(&nothing, 14, 3);
        await_drops(TAP, true, VHU_NET_DROP_LINK, 1);
        vhu_net_port_set_link(bench.net, TAP, true);
        kernel_sends(&nothing, 30, 4);
        CHECK_EQUAL(finish(&receives), HEADER + 30);
        close_all();
    }
}

static void test_pulled(void)
{
    open_all(&sleepy, VERSION_1, 2, false);
    offer(0, 2000);
    vhu_net_port_set_link(bench.net, TAP, false);
    kernel_sends(&nothing, 1500, 3);
    await_drops(TAP, true, VHU_NET_DROP_LINK, 1);
    for (uint32_t i = 0; i < 2000 && !check_failures; i++)
        CHECK_EQUAL(received(0)[i], 0xee);
    close_all();
}

/* A frame for a guest that takes no unfinished checksums. The checksum of a UDP datagram of `length` bytes of 0
 * between addresses 0 is that of its length (twice) and its protocol. */
static void test_offload(void)
{
    enum { IP = 14, UDP = 34, LENGTH = 26 };
    static const struct net_header unfinished = {
        .flags = NET_NEEDS_CSUM, .csum_start = UDP, .csum_offset = 6};
    uint8_t frame[HEADER + UDP + LENGTH] = {0};

    memcpy(frame, &unfinished, HEADER);
    fill(frame + HEADER, 12, 0);
    frame[HEADER + 12] = 8;
    frame[HEADER + IP] = 0x45;
    frame[HEADER + IP + 3] = 20 + LENGTH;
    frame[HEADER + IP + 9] = 17;
    frame[HEADER + UDP + 5] = LENGTH;
    frame[HEADER + UDP + 7] = LENGTH + 17; /* of the pseudo header */
    for (int with = 0; with < 2; with++) {
        open_all(&sleepy, VERSION_1 | (with ? 1ULL << NET_F_GUEST_CSUM : 0), 2, false);
        vhu_net_port_reset(bench.net, GUEST);
        offer(0, 2000);
        kernel_sends_bytes(frame, sizeof(frame));
        CHECK_EQUAL(finish(&receives), sizeof(frame));
        const uint8_t *checksum = received(0) + HEADER + UDP + 6;
        uint16_t whole = (uint16_t) ~(LENGTH + LENGTH + 17);
        CHECK_EQUAL(received(0)[0], with ? NET_NEEDS_CSUM : 0);
        CHECK_EQUAL(checksum[0] << 8 | checksum[1], with ? LENGTH + 17 : whole);
        close_all();
    }
}

static void test_full(void)
{
    open_all(&sleepy, VERSION_1, 2, false);
    uint64_t sent = 0;

    while (counters_of(TAP, false).drops[VHU_NET_DROP_NO_BUFFER] == 0 && sent < 10000) {
        guest_sends(1514, (uint8_t)sent++);
        CHECK_EQUAL(finish(&sends), 0);
    }
    uint64_t passed = counters_of(TAP, false).frames;
    CHECK_EQUAL(passed + 1, sent);
    for (uint64_t frame = 0; frame < passed; frame++)
        kernel_receives(1514, (uint8_t)frame);
    guest_sends(100, 7);
    kernel_receives(100, 7);
    close_all();
}

/* More pieces than a system call takes. */
static void test_pieces(void)
{
    enum { PIECES = 3000 };
    static uint8_t bytes[PIECES];
    static struct iovec iov[PIECES];
    struct net_frame frame = {.bytes = PIECES, .iov = iov, .count = PIECES, .source = 2, .destination = 4};

    open_all(&sleepy, VERSION_1, 3, true);
    fill(bytes, PIECES, 5);
    for (int i = 0; i < PIECES; i++)
        iov[i] = (struct iovec){&bytes[i], 1};
    vhu_net_forward(net_port_at(bench.net, OTHER), 0, 1, &frame, 1); /* of which this thread is the worker */
    kernel_receives(PIECES, 5);
    close_all();
}

/* What it costs to cut a frame counts as much as what is in it, for each receiver. */
static void test_cost(void)
{
    enum { BYTES = 6400, SEGMENT = 32, RECEIVERS = 2 };
    static uint8_t bytes[BYTES];
    struct iovec iov = {bytes, BYTES};
    struct net_frame frame = {
        .header = {.flags = NET_NEEDS_CSUM, .gso_type = NET_GSO_TCPV4, .gso_size = SEGMENT},
        .bytes = BYTES, .iov = &iov, .count = 1, .source = 2, .destination = 4};

    open_all(&sleepy, VERSION_1, 3, true);
    vhu_net_forward(net_port_at(bench.net, OTHER), 0, 1, &frame, 1); /* of which this thread is the worker */
    CHECK_EQUAL(net_port_at(bench.net, OTHER)->sender[0].cost,
                RECEIVERS * (BYTES + FRAME_COST * (1 + BYTES / SEGMENT)));
    close_all();
}

static void test_removed(void)
{
    for (int ports = 2; ports <= 3; ports++) {
        open_all(ports == 2 ? &sleepy : &polling, VERSION_1, ports, false);
        offer(0, 2000);
        kernel_sends(&nothing, 100, 1);
        CHECK_EQUAL(finish(&receives), HEADER + 100);
        close(kernel);
        kernel = -1;
        await_tap(VHU_QUEUE_BROKEN);
        guest_sends(100, 2);
        CHECK_EQUAL(finish(&sends), 0);
        CHECK_EQUAL(counters_of(GUEST, true).drops[VHU_NET_DROP_NO_RECEIVER], 1);
        close_all();
    }
}

static void test_lost_memory(void)
{
    for (int ports = 2; ports <= 3; ports++) {
        open_all(&sleepy, VERSION_1, ports, false);
        offer_at(FAR, 2000);
        guest_sends(100, 1);
        kernel_receives(100, 1);
        CHECK_EQUAL(finish(&sends), 0);
        CHECK_EQUAL(ftruncate(bench.guest.fd, 2 * REGION_SIZE), 0); /* FAR is gone */
        kernel_sends(&nothing, 100, 2);
        CHECK_EQUAL(await_actual(&receives, VHU_QUEUE_BROKEN).fault, VHU_FAULT_MEMORY);
        CHECK_EQUAL(await_actual(&sends, VHU_QUEUE_BROKEN).fault, VHU_FAULT_MEMORY);
        close_all();
    }
}

/* As much as a frame has is looked at, not all that was offered, which may be more than the host has memory. */
static void test_lost_memory_before_much_more(void)
{
    enum { PAGE = 4096, PAGES = REGION_SIZE / PAGE };
    const struct vhu_buffer buffers[] = {{FAR, 2000, 1}, {HIGH, REGION_SIZE, 1}};
    unsigned char there[PAGES];
    uint32_t count = 0;
    uint16_t id;

    open_all(&sleepy, VERSION_1, 2, false);
    CHECK_EQUAL(ftruncate(bench.guest.fd, FAR_OFFSET), 0);
    CHECK_EQUAL(vhu_driver_add(receives.driver, buffers, 2, false, &id), 0);
    kick(&receives);
    kernel_sends(&nothing, 100, 2);
    CHECK_EQUAL(await_actual(&receives, VHU_QUEUE_BROKEN).fault, VHU_FAULT_MEMORY);
    CHECK_EQUAL(mincore(guest_at(&bench.guest, HIGH), REGION_SIZE, there), 0);
    for (int i = 0; i < PAGES; i++)
        count += there[i] & 1;
    CHECK(count <= TAP_FRAME / PAGE + 2);
    close_all();
}

static void test_lost_memory_sending(void)
{
    open_all(&sleepy, VERSION_1, 2, false);
    const struct vhu_buffer buffers[] = {{BUFFERS, HEADER + 14, 0}, {FAR, 100, 0}};
    uint16_t id;

    memset(guest_at(&bench.guest, buffers[0].address), 0, HEADER);
    fill((uint8_t *)guest_at(&bench.guest, buffers[0].address) + HEADER, 14, 1);
    CHECK_EQUAL(ftruncate(bench.guest.fd, 2 * REGION_SIZE), 0);
    CHECK_EQUAL(vhu_driver_add(sends.driver, buffers, 2, false, &id), 0);
    kick(&sends);
    CHECK_EQUAL(await_actual(&sends, VHU_QUEUE_BROKEN).fault, VHU_FAULT_MEMORY);
    close_all();
}

static void test_refused(void)
{
    struct vhu_queue *queue;
    int keep = -1;

    open_all(&sleepy, VERSION_1, 2, false);
    keep = kernel;
    const struct {
        uint32_t port, pair;
        int error;
    } cases[] = {{TAP, 0, -EBUSY}, {GUEST, 0, -EBUSY}, {TAP, 1, -EINVAL}, {OTHER, 0, -EINVAL}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        CHECK_EQUAL(vhu_queue_create_tap(bench.worker, bench.net, cases[i].port, cases[i].pair,
                                         open_device(), TAKES, event_fd, &queue),
                    cases[i].error);
        char ignored;
        CHECK_EQUAL(recv(kernel, &ignored, 1, 0), 0); /* the other end was closed */
        close(kernel);
    }
    for (uint32_t ring = 0; ring < 2; ring++)
        CHECK_EQUAL(vhu_queue_create_net(bench.worker, bench.net, TAP, ring, event_fd, &queue), -EBUSY);
    kernel = keep;
    vhu_queue_destroy(tap);
    CHECK_EQUAL(vhu_queue_create_tap(bench.worker, bench.net, TAP, 0, dup(kernel), TAKES, event_fd, &tap),
                0);
    close_all();
}

static void test_announced(void)
{
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 7};

    open_all(&sleepy, VERSION_1, 2, false);
    offer(0, 2000);
    vhu_net_port_announce(bench.net, TAP, mac);
    CHECK_EQUAL(finish(&receives), HEADER + 60);
    CHECK_EQUAL(memcmp(received(0) + HEADER + 6, mac, 6), 0);
    close_all();
}

static const struct test tests[] = {
    {"frames of a TAP go straight to the only receiver, and its frames to the TAP", test_only_receiver},
    {"frames of a TAP go to one of several receivers", test_several_receivers},
    {"a TAP and a guest on two workers reach each other", test_two_workers},
    {"a frame of a TAP is put into as many buffers as it takes", test_merged},
    {"frames of a TAP may be as large as a segmentation offload makes them", test_large},
    {"a frame of a TAP that is no good takes no buffer", test_bad},
    {"a frame of a TAP without a buffer is dropped", test_no_buffer},
    {"what a TAP leaves undone is done for those who cannot", test_offload},
    {"a TAP that is full costs its own frames", test_full},
    {"a frame in thousands of pieces is written to a TAP whole", test_pieces},
    {"a frame costs its sender as many turns as it takes to cut it", test_cost},
    {"a TAP that is removed ends its queue, and that is told", test_removed},
    {"a TAP's frame finds that its receiver's memory was truncated", test_lost_memory},
    {"a TAP's frame finds that much of its receiver's memory that it has bytes",
     test_lost_memory_before_much_more},
    {"of a frame that comes while the cable is pulled nobody sees a byte", test_pulled},
    {"a frame for a TAP in memory that was truncated breaks its ring", test_lost_memory_sending},
    {"a TAP's queue is refused where there is another", test_refused},
    {"the address of a TAP's port is announced", test_announced},
};

CHECK_MAIN(tests)
