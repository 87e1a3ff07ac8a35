/* SPDX-License-Identifier: Apache-2.0
 *
 * back_end.h - what ideal back-ends share: their sockets, guest memory, and rings that are given back.
 *
 * They check nothing, translate nothing but the rings' own addresses, and never sleep while a ring runs, so what
 * a load generator reaches against them is that generator's own ceiling. One thread looks at all rings in
 * turn, and at the sockets once in a while.
 */
#ifndef BACK_END_H
#define BACK_END_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "wire.h"

enum { MOST_REGIONS = 512, MOST_RINGS = 2 };

struct region {
    uint64_t uva, size;
    char *at;
    size_t mapped;
};

struct split_desc {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

struct packed_desc {
    uint64_t address;
    uint32_t length;
    uint16_t id;
    _Atomic uint16_t flags;
};

struct split_avail {
    _Atomic uint16_t flags, idx;
    uint16_t ring[];
};

struct split_used {
    _Atomic uint16_t flags, idx;
    struct {
        uint32_t id, length;
    } ring[];
};

struct event {
    _Atomic uint16_t place, flags;
};

struct ring {
    uint64_t features;
    uint64_t uva[3]; /* where the front-end has its areas: descriptors, driver, device */
    uint32_t num;
    int call;
    bool running;
    uint16_t next, renewed;
    bool wrap;
    union {
        struct split_desc *desc;
        struct packed_desc *packed;
    };
    union {
        struct split_avail *avail;
        struct event *driver;
    };
    union {
        struct split_used *used;
        struct event *device;
    };
};

/* A connection, one device. */
struct served {
    int listener, connection;
    uint64_t features;
    struct region regions[MOST_REGIONS];
    int count;
    struct ring rings[MOST_RINGS];
};

struct back_end {
    uint64_t features, protocol_features;
    uint32_t rings;   /* of a device */
    uint64_t sectors; /* of a disk; else 0 */
    /* Look at all devices once; those whose rings do not run are left alone. */
    void (*pass)(struct served *served, int count);
};

/* Serve `count` sockets until somebody ends the process. */
_Noreturn void back_end_run(const struct back_end *back_end, char *const *paths, int count);

/* Tell the driver that it need not kick. */
void ring_begin(struct ring *ring);
/* How many chains are available, or `most`. */
uint32_t ring_ready(const struct ring *ring, uint32_t most);
/* Give back up to `most` chains, `length` bytes of each written. Returns how many. */
uint32_t ring_flip(struct ring *ring, uint32_t most, uint32_t length);

#endif
