/* SPDX-License-Identifier: Apache-2.0
 *
 * The device side of packed rings against descriptors that a driver may write, legal and not.
 */
#include <errno.h>

#include "check.h"
#include "guest.h"

/* not a power of two: legal for packed rings */
enum { NUM = 5, N = DESC_NEXT, W = DESC_WRITE, I = DESC_INDIRECT };

static struct guest guest;
static struct iovec iov[2048];

struct entry {
    uint64_t address;
    uint32_t length;
    uint16_t id, flags;
};

struct row {
    const char *name;
    uint64_t features;
    struct entry desc[NUM]; /* from the ring's position on, up to one without NEXT */
    struct entry table[3];
    enum vhu_fault fault;
    uint64_t value;
    uint32_t readable, writable;
    uint64_t bytes;
    uint16_t id, slots;
};

#define INDIRECT FEATURE(INDIRECT_DESC)

static const struct row rows[] = {
    {.name = "one buffer", .desc = {{BUFFERS, 10, 4, 0}},
     .readable = 1, .bytes = 10, .id = 4, .slots = 1},
    {.name = "the last id counts", .desc = {{BUFFERS, 10, 99, N}, {BUFFERS, 5, 2, W}},
     .readable = 1, .writable = 1, .bytes = 15, .id = 2, .slots = 2},
    {.name = "a chain as long as the ring",
     .desc = {{BUFFERS, 1, 0, N}, {BUFFERS, 1, 0, N}, {0, 0, 0, N}, {BUFFERS, 1, 0, N},
              {BUFFERS, 1, 1, 0}},
     .readable = 4, .bytes = 4, .id = 1, .slots = NUM},
    {.name = "next for ever",
     .desc = {{BUFFERS, 1, 0, N}, {BUFFERS, 1, 0, N}, {0, 0, 0, N}, {BUFFERS, 1, 0, N},
              {BUFFERS, 1, 1, N}},
     .fault = VHU_FAULT_CHAIN_LENGTH, .value = NUM + 1},
    {.name = "id out of range", .desc = {{BUFFERS, 1, NUM, 0}},
     .fault = VHU_FAULT_ID, .value = NUM},
    {.name = "id far out of range", .desc = {{BUFFERS, 1, 65535, 0}},
     .fault = VHU_FAULT_ID, .value = 65535},
    {.name = "readable after writable", .desc = {{BUFFERS, 1, 0, N | W}, {BUFFERS, 1, 0, 0}},
     .fault = VHU_FAULT_DIRECTION, .value = DESC_AVAIL},
    {.name = "no region there", .desc = {{64, 1, 0, 0}}, .fault = VHU_FAULT_ADDRESS, .value = 64},
    {.name = "no region there, but no bytes either", .desc = {{64, 0, 1, 0}}, .id = 1, .slots = 1},
    {.name = "indirect without the feature", .desc = {{TABLES, 16, 0, I}},
     .fault = VHU_FAULT_INDIRECT_FEATURE, .value = I | DESC_AVAIL},
    {.name = "all entries of a table count", .features = INDIRECT, .desc = {{TABLES, 48, 3, I}},
     .table = {{BUFFERS, 1, 77, 0}, {BUFFERS, 2, 77, N | W}, {BUFFERS, 4, 77, W}},
     .readable = 1, .writable = 2, .bytes = 7, .id = 3, .slots = 1},
    {.name = "indirect with next", .features = INDIRECT, .desc = {{TABLES, 16, 0, I | N}},
     .fault = VHU_FAULT_INDIRECT_NEXT, .value = I | N | DESC_AVAIL},
    {.name = "indirect after direct", .features = INDIRECT,
     .desc = {{BUFFERS, 1, 0, N}, {TABLES, 16, 0, I}},
     .fault = VHU_FAULT_INDIRECT_NEXT, .value = I | DESC_AVAIL},
    {.name = "indirect in indirect", .features = INDIRECT, .desc = {{TABLES, 16, 0, I}},
     .table = {{TABLES, 16, 0, I}}, .fault = VHU_FAULT_INDIRECT_NESTED, .value = I},
    {.name = "table of 8 bytes", .features = INDIRECT, .desc = {{TABLES, 8, 0, I}},
     .fault = VHU_FAULT_INDIRECT_SIZE, .value = 8},
    {.name = "table across an edge", .features = INDIRECT, .desc = {{HIGH - 16, 32, 0, I}},
     .fault = VHU_FAULT_INDIRECT_ADDRESS, .value = HIGH - 16},
};

static void put(void *place, const struct entry *from, uint16_t flags)
{
    struct desc desc = {
        .address = from->address,
        .packed = {.length = from->length, .id = from->id, .flags = from->flags | flags},
    };

    memcpy(place, &desc, sizeof(desc));
}

static struct vhu_ring *start(uint64_t features, uint16_t position, struct vhu_ring_config *ret)
{
    struct vhu_ring *ring;

    guest_create(&guest);
    *ret = guest_ring(&guest, features | FEATURE(RING_PACKED), NUM, position);
    CHECK_EQUAL(vhu_ring_create(guest.mem, ret, &ring), 0);
    return ring;
}

static void stop(struct vhu_ring *ring)
{
    vhu_ring_destroy(ring);
    guest_destroy(&guest);
}

static void run_row(const struct row *row, uint16_t position)
{
    struct vhu_ring_config config;
    struct vhu_ring *ring = start(row->features, position, &config);
    struct packed_cursor cursor = {config.state.avail, config.state.avail_wrap};
    struct vhu_chain chain;
    uint64_t value;

    for (int i = 0; i < 3; i++)
        put((struct desc *)guest_at(&guest, TABLES) + i, &row->table[i], 0);
    for (int i = 0; i < NUM; i++) {
        put((struct desc *)config.desc + cursor.offset, &row->desc[i],
            packed_avail_flags(cursor.wrap));
        packed_advance(&cursor, NUM, 1);
        if (!(row->desc[i].flags & N))
            break;
    }
    int rc = vhu_ring_pop(ring, iov, &chain);
    CHECK_EQUAL(vhu_ring_fault(ring, &value), row->fault);
    if (row->fault) {
        CHECK_EQUAL(rc, -EPROTO);
        if (position == WRAP_BIT) /* in other laps the flags in a value differ */
            CHECK_EQUAL(value, row->value);
        CHECK_EQUAL(vhu_ring_pop(ring, iov, &chain), -EPROTO);
    } else {
        struct vhu_ring_state state;

        CHECK_EQUAL(rc, 1);
        CHECK_EQUAL(chain.id, row->id);
        CHECK_EQUAL(chain.slots, row->slots);
        CHECK_EQUAL(chain.readable, row->readable);
        CHECK_EQUAL(chain.writable, row->writable);
        CHECK_EQUAL(chain.readable_bytes + chain.writable_bytes, row->bytes);
        vhu_ring_state(ring, &state);
        CHECK_EQUAL(state.avail, cursor.offset);
        CHECK_EQUAL(state.avail_wrap, cursor.wrap);
    }
    stop(ring);
}

static void every_chain_is_taken_whole_or_breaks_the_ring_with_its_rule(void)
{
    const uint16_t positions[] = {0, WRAP_BIT, NUM - 2, (NUM - 2) | WRAP_BIT};

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (size_t j = 0; j < sizeof(positions) / sizeof(positions[0]); j++) {
            int before = check_failures;

            run_row(&rows[i], positions[j]);
            if (check_failures > before)
                fprintf(stderr, "    in: %s, at %#x\n", rows[i].name, positions[j]);
        }
    }
}

static void only_the_flags_of_this_lap_make_a_descriptor_available(void)
{
    for (int flags = 0; flags < 4; flags++) {
        for (int wrap = 0; wrap < 2; wrap++) {
            struct vhu_ring_config config;
            struct vhu_ring *ring = start(0, wrap ? WRAP_BIT : 0, &config);
            struct desc *desc = config.desc;
            struct vhu_chain chain;
            uint16_t bits = (flags & 1 ? DESC_AVAIL : 0) | (flags & 2 ? DESC_USED : 0);

            desc->packed.flags = bits;
            CHECK_EQUAL(vhu_ring_pop(ring, iov, &chain), bits == (wrap ? DESC_AVAIL : DESC_USED));
            stop(ring);
        }
    }
}

static void what_is_in_flight_is_not_made_available_again(void)
{
    const struct {
        uint16_t slots[2], ids[2];
        enum vhu_fault fault;
    } cases[] = {
        {{1, 1}, {2, 2}, VHU_FAULT_IN_FLIGHT},
        {{3, 3}, {0, 1}, VHU_FAULT_AVAIL_JUMP}, /* six slots of five */
        {{3, 2}, {0, 1}, VHU_FAULT_NONE},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vhu_ring_config config;
        struct vhu_ring *ring = start(0, WRAP_BIT, &config);
        struct packed_cursor cursor = {0, true};
        struct vhu_chain chain;
        uint64_t value;
        int rc = 0;

        for (int j = 0; j < 2; j++) {
            for (uint16_t slot = 0; slot < cases[i].slots[j]; slot++) {
                bool more = slot + 1 < cases[i].slots[j];

                ((struct desc *)config.desc)[cursor.offset].packed.id = cases[i].ids[j];
                ((struct desc *)config.desc)[cursor.offset].packed.flags =
                    packed_avail_flags(cursor.wrap) | (more ? N : 0);
                packed_advance(&cursor, NUM, 1);
            }
            rc = vhu_ring_pop(ring, iov, &chain);
            CHECK(j == 1 || rc == 1);
        }
        CHECK_EQUAL(rc, cases[i].fault ? -EPROTO : 1);
        CHECK_EQUAL(vhu_ring_fault(ring, &value), cases[i].fault);
        stop(ring);
    }
}

static void a_batch_becomes_visible_with_its_first_descriptor(void)
{
    struct vhu_ring_config config;
    struct vhu_ring *ring = start(0, WRAP_BIT | (NUM - 1), &config);
    struct desc *desc = config.desc;
    struct vhu_ring_state state;
    struct vhu_chain chain;

    desc[NUM - 1].packed = (typeof(desc->packed)){.id = 3, .flags = DESC_AVAIL};
    desc[0].packed = (typeof(desc->packed)){.id = 1, .flags = DESC_USED};
    for (int i = 0; i < 2; i++) {
        CHECK_EQUAL(vhu_ring_pop(ring, iov, &chain), 1);
        CHECK_EQUAL(vhu_ring_push(ring, &chain, i ? 0 : 700), 0);
    }
    CHECK_EQUAL(desc[NUM - 1].packed.flags, DESC_AVAIL); /* held back */
    vhu_ring_state(ring, &state);
    CHECK_EQUAL(state.used, NUM - 1);
    CHECK(vhu_ring_publish(ring));
    CHECK_EQUAL(desc[NUM - 1].packed.flags, DESC_AVAIL | DESC_USED | W);
    CHECK_EQUAL(desc[NUM - 1].packed.length, 700);
    CHECK_EQUAL(desc[NUM - 1].packed.id, 3);
    CHECK_EQUAL(desc[0].packed.flags, 0); /* used in the lap of wrap 0, nothing written */
    CHECK_EQUAL(desc[0].packed.id, 1);
    vhu_ring_state(ring, &state);
    CHECK_EQUAL(state.used, 1);
    CHECK_EQUAL(state.used_wrap, 0);
    CHECK(!vhu_ring_publish(ring));
    stop(ring);
}

static void calls_follow_the_drivers_wish(void)
{
    const struct {
        uint64_t features;
        uint16_t place, flags;
        bool want;
    } wishes[] = {
        {0, 0, EVENT_ENABLE, true},
        {0, 0, EVENT_DISABLE, false},
        {0, 0, EVENT_DESC, true}, /* makes no sense without the event index */
        {0, 0, 3, true},
        {0, 0, 0xfffc | EVENT_DISABLE, false},
        {FEATURE(EVENT_IDX), (NUM - 1) | WRAP_BIT, EVENT_DESC, true},
        {FEATURE(EVENT_IDX), 0, EVENT_DESC, true},
        {FEATURE(EVENT_IDX), 1, EVENT_DESC, false},
        {FEATURE(EVENT_IDX), (NUM - 2) | WRAP_BIT, EVENT_DESC, false},
        {FEATURE(EVENT_IDX), WRAP_BIT, EVENT_DESC, false},
        {FEATURE(EVENT_IDX), NUM, EVENT_DESC, true}, /* no such place */
        {FEATURE(EVENT_IDX), 0x7fff, EVENT_DESC, true},
        {FEATURE(EVENT_IDX), 1, 3, true},
    };

    for (size_t i = 0; i < sizeof(wishes) / sizeof(wishes[0]); i++) {
        struct vhu_ring_config config;
        struct vhu_ring *ring = start(wishes[i].features, WRAP_BIT | (NUM - 1), &config);
        struct desc *desc = config.desc;
        union packed_event *event = config.driver;
        struct vhu_chain chain;

        event->place = wishes[i].place;
        event->flags = wishes[i].flags;
        desc[NUM - 1].packed.flags = DESC_AVAIL;
        desc[0].packed = (typeof(desc->packed)){.id = 1, .flags = DESC_USED};
        for (int j = 0; j < 2; j++) {
            CHECK_EQUAL(vhu_ring_pop(ring, iov, &chain), 1);
            CHECK_EQUAL(vhu_ring_push(ring, &chain, 0), 0);
        }
        CHECK_EQUAL(vhu_ring_publish(ring), wishes[i].want);
        if (check_failures)
            fprintf(stderr, "    in wish %zu\n", i);
        stop(ring);
    }
}

static void kicks_are_asked_for_and_refused(void)
{
    for (int event_idx = 0; event_idx < 2; event_idx++) {
        struct vhu_ring_config config;
        struct vhu_ring *ring = start(event_idx ? FEATURE(EVENT_IDX) : 0, WRAP_BIT | 3, &config);
        union packed_event *event = config.device;

        vhu_ring_kick_disable(ring);
        CHECK_EQUAL(event->flags, EVENT_DISABLE);
        CHECK(!vhu_ring_kick_enable(ring));
        CHECK_EQUAL(event->flags, event_idx ? EVENT_DESC : EVENT_ENABLE);
        CHECK_EQUAL(event->place, event_idx ? WRAP_BIT | 3 : 0);
        ((struct desc *)config.desc)[3].packed.flags = DESC_AVAIL;
        CHECK(vhu_ring_kick_enable(ring));
        stop(ring);
    }
}

static const struct test tests[] = {
    {"every chain is taken whole or breaks the ring with its rule",
     every_chain_is_taken_whole_or_breaks_the_ring_with_its_rule},
    {"only the flags of this lap make a descriptor available",
     only_the_flags_of_this_lap_make_a_descriptor_available},
    {"what is in flight is not made available again",
     what_is_in_flight_is_not_made_available_again},
    {"a batch becomes visible with its first descriptor",
     a_batch_becomes_visible_with_its_first_descriptor},
    {"calls follow the driver's wish", calls_follow_the_drivers_wish},
    {"kicks are asked for and refused", kicks_are_asked_for_and_refused},
};

CHECK_MAIN(tests)
