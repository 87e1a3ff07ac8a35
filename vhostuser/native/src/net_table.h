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
    PORT_NONE = 0xFFFF,
};

struct net_bucket {
    uint64_t entry[BUCKET_WAYS]; /* address << 16 | port; 0: free */
} __attribute__((aligned(64)));

struct net_table {
    struct net_bucket *buckets;
    uint32_t *seen;     /* the second in which each entry was last heard of */
    uint32_t ageing_s;
    uint32_t now_s;     /* as some worker last looked at the clock */
};

/* Addresses that were learned at a port. */
struct net_learned {
    uint32_t count; /* may be wrong by as many as there are workers */
    uint32_t most;
};

static inline uint32_t table_hash(uint64_t address)
{
    return (uint32_t)(address * 0x9E3779B97F4A7C15u >> 53) & (TABLE_BUCKETS - 1);
}

#endif
