/* SPDX-License-Identifier: Apache-2.0
 *
 * Addresses and where they live: learned, moved, aged, forgotten. No lock: see net_table.h.
 */
#include "net_table.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

enum {
    AGEING_S = 300,
    SWEEPS = 16, /* parts of the ageing time in each of which all of the table is looked at */
};

int vhu_table_create(uint32_t ageing_s, struct net_table *ret)
{
    *ret = (struct net_table){.ageing_s = ageing_s ? ageing_s : AGEING_S};
    ret->buckets = aligned_alloc(_Alignof(struct net_bucket), TABLE_BUCKETS * sizeof(struct net_bucket));
    ret->seen = calloc(TABLE_BUCKETS * BUCKET_WAYS, sizeof(*ret->seen));
    ret->learned = calloc(TABLE_PORTS, sizeof(*ret->learned));
    if (!ret->buckets || !ret->seen || !ret->learned) {
        vhu_table_destroy(ret);
        return -ENOMEM;
    }
    for (uint32_t bucket = 0; bucket < TABLE_BUCKETS; bucket++)
        ret->buckets[bucket] = (struct net_bucket){0};
    ret->now_s = table_clock();
    if (getrandom(&ret->multiplier, sizeof(ret->multiplier), GRND_NONBLOCK) < 0)
        ret->multiplier = (uintptr_t)ret->buckets * 0x9E3779B97F4A7C15u;
    ret->multiplier |= 1;
    return 0;
}

void vhu_table_destroy(struct net_table *table)
{
    free(table->buckets);
    free(table->seen);
    free(table->learned);
}

uint32_t table_clock(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)now.tv_sec;
}

/* Replace an entry that still says what it said. */
static bool replace(struct net_table *table, uint64_t *entry, uint64_t was, uint64_t word)
{
    if (!__atomic_compare_exchange_n(entry, &was, word, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        return false;
    if (was)
        __atomic_sub_fetch(&table->learned[entry_port(was)].count, 1, __ATOMIC_RELAXED);
    if (was && (!word || entry_port(was) != entry_port(word)))
        __atomic_add_fetch(&table->losses, 1, __ATOMIC_RELAXED);
    if (word)
        __atomic_add_fetch(&table->learned[entry_port(word)].count, 1, __ATOMIC_RELAXED);
    return true;
}

/* Ways of a bucket that a port has, and the one of them that was heard of least recently. */
static uint32_t ways_of(const struct net_table *table, uint32_t bucket, uint16_t port, uint32_t *ret)
{
    uint32_t count = 0, oldest = 0;

    for (uint32_t way = 0; way < BUCKET_WAYS; way++) {
        uint64_t entry = load_relaxed(&table->buckets[bucket].entry[way]);
        uint32_t age = table->now_s - load_relaxed(&table->seen[bucket * BUCKET_WAYS + way]);

        if (!entry || entry_port(entry) != port)
            continue;
        if (count++ == 0 || age > oldest) {
            oldest = age;
            *ret = way;
        }
    }
    return count;
}

/* Whether a port may have one more address. */
static bool may_grow(const struct net_table *table, uint16_t port)
{
    const struct net_learned *learned = &table->learned[port];

    return load_relaxed(&learned->count) < load_relaxed(&learned->most);
}

/* The way that a new address of `port` gets, BUCKET_WAYS: none. A free one while the port may have more, else its
 * own oldest. In a full bucket a port that has several there loses one: who makes up addresses displaces nobody
 * who has few. */
static uint32_t choose_way(const struct net_table *table, uint32_t bucket, uint16_t port)
{
    uint32_t chosen = BUCKET_WAYS, most = 1, way;

    if (!may_grow(table, port))
        return ways_of(table, bucket, port, &way) > 0 ? way : BUCKET_WAYS;
    for (uint32_t i = 0; i < BUCKET_WAYS; i++) {
        uint64_t entry = load_relaxed(&table->buckets[bucket].entry[i]);

        if (!entry)
            return i;
        uint32_t count = ways_of(table, bucket, entry_port(entry), &way);
        if (count > most || (count > 0 && entry_port(entry) == port && most == 1)) {
            most = count;
            chosen = way;
        }
    }
    return chosen;
}

void vhu_table_learn(struct net_table *table, uint64_t address, uint16_t port)
{
    uint32_t bucket = table_bucket(table, address), now = load_relaxed(&table->now_s);
    uint64_t word = address << 16 | port;

    for (uint32_t way = 0; way < BUCKET_WAYS; way++) {
        uint64_t *entry = &table->buckets[bucket].entry[way];
        uint64_t was = load_relaxed(entry);

        if (was >> 16 != address || !was)
            continue;
        if (was != word && !may_grow(table, port))
            (void)replace(table, entry, was, 0); /* it is no longer there, at least */
        else if (was == word || replace(table, entry, was, word))
            store_relaxed(&table->seen[bucket * BUCKET_WAYS + way], now);
        return;
    }
    uint32_t way = choose_way(table, bucket, port);
    if (way == BUCKET_WAYS)
        return;
    uint64_t *entry = &table->buckets[bucket].entry[way];
    if (replace(table, entry, load_relaxed(entry), word))
        store_relaxed(&table->seen[bucket * BUCKET_WAYS + way], now);
}

static void sweep(struct net_table *table, uint32_t bucket, uint32_t now)
{
    for (uint32_t way = 0; way < BUCKET_WAYS; way++) {
        uint64_t *entry = &table->buckets[bucket].entry[way], was = load_relaxed(entry);
        uint32_t seen = load_relaxed(&table->seen[bucket * BUCKET_WAYS + way]);

        if (was && (int32_t)(now - seen) > (int32_t)table->ageing_s)
            (void)replace(table, entry, was, 0);
    }
}

/* Time has gone on: forget what nobody heard of for long, a part of the table at once. One thread does it. */
void vhu_table_tick(struct net_table *table, uint32_t now)
{
    uint32_t before = load_relaxed(&table->now_s);

    if ((int32_t)(now - before) <= 0 ||
        !__atomic_compare_exchange_n(&table->now_s, &before, now, false, __ATOMIC_RELAXED,
                                     __ATOMIC_RELAXED))
        return;
    uint32_t period = table->ageing_s > SWEEPS ? table->ageing_s / SWEEPS : 1;
    uint64_t part = (uint64_t)(now - before) * ((TABLE_BUCKETS + period - 1) / period);
    uint32_t count = part < TABLE_BUCKETS ? (uint32_t)part : TABLE_BUCKETS;
    uint32_t first = __atomic_fetch_add(&table->swept, count, __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < count; i++)
        sweep(table, (first + i) & (TABLE_BUCKETS - 1), now);
}

void vhu_table_forget(struct net_table *table, uint16_t port)
{
    for (uint32_t bucket = 0; bucket < TABLE_BUCKETS; bucket++) {
        for (uint32_t way = 0; way < BUCKET_WAYS; way++) {
            uint64_t *entry = &table->buckets[bucket].entry[way], was = load_relaxed(entry);

            if (was && entry_port(was) == port)
                (void)replace(table, entry, was, 0);
        }
    }
}

size_t vhu_table_list(const struct net_table *table, struct vhu_net_address *ret, size_t room)
{
    uint32_t now = table_clock();
    size_t count = 0;

    for (uint32_t i = 0; i < TABLE_BUCKETS * BUCKET_WAYS && count < room; i++) {
        uint64_t entry = load_relaxed(&table->buckets[i / BUCKET_WAYS].entry[i % BUCKET_WAYS]);
        uint32_t seen = load_relaxed(&table->seen[i]);

        if (!entry)
            continue;
        for (int byte = 0; byte < 6; byte++)
            ret[count].mac[byte] = (uint8_t)(entry >> (16 + 8 * byte));
        ret[count].port = entry_port(entry);
        ret[count++].age_s = (int32_t)(now - seen) > 0 ? now - seen : 0;
    }
    return count;
}
