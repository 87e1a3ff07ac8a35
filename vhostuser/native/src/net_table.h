/* SPDX-License-Identifier: Apache-2.0
 *
 * Which address lives at which port. Bounded, aged, and read and written by all workers at once: an entry is one
 * word, so that nobody ever sees half of one.
 */
#ifndef VHU_NET_TABLE_H
#define VHU_NET_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "atomic.h"
#include "vhu.h"

enum {
    TABLE_BUCKETS = 2048, /* a power of two */
    BUCKET_WAYS = 8,      /* entries of a bucket: a cache line */
    TABLE_PORTS = 1024,
    PORT_NONE = 0xFFFF,
};

struct net_bucket {
    uint64_t entry[BUCKET_WAYS]; /* address << 16 | port; 0: free */
} __attribute__((aligned(64)));

/* How many addresses a port has in the table, and may have. The count may be wrong by a few for a moment. */
struct net_learned {
    uint32_t count;
    uint32_t most;
};

struct net_table {
    struct net_bucket *buckets;
    uint32_t *seen;              /* the second in which each entry was last heard of */
    struct net_learned *learned; /* by port */
    uint64_t multiplier;         /* random and odd: nobody shall know which addresses share a bucket */
    uint32_t ageing_s;
    uint32_t now_s;              /* as a worker last saw the clock */
    uint32_t losses;             /* entries that a port has lost, to another one or at all: look again */
    uint32_t swept;              /* buckets in which old entries were looked for */
};

int vhu_table_create(uint32_t ageing_s, struct net_table *ret);
void vhu_table_destroy(struct net_table *table);
/* Note that `address` was just heard of at `port`. */
void vhu_table_learn(struct net_table *table, uint64_t address, uint16_t port);
void vhu_table_tick(struct net_table *table, uint32_t now);
void vhu_table_forget(struct net_table *table, uint16_t port);
size_t vhu_table_list(const struct net_table *table, struct vhu_net_address *ret, size_t room);
/* The second it is, on a clock that nobody sets. */
uint32_t table_clock(void);

static inline uint16_t entry_port(uint64_t entry)
{
    return (uint16_t)entry;
}

static inline uint32_t table_bucket(const struct net_table *table, uint64_t address)
{
    return (uint32_t)(address * table->multiplier >> 40) & (TABLE_BUCKETS - 1);
}

/* Where `address` lives, or PORT_NONE. */
static inline uint16_t table_find(const struct net_table *table, uint64_t address)
{
    const struct net_bucket *bucket = &table->buckets[table_bucket(table, address)];

    for (int way = 0; way < BUCKET_WAYS; way++) {
        uint64_t entry = load_relaxed(&bucket->entry[way]);

        if (entry >> 16 == address && entry)
            return entry_port(entry);
    }
    return PORT_NONE;
}

#endif
