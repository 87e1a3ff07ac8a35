/* SPDX-License-Identifier: Apache-2.0
 *
 * What a driver lets through: the receive filter by itself, and the frames that come and do not come once
 * it was set (VIRTIO 1.2, section 5.1.6.5.1 to 5.1.6.5.3).
 */
#include <string.h>

#include "bench.h"
#include "check.h"
#include "net.h"

enum { HEADER = 12, FRAME = 64, PAIRS = 2, CONTROL = 2 * PAIRS, ACK = 0x8000 };

#define BIT(name) (1ULL << NET_F_##name)

static const uint64_t ALL = BIT(VERSION_1) | BIT(CTRL_VQ) | BIT(CTRL_RX) | BIT(CTRL_RX_EXTRA) |
                            BIT(CTRL_MAC_ADDR) | BIT(CTRL_VLAN) | BIT(MQ);
static const uint8_t OWN[6] = {2, 0, 0, 0, 0, 7}, OTHER[6] = {2, 0, 0, 0, 0, 8},
                     GROUP[6] = {1, 0, 0x5e, 0, 0, 1}, ALL_STATIONS[6] = {255, 255, 255, 255, 255, 255};

/* ---- The filter by itself ---------------------------------------------------------------------- */

static struct net_control settings;

static void reset(uint64_t features)
{
    memset(&settings, 0, sizeof(settings));
    vhu_control_reset(&settings, features, PAIRS, OWN);
    CHECK(settings.filter.passes_all);
    settings.filter.passes_all = settings.filter.promiscuous = false;
}

/* A frame of `bytes` bytes, in buffers of `piece`; its fourth pair of bytes are `type` and `tag`. */
static bool passes_in(const uint8_t *to, uint16_t type, uint16_t tag, uint32_t bytes, uint32_t piece)
{
    uint8_t frame_bytes[FRAME] = {0};
    struct iovec iov[FRAME];
    struct net_frame frame = {.bytes = bytes, .iov = iov, .destination = net_address(to)};

    memcpy(frame_bytes, to, 6);
    frame_bytes[12] = (uint8_t)(type >> 8);
    frame_bytes[13] = (uint8_t)type;
    frame_bytes[14] = (uint8_t)(tag >> 8);
    frame_bytes[15] = (uint8_t)tag;
    for (uint32_t at = 0; at < bytes; at += piece)
        iov[frame.count++] =
            (struct iovec){frame_bytes + at, bytes - at < piece ? bytes - at : piece};
    struct iovec before[FRAME];
    memcpy(before, iov, frame.count * sizeof(*iov));
    bool passes = net_filter_passes(&settings.filter, &frame);
    CHECK_EQUAL(memcmp(before, iov, frame.count * sizeof(*iov)), 0); /* others receive it, too */
    return passes;
}

static bool passes(const uint8_t *to)
{
    return passes_in(to, 0x0800, 0, FRAME, FRAME);
}

static void what_is_for_others_does_not_pass(void)
{
    reset(BIT(CTRL_RX));
    CHECK(passes(OWN));
    CHECK(!passes(OTHER));
    CHECK(passes(ALL_STATIONS));
    CHECK(!passes(GROUP));
    settings.filter.promiscuous = true;
    CHECK(passes(OTHER));
    CHECK(passes(GROUP));
}

static void an_address_in_its_table_passes(void)
{
    reset(BIT(CTRL_RX));
    settings.filter.unicast = (struct net_addresses){2, {net_address(OTHER), net_address(OWN)}};
    CHECK(passes(OTHER));
    CHECK(passes(OWN));
    CHECK(!passes(GROUP));
    settings.filter.multicast = (struct net_addresses){1, {net_address(GROUP)}};
    CHECK(passes(GROUP));
    settings.filter.unicast.count = 0;
    CHECK(!passes(OTHER));
    settings.filter.unicast = settings.filter.multicast; /* of the other kind: never looked for there */
    settings.filter.multicast.count = 0;
    CHECK(!passes(GROUP));
}

static void too_many_addresses_are_all(void)
{
    reset(BIT(CTRL_RX));
    settings.filter.unicast.count = TABLE_OVERFLOW;
    CHECK(passes(OTHER));
    CHECK(!passes(GROUP));
    settings.filter.multicast.count = TABLE_OVERFLOW;
    CHECK(passes(GROUP));
}

/* 5.1.6.5.1: promiscuous before all others, "no" before "all", and broadcasts are no multicasts. */
static void modes_have_their_rank(void)
{
    reset(BIT(CTRL_RX));
    struct net_filter *filter = &settings.filter;
    filter->all_unicast = filter->all_multicast = true;
    CHECK(passes(OTHER));
    CHECK(passes(GROUP));
    filter->no_multicast = true;
    CHECK(!passes(GROUP));
    CHECK(passes(ALL_STATIONS));
    filter->no_unicast = true;
    CHECK(!passes(OTHER));
    CHECK(!passes(OWN));
    CHECK(passes(ALL_STATIONS));
    filter->no_broadcast = true;
    CHECK(!passes(ALL_STATIONS));
    filter->no_multicast = false;
    CHECK(passes(GROUP));
    CHECK(!passes(ALL_STATIONS));
    filter->no_unicast = filter->no_multicast = filter->promiscuous = true;
    CHECK(passes(OWN));
    CHECK(passes(GROUP));
    CHECK(passes(ALL_STATIONS));
}

static void frames_of_other_vlans_do_not_pass(void)
{
    reset(BIT(CTRL_RX) | BIT(CTRL_VLAN));
    settings.filter.vlans[0] = 1 << 5;
    settings.filter.vlans[63] = 1ull << 63;
    for (uint32_t piece = 1; piece < 20; piece++) {
        CHECK(passes_in(OWN, 0x8100, 5, FRAME, piece));
        CHECK(passes_in(OWN, 0x8100, 0xF005, FRAME, piece)); /* priority and so on beside it */
        CHECK(passes_in(OWN, 0x8100, 4095, FRAME, piece));
        CHECK(!passes_in(OWN, 0x8100, 6, FRAME, piece));
        CHECK(!passes_in(OWN, 0x8100, 0, FRAME, piece));
        CHECK(!passes_in(OTHER, 0x8100, 5, FRAME, piece));
        CHECK(!passes_in(ALL_STATIONS, 0x8100, 6, FRAME, piece));
        CHECK(passes_in(OWN, 0x0800, 6, FRAME, piece)); /* no tag ... */
        CHECK(passes_in(OWN, 0x88a8, 6, FRAME, piece)); /* ... a provider's ... */
        CHECK(passes_in(OWN, 0x8100, 6, 15, piece));    /* ... and half of one */
        CHECK(passes_in(OWN, 0x8100, 6, 14, piece));
    }
    settings.filter.promiscuous = true;
    CHECK(passes_in(OWN, 0x8100, 6, FRAME, FRAME));
    reset(BIT(CTRL_RX));
    CHECK(passes_in(OWN, 0x8100, 6, FRAME, FRAME));
}

/* ---- Frames ------------------------------------------------------------------------------------ */

static struct line control, receives[PAIRS], answers, sends;
static const struct vhu_worker_config sleepy = {.poll_us = 0};

/* Port 0 has a control queue and receives, and answers by its second pair; port 1 sends. */
static void open_ports(uint64_t features)
{
    const struct vhu_net_config net = {.ports = 2};
    const struct vhu_net_port_config ports[2] = {{.pairs = PAIRS, .mac = {2, 0, 0, 0, 0, 7}},
                                                 {.pairs = 1, .mac = {2, 0, 0, 0, 0, 1}}};
    uint32_t number;

    open_switch(&sleepy, &net);
    for (uint32_t i = 0; i < 2; i++)
        CHECK_EQUAL(vhu_net_port_add(bench.net, &ports[i], &number), 0);
    open_port_line(&control, 0, bench.worker, 0, CONTROL, features, 0);
    (void)want(&control);
    for (uint32_t i = 0; i < PAIRS; i++) {
        open_port_line(&receives[i], 1 + (int)i, bench.worker, 0, 2 * i, features, 0);
        (void)want(&receives[i]);
    }
    open_port_line(&answers, 1 + PAIRS, bench.worker, 0, 3, features, 0);
    (void)want(&answers);
    open_port_line(&sends, 2 + PAIRS, bench.worker, 1, 1, BIT(VERSION_1), 0);
    (void)want(&sends);
}

static void close_ports(void)
{
    struct line *lines[] = {&control, &receives[0], &receives[1], &answers, &sends};

    for (int i = 0; i < 5; i++) {
        lines[i]->wanted.start = 0;
        (void)want(lines[i]);
        close_line(lines[i]);
    }
    close_bench();
}

static void add(struct line *line, const struct vhu_buffer *buffers, uint32_t count)
{
    uint16_t id;

    CHECK_EQUAL(vhu_driver_add(line->driver, buffers, count, false, &id), 0);
    if (vhu_driver_publish(line->driver))
        push_fd(line->kick);
}

static bool came(struct line *line)
{
    uint32_t written;
    uint16_t id;

    return vhu_driver_pop(line->driver, &id, &written) == 1;
}

static void finish(struct line *line)
{
    while (!came(line)) {
        if (!vhu_driver_call_enable(line->driver) && !await(line->call)) {
            CHECK(!"in time");
            return;
        }
    }
}

static void say(const void *bytes, uint32_t length)
{
    const struct vhu_buffer buffers[] = {{control.buffers, length, 0}, {control.buffers + ACK, 1, 1}};
    uint8_t *ack = guest_at(&bench.guest, control.buffers + ACK);

    memcpy(guest_at(&bench.guest, control.buffers), bytes, length);
    *ack = 0xee;
    add(&control, buffers, 2);
    finish(&control);
    CHECK_EQUAL(*ack, 0);
}

#define SAY(...) say((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void offer(struct line *line)
{
    const struct vhu_buffer buffer = {line->buffers, HEADER + FRAME, 1};

    add(line, &buffer, 1);
}

/* Send a frame that begins with `start`, and wait until it went its way. */
static void send_by(struct line *line, const uint8_t *start, uint32_t length)
{
    const struct vhu_buffer buffer = {line->buffers, HEADER + FRAME, 0};
    uint8_t *bytes = guest_at(&bench.guest, line->buffers);

    memset(bytes, 0, HEADER + FRAME);
    memcpy(bytes + HEADER, start, length);
    add(line, &buffer, 1);
    finish(line);
}

/* The same from port 1, whatever its source was. */
static void send_frame(const uint8_t *start, uint32_t length)
{
    uint8_t bytes[FRAME] = {0};

    memcpy(bytes, start, length);
    memcpy(bytes + 6, (const uint8_t[]){2, 0, 0, 0, 0, 1}, 6);
    send_by(&sends, bytes, FRAME);
}

static uint64_t filtered(void)
{
    struct vhu_net_counters counters;

    vhu_net_counters(bench.net, 0, 0, &counters);
    return counters.drops[VHU_NET_DROP_FILTERED];
}

static void a_driver_gets_what_it_asked_for(void)
{
    struct line *line = &receives[0];

    open_ports(ALL);
    for (int i = 0; i < 8; i++)
        offer(line);
    send_frame(OTHER, 6);
    CHECK(came(line)); /* it has not said anything yet */
    SAY(0, 0, 0);
    send_frame(OTHER, 6);
    CHECK(!came(line));
    CHECK_EQUAL(filtered(), 1);
    send_frame(OWN, 6);
    CHECK(came(line));
    SAY(1, 1, 2, 0, 0, 0, 0, 8); /* OTHER is its own now */
    send_frame(OWN, 6);
    CHECK(!came(line));
    send_frame(OTHER, 6);
    CHECK(came(line));
    SAY(1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1);
    send_frame(GROUP, 6);
    CHECK(came(line));
    SAY(0, 3, 1);
    send_frame(GROUP, 6);
    CHECK(!came(line));
    send_frame(ALL_STATIONS, 6);
    CHECK(came(line));
    SAY(0, 0, 1);
    send_frame(GROUP, 6);
    CHECK(came(line));
    CHECK_EQUAL(filtered(), 3);
    close_ports();
}

static void a_driver_gets_frames_of_its_vlans(void)
{
    static const uint8_t tagged[16] = {255, 255, 255, 255, 255, 255, [12] = 0x81, 0, 0, 5};
    struct line *line = &receives[0];

    open_ports(ALL);
    for (int i = 0; i < 4; i++)
        offer(line);
    SAY(0, 0, 0);
    send_frame(tagged, sizeof(tagged));
    CHECK(!came(line));
    SAY(2, 0, 5, 0);
    send_frame(tagged, sizeof(tagged));
    CHECK(came(line));
    SAY(2, 1, 5, 0);
    send_frame(tagged, sizeof(tagged));
    CHECK(!came(line));
    CHECK_EQUAL(filtered(), 2);
    close_ports();
}

/* Frames of the UDP port that `flow` counts. */
static void send_flow(uint8_t flow)
{
    const uint8_t start[] = {2, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17,
                             0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x10, flow, 0x20, 0};

    send_frame(start, sizeof(start));
}

/* One that goes the other way, by the second pair. */
static void answer_flow(uint8_t flow)
{
    const uint8_t start[] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 7, 8, 0, 0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17,
                             0, 0, 10, 0, 0, 2, 10, 0, 0, 1, 0x20, 0, 0x10, flow};

    send_by(&answers, start, sizeof(start));
}

static uint32_t count_used(struct line *line)
{
    uint32_t count = 0;

    while (came(line))
        count++;
    return count;
}

/* 5.1.6.5.5: the first pair alone until it says otherwise, and no other any more once it takes that back. */
static void frames_go_to_the_pairs_that_the_driver_uses(void)
{
    static const uint8_t pairs[] = {1, PAIRS, 1};

    open_ports(ALL);
    for (int round = 0; round < 3; round++) {
        if (round > 0)
            SAY(4, 0, pairs[round], 0);
        for (int pair = 0; pair < PAIRS; pair++) {
            for (int i = 0; i < 12; i++)
                offer(&receives[pair]);
        }
        for (uint8_t flow = 0; flow < 12; flow++)
            send_flow(flow);
        uint32_t first = count_used(&receives[0]), second = count_used(&receives[1]);
        CHECK_EQUAL(first + second, 12);
        CHECK_EQUAL(second > 0, pairs[round] > 1);
        CHECK(first > 0);
        /* those that are left */
        for (int pair = 0; pair < PAIRS; pair++) {
            receives[pair].wanted.start = 0;
            (void)want(&receives[pair]);
            close_line(&receives[pair]);
            open_port_line(&receives[pair], 1 + pair, bench.worker, 0, 2 * (uint32_t)pair, ALL, 0);
            memset(receives[pair].wanted.config.driver, 0, 512);
            memset(receives[pair].wanted.config.device, 0, 512);
            (void)want(&receives[pair]);
        }
    }
    close_ports();
}

/* A flow comes in where it went out, as long as the driver uses that pair. */
static void a_flow_is_followed_to_a_pair_in_use_alone(void)
{
    open_ports(ALL);
    for (int pair = 0; pair < PAIRS; pair++) {
        for (int i = 0; i < 15; i++)
            offer(&receives[pair]);
    }
    SAY(4, 0, PAIRS, 0);
    for (uint8_t flow = 0; flow < 12; flow++) {
        answer_flow(flow);
        send_flow(flow);
        CHECK(came(&receives[1]));
    }
    SAY(4, 0, 1, 0);
    for (uint8_t flow = 0; flow < 12; flow++) {
        send_flow(flow);
        CHECK(came(&receives[0]));
    }
    CHECK(!came(&receives[1]));
    close_ports();
}

/* The control queue may start before the first ring that receives, or after it; what it set then stays. */
static void the_first_ring_that_starts_forgets_a_former_driver(void)
{
    for (int first = 0; first < 2; first++) {
        struct vhu_net_port_state state;
        struct line *lines[] = {&control, &receives[0]};

        open_ports(ALL);
        SAY(0, 1, 1);
        for (int i = 0; i < 2; i++) {
            lines[i]->wanted.start = 0;
            lines[i]->wanted.config.state = want(lines[i]).state;
        }
        vhu_net_port_reset(bench.net, 0);
        for (int i = 0; i < 2; i++) {
            struct line *line = lines[first ? !i : i];

            line->wanted.start = 2;
            (void)want(line);
            vhu_net_port_state(bench.net, 0, &state);
            CHECK(!state.all_multicast);
            if (line == &control)
                SAY(0, 2, 1);
        }
        vhu_net_port_state(bench.net, 0, &state);
        CHECK(state.all_unicast);
        close_ports();
    }
}

static const struct test tests[] = {
    {"what is for others does not pass", what_is_for_others_does_not_pass},
    {"an address in its table passes", an_address_in_its_table_passes},
    {"too many addresses are all", too_many_addresses_are_all},
    {"modes have their rank", modes_have_their_rank},
    {"frames of other VLANs do not pass", frames_of_other_vlans_do_not_pass},
    {"a driver gets what it asked for", a_driver_gets_what_it_asked_for},
    {"a driver gets frames of its VLANs", a_driver_gets_frames_of_its_vlans},
    {"frames go to the pairs that the driver uses", frames_go_to_the_pairs_that_the_driver_uses},
    {"a flow is followed to a pair in use alone", a_flow_is_followed_to_a_pair_in_use_alone},
    {"the first ring that starts forgets a former driver",
     the_first_ring_that_starts_forgets_a_former_driver},
};

CHECK_MAIN(tests)
