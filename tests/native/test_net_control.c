/* SPDX-License-Identifier: Apache-2.0
 *
 * The control queue of a network port: what each command sets, and that nothing else does
 * (VIRTIO 1.2, section 5.1.6.5; catalogue of hostile input, 103).
 */
#include <pthread.h>
#include <string.h>

#include "bench.h"
#include "check.h"
#include "net_frame.h"

enum {
    OK = 0,
    ERR = 1,
    NONE = 0xee, /* the acknowledgement was not touched */
    PAIRS = 4,
    CONTROL = 2 * PAIRS,
    PIECES = 14, /* buffers of a command at most, in a ring of NUM */
    ACK = 0x8000 /* where a command's acknowledgement is, behind it */,
    RANDOM = 6000,
    MANY = 65536, /* bytes of a command that is larger than any */
};

#define BIT(name) (1ULL << NET_F_##name)

static const uint64_t ALL = BIT(VERSION_1) | BIT(CTRL_VQ) | BIT(CTRL_RX) | BIT(CTRL_RX_EXTRA) |
                            BIT(CTRL_MAC_ADDR) | BIT(CTRL_VLAN) | BIT(GUEST_ANNOUNCE) | BIT(MQ) |
                            BIT(CTRL_GUEST_OFFLOADS) | BIT(GUEST_CSUM) | BIT(GUEST_TSO4);

static const struct vhu_net_port_config config = {.pairs = PAIRS, .mac = {2, 0, 0, 0, 0, 7}};
static const struct vhu_worker_config sleepy = {.poll_us = 0};

static struct line control;

/* A command as a driver may send it: `bytes` begin with class and number. */
struct command {
    const void *bytes;
    uint32_t length;
    uint32_t piece;  /* bytes of each buffer; 0: all in one */
    uint32_t room;   /* bytes of the acknowledgement's buffer; 0: one */
    bool no_ack;     /* there is none ... */
    bool ack_is_readable; /* ... or it cannot be written to */
    bool indirect;
};

static void open_control_of(const struct vhu_net_port_config *port, uint64_t features)
{
    const struct vhu_net_config net = {.ports = 1};
    uint32_t number;

    open_switch(&sleepy, &net);
    CHECK_EQUAL(vhu_net_port_add(bench.net, port, &number), 0);
    CHECK_EQUAL(number, 0);
    open_port_line(&control, 0, bench.worker, 0, CONTROL, features,
                   features & FEATURE(RING_PACKED) ? WRAP_BIT | 9 : 65530);
    CHECK_EQUAL(want(&control).actual, VHU_QUEUE_RUNNING);
}

static void open_control(uint64_t features)
{
    open_control_of(&config, features);
}

static void close_control(void)
{
    control.wanted.start = 0;
    (void)want(&control);
    close_line(&control);
    close_bench();
}

static struct vhu_net_port_state state(void)
{
    struct vhu_net_port_state ret;

    vhu_net_port_state(bench.net, 0, &ret);
    return ret;
}

static uint8_t *memory(uint64_t offset)
{
    return guest_at(&bench.guest, control.buffers + offset);
}

static void submit(const struct vhu_buffer *buffers, uint32_t count, bool indirect)
{
    uint16_t id;

    CHECK_EQUAL(vhu_driver_add(control.driver, buffers, count, indirect, &id), 0);
    if (vhu_driver_publish(control.driver))
        push_fd(control.kick);
}

/* Wait for the next used chain; returns how much was written. */
static int64_t finish(void)
{
    uint32_t written;
    uint16_t id;

    for (;;) {
        int rc = vhu_driver_pop(control.driver, &id, &written);
        if (rc != 0)
            return rc == 1 ? (int64_t)written : -1;
        if (!vhu_driver_call_enable(control.driver) && !await(control.call))
            return -1;
    }
}

/* Send a command whose bytes are in guest memory; returns its acknowledgement. */
static int send_in_place(const struct command *command)
{
    struct vhu_buffer buffers[NUM];
    uint32_t piece = command->piece ? command->piece : command->length, count = 0;

    if (command->piece && command->length > command->piece * PIECES)
        piece = (command->length + PIECES - 1) / PIECES;
    for (uint32_t at = 0; at < command->length; at += piece) {
        uint32_t left = command->length - at;

        buffers[count++] = (struct vhu_buffer){control.buffers + at, left < piece ? left : piece, 0};
    }
    memset(memory(ACK), NONE, 8);
    if (!command->no_ack)
        buffers[count++] = (struct vhu_buffer){control.buffers + ACK,
                                               command->room ? command->room : 1,
                                               !command->ack_is_readable};
    submit(buffers, count, command->indirect);
    CHECK_EQUAL(finish(), !command->no_ack && !command->ack_is_readable);
    CHECK_EQUAL(*memory(ACK + 1), NONE);
    return *memory(ACK);
}

static int send(const struct command *command)
{
    memcpy(memory(0), command->bytes, command->length);
    return send_in_place(command);
}

/* The plainest way; `length` with class and number. */
static int say(const void *bytes, uint32_t length)
{
    return send(&(struct command){.bytes = bytes, .length = length});
}

#define SAY(...) say((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* ---- What is carried out ----------------------------------------------------------------------- */

static bool states_are_equal(const struct vhu_net_port_state *one,
                             const struct vhu_net_port_state *other)
{
    return one->changes == other->changes && one->announced == other->announced &&
           one->offloads == other->offloads && one->pairs == other->pairs &&
           one->unicast == other->unicast && one->multicast == other->multicast &&
           one->vlans == other->vlans && memcmp(one->mac, other->mac, 6) == 0 &&
           one->promiscuous == other->promiscuous && one->all_unicast == other->all_unicast &&
           one->all_multicast == other->all_multicast && one->no_unicast == other->no_unicast &&
           one->no_multicast == other->no_multicast && one->no_broadcast == other->no_broadcast;
}

/* What each command sets. */
static void promiscuous_off(struct vhu_net_port_state *state) { state->promiscuous = false; }
static void all_multicast(struct vhu_net_port_state *state) { state->all_multicast = true; }
static void all_unicast(struct vhu_net_port_state *state) { state->all_unicast = true; }
static void no_multicast(struct vhu_net_port_state *state) { state->no_multicast = true; }
static void no_unicast(struct vhu_net_port_state *state) { state->no_unicast = true; }
static void no_broadcast(struct vhu_net_port_state *state) { state->no_broadcast = true; }
static void one_vlan(struct vhu_net_port_state *state) { state->vlans = 1; }
static void no_vlan(struct vhu_net_port_state *state) { state->vlans = 0; }
static void announced(struct vhu_net_port_state *state) { state->announced++; }
static void all_pairs(struct vhu_net_port_state *state) { state->pairs = PAIRS; }
static void checksums(struct vhu_net_port_state *state) { state->offloads = BIT(GUEST_CSUM); }
static void address(struct vhu_net_port_state *state) { state->mac[5] = 8; }
static void no_addresses(struct vhu_net_port_state *state) { state->unicast = state->multicast = 0; }

static void addresses(struct vhu_net_port_state *state)
{
    state->unicast = 1;
    state->multicast = 2;
}

static const struct row {
    uint64_t feature;
    uint8_t bytes[32]; /* class, number, data */
    uint32_t length;
    void (*expect)(struct vhu_net_port_state *state);
} rows[] = {
    {BIT(CTRL_RX), {0, 0, 0}, 3, promiscuous_off},
    {BIT(CTRL_RX), {0, 1, 1}, 3, all_multicast},
    {BIT(CTRL_RX_EXTRA), {0, 2, 1}, 3, all_unicast},
    {BIT(CTRL_RX_EXTRA), {0, 3, 1}, 3, no_multicast},
    {BIT(CTRL_RX_EXTRA), {0, 4, 1}, 3, no_unicast},
    {BIT(CTRL_RX_EXTRA), {0, 5, 255}, 3, no_broadcast},
    {BIT(CTRL_RX),
     {1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1, 1, 0, 0x5e, 0, 0, 2},
     28, addresses},
    {BIT(CTRL_RX), {1, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 10, no_addresses},
    {BIT(CTRL_MAC_ADDR), {1, 1, 2, 0, 0, 0, 0, 8}, 8, address},
    {BIT(CTRL_VLAN), {2, 0, 0xff, 0x0f}, 4, one_vlan},
    {BIT(CTRL_VLAN), {2, 1, 0xff, 0x0f}, 4, no_vlan},
    {BIT(GUEST_ANNOUNCE), {3, 0}, 2, announced},
    {BIT(MQ), {4, 0, PAIRS, 0}, 4, all_pairs},
    {BIT(CTRL_GUEST_OFFLOADS), {5, 0, 2, 0, 0, 0, 0, 0, 0, 0}, 10, checksums},
};

enum { ROWS = sizeof(rows) / sizeof(rows[0]) };

static void every_command_sets_what_it_says_and_nothing_else(void)
{
    const uint64_t layouts[] = {0, FEATURE(RING_PACKED), FEATURE(INDIRECT_DESC),
                                FEATURE(RING_PACKED) | FEATURE(INDIRECT_DESC) | FEATURE(EVENT_IDX) |
                                    FEATURE(IN_ORDER)};

    for (int layout = 0; layout < 4; layout++) {
        for (uint32_t piece = 0; piece < 5; piece++) {
            open_control(ALL | layouts[layout]);
            struct vhu_net_port_state expected = state();
            for (int i = 0; i < ROWS; i++) {
                const struct command command = {.bytes = rows[i].bytes,
                                                .length = rows[i].length,
                                                .piece = piece,
                                                .room = 1 + piece,
                                                .indirect = layout >= 2};

                CHECK_EQUAL(send(&command), OK);
                rows[i].expect(&expected);
                expected.changes++;
                struct vhu_net_port_state got = state();
                CHECK(states_are_equal(&got, &expected));
            }
            CHECK_EQUAL(status_of(&control).requests, ROWS);
            CHECK_EQUAL(status_of(&control).errors, 0);
            close_control();
        }
    }
}

static void a_command_needs_its_feature(void)
{
    for (int i = 0; i < ROWS; i++) {
        open_control(ALL & ~rows[i].feature);
        struct vhu_net_port_state before = state();
        CHECK_EQUAL(say(rows[i].bytes, rows[i].length), ERR);
        struct vhu_net_port_state after = state();
        CHECK(states_are_equal(&before, &after));
        CHECK_EQUAL(status_of(&control).errors, 1);
        close_control();
        open_control(BIT(VERSION_1) | rows[i].feature | BIT(GUEST_CSUM));
        CHECK_EQUAL(say(rows[i].bytes, rows[i].length), OK);
        close_control();
    }
}

/* The thread has done with a command when the next one is answered. */
static void python_is_told_of_every_change_and_of_nothing_else(void)
{
    open_control(ALL);
    CHECK_EQUAL(SAY(4, 0, PAIRS + 1, 0), ERR);
    while (is_readable(bench.event_fd))
        await(bench.event_fd);
    CHECK_EQUAL(SAY(4, 0, PAIRS + 1, 0), ERR);
    CHECK_EQUAL(SAY(4, 0, PAIRS + 1, 0), ERR);
    CHECK(!is_readable(bench.event_fd));
    CHECK_EQUAL(SAY(0, 0, 0), OK);
    CHECK(await(bench.event_fd));
    close_control();
}

/* A driver that had the port before, and one whose rings were merely stopped. */
static void settings_are_forgotten_with_a_reset_alone(void)
{
    open_control(ALL);
    const struct vhu_net_port_state first = state();
    for (int i = 0; i < ROWS; i++)
        CHECK_EQUAL(say(rows[i].bytes, rows[i].length), OK);
    struct vhu_net_port_state set = state(), now;
    for (int reset = 0; reset < 2; reset++) {
        control.wanted.start = 0;
        control.wanted.config.state = want(&control).state;
        if (reset)
            vhu_net_port_reset(bench.net, 0);
        control.wanted.start = 2;
        (void)want(&control);
        now = state();
        if (!reset)
            CHECK(states_are_equal(&now, &set));
    }
    CHECK_EQUAL(now.changes, set.changes + 1);
    CHECK_EQUAL(now.announced, set.announced);
    now.changes = first.changes;
    now.announced = first.announced;
    CHECK(states_are_equal(&now, &first));
    close_control();
}

/* QEMU and virtio-user keep the control queue, but not the features of it. */
static void without_a_control_queue_of_ours_nothing_is_limited(void)
{
    open_control(ALL & ~BIT(CTRL_VQ));
    CHECK_EQUAL(state().pairs, PAIRS);
    CHECK(state().promiscuous);
    close_control();
    open_control(ALL);
    CHECK_EQUAL(state().pairs, 1);
    CHECK(state().promiscuous);
    CHECK_EQUAL(state().offloads, BIT(GUEST_CSUM) | BIT(GUEST_TSO4));
    close_control();
}

static void a_locked_port_keeps_its_address(void)
{
    struct vhu_net_port_config locked = config;

    locked.locked = true;
    open_control_of(&locked, ALL);
    CHECK_EQUAL(SAY(1, 1, 2, 0, 0, 0, 0, 8), ERR);
    CHECK_EQUAL(SAY(1, 1, 2, 0, 0, 0, 0, 7), OK);
    CHECK_EQUAL(state().mac[5], 7);
    close_control();
}

/* ---- What is refused --------------------------------------------------------------------------- */

static const struct {
    const char *name;
    uint8_t bytes[32];
    uint32_t length;
} refused[] = {
    {"nothing but an acknowledgement", {0}, 0},
    {"1 byte", {0}, 1},
    {"no mode", {0, 0}, 2},
    {"two modes", {0, 0, 0, 0}, 4},
    {"unknown mode", {0, 6, 1}, 3},
    {"unknown class", {6, 0, 0}, 3},
    {"class and number of 255", {255, 255, 0}, 3},
    {"no tables", {1, 0}, 2},
    {"a table's count in 3 bytes", {1, 0, 0, 0, 0}, 5},
    {"one table", {1, 0, 0, 0, 0, 0}, 6},
    {"no more than a part of an address", {1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0}, 11},
    {"an address of no table", {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 9}, 16},
    {"4294967295 addresses", {1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, 10},
    {"4294967295 addresses of groups", {1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, 10},
    {"addresses whose bytes wrap to 2", {1, 0, 0xab, 0xaa, 0xaa, 0xaa, 0, 0, 0, 0}, 10},
    {"as many addresses as wrap to 0", {1, 0, 0, 0, 0, 0x80, 0, 0, 0, 0}, 10},
    {"5 bytes of an address", {1, 1, 2, 0, 0, 0, 0}, 7},
    {"7 bytes of an address", {1, 1, 2, 0, 0, 0, 0, 8, 0}, 9},
    {"a group as address", {1, 1, 1, 0, 0x5e, 0, 0, 1}, 8},
    {"no address", {1, 1, 0, 0, 0, 0, 0, 0}, 8},
    {"unknown command for addresses", {1, 2, 0, 0, 0, 0, 0, 0}, 8},
    {"VLAN 4096", {2, 0, 0, 0x10}, 4},
    {"VLAN 65535", {2, 0, 0xff, 0xff}, 4},
    {"VLAN 4096 removed", {2, 1, 0, 0x10}, 4},
    {"half a VLAN", {2, 0, 1}, 3},
    {"VLAN of 3 bytes", {2, 0, 1, 0, 0}, 5},
    {"unknown command for VLANs", {2, 2, 1, 0}, 4},
    {"acknowledged with data", {3, 0, 0}, 3},
    {"unknown announcement", {3, 1}, 2},
    {"0 pairs", {4, 0, 0, 0}, 4},
    {"more pairs than there are", {4, 0, PAIRS + 1, 0}, 4},
    {"32769 pairs", {4, 0, 1, 0x80}, 4},
    {"65535 pairs", {4, 0, 0xff, 0xff}, 4},
    {"half a number of pairs", {4, 0, 1}, 3},
    {"RSS, with a table beyond the pairs", {4, 1, 0, 0, 0, 0, 0, 0, 0xff, 0x7f, 0xff, 0x7f, 1, 0, 40}, 15},
    {"RSS, with a key of 255 bytes", {4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 255}, 15},
    {"hashes", {4, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 15},
    {"an offload that was not negotiated", {5, 0, 2, 1, 0, 0, 0, 0, 0, 0}, 10},
    {"a feature that is no offload", {5, 0, 0, 0, 4, 0, 0, 0, 0, 0}, 10},
    {"all offloads", {5, 0, 255, 255, 255, 255, 255, 255, 255, 255}, 10},
    {"7 bytes of offloads", {5, 0, 2, 0, 0, 0, 0, 0, 0}, 9},
    {"unknown command for offloads", {5, 1, 2, 0, 0, 0, 0, 0, 0, 0}, 10},
    {"coalescing of notifications", {6, 0, 1, 0, 0, 0, 1, 0, 0, 0}, 10},
};

static void what_makes_no_sense_is_refused_and_changes_nothing(void)
{
    for (int packed = 0; packed < 2; packed++) {
        open_control(ALL | (packed ? FEATURE(RING_PACKED) : 0));
        for (int i = 0; i < ROWS; i++)
            CHECK_EQUAL(say(rows[i].bytes, rows[i].length), OK);
        const struct vhu_net_port_state before = state();
        for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
            int failures = check_failures;

            for (uint32_t piece = 0; piece < 3; piece++) {
                const struct command command = {
                    .bytes = refused[i].bytes, .length = refused[i].length, .piece = piece};

                CHECK_EQUAL(send(&command), ERR);
                struct vhu_net_port_state after = state();
                CHECK(states_are_equal(&after, &before));
            }
            if (check_failures > failures)
                fprintf(stderr, "    in: %s\n", refused[i].name);
        }
        CHECK_EQUAL(status_of(&control).actual, VHU_QUEUE_RUNNING);
        close_control();
    }
}

static void without_room_for_an_answer_nothing_is_carried_out(void)
{
    for (int readable = 0; readable < 2; readable++) {
        for (int i = 0; i < ROWS; i++) {
            const struct command command = {.bytes = rows[i].bytes,
                                            .length = rows[i].length,
                                            .no_ack = !readable,
                                            .ack_is_readable = readable};

            open_control(ALL);
            const struct vhu_net_port_state before = state();
            CHECK_EQUAL(send(&command), NONE);
            CHECK_EQUAL(status_of(&control).errors, 1);
            struct vhu_net_port_state after = state();
            CHECK(states_are_equal(&after, &before));
            close_control();
        }
    }
}

/* Larger than any command can be, and what of it is too large a table. */
static void large_commands_are_answered_at_once(void)
{
    open_control(ALL);
    uint8_t *bytes = memory(MANY); /* of other rings, which are not there */
    for (int i = 0; i < ROWS; i++) {
        const struct vhu_buffer buffers[] = {{control.buffers + MANY, 2, 0},
                                             {control.buffers + MANY + 2, MANY, 0},
                                             {control.buffers + ACK, 1, 1}};

        memset(bytes, 0, 2 + MANY);
        memcpy(bytes, rows[i].bytes, 2);
        *memory(ACK) = NONE;
        submit(buffers, 3, false);
        CHECK_EQUAL(finish(), 1);
        CHECK_EQUAL(*memory(ACK), ERR);
    }
    uint32_t unicast = 9000, multicast = 64;
    uint32_t length = 2 + 4 + unicast * 6 + 4 + multicast * 6;
    memset(bytes, 2, length);
    memcpy(bytes, rows[6].bytes, 2);
    memcpy(bytes + 2, &unicast, 4);
    memcpy(bytes + 6 + unicast * 6, &multicast, 4);
    const struct vhu_buffer buffers[] = {{control.buffers + MANY, length - 100, 0},
                                         {control.buffers + MANY + length - 100, 100, 0},
                                         {control.buffers + ACK, 1, 1}};
    submit(buffers, 3, false);
    CHECK_EQUAL(finish(), 1);
    CHECK_EQUAL(*memory(ACK), OK);
    CHECK_EQUAL(state().unicast, UINT32_MAX);
    CHECK_EQUAL(state().multicast, 64);
    close_control();
}

/* The answer is written into the command, over each of its bytes: it was read before. */
static void an_answer_may_be_where_the_command_is(void)
{
    for (int i = 0; i < ROWS; i++) {
        open_control(ALL);
        for (uint32_t at = 0; at < rows[i].length; at++) {
            const struct vhu_buffer buffers[] = {{control.buffers, rows[i].length, 0},
                                                 {control.buffers + at, 1, 1}};

            memcpy(memory(0), rows[i].bytes, rows[i].length);
            submit(buffers, 2, false);
            CHECK_EQUAL(finish(), 1);
            CHECK_EQUAL(*memory(at), OK);
        }
        CHECK_EQUAL(status_of(&control).errors, 0);
        close_control();
    }
}

/* A buffer that is not in memory breaks the ring, as on any other, and what was set stays. */
static void a_broken_control_queue_breaks_alone(void)
{
    open_control(ALL);
    CHECK_EQUAL(SAY(0, 0, 0), OK);
    const struct vhu_buffer nowhere[] = {{0x1000, 3, 0}, {control.buffers + ACK, 1, 1}};
    submit(nowhere, 2, false);
    CHECK_EQUAL(await_actual(&control, VHU_QUEUE_BROKEN).fault, VHU_FAULT_ADDRESS);
    CHECK(await(control.err));
    CHECK(!state().promiscuous);
    close_control();
}

/* Commands of a table, with any byte or the length of some of them changed: each is answered, a refused one
 * changes nothing, and what is set stays in its range. */
static void whatever_comes_is_answered(void)
{
    uint32_t random = 1, done = 0;

    open_control(ALL);
    for (int i = 0; i < RANDOM && !check_failures; i++) {
        const struct row *row = &rows[(random >> 8) % ROWS];
        struct vhu_net_port_state before = state(), after;
        uint8_t bytes[64] = {0};
        uint32_t length = row->length;

        memcpy(bytes, row->bytes, sizeof(row->bytes));
        for (int change = i % 4; change > 0; change--) {
            random = random * 1664525 + 1013904223;
            bytes[(random >> 8) % (row->length + 1)] = (uint8_t)(random >> 24);
            length = random >> 28 ? length : (random >> 8) % sizeof(bytes);
        }
        random = random * 1664525 + 1013904223;
        int ack = send(&(struct command){.bytes = bytes, .length = length, .piece = random >> 30});
        after = state();
        CHECK(ack == OK || ack == ERR);
        CHECK_EQUAL(states_are_equal(&before, &after), ack == ERR);
        CHECK(after.pairs >= 1 && after.pairs <= PAIRS && after.vlans <= 4096);
        CHECK(after.unicast <= 64 || after.unicast == UINT32_MAX);
        CHECK((after.offloads & ~(BIT(GUEST_CSUM) | BIT(GUEST_TSO4))) == 0);
        done += ack == OK;
    }
    CHECK(done > RANDOM / 20);
    CHECK_EQUAL(status_of(&control).errors, RANDOM - done);
    close_control();
}

static bool flipping;

/* Change the counts of two tables between what is there and what wraps, by another mapping of the memory. */
static void *flip(void *argument)
{
    uint32_t *counts[2] = {argument, (uint32_t *)((uint8_t *)argument + 4 + 6)};

    for (uint32_t i = 0; __atomic_load_n(&flipping, __ATOMIC_RELAXED); i++) {
        uint32_t wild = i % 3 == 0 ? 0xaaaaaaab : i % 3 == 1 ? 65 : 1;

        memcpy(counts[i % 2], &wild, sizeof(wild));
    }
    return NULL;
}

static void counts_may_change_while_they_are_read(void)
{
    pthread_t thread;

    open_control(ALL);
    memset(memory(0), 0, 64);
    memcpy(memory(0), rows[6].bytes, 2);
    __atomic_store_n(&flipping, true, __ATOMIC_RELAXED);
    uint8_t *shadow = bench.guest.shadow + FAR_OFFSET + (control.buffers - FAR);
    CHECK_EQUAL(pthread_create(&thread, NULL, flip, shadow + 2), 0);
    for (int i = 0; i < 2000 && !check_failures; i++) {
        int ack = send_in_place(&(struct command){.length = 22});

        CHECK(ack == OK || ack == ERR);
        uint32_t unicast = state().unicast;
        CHECK(unicast <= 64 || unicast == UINT32_MAX);
    }
    __atomic_store_n(&flipping, false, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    close_control();
}

static const struct test tests[] = {
    {"every command sets what it says and nothing else",
     every_command_sets_what_it_says_and_nothing_else},
    {"a command needs its feature", a_command_needs_its_feature},
    {"Python is told of every change and of nothing else",
     python_is_told_of_every_change_and_of_nothing_else},
    {"settings are forgotten with a reset alone", settings_are_forgotten_with_a_reset_alone},
    {"without a control queue of ours nothing is limited",
     without_a_control_queue_of_ours_nothing_is_limited},
    {"a locked port keeps its address", a_locked_port_keeps_its_address},
    {"what makes no sense is refused and changes nothing",
     what_makes_no_sense_is_refused_and_changes_nothing},
    {"without room for an answer nothing is carried out",
     without_room_for_an_answer_nothing_is_carried_out},
    {"large commands are answered at once", large_commands_are_answered_at_once},
    {"an answer may be where the command is", an_answer_may_be_where_the_command_is},
    {"a broken control queue breaks alone", a_broken_control_queue_breaks_alone},
    {"whatever comes is answered", whatever_comes_is_answered},
    {"counts may change while they are read", counts_may_change_while_they_are_read},
};

CHECK_MAIN(tests)
