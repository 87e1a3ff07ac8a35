/* SPDX-License-Identifier: Apache-2.0
 *
 * The switch: what is sent is received, byte by byte, or is dropped and counted.
 */
#include <errno.h>

#include "bench.h"
#include "check.h"
#include "net.h"

enum {
    HEADER = 12,
    LEGACY_HEADER = 10,
    FRAMES = 400,
    MTU_FRAME = 1514,
    SPACE = 0x1000,       /* of each buffer */
    LARGE = FAR + 0x80000 /* space for frames that are larger: 256 KiB ... */,
    LARGE_IN = FAR + 0xc0000 /* ... and for their buffers */,
    MAX_FRAME = 65550,
    RECEIVES = 0, /* rings of a port */
    SENDS = 1,
};

#define VERSION_1 (1ULL << 32)
#define MERGE (1ULL << 15)

static const struct vhu_worker_config sleepy = {.poll_us = 0}, polling = {.poll_us = 50};

static uint64_t space(const struct line *line, uint32_t slot)
{
    return line->buffers + (uint64_t)(slot % NUM) * SPACE;
}

static void kick(struct line *line)
{
    if (vhu_driver_publish(line->driver))
        push_fd(line->kick);
}

static uint16_t add(struct line *line, const struct vhu_buffer *buffers, uint32_t count)
{
    uint16_t id = UINT16_MAX;

    CHECK_EQUAL(vhu_driver_add(line->driver, buffers, count, false, &id), 0);
    return id;
}

/* Offer a buffer of `length` bytes. */
static uint16_t offer(struct line *rx, uint32_t slot, uint32_t length)
{
    const struct vhu_buffer buffer = {space(rx, slot), length, 1};
    uint16_t id;

    memset(guest_at(&bench.guest, buffer.address), 0xee, length);
    id = add(rx, &buffer, 1);
    kick(rx);
    return id;
}

/* Byte `i` of a frame: two addresses, the first of which nobody has, then numbers that count on from `seed`. */
static uint8_t frame_byte(uint32_t i, uint8_t seed)
{
    static const uint8_t addresses[12] = {2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1};

    return i < sizeof(addresses) ? addresses[i] : (uint8_t)(seed + i);
}

/* Send `length` bytes, header included, whose frame begins with `seed` and goes on counting. */
static void send_from(struct line *tx, uint64_t address, uint32_t header, uint32_t length,
                      uint8_t seed)
{
    const struct vhu_buffer buffers[] = {{address, length / 2, 0},
                                         {address + length / 2, length - length / 2, 0}};
    uint8_t *bytes = guest_at(&bench.guest, address);

    for (uint32_t i = 0; i < length; i++)
        bytes[i] = i < header ? 0 : frame_byte(i - header, seed);
    add(tx, buffers, 2);
    kick(tx);
}

static void send_frame(struct line *tx, uint32_t slot, uint32_t length, uint8_t seed)
{
    send_from(tx, space(tx, slot), HEADER, HEADER + length, seed);
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

static bool nothing_came(struct line *line)
{
    uint32_t written;
    uint16_t id;

    return vhu_driver_pop(line->driver, &id, &written) == 0;
}

/* `length` bytes of a frame, from its byte `from` on. */
static void check_bytes(const uint8_t *bytes, uint32_t from, uint32_t length, uint8_t seed)
{
    for (uint32_t i = 0; i < length && !check_failures; i++)
        CHECK_EQUAL(bytes[i], frame_byte(from + i, seed));
}

static void check_frame(struct line *rx, uint32_t slot, uint32_t length, uint8_t seed)
{
    static const uint8_t header[HEADER] = {[10] = 1};
    const uint8_t *bytes = guest_at(&bench.guest, space(rx, slot));

    CHECK_EQUAL(memcmp(bytes, header, HEADER), 0);
    check_bytes(bytes + HEADER, 0, length, seed);
}

static struct vhu_net_counters counters_of(uint32_t port, uint32_t ring)
{
    struct vhu_net_counters counters;

    vhu_net_counters(bench.net, port, ring, &counters);
    return counters;
}

static uint64_t sent(uint32_t port)
{
    return counters_of(port, SENDS).frames;
}

static uint64_t dropped(uint32_t port, enum vhu_net_drop reason)
{
    return counters_of(port, reason < VHU_NET_DROP_NO_BUFFER ? SENDS : RECEIVES).drops[reason];
}

static void open_ports(int ports, uint64_t features)
{
    bool packed = features & FEATURE(RING_PACKED);

    open_net_bench(&sleepy, ports, features, packed ? WRAP_BIT : 65530);
    for (int i = 0; i < bench.count; i++)
        (void)want(&bench.lines[i]);
}

/* One after another, of all sizes, in every layout, to oneself or to a peer. */
static void what_a_port_sends_its_peer_receives(void)
{
    static const uint32_t sizes[] = {14, 60, 64, 333, MTU_FRAME};

    for (int features = 0; features < 8; features++) {
        uint64_t bits = VERSION_1 | (features & 1 ? FEATURE(RING_PACKED) : 0) |
                        (features & 2 ? FEATURE(EVENT_IDX) : 0) | (features & 4 ? MERGE : 0);

        for (int ports = 1; ports <= 2; ports++) {
            open_ports(ports, bits);
            for (uint32_t i = 0; i < FRAMES / 4 && !check_failures; i++) {
                int from = ports == 2 && i % 3 == 0, to = ports == 2 ? !from : 0;
                struct line *rx = &bench.lines[2 * to], *tx = &bench.lines[2 * from + 1];
                uint32_t size = sizes[i % 5];

                offer(rx, i, 2048);
                send_frame(tx, i, size, (uint8_t)i);
                CHECK_EQUAL(finish(rx), HEADER + size);
                CHECK_EQUAL(finish(tx), 0);
                check_frame(rx, i, size, (uint8_t)i);
            }
            CHECK_EQUAL(sent(0) + (ports == 2 ? sent(1) : 0),
                        FRAMES / 4);
            close_bench();
        }
    }
}

/* A receiver without buffers loses what is for it, and the sender goes on. */
static void frames_without_buffers_are_dropped_and_counted(void)
{
    struct line *rx = &bench.lines[2], *tx = &bench.lines[1];

    for (int packed = 0; packed < 2; packed++) {
        open_ports(2, VERSION_1 | (packed ? FEATURE(RING_PACKED) : 0));
        for (uint32_t round = 0; round < 20 && !check_failures; round++) {
            for (uint32_t i = 0; i < 3; i++)
                offer(rx, i, 512);
            for (uint32_t i = 0; i < NUM / 2; i++)
                send_frame(tx, i, 100, (uint8_t)(round + i));
            for (uint32_t i = 0; i < NUM / 2; i++)
                CHECK_EQUAL(finish(tx), 0);
            for (uint32_t i = 0; i < 3; i++) {
                CHECK_EQUAL(finish(rx), HEADER + 100);
                check_frame(rx, i, 100, (uint8_t)(round + i));
            }
            CHECK(nothing_came(rx));
        }
        CHECK_EQUAL(sent(0), 20 * NUM / 2);
        CHECK_EQUAL(counters_of(1, RECEIVES).frames, 20 * 3);
        CHECK_EQUAL(counters_of(1, RECEIVES).bytes, 20 * 3 * 100);
        CHECK_EQUAL(dropped(1, VHU_NET_DROP_NO_BUFFER), 20 * (NUM / 2 - 3));
        close_bench();
    }
}

static void buffers_in_pieces_and_buffers_to_merge_are_filled_in_order(void)
{
    struct line *rx = &bench.lines[0], *tx = &bench.lines[1];

    for (int packed = 0; packed < 2; packed++) {
        uint64_t layout = VERSION_1 | (packed ? FEATURE(RING_PACKED) : 0);

        /* the header and its count in pieces of one buffer */
        open_ports(1, layout);
        const struct vhu_buffer parts[] = {{space(rx, 0), 5, 1}, {space(rx, 0) + 5, 6, 1},
                                           {space(rx, 0) + 11, 1, 1}, {space(rx, 0) + 12, 500, 1}};
        memset(guest_at(&bench.guest, space(rx, 0)), 0xee, 600);
        add(rx, parts, 4);
        kick(rx);
        send_frame(tx, 0, 333, 9);
        CHECK_EQUAL(finish(rx), HEADER + 333);
        check_frame(rx, 0, 333, 9);
        close_bench();

        /* three buffers */
        open_ports(1, layout | MERGE);
        for (uint32_t i = 0; i < 5; i++)
            offer(rx, i, 200);
        send_frame(tx, 0, 500, 7);
        CHECK_EQUAL(finish(rx), 200);
        CHECK_EQUAL(finish(rx), 200);
        CHECK_EQUAL(finish(rx), 500 + HEADER - 400);
        CHECK(nothing_came(rx));
        CHECK_EQUAL(((uint8_t *)guest_at(&bench.guest, space(rx, 0)))[10], 3);
        check_bytes((uint8_t *)guest_at(&bench.guest, space(rx, 0)) + HEADER, 0, 188, 7);
        check_bytes(guest_at(&bench.guest, space(rx, 1)), 188, 200, 7);
        check_bytes(guest_at(&bench.guest, space(rx, 2)), 388, 112, 7);
        send_frame(tx, 1, 60, 8); /* into the one after them */
        CHECK_EQUAL(finish(rx), HEADER + 60);
        check_frame(rx, 3, 60, 8);
        close_bench();
    }
}

static void the_largest_frame_fits_and_a_larger_one_is_dropped(void)
{
    struct line *rx = &bench.lines[0], *tx = &bench.lines[1];
    const struct vhu_buffer buffer = {LARGE_IN, HEADER + MAX_FRAME, 1};

    open_ports(1, VERSION_1);
    add(rx, &buffer, 1);
    kick(rx);
    send_from(tx, LARGE, HEADER, HEADER + MAX_FRAME + 1, 0);
    CHECK_EQUAL(finish(tx), 0);
    CHECK_EQUAL(dropped(0, VHU_NET_DROP_LENGTH), 1);
    send_from(tx, LARGE, HEADER, HEADER + MAX_FRAME, 1);
    CHECK_EQUAL(finish(rx), HEADER + MAX_FRAME);
    check_bytes((uint8_t *)guest_at(&bench.guest, LARGE_IN) + HEADER, 0, MAX_FRAME, 1);
    close_bench();
}

/* Catalogue of hostile input, 97 to 102: of what cannot be sent nothing arrives, and what comes next does. */
static void what_cannot_be_sent_is_dropped_and_counted(void)
{
    struct line *rx = &bench.lines[0], *tx = &bench.lines[1];
    static const uint32_t lengths[] = {1, 11, 12, 13, 25};

    open_ports(1, VERSION_1);
    offer(rx, 0, 2048);
    for (uint32_t i = 0; i < 5; i++) {
        const struct vhu_buffer buffer = {space(tx, 0), lengths[i], 0};

        memset(guest_at(&bench.guest, space(tx, 0)), 0, 64);
        add(tx, &buffer, 1);
        kick(tx);
        CHECK_EQUAL(finish(tx), 0);
        CHECK_EQUAL(dropped(0, VHU_NET_DROP_LENGTH), i + 1);
    }
    const struct vhu_buffer writable = {space(tx, 0), 200, 1};
    add(tx, &writable, 1);
    kick(tx);
    CHECK_EQUAL(finish(tx), 0);
    for (int field = 0; field < 2; field++) { /* NEEDS_CSUM, GSO_TCPV4 */
        const struct vhu_buffer buffer = {space(tx, 0), 100, 0};

        memset(guest_at(&bench.guest, space(tx, 0)), 0, 100);
        ((uint8_t *)guest_at(&bench.guest, space(tx, 0)))[field] = 1;
        add(tx, &buffer, 1);
        kick(tx);
        CHECK_EQUAL(finish(tx), 0);
    }
    CHECK_EQUAL(dropped(0, VHU_NET_DROP_LENGTH), 6);
    CHECK_EQUAL(dropped(0, VHU_NET_DROP_HEADER), 2);
    CHECK(nothing_came(rx));
    send_frame(tx, 1, 60, 5);
    CHECK_EQUAL(finish(rx), HEADER + 60);
    check_frame(rx, 0, 60, 5);
    close_bench();
}

static void a_frame_too_large_for_its_buffers_is_dropped_and_they_stay(void)
{
    for (int merge = 0; merge < 2; merge++) {
        for (int packed = 0; packed < 2; packed++) {
            struct line *rx = &bench.lines[0], *tx = &bench.lines[1];

            open_ports(1, VERSION_1 | (merge ? MERGE : 0) | (packed ? FEATURE(RING_PACKED) : 0));
            for (uint32_t i = 0; i < 2; i++)
                offer(rx, i, 100);
            send_frame(tx, 0, 500, 1);
            CHECK_EQUAL(finish(tx), 0);
            CHECK_EQUAL(dropped(0, VHU_NET_DROP_TOO_LARGE) + dropped(0, VHU_NET_DROP_NO_BUFFER), 1);
            for (uint32_t i = 0; i < 2; i++) {
                send_frame(tx, i, 60, (uint8_t)i);
                CHECK_EQUAL(finish(rx), HEADER + 60);
                check_frame(rx, i, 60, (uint8_t)i);
            }
            close_bench();
        }
    }
}

/* Nothing of a header fits, or there is nothing to write to. */
static void buffers_that_hold_no_frame_do_not_hold_up_the_thread(void)
{
    struct line *rx = &bench.lines[0], *tx = &bench.lines[1];

    open_ports(1, VERSION_1 | MERGE);
    const struct vhu_buffer readable = {space(rx, 0), 100, 0}, small = {space(rx, 1), HEADER, 1};
    add(rx, &readable, 1);
    kick(rx);
    send_frame(tx, 0, 60, 1);
    CHECK_EQUAL(finish(tx), 0);
    add(rx, &small, 1);
    kick(rx);
    send_frame(tx, 1, 60, 1);
    CHECK_EQUAL(finish(tx), 0);
    CHECK_EQUAL(dropped(0, VHU_NET_DROP_TOO_LARGE), 2);
    CHECK(nothing_came(rx));
    close_bench();
}

static void what_nobody_is_there_for_is_dropped(void)
{
    struct line *tx = &bench.lines[1], *rx = &bench.lines[2];

    open_ports(2, VERSION_1);
    rx->wanted.start = 0;
    (void)want(rx);
    send_frame(tx, 0, 60, 1);
    CHECK_EQUAL(finish(tx), 0);
    CHECK_EQUAL(dropped(0, VHU_NET_DROP_NO_RECEIVER), 1);
    vhu_queue_destroy(rx->queue);
    rx->queue = NULL;
    send_frame(tx, 0, 60, 1);
    CHECK_EQUAL(finish(tx), 0);
    CHECK_EQUAL(dropped(0, VHU_NET_DROP_NO_RECEIVER), 2);
    CHECK_EQUAL(sent(0), 0);
    close_bench();
}

/* Send from a port to an address, from another. */
static void send_between(int port, uint8_t to, uint8_t from)
{
    struct line *tx = &bench.lines[2 * port + 1];
    uint8_t *bytes = guest_at(&bench.guest, space(tx, 0));
    const struct vhu_buffer buffer = {space(tx, 0), HEADER + 60, 0};

    memset(bytes, 0, HEADER + 60);
    bytes[HEADER] = bytes[HEADER + 6] = 2;
    bytes[HEADER + 5] = to;
    bytes[HEADER + 11] = from;
    add(tx, &buffer, 1);
    kick(tx);
    CHECK_EQUAL(finish(tx), 0);
}

/* Whether one of the buffers that a port has is used now; it is offered again. */
static bool received(int port)
{
    struct line *rx = &bench.lines[2 * port];

    if (nothing_came(rx))
        return false;
    offer(rx, 0, 512);
    return true;
}

/* Make a frame available that is the `i`th of a batch: some in two buffers, some to all. */
static uint32_t add_one_of_many(struct line *tx, uint32_t i)
{
    uint32_t length = HEADER + 60 + 7 * i;
    uint8_t *bytes = guest_at(&bench.guest, space(tx, i));
    const struct vhu_buffer pieces[] = {{space(tx, i), 30, 0}, {space(tx, i) + 30, length - 30, 0}};
    const struct vhu_buffer whole = {space(tx, i), length, 0};

    for (uint32_t at = 0; at < length; at++)
        bytes[at] = at < HEADER ? 0 : frame_byte(at - HEADER, (uint8_t)i);
    if (i % 5 == 4)
        bytes[HEADER] |= 1;
    if (i % 3 == 2)
        add(tx, pieces, 2);
    else
        add(tx, &whole, 1);
    return length - HEADER;
}

/* Read back what came, from one buffer or several. Their number is where a receiver looks for it. */
static void check_one_of_many(struct line *rx, uint32_t *slot, uint32_t i, uint32_t length)
{
    const uint8_t *header = guest_at(&bench.guest, space(rx, *slot));
    uint32_t buffers = header[10], at = 0;

    for (uint32_t buffer = 0; buffer < buffers; buffer++, (*slot)++) {
        const uint8_t *bytes = guest_at(&bench.guest, space(rx, *slot));
        uint32_t skip = buffer == 0 ? HEADER : 0, written = (uint32_t)finish(rx);

        for (uint32_t j = skip; j < written; j++, at++) {
            uint8_t want = frame_byte(at, (uint8_t)i) | (at == 0 && i % 5 == 4);
            CHECK_EQUAL(bytes[j], want);
        }
    }
    CHECK_EQUAL(at, length);
}

/* Frames of all kinds in one batch, into buffers large and small: whatever way each of them goes. */
static void a_batch_of_all_kinds_arrives_in_order(void)
{
    enum { MANY = 9 };
    struct line *rx = &bench.lines[2], *tx = &bench.lines[1];

    for (int features = 0; features < 4; features++) {
        open_ports(2, VERSION_1 | MERGE | (features & 1 ? FEATURE(RING_PACKED) : 0));
        if (features & 2)
            send_between(1, 7, 9); /* now it is known where they go */
        uint32_t lengths[MANY], slot = 0;
        for (uint32_t i = 0; i < NUM; i++)
            offer(rx, i, i % 4 == 1 ? 40 : 512);
        for (uint32_t i = 0; i < MANY; i++)
            lengths[i] = add_one_of_many(tx, i);
        kick(tx);
        for (uint32_t i = 0; i < MANY; i++)
            CHECK_EQUAL(finish(tx), 0);
        for (uint32_t i = 0; i < MANY && !check_failures; i++)
            check_one_of_many(rx, &slot, i, lengths[i]);
        CHECK(nothing_came(rx));
        close_bench();
    }
}

static void addresses_are_learned_and_move(void)
{
    struct vhu_net_address known[8];

    open_net_bench(&sleepy, 2, VERSION_1, 0);
    for (int i = 0; i < bench.count; i++)
        (void)want(&bench.lines[i]);
    for (int port = 0; port < 2; port++) {
        for (int i = 0; i < 3; i++)
            offer(&bench.lines[2 * port], 0, 512);
    }
    send_between(0, 7, 1); /* to nobody: flooded */
    CHECK(received(1));
    send_between(1, 1, 2);
    CHECK(received(0));
    CHECK_EQUAL(vhu_net_addresses(bench.net, known, 8), 2);
    send_between(0, 1, 3); /* to one of its own: nobody's business */
    CHECK(!received(1));
    CHECK_EQUAL(dropped(0, VHU_NET_DROP_NO_RECEIVER), 1);
    send_between(1, 2, 1); /* 1 has moved; 2 is its neighbour now */
    CHECK(!received(0));
    send_between(0, 1, 3);
    CHECK(received(1));
    CHECK_EQUAL(vhu_net_addresses(bench.net, known, 8), 3);
    vhu_net_port_set_link(bench.net, 1, false);
    CHECK_EQUAL(vhu_net_addresses(bench.net, known, 8), 1);
    CHECK_EQUAL(known[0].mac[5], 3);
    CHECK_EQUAL(known[0].port, 0);
    send_between(0, 1, 3);
    CHECK(!received(1));
    send_between(1, 3, 1);
    CHECK_EQUAL(dropped(1, VHU_NET_DROP_LINK), 1);
    CHECK(!received(0));
    close_bench();
}

/* However it lies in its buffers: what was checked is what arrives. */
static void a_locked_port_sends_from_its_own_address_only(void)
{
    static const uint32_t cuts[] = {1, HEADER, HEADER + 5, HEADER + 12, HEADER + 13, HEADER + 99};
    struct line *rx = &bench.lines[0], *tx = &bench.lines[3];

    open_ports(2, VERSION_1);
    bench.net->ports[1]->locked = true;
    bench.net->ports[1]->mac = net_address((const uint8_t[]){2, 0, 0, 0, 0, 1}); /* see frame_byte */
    for (uint32_t i = 0; i < 7; i++) {
        uint32_t length = HEADER + 100, cut = i < 6 ? cuts[i] : length;
        const struct vhu_buffer pieces[] = {{space(tx, 0), cut, 0}, {space(tx, 0) + cut, length - cut, 0}};
        uint8_t *bytes = guest_at(&bench.guest, space(tx, 0));

        for (uint32_t at = 0; at < length; at++)
            bytes[at] = at < HEADER ? 0 : frame_byte(at - HEADER, (uint8_t)i);
        offer(rx, i, 512);
        add(tx, pieces, i < 6 ? 2 : 1);
        kick(tx);
        CHECK_EQUAL(finish(rx), length);
        check_frame(rx, i, 100, (uint8_t)i);
        CHECK_EQUAL(finish(tx), 0);
    }
    send_between(1, 9, 2);
    CHECK_EQUAL(dropped(1, VHU_NET_DROP_SPOOFED), 1);
    CHECK(nothing_came(rx));
    close_bench();
}

static void an_address_of_zeros_is_none_after_the_cable_was_pulled_either(void)
{
    struct line *tx = &bench.lines[1];
    const struct vhu_buffer buffer = {space(tx, 0), HEADER + 60, 0};

    open_ports(2, VERSION_1);
    send_between(0, 7, 1);
    vhu_net_port_set_link(bench.net, 0, false);
    vhu_net_port_set_link(bench.net, 0, true);
    memset(guest_at(&bench.guest, space(tx, 0)), 0, HEADER + 60);
    add(tx, &buffer, 1);
    kick(tx);
    CHECK_EQUAL(finish(tx), 0);
    CHECK_EQUAL(dropped(0, VHU_NET_DROP_SPOOFED), 1);
    close_bench();
}

static void an_announcement_reaches_the_others(void)
{
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 77};
    struct vhu_net_address known;
    struct line *rx = &bench.lines[0];

    open_ports(2, VERSION_1);
    offer(rx, 0, 512);
    vhu_net_port_announce(bench.net, 1, mac);
    CHECK_EQUAL(finish(rx), HEADER + 60);
    const uint8_t *bytes = (uint8_t *)guest_at(&bench.guest, space(rx, 0)) + HEADER;
    CHECK_EQUAL(bytes[0] & bytes[5], 0xff);
    CHECK_EQUAL(bytes[12] << 8 | bytes[13], 0x8035);
    CHECK_EQUAL(memcmp(bytes + 6, mac, 6) | memcmp(bytes + 22, mac, 6) | memcmp(bytes + 32, mac, 6), 0);
    CHECK_EQUAL(vhu_net_addresses(bench.net, &known, 1), 1);
    CHECK_EQUAL(known.port, 1);
    close_bench();
}

/* A ring breaks alone; what its peer sends is dropped. */
static void a_broken_receive_ring_breaks_alone(void)
{
    for (int packed = 0; packed < 2; packed++) {
        struct line *tx = &bench.lines[1], *rx = &bench.lines[2];
        const struct vhu_buffer nowhere = {0x1000, 2048, 1};

        open_ports(2, VERSION_1 | MERGE | (packed ? FEATURE(RING_PACKED) : 0));
        offer(rx, 0, 100);
        add(rx, &nowhere, 1);
        kick(rx);
        send_frame(tx, 0, 500, 1);
        CHECK_EQUAL(finish(tx), 0);
        CHECK_EQUAL(await_actual(rx, VHU_QUEUE_BROKEN).fault, VHU_FAULT_ADDRESS);
        CHECK_EQUAL(status_of(rx).state.avail, packed ? 0 : 65530);
        CHECK(await(rx->err));
        CHECK_EQUAL(dropped(1, VHU_NET_DROP_NO_BUFFER), 1);
        CHECK_EQUAL(status_of(tx).actual, VHU_QUEUE_RUNNING);
        close_bench();
    }
}

static void a_broken_transmit_ring_breaks_alone(void)
{
    struct line *tx = &bench.lines[1];
    const struct vhu_buffer nowhere = {0x1000, 200, 0};

    open_ports(2, VERSION_1);
    add(tx, &nowhere, 1);
    kick(tx);
    CHECK_EQUAL(await_actual(tx, VHU_QUEUE_BROKEN).fault, VHU_FAULT_ADDRESS);
    CHECK_EQUAL(status_of(&bench.lines[2]).actual, VHU_QUEUE_RUNNING);
    close_bench();
}

/* A legacy header has no count, where buffers are not merged. */
static void a_legacy_driver_has_a_shorter_header(void)
{
    struct line *rx = &bench.lines[0], *tx = &bench.lines[1];

    open_ports(1, 0);
    offer(rx, 0, 512);
    send_from(tx, space(tx, 0), LEGACY_HEADER, LEGACY_HEADER + 60, 4);
    CHECK_EQUAL(finish(rx), LEGACY_HEADER + 60);
    check_bytes((uint8_t *)guest_at(&bench.guest, space(rx, 0)) + LEGACY_HEADER, 0, 60, 4);
    close_bench();
}

/* DPDK's virtio-user tells every back-end that its rings are at their beginning. */
static void a_split_ring_goes_on_where_it_was_whatever_is_said(void)
{
    struct line *rx = &bench.lines[0], *tx = &bench.lines[1];

    open_ports(1, VERSION_1);
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < NUM + 3; i++) {
            offer(rx, i, 512);
            send_frame(tx, i, 60, (uint8_t)i);
            CHECK_EQUAL(finish(rx), HEADER + 60);
            CHECK_EQUAL(finish(tx), 0);
            check_frame(rx, i, 60, (uint8_t)i);
        }
        for (int i = 0; i < bench.count; i++) {
            bench.lines[i].wanted.start = 0;
            (void)want(&bench.lines[i]);
            bench.lines[i].wanted.start = round + 2;
            bench.lines[i].wanted.config.state = (struct vhu_ring_state){0};
            CHECK_EQUAL(want(&bench.lines[i]).actual, VHU_QUEUE_RUNNING);
        }
    }
    close_bench();
}

/* DPDK's driver calls the header writable, in its tables in a packed ring. */
static void tables_of_what_is_sent_are_read_whatever_they_say(void)
{
    struct line *rx = &bench.lines[0], *tx = &bench.lines[1];

    open_ports(1, VERSION_1 | FEATURE(RING_PACKED) | FEATURE(INDIRECT_DESC));
    for (uint32_t i = 0; i < 2 * NUM; i++) {
        uint64_t header = space(tx, i), bytes = header + HEADER;
        const struct vhu_buffer buffers[] = {{header, HEADER, 1}, {bytes, 60, 1}};
        uint16_t id;

        memset(guest_at(&bench.guest, header), 0, HEADER);
        for (uint32_t k = 0; k < 60; k++)
            ((uint8_t *)guest_at(&bench.guest, bytes))[k] = frame_byte(k, (uint8_t)i);
        offer(rx, i, 512);
        CHECK_EQUAL(vhu_driver_add(tx->driver, buffers, 2, true, &id), 0);
        kick(tx);
        CHECK_EQUAL(finish(rx), HEADER + 60);
        CHECK_EQUAL(finish(tx), 0);
        check_frame(rx, i, 60, (uint8_t)i);
    }
    close_bench();
}

static struct desc make_desc(bool packed, uint64_t address, uint32_t length, uint16_t flags, uint16_t number)
{
    if (packed)
        return (struct desc){.address = address, .packed = {length, number, flags | DESC_AVAIL}};
    return (struct desc){.address = address, .split = {length, flags, number}};
}

/* Offer as many buffers as there can be, which have one table of `entries`: the last has `room` bytes, all others are
 * empty. */
static void offer_tables(struct line *rx, uint16_t entries, uint32_t room)
{
    const struct vhu_ring_config *config = &rx->wanted.config;
    bool packed = has_feature(config->features, VIRTIO_F_RING_PACKED);
    struct desc *table = guest_at(&bench.guest, TABLES), *descs = config->desc;
    struct split_avail *avail = config->driver;

    for (uint16_t i = 0; i < entries; i++) {
        bool last = i == entries - 1;

        table[i] = make_desc(packed, space(rx, 0), last ? room : 0, DESC_WRITE | (last ? 0 : DESC_NEXT), i + 1);
    }
    for (uint16_t i = 0; i < NUM; i++) {
        descs[i] = make_desc(packed, TABLES, entries * sizeof(struct desc), DESC_INDIRECT, i);
        if (!packed)
            avail->ring[i] = i;
    }
    if (!packed)
        avail->idx = NUM;
}

/* Of what was looked at 128 descriptors are free, and each further 16 cost a frame. */
static void who_makes_it_costly_to_find_buffers_loses_as_many_frames(void)
{
    enum { ENTRIES = 1024, LOST = (NUM * (1 + ENTRIES) - 128) / 16 };

    for (int packed = 0; packed < 2; packed++) {
        struct line *tx = &bench.lines[1], *rx = &bench.lines[2];

        open_net_bench(&sleepy, 2,
                       VERSION_1 | MERGE | FEATURE(INDIRECT_DESC) | (packed ? FEATURE(RING_PACKED) : 0),
                       packed ? WRAP_BIT : 0);
        offer_tables(rx, ENTRIES, HEADER + 1);
        (void)want(rx);
        (void)want(tx);
        send_frame(tx, 0, MTU_FRAME, 1);
        CHECK_EQUAL(finish(tx), 0);
        CHECK_EQUAL(dropped(1, VHU_NET_DROP_NO_BUFFER), 1);
        offer_tables(rx, 1, 512);
        for (uint32_t i = 0; i <= LOST && !check_failures; i++) {
            send_frame(tx, i, 60, 1);
            CHECK_EQUAL(finish(tx), 0);
        }
        CHECK_EQUAL(dropped(1, VHU_NET_DROP_NO_BUFFER), 1 + LOST);
        CHECK_EQUAL(counters_of(1, RECEIVES).frames, 1);
        close_bench();
    }
}

/* The same bytes are sent and received into: whatever comes out, nothing breaks. */
static void a_buffer_may_be_that_of_the_frame(void)
{
    struct line *rx = &bench.lines[0], *tx = &bench.lines[1];

    open_ports(1, VERSION_1);
    const struct vhu_buffer same = {space(tx, 0) + 7, 1000, 1};
    add(rx, &same, 1);
    kick(rx);
    send_frame(tx, 0, 600, 4);
    CHECK_EQUAL(finish(rx), HEADER + 600);
    close_bench();
}

/* Both drivers sleep and are woken, in bursts; nothing is lost. */
static void bursts_both_ways_arrive_whole(void)
{
    for (int features = 0; features < 4; features++) {
        uint64_t bits = VERSION_1 | (features & 1 ? FEATURE(RING_PACKED) : 0) |
                        (features & 2 ? FEATURE(EVENT_IDX) : 0);

        open_net_bench(&polling, 2, bits, features & 1 ? WRAP_BIT : 65530);
        for (int i = 0; i < bench.count; i++)
            (void)want(&bench.lines[i]);
        for (uint32_t round = 0; round < 100 && !check_failures; round++) {
            for (int port = 0; port < 2; port++) {
                for (uint32_t i = 0; i < 6; i++)
                    offer(&bench.lines[2 * port], i, 512);
            }
            for (int port = 0; port < 2; port++) {
                for (uint32_t i = 0; i < 6; i++)
                    send_frame(&bench.lines[2 * port + 1], i, 100, (uint8_t)(round + i));
            }
            for (int port = 0; port < 2; port++) {
                for (uint32_t i = 0; i < 6; i++) {
                    CHECK_EQUAL(finish(&bench.lines[2 * !port]), HEADER + 100);
                    check_frame(&bench.lines[2 * !port], i, 100, (uint8_t)(round + i));
                    CHECK_EQUAL(finish(&bench.lines[2 * port + 1]), 0);
                }
            }
        }
        CHECK_EQUAL(sent(0) + sent(1), 1200);
        close_bench();
    }
}

/* Numbers that look random, and are the same in every run. */
static uint32_t next_number(void)
{
    static uint64_t state = 88172645463325252;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

/* A chain of up to 4 buffers of any length, readable ones first; mostly one that makes sense. What is offered
 * has room for a header: a driver that offers less receives nothing any more. */
static void add_any(struct line *line, bool sends)
{
    struct vhu_buffer buffers[4];
    uint32_t count = 1 + next_number() % 4, readable = sends ? count : 0;
    uint16_t id;

    if (next_number() % 8 == 0)
        readable = next_number() % (sends ? count + 1 : count);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t length = next_number() % (next_number() % 4 ? 1600 : 20);

        buffers[i] = (struct vhu_buffer){space(line, next_number()) + next_number() % 2000, length,
                                         i >= readable};
    }
    if (!sends)
        buffers[count - 1].length = 1000 + next_number() % 1000;
    /* as another process would: what is in flight may lie there */
    uint8_t *first = bench.guest.shadow + 4 * REGION_SIZE + (buffers[0].address - FAR);
    for (uint32_t i = 0; i < HEADER && next_number() % 4; i++)
        first[i] = 0;
    if (next_number() % 4) { /* addresses that make sense */
        first[HEADER] = 2;
        first[HEADER + 6] = 6;
    }
    (void)vhu_driver_add(line->driver, buffers, count, false, &id); /* or there is no room */
    kick(line);
}

/* Of anything that two drivers may do nothing gets lost or written out of place. */
static void whatever_drivers_send_and_offer_comes_back(void)
{
    for (int features = 0; features < 4; features++) {
        uint32_t written, used = 0;
        uint16_t id;

        open_ports(2, VERSION_1 | (features & 1 ? FEATURE(RING_PACKED) : 0) |
                          (features & 2 ? MERGE : 0));
        for (int round = 0; round < 5000 && !check_failures; round++) {
            int which = (int)(next_number() % 4);

            if (round % 16 == 0)
                (void)want(&bench.lines[which]); /* it gets a turn */
            add_any(&bench.lines[which], which % 2);
            for (int line = 0; line < 4; line++) {
                int rc = vhu_driver_pop(bench.lines[line].driver, &id, &written);

                CHECK(rc >= 0);
                CHECK(rc == 0 || line % 2 == 0 || written == 0);
                used += rc == 1;
            }
        }
        CHECK(used > 0);
        for (int line = 0; line < 4; line++)
            CHECK_EQUAL(status_of(&bench.lines[line]).actual, VHU_QUEUE_RUNNING);
        CHECK_EQUAL(vhu_worker_stop(bench.worker, PATIENCE_MS), 0);
        uint64_t ended = sent(0);
        for (int reason = 0; reason < VHU_NET_DROP_NO_BUFFER; reason++)
            ended += dropped(0, (enum vhu_net_drop)reason);
        CHECK_EQUAL(status_of(&bench.lines[1]).requests, ended);
        CHECK(sent(0) > 0 && sent(1) > 0 && counters_of(0, RECEIVES).frames > 0);
        CHECK(dropped(0, VHU_NET_DROP_LENGTH) > 0 && dropped(0, VHU_NET_DROP_HEADER) > 0);
        CHECK(features & 2 || dropped(0, VHU_NET_DROP_TOO_LARGE) > 0);
        close_bench();
    }
}

static void ports_and_rings_that_are_none_are_refused(void)
{
    const struct vhu_net_config none = {.ports = 0};
    const struct vhu_net_port_config port = {.pairs = 129}, another = {.pairs = 1};
    struct vhu_net *net;
    struct vhu_queue *queue;
    uint32_t number;

    CHECK_EQUAL(vhu_net_create(&none, &net), -EINVAL);
    open_ports(1, VERSION_1);
    CHECK_EQUAL(vhu_net_port_add(bench.net, &port, &number), -EINVAL);
    CHECK_EQUAL(vhu_net_port_add(bench.net, &another, &number), -ENOSPC);
    CHECK_EQUAL(vhu_queue_create_net(bench.worker, bench.net, 1, 0, -1, &queue), -EINVAL);
    CHECK_EQUAL(vhu_queue_create_net(bench.worker, bench.net, 0, 3, -1, &queue), -EINVAL);
    CHECK_EQUAL(vhu_queue_create_net(bench.worker, bench.net, 0, 1, -1, &queue), -EBUSY);
    close_bench();
}

static const struct test tests[] = {
    {"a split ring goes on where it was, whatever is said",
     a_split_ring_goes_on_where_it_was_whatever_is_said},
    {"tables of what is sent are read, whatever they say",
     tables_of_what_is_sent_are_read_whatever_they_say},
    {"what a port sends its peer receives", what_a_port_sends_its_peer_receives},
    {"frames without buffers are dropped and counted",
     frames_without_buffers_are_dropped_and_counted},
    {"buffers in pieces and buffers to merge are filled in order",
     buffers_in_pieces_and_buffers_to_merge_are_filled_in_order},
    {"the largest frame fits, and a larger one is dropped",
     the_largest_frame_fits_and_a_larger_one_is_dropped},
    {"what cannot be sent is dropped and counted", what_cannot_be_sent_is_dropped_and_counted},
    {"a frame too large for its buffers is dropped, and they stay",
     a_frame_too_large_for_its_buffers_is_dropped_and_they_stay},
    {"buffers that hold no frame do not hold up the thread",
     buffers_that_hold_no_frame_do_not_hold_up_the_thread},
    {"what nobody is there for is dropped", what_nobody_is_there_for_is_dropped},
    {"a batch of all kinds arrives in order", a_batch_of_all_kinds_arrives_in_order},
    {"addresses are learned, and move", addresses_are_learned_and_move},
    {"a locked port sends from its own address only",
     a_locked_port_sends_from_its_own_address_only},
    {"an address of zeros is none after the cable was pulled, either",
     an_address_of_zeros_is_none_after_the_cable_was_pulled_either},
    {"who makes it costly to find buffers loses as many frames",
     who_makes_it_costly_to_find_buffers_loses_as_many_frames},
    {"an announcement reaches the others", an_announcement_reaches_the_others},
    {"a broken receive ring breaks alone", a_broken_receive_ring_breaks_alone},
    {"a broken transmit ring breaks alone", a_broken_transmit_ring_breaks_alone},
    {"a legacy driver has a shorter header", a_legacy_driver_has_a_shorter_header},
    {"a buffer may be that of the frame", a_buffer_may_be_that_of_the_frame},
    {"bursts both ways arrive whole", bursts_both_ways_arrive_whole},
    {"whatever drivers send and offer comes back", whatever_drivers_send_and_offer_comes_back},
    {"ports and rings that are none are refused", ports_and_rings_that_are_none_are_refused},
};

CHECK_MAIN(tests)
