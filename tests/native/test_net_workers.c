/* SPDX-License-Identifier: Apache-2.0
 *
 * A switch on two workers, while everything about its ports changes: rings stop and start, ports come and go, links
 * fail, drivers set filters and numbers of pairs. Every frame that arrives is whole.
 */
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "check.h"
#include "net_frame.h"

enum {
    WORKERS = 2,
    PORTS = 4,
    PAIRS_MOST = 2,
    RINGS_MOST = 2 * PAIRS_MOST,
    HEADER = 12,
    START = 14 + 20 + 8,  /* Ethernet, IPv4, UDP */
    FRAME_LEAST = START + 8,
    FRAME_MOST = 1514,
    ANNOUNCEMENT = 60,
    FRAMES = 3000,        /* that each port sends */
    SPACE = 4096,         /* of each buffer */
    BUFFER = 2048,
    IDLE_MS = 5,
    STEADY = 2,           /* ports that are never removed: the first ones */
};

#define BIT(name) (1ULL << NET_F_##name)

static const uint64_t FEATURES = BIT(VERSION_1) | BIT(CTRL_VQ) | BIT(MQ) | BIT(CTRL_RX);
static const struct vhu_worker_config polling = {.poll_us = 20};

/* A driver in a thread of its own. */
struct station {
    uint32_t place;       /* its number here, and in its address */
    uint32_t number;      /* of its port */
    struct line rings[RINGS_MOST];
    pthread_t thread;
    uint32_t random;
    uint32_t tx_free[PAIRS_MOST];
    uint16_t tx_slot[PAIRS_MOST];
    uint16_t rx_slot[PAIRS_MOST][NUM]; /* by id */
    uint16_t tx_ids[PAIRS_MOST][NUM];
    uint64_t sent, returned, received, spoilt;
    bool done;
};

static uint32_t pairs, rings; /* of each port: one pair, or several */
static struct station stations[PORTS];
static struct vhu_worker *second;
static struct line control;
static pthread_barrier_t all_are_there;

static uint32_t dice(uint32_t *random, uint32_t sides)
{
    *random = *random * 1664525 + 1013904223;
    return (*random >> 8) % sides;
}

/* ---- Frames ------------------------------------------------------------------------------------ */

static uint8_t pattern(uint32_t seed, uint32_t i)
{
    return (uint8_t)(seed + i * 13 + (i >> 8));
}

/* One of UDP, whose ports tell flows apart, and in which its seed and its length come first. */
static void make_frame(uint8_t *frame, uint8_t to, uint8_t from, uint32_t seed, uint32_t length)
{
    uint8_t start[START] = {2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 8, 0, 0x45, [22] = 64, 17,
                            [26] = 10, 0, 0, from, 10, 0, 0, to, 0x10, (uint8_t)(seed % 32), 0x20, 0};

    if (to == PORTS)
        memset(start, 0xff, 6);
    start[16] = (uint8_t)((length - 14) >> 8);
    start[17] = (uint8_t)(length - 14);
    memcpy(frame, start, START);
    memcpy(frame + START, &seed, 4);
    memcpy(frame + START + 4, &length, 4);
    for (uint32_t i = FRAME_LEAST; i < length; i++)
        frame[i] = pattern(seed, i);
}

/* What a station has sent, or the switch, when it announced one of them. */
static bool is_whole(const uint8_t *frame, uint32_t length)
{
    uint32_t seed, said;

    if (frame[12] == 0x80 && frame[13] == 0x35)
        return length == ANNOUNCEMENT;
    memcpy(&seed, frame + START, 4);
    memcpy(&said, frame + START + 4, 4);
    if (length < FRAME_LEAST || said != length)
        return false;
    for (uint32_t i = FRAME_LEAST; i < length; i++) {
        if (frame[i] != pattern(seed, i))
            return false;
    }
    return true;
}

/* ---- A driver ---------------------------------------------------------------------------------- */

static void *space(const struct line *line, uint32_t slot)
{
    return guest_at(&bench.guest, line->buffers + (uint64_t)slot * SPACE);
}

static void publish(struct line *line)
{
    if (vhu_driver_publish(line->driver))
        push_fd(line->kick);
}

static bool add(struct line *line, uint32_t slot, uint32_t length, bool writable, uint16_t *ret)
{
    const struct vhu_buffer buffer = {line->buffers + (uint64_t)slot * SPACE, length, writable};

    return vhu_driver_add(line->driver, &buffer, 1, false, ret) == 0;
}

static void offer(struct station *station, uint32_t pair, uint16_t slot)
{
    uint16_t id;

    CHECK(add(&station->rings[2 * pair], slot, BUFFER, true, &id));
    station->rx_slot[pair][id] = slot;
}

static bool receive(struct station *station, uint32_t pair)
{
    struct line *line = &station->rings[2 * pair];
    uint32_t written;
    bool any = false;
    uint16_t id;

    while (vhu_driver_pop(line->driver, &id, &written) == 1) {
        uint16_t slot = station->rx_slot[pair][id];
        const uint8_t *frame = (uint8_t *)space(line, slot) + HEADER;

        station->received++;
        station->spoilt += written < HEADER || !is_whole(frame, written - HEADER);
        offer(station, pair, slot);
        any = true;
    }
    if (any)
        publish(line);
    return any;
}

static bool take_back(struct station *station, uint32_t pair)
{
    struct line *line = &station->rings[2 * pair + 1];
    uint32_t written;
    bool any = false;
    uint16_t id;

    while (vhu_driver_pop(line->driver, &id, &written) == 1) {
        station->tx_free[pair] |= 1u << station->tx_ids[pair][id];
        station->returned++;
        any = true;
    }
    return any;
}

static bool send_frames(struct station *station, uint32_t pair)
{
    struct line *line = &station->rings[2 * pair + 1];
    uint32_t burst = dice(&station->random, 6);
    bool any = false;

    for (; burst > 0 && station->tx_free[pair] && station->sent < FRAMES; burst--) {
        uint16_t slot = (uint16_t)__builtin_ctz(station->tx_free[pair]), id;
        uint32_t length = FRAME_LEAST + dice(&station->random, FRAME_MOST - FRAME_LEAST);
        uint8_t to = (uint8_t)dice(&station->random, PORTS + 1);

        memset(space(line, slot), 0, HEADER);
        make_frame((uint8_t *)space(line, slot) + HEADER, to, (uint8_t)station->place,
                   station->random, length);
        if (!add(line, slot, HEADER + length, false, &id))
            break;
        station->tx_free[pair] &= ~(1u << slot);
        station->tx_ids[pair][id] = slot;
        station->sent++;
        any = true;
    }
    if (any)
        publish(line);
    return any;
}

/* Wait for a call of any ring, but not for long: one may be stopped. */
static void rest(struct station *station)
{
    struct pollfd calls[RINGS_MOST];
    bool ready = false;
    uint64_t ignored;

    for (uint32_t ring = 0; ring < rings; ring++) {
        calls[ring] = (struct pollfd){.fd = station->rings[ring].call, .events = POLLIN};
        ready |= vhu_driver_call_enable(station->rings[ring].driver);
    }
    if (!ready)
        (void)poll(calls, rings, IDLE_MS);
    for (uint32_t ring = 0; ring < rings; ring++) {
        if (calls[ring].revents)
            CHECK_EQUAL(read(calls[ring].fd, &ignored, sizeof(ignored)), sizeof(ignored));
        vhu_driver_call_disable(station->rings[ring].driver);
    }
}

static bool in_time(void)
{
    static time_t limit;
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    time_t first = 0;
    __atomic_compare_exchange_n(&limit, &first, now.tv_sec + PATIENCE_MS / 100, false,
                                __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return now.tv_sec < __atomic_load_n(&limit, __ATOMIC_RELAXED);
}

static void *drive(void *argument)
{
    struct station *station = argument;

    for (uint32_t pair = 0; pair < pairs; pair++) {
        for (uint16_t slot = 0; slot < NUM; slot++)
            offer(station, pair, slot);
        publish(&station->rings[2 * pair]);
        station->tx_free[pair] = (1u << NUM) - 1;
    }
    pthread_barrier_wait(&all_are_there); /* who came when the others are done would receive nothing */
    while (station->returned < FRAMES && in_time()) {
        bool any = false;

        for (uint32_t pair = 0; pair < pairs; pair++) {
            any |= receive(station, pair);
            any |= take_back(station, pair);
            any |= send_frames(station, pair);
        }
        if (!any)
            rest(station);
    }
    __atomic_store_n(&station->done, true, __ATOMIC_RELEASE);
    return NULL;
}

/* ---- What goes on meanwhile -------------------------------------------------------------------- */

static struct vhu_worker *worker_of(const struct station *station, uint32_t ring)
{
    return (station->place + ring / 2) % WORKERS ? second : bench.worker;
}

static void stop_ring(struct line *line)
{
    line->wanted.start = 0;
    line->wanted.config.state = want(line).state;
}

static void start_ring(struct line *line)
{
    static uint64_t starts = 100;

    line->wanted.start = ++starts;
    CHECK_EQUAL(want(line).actual, VHU_QUEUE_RUNNING);
}

static void add_port(struct station *station)
{
    const struct vhu_net_port_config port = {
        .pairs = pairs, .mac = {2, 0, 0, 0, 0, (uint8_t)station->place}};

    CHECK_EQUAL(vhu_net_port_add(bench.net, &port, &station->number), 0);
}

/* Take a port away under its driver, with whatever is in its rings, and give it another. */
static void replace_port(struct station *station)
{
    for (uint32_t ring = 0; ring < rings; ring++) {
        stop_ring(&station->rings[ring]);
        vhu_queue_destroy(station->rings[ring].queue);
    }
    vhu_net_port_remove(bench.net, station->number);
    add_port(station);
    for (uint32_t ring = 0; ring < rings; ring++) {
        struct line *line = &station->rings[ring];

        CHECK_EQUAL(vhu_queue_create_net(worker_of(station, ring), bench.net, station->number, ring,
                                         bench.event_fd, &line->queue),
                    0);
        CHECK_EQUAL(vhu_queue_set_fd(line->queue, VHU_FD_KICK, dup(line->kick)), 0);
        CHECK_EQUAL(vhu_queue_set_fd(line->queue, VHU_FD_CALL, dup(line->call)), 0);
        start_ring(line);
    }
}

/* By the control queue of the first port. */
static void say(const void *bytes, uint32_t length)
{
    const struct vhu_buffer buffers[] = {{control.buffers, length, 0}, {control.buffers + 64, 1, 1}};
    uint32_t written;
    uint16_t id;

    memcpy(guest_at(&bench.guest, control.buffers), bytes, length);
    CHECK_EQUAL(vhu_driver_add(control.driver, buffers, 2, false, &id), 0);
    publish(&control);
    while (vhu_driver_pop(control.driver, &id, &written) == 0) {
        if (!vhu_driver_call_enable(control.driver))
            CHECK(await(control.call));
    }
    CHECK_EQUAL(written, 1);
}

static void look_at_everything(void)
{
    struct vhu_net_address addresses[16];
    struct vhu_net_counters counters;
    struct vhu_net_port_state state;

    (void)vhu_net_addresses(bench.net, addresses, 16);
    for (int i = 0; i < PORTS; i++) {
        for (uint32_t ring = 0; ring < rings; ring++)
            vhu_net_counters(bench.net, stations[i].number, ring, &counters);
        vhu_net_port_state(bench.net, stations[i].number, &state);
        CHECK(state.pairs >= 1 && state.pairs <= pairs);
    }
}

static void disturb(uint32_t *random)
{
    struct station *station = &stations[dice(random, PORTS)];
    struct line *line = &station->rings[dice(random, rings)];
    const uint8_t number[] = {4, 0, (uint8_t)(1 + dice(random, pairs)), 0};
    const uint8_t mode[] = {0, 0, (uint8_t)dice(random, 2)};
    const uint8_t tables[] = {1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, (uint8_t)dice(random, PORTS), 0, 0, 0, 0};
    const uint8_t mac[6] = {2, 0, 0, 0, 0, (uint8_t)station->place};

    switch (dice(random, 9)) {
    case 0:
    case 1:
        stop_ring(line);
        start_ring(line);
        break;
    case 2:
        line->wanted.enabled = false;
        (void)want(line);
        line->wanted.enabled = true;
        (void)want(line);
        break;
    case 3:
        vhu_net_port_set_link(bench.net, station->number, false);
        vhu_net_port_set_link(bench.net, station->number, true);
        break;
    case 4:
        if (station->place >= STEADY)
            replace_port(station);
        break;
    case 5:
        say(number, sizeof(number));
        break;
    case 6:
        say(mode, sizeof(mode));
        say(tables, sizeof(tables));
        break;
    case 7:
        vhu_net_port_announce(bench.net, station->number, mac);
        break;
    default:
        look_at_everything();
    }
}

static bool all_done(void)
{
    bool done = true;

    for (int i = 0; i < PORTS; i++)
        done &= __atomic_load_n(&stations[i].done, __ATOMIC_ACQUIRE);
    return done;
}

/* ---- The test ---------------------------------------------------------------------------------- */

static void open_stations(uint64_t features)
{
    const struct vhu_net_config net = {.ports = PORTS, .shared = true};
    uint16_t position = features & FEATURE(RING_PACKED) ? WRAP_BIT : 65530;

    open_switch(&polling, &net);
    CHECK_EQUAL(vhu_worker_create(&polling, &second), 0);
    memset(stations, 0, sizeof(stations));
    for (uint32_t place = 0; place < PORTS; place++) {
        struct station *station = &stations[place];

        station->place = station->random = place;
        add_port(station);
        for (uint32_t ring = 0; ring < rings; ring++) {
            open_port_line(&station->rings[ring], (int)(place * rings + ring),
                           worker_of(station, ring), station->number, ring, features, position);
            (void)want(&station->rings[ring]);
        }
    }
    open_port_line(&control, PORTS * rings, second, stations[0].number, rings, features, position);
    control.buffers = BUFFERS;
    (void)want(&control);
}

static void close_stations(void)
{
    stop_ring(&control);
    close_line(&control);
    for (int i = 0; i < PORTS; i++) {
        for (uint32_t ring = 0; ring < rings; ring++) {
            stop_ring(&stations[i].rings[ring]);
            close_line(&stations[i].rings[ring]);
        }
    }
    vhu_worker_destroy(second);
    close_bench();
}

/* What a port's rings have sent and what became of it. */
static void check_counters(const struct station *station)
{
    uint64_t frames = 0;

    for (uint32_t ring = 1; ring < rings; ring += 2) {
        struct vhu_net_counters counters;

        vhu_net_counters(bench.net, station->number, ring, &counters);
        frames += counters.frames;
        for (int reason = 0; reason < VHU_NET_DROP_NO_BUFFER; reason++)
            frames += counters.drops[reason];
        CHECK_EQUAL(counters.drops[VHU_NET_DROP_LENGTH] + counters.drops[VHU_NET_DROP_HEADER] +
                        counters.drops[VHU_NET_DROP_SPOOFED],
                    0);
    }
    CHECK(frames >= FRAMES); /* announcements, too */
}

static void run_stations(uint32_t pairs_of_each, uint64_t features, bool disturbed)
{
    uint32_t random = 7;

    pairs = pairs_of_each;
    rings = 2 * pairs;
    open_stations(features);
    pthread_barrier_init(&all_are_there, NULL, PORTS);
    for (int i = 0; i < PORTS; i++)
        CHECK_EQUAL(pthread_create(&stations[i].thread, NULL, drive, &stations[i]), 0);
    while (disturbed && !all_done() && !check_failures)
        disturb(&random);
    for (int i = 0; i < PORTS; i++) {
        pthread_join(stations[i].thread, NULL);
        CHECK_EQUAL(stations[i].returned, FRAMES);
        CHECK_EQUAL(stations[i].spoilt, 0);
        CHECK(stations[i].received > 0);
        if (i < STEADY)
            check_counters(&stations[i]);
    }
    pthread_barrier_destroy(&all_are_there);
    close_stations();
}

static void two_workers_deliver_to_each_other(void)
{
    for (uint32_t each = 1; each <= PAIRS_MOST; each++) {
        run_stations(each, FEATURES, false);
        run_stations(each, FEATURES | FEATURE(RING_PACKED), false);
    }
}

static void everything_may_change_while_frames_go_through(void)
{
    for (uint32_t each = 1; each <= PAIRS_MOST; each++) {
        run_stations(each, FEATURES, true);
        run_stations(each, FEATURES | FEATURE(RING_PACKED), true);
        run_stations(each, FEATURES | FEATURE(RING_PACKED) | FEATURE(IN_ORDER) | FEATURE(EVENT_IDX), true);
        run_stations(each, FEATURES | FEATURE(EVENT_IDX), true);
    }
}

static const struct test tests[] = {
    {"two workers deliver to each other", two_workers_deliver_to_each_other},
    {"everything may change while frames go through", everything_may_change_while_frames_go_through},
};

CHECK_MAIN(tests)
