/* SPDX-License-Identifier: Apache-2.0
 *
 * A driver that goes on writing to its ring while the device reads it. Whatever comes of it, no
 * buffer ever lies outside guest memory. An argument says how many changes each ring shall
 * see at least.
 */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "atomic.h"
#include "check.h"
#include "guest.h"

enum { NUM = 16, TABLE = 8, ROUNDS = 20000, FLIPS_A_LOOK = 64, PATIENCE = 64 };

static uint64_t changes;

/* What two threads share besides the guest's memory. */
struct race {
    struct guest guest;
    struct vhu_ring_config config;
    bool packed;
    uint32_t position; /* the device's next available index */
    uint32_t over;
    uint64_t flips;
};

struct tally {
    uint64_t chains, faults, empty;
};

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* One of the addresses, lengths and flags that are right, or nearly. */
static struct desc any_desc(uint64_t random, bool packed)
{
    static const uint64_t addresses[] = {
        BUFFERS, LOW + REGION_SIZE - 8, HIGH + REGION_SIZE - 8, FAR + REGION_SIZE - 1,
        FAR, TABLES, UINT64_MAX - 7, LOW - 1,
    };
    static const uint32_t lengths[] = {16, 8, 16 * TABLE, 9, 0, 16, REGION_SIZE + 64, UINT32_MAX};
    static const uint16_t flags[] = {0, DESC_WRITE, DESC_NEXT, DESC_NEXT | DESC_WRITE,
                                     DESC_INDIRECT, DESC_NEXT, 0, DESC_WRITE};
    struct desc desc = {.address = addresses[random & 7]};
    uint16_t flag = flags[random >> 3 & 7], low = (uint16_t)(random >> 6 & 31);

    if (random >> 11 & 1) /* half of them are as they should be */
        desc.address = BUFFERS + (random >> 12 & 0xff);
    uint32_t length = lengths[random >> 20 & (random >> 11 & 1 ? 1 : 7)];
    if (packed) {
        desc.packed.length = length;
        desc.packed.id = low % (NUM + (random >> 25 & 1));
        desc.packed.flags = flag | (uint16_t)((random >> 26 & 1 ? DESC_AVAIL : 0) |
                                              (random >> 27 & 1 ? DESC_USED : 0));
    } else {
        desc.split.length = length;
        desc.split.flags = flag;
        desc.split.next = low % (NUM + (random >> 25 & 1));
    }
    return desc;
}

static void flip_desc(struct desc *shared, uint64_t random, bool packed)
{
    struct desc desc = any_desc(random, packed);

    if (random >> 40 & 1)
        store_relaxed(&shared->address, desc.address);
    if (random >> 41 & 1)
        store_relaxed(&shared->word, desc.word);
}

static void flip_avail(struct race *race, uint64_t random)
{
    static const uint16_t ahead[] = {0, 1, 2, 5, NUM - 1, NUM, 1, NUM + 1};
    struct split_avail *avail = race->config.driver;
    uint16_t index = (uint16_t)(load_relaxed(&race->position) + ahead[random & 7]);

    store_relaxed(&avail->ring[random >> 3 & (NUM - 1)],
                  (uint16_t)(random >> 8 & (random >> 20 & 7 ? NUM - 1 : 2 * NUM - 1)));
    store_release(&avail->idx, index);
}

static void *write_on(void *argument)
{
    struct race *race = argument;
    struct desc *table = guest_at(&race->guest, TABLES), *ring = race->config.desc;
    uint64_t state = 0x9e3779b97f4a7c15;

    while (!load_relaxed(&race->over)) {
        for (int i = 0; i < FLIPS_A_LOOK; i++) {
            uint64_t random = next_random(&state);

            flip_desc(&ring[random >> 50 & (NUM - 1)], random, race->packed);
            flip_desc(&table[random >> 54 & (TABLE - 1)], random * 31, race->packed);
            if (!race->packed)
                flip_avail(race, random >> 5);
        }
        store_relaxed(&race->flips, race->flips + FLIPS_A_LOOK);
    }
    return NULL;
}

/* Whether a piece lies in one region; its ends are touched. */
static bool is_guest_memory(const struct race *race, const struct iovec *piece)
{
    for (int i = 0; i < 3; i++) {
        uint8_t *region = vhu_region_hva(race->guest.regions[i]);
        uint64_t offset = (uintptr_t)piece->iov_base - (uintptr_t)region;

        if (offset < REGION_SIZE && piece->iov_len <= REGION_SIZE - offset) {
            const uint8_t *bytes = piece->iov_base;

            (void)load_relaxed(&bytes[0]);
            (void)load_relaxed(&bytes[piece->iov_len - 1]);
            return true;
        }
    }
    return false;
}

static void check_chain(const struct race *race, const struct vhu_ring *ring,
                        const struct vhu_chain *chain)
{
    uint64_t bytes[2] = {0, 0};
    bool inside = true;

    for (uint32_t i = 0; i < chain->readable + chain->writable; i++) {
        inside &= is_guest_memory(race, &chain->iov[i]);
        bytes[i >= chain->readable] += chain->iov[i].iov_len;
    }
    CHECK(inside);
    CHECK(chain->readable + chain->writable <= vhu_ring_iov_limit(ring));
    CHECK_EQUAL(chain->readable_bytes, bytes[0]);
    CHECK_EQUAL(chain->writable_bytes, bytes[1]);
    CHECK(chain->id < NUM);
    CHECK(chain->slots >= 1 && chain->slots <= NUM);
}

/* Make every slot available with a good buffer of its own; the writer spoils that soon enough. */
static void mend(const struct race *race)
{
    const struct vhu_ring_state *state = &race->config.state;
    struct split_avail *avail = race->config.driver;
    struct desc *ring = race->config.desc;

    for (uint16_t i = 0; i < NUM; i++) {
        struct desc desc = {.address = BUFFERS + 64 * i};

        if (race->packed) {
            bool wrap = state->avail_wrap ^ (i < state->avail);

            desc.packed.length = 16;
            desc.packed.id = i;
            desc.packed.flags = DESC_WRITE | packed_avail_flags(wrap);
        } else {
            desc.split.length = 16;
            desc.split.flags = DESC_WRITE;
            store_relaxed(&avail->ring[i], i);
        }
        store_relaxed(&ring[i].address, desc.address);
        store_relaxed(&ring[i].word, desc.word);
    }
    if (!race->packed)
        store_release(&avail->idx, (uint16_t)(state->avail + NUM));
}

static struct vhu_ring *begin(struct race *race, struct vhu_ring *broken)
{
    struct vhu_ring *ring = NULL;

    if (broken)
        vhu_ring_state(broken, &race->config.state);
    mend(race);
    vhu_ring_destroy(broken);
    CHECK_EQUAL(vhu_ring_create(race->guest.mem, &race->config, &ring), 0);
    return ring;
}

/* The device: pop, look at what came, push; a ring that broke begins anew where it was. */
static struct tally read_on(struct race *race)
{
    struct vhu_ring *ring = begin(race, NULL);
    struct iovec *iov = calloc(vhu_ring_iov_limit(ring), sizeof(*iov));
    struct tally tally = {0};
    struct vhu_ring_state state;
    struct vhu_chain chain;
    uint64_t seen = 0;

    while ((tally.chains + tally.faults < ROUNDS || load_relaxed(&race->flips) < changes) &&
           check_failures == 0) {
        int rc = vhu_ring_pop(ring, iov, &chain);

        if (rc > 0) {
            check_chain(race, ring, &chain);
            CHECK_EQUAL(vhu_ring_push(ring, &chain, 1), 0);
            (void)vhu_ring_publish(ring);
            vhu_ring_state(ring, &state);
            store_relaxed(&race->position, state.avail);
            tally.chains++;
        } else if (rc < 0) {
            ring = begin(race, ring);
            tally.faults++;
        } else {
            (void)vhu_ring_kick_enable(ring);
            vhu_ring_kick_disable(ring);
            if (++tally.empty % PATIENCE != 0)
                continue;
            if (seen == load_relaxed(&race->flips))
                sched_yield(); /* mended again only when the writer had its turn */
            else
                ring = begin(race, ring);
            seen = load_relaxed(&race->flips);
        }
    }
    vhu_ring_destroy(ring);
    free(iov);
    return tally;
}

static void run(uint64_t features)
{
    struct race race = {.packed = has_feature(features, VIRTIO_F_RING_PACKED)};
    pthread_t writer;

    guest_create(&race.guest);
    race.config = guest_ring(&race.guest, features, NUM, race.packed ? WRAP_BIT : 0);
    CHECK_EQUAL(pthread_create(&writer, NULL, write_on, &race), 0);
    struct tally tally = read_on(&race);
    store_relaxed(&race.over, 1);
    pthread_join(writer, NULL);
    CHECK(tally.chains > 0 && tally.faults > 0 && race.flips > 0);
    printf("# %llu chains, %llu refused, %llu times empty, %llu changes\n",
           (unsigned long long)tally.chains, (unsigned long long)tally.faults,
           (unsigned long long)tally.empty, (unsigned long long)race.flips);
    guest_destroy(&race.guest);
}

static void split(void)
{
    run(FEATURE(EVENT_IDX));
}

static void split_with_tables(void)
{
    run(FEATURE(INDIRECT_DESC));
}

static void packed(void)
{
    run(FEATURE(RING_PACKED) | FEATURE(EVENT_IDX));
}

static void packed_with_tables(void)
{
    run(FEATURE(RING_PACKED) | FEATURE(INDIRECT_DESC));
}

static const struct test tests[] = {
    {"a split ring that changes while it is read stays in guest memory", split},
    {"a split ring with tables that changes while it is read stays in guest memory",
     split_with_tables},
    {"a packed ring that changes while it is read stays in guest memory", packed},
    {"a packed ring with tables that changes while it is read stays in guest memory",
     packed_with_tables},
};

int main(int count, char **arguments)
{
    if (count > 1)
        changes = strtoull(arguments[1], NULL, 10);
    return check_run(tests, sizeof(tests) / sizeof(tests[0]));
}
