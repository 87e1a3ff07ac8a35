/* SPDX-License-Identifier: Apache-2.0
 *
 * What lies in the shared memory of a virtqueue (VIRTIO 1.2, sections 2.7 and 2.8), for both roles.
 */
#ifndef VHU_LAYOUT_H
#define VHU_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "atomic.h"

enum virtio_feature {
    VIRTIO_F_INDIRECT_DESC = 28,
    VIRTIO_F_EVENT_IDX = 29,
    VIRTIO_F_RING_PACKED = 34,
    VIRTIO_F_IN_ORDER = 35,
};

static inline bool has_feature(uint64_t features, enum virtio_feature number)
{
    return features >> number & 1;
}

enum desc_flag {
    DESC_NEXT = 1 << 0,
    DESC_WRITE = 1 << 1,
    DESC_INDIRECT = 1 << 2,
    DESC_AVAIL = 1 << 7, /* packed only, as is the next one */
    DESC_USED = 1 << 15,
};

enum {
    RING_NUM_MAX = 32768,
    NO_NOTIFY = 1,      /* split: flags of the available and of the used ring */
    EVENT_ENABLE = 0,   /* packed: flags of an event suppression area */
    EVENT_DISABLE = 1,
    EVENT_DESC = 2,
    EVENT_MASK = 3,
    WRAP_BIT = 1 << 15, /* packed: the wrap counter beside an offset */
};

/* A descriptor of either layout: the last 8 bytes differ, and are read and written as one. */
struct desc {
    uint64_t address;
    union {
        uint64_t word;
        struct {
            uint32_t length;
            uint16_t flags;
            uint16_t next;
        } split;
        struct {
            uint32_t length;
            uint16_t id;
            uint16_t flags;
        } packed;
    };
};

struct split_avail {
    uint16_t flags;
    uint16_t idx;
    uint16_t ring[]; /* num heads, then used_event */
};

struct split_used_entry {
    uint32_t id;
    uint32_t length;
};

struct split_used {
    uint16_t flags;
    uint16_t idx;
    struct split_used_entry ring[]; /* num entries, then avail_event */
};

/* An event suppression area; both halves are read at once. */
union packed_event {
    uint32_t word;
    struct {
        uint16_t place; /* offset, wrap counter in bit 15 */
        uint16_t flags;
    };
};

_Static_assert(sizeof(struct desc) == 16, "ABI of a descriptor");
_Static_assert(sizeof(struct split_used_entry) == 8, "ABI of a used entry");
_Static_assert(sizeof(union packed_event) == 4, "ABI of an event suppression area");

/* A descriptor of a ring's own table, which is aligned. Each byte is read once. */
static inline struct desc read_desc(const struct desc *shared)
{
    return (struct desc){
        .address = load_relaxed(&shared->address),
        .word = load_relaxed(&shared->word),
    };
}

/* A descriptor of an indirect table, which may lie anywhere. The barrier keeps the compiler from
 * going back to the shared bytes instead of using the copy. */
static inline struct desc read_indirect_desc(const uint8_t *table, uint32_t index)
{
    const uint8_t *from = table + (uint64_t)index * sizeof(struct desc);
    struct desc copy;

    if (__builtin_expect((uintptr_t)from % _Alignof(struct desc) == 0, 1))
        return read_desc((const struct desc *)from);
    memcpy(&copy, from, sizeof(copy));
    __asm__ volatile("" : "+m"(copy));
    return copy;
}

static inline uint16_t *split_used_event(struct split_avail *avail, uint32_t num)
{
    return &avail->ring[num];
}

static inline uint16_t *split_avail_event(struct split_used *used, uint32_t num)
{
    return (uint16_t *)&used->ring[num];
}

/* VIRTIO 1.2, 2.7.10: whether an index that moved from `old` to `new` passed `event`. */
static inline bool event_passed(uint16_t event, uint16_t new, uint16_t old)
{
    return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

/* A place in a packed ring. */
struct packed_cursor {
    uint16_t offset;
    bool wrap;
};

static inline void packed_advance(struct packed_cursor *cursor, uint32_t num, uint32_t slots)
{
    uint32_t offset = cursor->offset + slots;

    if (offset >= num) {
        offset -= num;
        cursor->wrap = !cursor->wrap;
    }
    cursor->offset = (uint16_t)offset;
}

static inline void packed_retreat(struct packed_cursor *cursor, uint32_t num, uint32_t slots)
{
    uint32_t offset = cursor->offset + num - slots;

    if (offset >= num)
        offset -= num;
    else
        cursor->wrap = !cursor->wrap;
    cursor->offset = (uint16_t)offset;
}

/* Whether the peer that wrote `shared` wants to hear of the `slots` slots before `now`. An area
 * that makes no sense asks for every notification: too many harm nobody, too few would hang the
 * peer. */
static inline bool packed_event_wanted(const union packed_event *shared, bool event_idx,
                                       uint32_t num, struct packed_cursor now, uint32_t slots)
{
    union packed_event event = {.word = load_relaxed(&shared->word)};
    uint16_t mode = event.flags & EVENT_MASK, offset = event.place & (WRAP_BIT - 1);

    if (mode == EVENT_DISABLE)
        return false;
    if (mode != EVENT_DESC || !event_idx || offset >= num)
        return true;
    bool this_lap = (bool)(event.place & WRAP_BIT) == now.wrap;
    return event_passed((uint16_t)(offset - (this_lap ? 0 : num)), now.offset,
                        (uint16_t)(now.offset - slots));
}

static inline void packed_event_enable(union packed_event *shared, bool event_idx,
                                       struct packed_cursor next)
{
    union packed_event event = {
        .place = (uint16_t)(next.offset | (next.wrap ? WRAP_BIT : 0)),
        .flags = EVENT_DESC,
    };

    if (event_idx)
        store_relaxed(&shared->word, event.word);
    else
        store_relaxed(&shared->flags, EVENT_ENABLE);
}

static inline void packed_event_disable(union packed_event *shared)
{
    store_relaxed(&shared->flags, EVENT_DISABLE);
}

/* The flags that make a packed descriptor available, or used, in the lap of `wrap`. */
static inline uint16_t packed_avail_flags(bool wrap)
{
    return wrap ? DESC_AVAIL : DESC_USED;
}

static inline uint16_t packed_used_flags(bool wrap)
{
    return wrap ? DESC_AVAIL | DESC_USED : 0;
}

static inline bool packed_is_avail(uint16_t flags, bool wrap)
{
    return (flags & (DESC_AVAIL | DESC_USED)) == packed_avail_flags(wrap);
}

static inline bool packed_is_used(uint16_t flags, bool wrap)
{
    return (flags & (DESC_AVAIL | DESC_USED)) == packed_used_flags(wrap);
}

#endif
