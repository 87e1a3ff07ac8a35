/* SPDX-License-Identifier: Apache-2.0
 *
 * The device side of split rings against descriptors that a driver may write, legal and not.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>

#include "check.h"
#include "guest.h"

enum { NUM = 8, N = DESC_NEXT, W = DESC_WRITE, I = DESC_INDIRECT };

static struct guest guest;
static struct iovec iov[2048];

struct entry {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

struct row {
    const char *name;
    uint64_t features;
    struct entry desc[4];
    struct entry table[4]; /* what lies at TABLES ... */
    uint32_t skew;         /* ... and so many bytes behind it */
    enum vhu_fault fault;
    uint64_t value; /* of the fault */
    uint32_t readable, writable;
    uint64_t bytes;
};

#define INDIRECT FEATURE(INDIRECT_DESC)

static const struct row rows[] = {
    {.name = "one readable buffer", .desc = {{BUFFERS, 10, 0, 0}}, .readable = 1, .bytes = 10},
    {.name = "readable, then writable", .desc = {{BUFFERS, 10, N, 1}, {BUFFERS, 7, W, 0}},
     .readable = 1, .writable = 1, .bytes = 17},
    {.name = "next is out of range", .desc = {{BUFFERS, 10, N, NUM}},
     .fault = VHU_FAULT_NEXT, .value = NUM},
    {.name = "next is far out of range", .desc = {{BUFFERS, 10, N, 65535}},
     .fault = VHU_FAULT_NEXT, .value = 65535},
    {.name = "next is not looked at without its flag", .desc = {{BUFFERS, 10, 0, 65535}},
     .readable = 1, .bytes = 10},
    {.name = "loop of one", .desc = {{BUFFERS, 1, N, 0}}, .fault = VHU_FAULT_CHAIN_LENGTH,
     .value = NUM + 1},
    {.name = "loop of two", .desc = {{BUFFERS, 1, N, 1}, {BUFFERS, 1, N, 0}},
     .fault = VHU_FAULT_CHAIN_LENGTH, .value = NUM + 1},
    {.name = "empty buffers contribute nothing, wherever they point",
     .desc = {{0, 0, N, 1}, {BUFFERS, 3, N, 2}, {1, 0, N | W, 3}, {BUFFERS, 4, 0, 0}},
     .readable = 2, .bytes = 7},
    {.name = "an empty readable buffer may follow a writable one",
     .desc = {{BUFFERS, 3, N | W, 1}, {0, 0, N, 2}, {BUFFERS, 4, W, 0}}, .writable = 2, .bytes = 7},
    {.name = "only empty buffers", .desc = {{0, 0, N, 1}, {0, 0, W, 0}}},
    {.name = "readable after writable", .desc = {{BUFFERS, 3, N | W, 1}, {BUFFERS, 4, 0, 0}},
     .fault = VHU_FAULT_DIRECTION, .value = 0},
    {.name = "no region there", .desc = {{4096, 1, 0, 0}},
     .fault = VHU_FAULT_ADDRESS, .value = 4096},
    {.name = "last byte of a region", .desc = {{FAR + REGION_SIZE - 1, 1, W, 0}},
     .writable = 1, .bytes = 1},
    {.name = "one byte past a region", .desc = {{FAR + REGION_SIZE - 1, 2, W, 0}},
     .fault = VHU_FAULT_ADDRESS, .value = FAR + REGION_SIZE - 1},
    {.name = "whole adjacent regions", .desc = {{LOW, REGION_SIZE * 2, 0, 0}}, .readable = 2,
     .bytes = REGION_SIZE * 2},
    {.name = "across an edge and past the next one", .desc = {{HIGH - 1, REGION_SIZE + 2, 0, 0}},
     .fault = VHU_FAULT_ADDRESS, .value = HIGH - 1},
    {.name = "length 0xffffffff", .desc = {{BUFFERS, UINT32_MAX, 0, 0}}, .fault = VHU_FAULT_ADDRESS,
     .value = BUFFERS},
    {.name = "address wraps", .desc = {{UINT64_MAX, 2, 0, 0}}, .fault = VHU_FAULT_ADDRESS,
     .value = UINT64_MAX},
    {.name = "reserved flags are ignored", .desc = {{BUFFERS, 10, 0xfff8, 0}},
     .readable = 1, .bytes = 10},
    {.name = "indirect without the feature", .desc = {{TABLES, 16, I, 0}},
     .table = {{BUFFERS, 1, 0, 0}}, .fault = VHU_FAULT_INDIRECT_FEATURE, .value = I},
    {.name = "indirect", .features = INDIRECT, .desc = {{TABLES, 48, I, 0}},
     .table = {{BUFFERS, 5, N, 2}, {0, 0, 0, 0}, {BUFFERS, 6, W, 0}},
     .readable = 1, .writable = 1, .bytes = 11},
    {.name = "indirect after direct", .features = INDIRECT,
     .desc = {{BUFFERS, 1, N, 1}, {TABLES, 16, I, 0}}, .table = {{BUFFERS, 5, W, 0}},
     .readable = 1, .writable = 1, .bytes = 6},
    {.name = "direction counts across a table", .features = INDIRECT,
     .desc = {{BUFFERS, 1, N | W, 1}, {TABLES, 16, I, 0}}, .table = {{BUFFERS, 5, 0, 0}},
     .fault = VHU_FAULT_DIRECTION, .value = 0},
    {.name = "indirect in indirect", .features = INDIRECT, .desc = {{TABLES, 32, I, 0}},
     .table = {{TABLES, 16, I, 0}}, .fault = VHU_FAULT_INDIRECT_NESTED, .value = I},
    {.name = "indirect with next", .features = INDIRECT, .desc = {{TABLES, 16, I | N, 1}},
     .table = {{BUFFERS, 1, 0, 0}}, .fault = VHU_FAULT_INDIRECT_NEXT, .value = I | N},
    {.name = "empty table", .features = INDIRECT, .desc = {{TABLES, 0, I, 0}},
     .fault = VHU_FAULT_INDIRECT_SIZE, .value = 0},
    {.name = "table of 15 bytes", .features = INDIRECT, .desc = {{TABLES, 15, I, 0}},
     .fault = VHU_FAULT_INDIRECT_SIZE, .value = 15},
    {.name = "table of 17 bytes", .features = INDIRECT, .desc = {{TABLES, 17, I, 0}},
     .fault = VHU_FAULT_INDIRECT_SIZE, .value = 17},
    {.name = "table of 1025 entries", .features = INDIRECT, .desc = {{TABLES, 16400, I, 0}},
     .fault = VHU_FAULT_INDIRECT_SIZE, .value = 16400},
    {.name = "table longer than the ring", .features = INDIRECT, .desc = {{TABLES, 16384, I, 0}},
     .table = {{BUFFERS, 1, 0, 0}}, .readable = 1, .bytes = 1},
    {.name = "table in no region", .features = INDIRECT, .desc = {{4096, 16, I, 0}},
     .fault = VHU_FAULT_INDIRECT_ADDRESS, .value = 4096},
    {.name = "table across an edge", .features = INDIRECT, .desc = {{HIGH - 16, 32, I, 0}},
     .fault = VHU_FAULT_INDIRECT_ADDRESS, .value = HIGH - 16},
    {.name = "unaligned table", .features = INDIRECT, .desc = {{TABLES + 5, 16, I, 0}},
     .table = {{BUFFERS, 9, W, 0}}, .skew = 5, .writable = 1, .bytes = 9},
    {.name = "next beyond the table", .features = INDIRECT, .desc = {{TABLES, 32, I, 0}},
     .table = {{BUFFERS, 1, N, 2}}, .fault = VHU_FAULT_NEXT, .value = 2},
    {.name = "loop inside the table", .features = INDIRECT, .desc = {{TABLES, 32, I, 0}},
     .table = {{BUFFERS, 1, N, 1}, {BUFFERS, 1, N, 0}},
     .fault = VHU_FAULT_CHAIN_LENGTH, .value = 3},
};

static struct vhu_ring *start(uint64_t features, uint16_t position, struct vhu_ring_config *ret)
{
    struct vhu_ring *ring;

    guest_create(&guest);
    *ret = guest_ring(&guest, features, NUM, position);
    CHECK_EQUAL(vhu_ring_create(guest.mem, ret, &ring), 0);
    return ring;
}

static void stop(struct vhu_ring *ring)
{
    vhu_ring_destroy(ring);
    guest_destroy(&guest);
}

static void make_available(const struct vhu_ring_config *config, uint16_t position, uint16_t head)
{
    struct split_avail *avail = config->driver;

    avail->ring[position % NUM] = head;
    store_release(&avail->idx, (uint16_t)(position + 1));
}

static void put(uint8_t *place, const struct entry *from)
{
    struct desc desc = {
        .address = from->address,
        .split = {.length = from->length, .flags = from->flags, .next = from->next},
    };

    memcpy(place, &desc, sizeof(desc));
}

static void run_row(const struct row *row)
{
    struct vhu_ring_config config;
    struct vhu_ring *ring = start(row->features, 65535, &config);
    struct vhu_ring_state state;
    struct vhu_chain chain;
    uint64_t value;

    for (int i = 0; i < 4; i++) {
        put((uint8_t *)config.desc + i * sizeof(struct desc), &row->desc[i]);
        put((uint8_t *)guest_at(&guest, TABLES + row->skew) + i * sizeof(struct desc),
            &row->table[i]);
    }
    make_available(&config, 65535, 0);
    int rc = vhu_ring_pop(ring, iov, &chain);
    CHECK_EQUAL(vhu_ring_fault(ring, &value), row->fault);
    vhu_ring_state(ring, &state);
    if (row->fault) {
        CHECK_EQUAL(rc, -EPROTO);
        CHECK_EQUAL(value, row->value);
        CHECK_EQUAL(state.avail, 65535);
        CHECK_EQUAL(vhu_ring_pop(ring, iov, &chain), -EPROTO);
        CHECK(!vhu_ring_kick_enable(ring));
    } else {
        CHECK_EQUAL(rc, 1);
        CHECK_EQUAL(chain.readable, row->readable);
        CHECK_EQUAL(chain.writable, row->writable);
        CHECK_EQUAL(chain.readable_bytes + chain.writable_bytes, row->bytes);
        CHECK_EQUAL(state.avail, 0);
    }
    stop(ring);
}

static void every_chain_is_taken_whole_or_breaks_the_ring_with_its_rule(void)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int before = check_failures;

        run_row(&rows[i]);
        if (check_failures > before)
            fprintf(stderr, "    in: %s\n", rows[i].name);
    }
}

static void the_available_index_may_be_at_most_a_ring_ahead(void)
{
    const struct {
        uint16_t position, index;
        enum vhu_fault fault;
        int pops;
    } jumps[] = {
        {0, NUM, VHU_FAULT_NONE, NUM},         {0, NUM + 1, VHU_FAULT_AVAIL_JUMP, 0},
        {0, 32768, VHU_FAULT_AVAIL_JUMP, 0},   {0, 65535, VHU_FAULT_AVAIL_JUMP, 0},
        {65534, 3, VHU_FAULT_NONE, 5},         {65534, NUM, VHU_FAULT_AVAIL_JUMP, 0},
    };

    for (size_t i = 0; i < sizeof(jumps) / sizeof(jumps[0]); i++) {
        struct vhu_ring_config config;
        struct vhu_ring *ring = start(0, jumps[i].position, &config);
        struct split_avail *avail = config.driver;
        struct vhu_chain chain;
        uint64_t value;
        int pops = 0;

        for (uint16_t head = 0; head < NUM; head++)
            avail->ring[(jumps[i].position + head) % NUM] = head;
        store_release(&avail->idx, jumps[i].index);
        while (vhu_ring_pop(ring, iov, &chain) == 1)
            pops++;
        CHECK_EQUAL(pops, jumps[i].pops);
        CHECK_EQUAL(vhu_ring_fault(ring, &value), jumps[i].fault);
        stop(ring);
    }
}

static void a_head_is_below_the_ring_size_and_not_in_flight(void)
{
    struct vhu_ring_config config;
    struct vhu_ring *ring = start(0, 0, &config);
    struct vhu_chain chain;
    uint64_t value;

    make_available(&config, 0, 3);
    CHECK_EQUAL(vhu_ring_pop(ring, iov, &chain), 1);
    make_available(&config, 1, 3);
    CHECK_EQUAL(vhu_ring_pop(ring, iov, &chain), -EPROTO);
    CHECK_EQUAL(vhu_ring_fault(ring, &value), VHU_FAULT_IN_FLIGHT);
    CHECK_EQUAL(vhu_ring_push(ring, &chain, 0), -EINVAL);
    chain.id = 3;
    /* what was popped before can still be given back */
    CHECK_EQUAL(vhu_ring_push(ring, &chain, 9), 0);
    CHECK_EQUAL(vhu_ring_push(ring, &chain, 9), -EINVAL);
    chain.id = NUM;
    CHECK_EQUAL(vhu_ring_push(ring, &chain, 9), -EINVAL);
    CHECK(vhu_ring_publish(ring));
    stop(ring);

    ring = start(0, 0, &config);
    make_available(&config, 0, NUM);
    CHECK_EQUAL(vhu_ring_pop(ring, iov, &chain), -EPROTO);
    CHECK_EQUAL(vhu_ring_fault(ring, &value), VHU_FAULT_HEAD);
    CHECK_EQUAL(value, NUM);
    stop(ring);
}

static void a_chain_in_too_many_pieces_breaks_the_ring(void)
{
    struct vhu_ring_config config;
    struct vhu_ring *ring = start(INDIRECT, 0, &config);
    struct desc *table = guest_at(&guest, TABLES), *desc = config.desc;
    struct vhu_chain chain;
    uint64_t value;

    *desc = (struct desc){TABLES, .split = {.length = 1024 * sizeof(*table), .flags = I}};
    for (uint16_t i = 0; i < 1024; i++) /* each crosses from LOW into HIGH */
        table[i] = (struct desc){HIGH - 1, .split = {2, i < 1023 ? N : 0, (uint16_t)(i + 1)}};
    make_available(&config, 0, 0);
    CHECK_EQUAL(vhu_ring_iov_limit(ring), 1024 + 512);
    CHECK_EQUAL(vhu_ring_pop(ring, iov, &chain), -EPROTO);
    CHECK_EQUAL(vhu_ring_fault(ring, &value), VHU_FAULT_FRAGMENTED);
    stop(ring);
}

static void a_configuration_is_checked(void)
{
    struct vhu_ring_config good, config;
    struct vhu_ring *ring;

    guest_create(&guest);
    good = guest_ring(&guest, 0, NUM, 0);
#define REFUSED(bits, change)                                               \
    do {                                                                    \
        config = good;                                                      \
        config.features = bits;                                             \
        config.change;                                                      \
        CHECK_EQUAL(vhu_ring_create(guest.mem, &config, &ring), -EINVAL);   \
    } while (0)
    REFUSED(0, num = 0);
    REFUSED(0, num = 3);
    REFUSED(0, num = 65536);
    REFUSED(0, desc = NULL);
    REFUSED(0, desc = (uint8_t *)good.desc + 8);
    REFUSED(0, driver = (uint8_t *)good.driver + 1);
    REFUSED(0, device = (uint8_t *)good.device + 2);
    REFUSED(0, state.avail = NUM + 1);
    REFUSED(0, state.used = 1);
    REFUSED(FEATURE(RING_PACKED), num = 32769);
    REFUSED(FEATURE(RING_PACKED), state.avail = NUM);
    REFUSED(FEATURE(RING_PACKED), state.used = NUM);
    REFUSED(FEATURE(RING_PACKED), state.avail_wrap = 2);
    REFUSED(FEATURE(RING_PACKED), driver = (uint8_t *)good.driver + 2);
    guest_destroy(&guest);
}

static void a_moved_ring_goes_on_where_it_was(void)
{
    struct vhu_ring_config config;
    struct vhu_ring *ring = start(0, 5, &config);
    struct vhu_chain chain;
    struct vhu_mem *mem;

    CHECK_EQUAL(vhu_mem_create(&guest.regions[0], 1, &mem), 0);
    CHECK_EQUAL(vhu_ring_move(ring, mem, config.desc, config.driver, NULL), -EINVAL);
    CHECK_EQUAL(vhu_mem_pins(mem), 0);
    CHECK_EQUAL(vhu_ring_move(ring, mem, config.desc, config.driver, config.device), 0);
    CHECK_EQUAL(vhu_mem_pins(mem), 1);
    CHECK_EQUAL(vhu_mem_pins(guest.mem), 0);
    *(struct desc *)config.desc = (struct desc){FAR, .split = {.length = 1}};
    make_available(&config, 5, 0);
    CHECK_EQUAL(vhu_ring_pop(ring, iov, &chain), -EPROTO); /* FAR is no longer there */
    vhu_ring_destroy(ring);
    vhu_mem_unref(mem);
    guest_destroy(&guest);
}

static void calls_follow_the_drivers_wish(void)
{
    const struct {
        uint64_t features;
        uint16_t flags, used_event;
        bool want;
    } wishes[] = {
        {0, 0, 0, true},
        {0, NO_NOTIFY, 0, false},
        {FEATURE(EVENT_IDX), NO_NOTIFY, 65535, true}, /* flags do not count then */
        {FEATURE(EVENT_IDX), 0, 0, true},
        {FEATURE(EVENT_IDX), 0, 1, false},
        {FEATURE(EVENT_IDX), 0, 65534, false},
        {FEATURE(EVENT_IDX), 0, 32768, false},
    };

    for (size_t i = 0; i < sizeof(wishes) / sizeof(wishes[0]); i++) {
        struct vhu_ring_config config;
        struct vhu_ring *ring = start(wishes[i].features, 65535, &config);
        struct split_avail *avail = config.driver;
        struct vhu_chain chain;

        avail->flags = wishes[i].flags;
        *split_used_event(avail, NUM) = wishes[i].used_event;
        CHECK(!vhu_ring_publish(ring));
        for (uint16_t head = 0; head < 2; head++) {
            make_available(&config, 65535 + head, head);
            CHECK_EQUAL(vhu_ring_pop(ring, iov, &chain), 1);
            CHECK_EQUAL(vhu_ring_push(ring, &chain, 100 + head), 0);
        }
        CHECK_EQUAL(vhu_ring_publish(ring), wishes[i].want);
        const struct split_used *used = config.device;
        CHECK_EQUAL(used->idx, 1);
        CHECK_EQUAL(used->ring[NUM - 1].length, 100);
        CHECK_EQUAL(used->ring[0].id, 1);
        stop(ring);
    }
}

static void kicks_are_asked_for_and_refused(void)
{
    for (int event_idx = 0; event_idx < 2; event_idx++) {
        struct vhu_ring_config config;
        struct vhu_ring *ring = start(event_idx ? FEATURE(EVENT_IDX) : 0, 0, &config);
        struct split_used *used = config.device;
        uint16_t *event = split_avail_event(used, NUM);

        vhu_ring_kick_disable(ring);
        CHECK_EQUAL(used->flags, event_idx ? 0 : NO_NOTIFY);
        CHECK_EQUAL(*event, event_idx ? 65535 : 0);
        CHECK(!vhu_ring_kick_enable(ring));
        CHECK_EQUAL(used->flags, 0);
        CHECK_EQUAL(*event, 0);
        make_available(&config, 0, 0);
        CHECK(vhu_ring_kick_enable(ring));
        stop(ring);
    }
}

static uint32_t flipping; /* whether the hostile thread shall go on */

/* A driver that rewrites descriptors while the device reads them. */
static void *flip(void *argument)
{
    static const uint64_t addresses[] = {
        LOW, HIGH - 8, FAR,    FAR + REGION_SIZE - 1,
        0,   TABLES,   UINT64_MAX - 3, HIGH + REGION_SIZE - 1,
    };
    static const uint32_t lengths[] = {0, 1, 16, 17, 4096, REGION_SIZE, UINT32_MAX, 160};
    struct desc *table = argument;
    uint32_t random = 1;

    while (load_relaxed(&flipping)) {
        random = random * 1664525 + 1013904223;
        struct desc *victim = &table[random >> 29];
        struct desc value = {
            .split = {
                .length = lengths[random >> 8 & 7],
                .flags = random >> 16 & 7,
                .next = random >> 20 & 7,
            },
        };

        store_relaxed(&victim->address, addresses[random >> 12 & 7]);
        store_relaxed(&victim->word, value.word);
    }
    return NULL;
}

static bool lies_in_guest_memory(const struct iovec *entry)
{
    for (int i = 0; i < 3; i++) {
        const uint8_t *start = vhu_region_hva(guest.regions[i]), *from = entry->iov_base;

        if (from >= start && from < start + REGION_SIZE)
            return entry->iov_len <= (uint64_t)(start + REGION_SIZE - from);
    }
    return false;
}

static void descriptors_that_change_under_the_walk_never_lead_outside(void)
{
    struct vhu_ring_config config;
    struct vhu_ring *ring = start(INDIRECT, 0, &config);
    struct split_avail *avail = config.driver;
    struct vhu_chain chain;
    pthread_t thread;
    int popped = 0;

    vhu_ring_destroy(ring);
    store_relaxed(&flipping, 1);
    CHECK_EQUAL(pthread_create(&thread, NULL, flip, config.desc), 0);
    for (int i = 0; i < 50000 || popped == 0; i++) {
        if (i % 1000 == 0)
            sched_yield(); /* on a busy machine the other thread may not have had its turn yet */
        store_relaxed(&avail->ring[0], (uint16_t)(i % NUM));
        store_relaxed(&avail->idx, 1);
        CHECK_EQUAL(vhu_ring_create(guest.mem, &config, &ring), 0);
        if (vhu_ring_pop(ring, iov, &chain) == 1) {
            popped++;
            for (uint32_t j = 0; j < chain.readable + chain.writable; j++)
                CHECK(lies_in_guest_memory(&chain.iov[j]));
        }
        vhu_ring_destroy(ring);
    }
    store_relaxed(&flipping, 0);
    pthread_join(thread, NULL);
    guest_destroy(&guest);
}

static const struct test tests[] = {
    {"every chain is taken whole or breaks the ring with its rule",
     every_chain_is_taken_whole_or_breaks_the_ring_with_its_rule},
    {"the available index may be at most a ring ahead",
     the_available_index_may_be_at_most_a_ring_ahead},
    {"a head is below the ring size and not in flight",
     a_head_is_below_the_ring_size_and_not_in_flight},
    {"a chain in too many pieces breaks the ring", a_chain_in_too_many_pieces_breaks_the_ring},
    {"a configuration is checked", a_configuration_is_checked},
    {"a moved ring goes on where it was", a_moved_ring_goes_on_where_it_was},
    {"descriptors that change under the walk never lead outside",
     descriptors_that_change_under_the_walk_never_lead_outside},
    {"calls follow the driver's wish", calls_follow_the_drivers_wish},
    {"kicks are asked for and refused", kicks_are_asked_for_and_refused},
};

CHECK_MAIN(tests)
