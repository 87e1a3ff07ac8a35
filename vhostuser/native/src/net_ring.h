/* SPDX-License-Identifier: Apache-2.0
 *
 * Chains of one buffer, which is what nearly all frames come in: taken and given back many at once, with all that a
 * ring is made of in registers. Every check of the general walk is made here, too; what does not pass one is left to
 * vhu_ring_pop, which says what is wrong.
 *
 * What is taken is given back before anything else looks at the ring, so it is never noted as in flight.
 */
#ifndef VHU_NET_RING_H
#define VHU_NET_RING_H

#include "ring.h"
#include "worker.h"

enum taking {
    TAKEN,      /* as many as were asked for */
    TAKE_EMPTY, /* there are no more */
    TAKE_CHAIN, /* the next one is not such a chain: use vhu_ring_pop */
};

struct ring_buffer {
    uint8_t *hva;
    uint32_t length; /* of the buffer, and then what was written to it */
    uint16_t id;
    uint16_t slots;
};

/* ---- What will be needed soon ------------------------------------------------------------------- */

enum { CACHE_LINE = 64 };

static const uint32_t LINE_DESCS = CACHE_LINE / sizeof(struct desc);
static const uint32_t AHEAD = 2 * LINE_DESCS; /* how many descriptors further on one is asked for */

/* Have a line here that we are going to write to. GCC would ask for one that can be read only, and the store wait for
 * the processor that has it again, unless it knew that this one is of the last ten years; older ones do nothing. */
static inline void prefetch_to_write(const volatile void *line)
{
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" ::"m"(*(const volatile char *)line));
#else
    __builtin_prefetch((const void *)line, 1);
#endif
}

/* The first bytes of a buffer: a header, and a short frame. */
static inline void prefetch_buffer(const uint8_t *hva, bool to_write)
{
    if (to_write) {
        prefetch_to_write(hva);
        prefetch_to_write(hva + CACHE_LINE);
    } else {
        __builtin_prefetch(hva);
        __builtin_prefetch(hva + CACHE_LINE);
    }
}

/* ---- Taking ------------------------------------------------------------------------------------- */

enum { ONE_BUFFER = DESC_NEXT | DESC_INDIRECT | DESC_WRITE /* flags that tell a chain of one, and its direction */ };

/* The buffer of a descriptor, which goes that way (0 or DESC_WRITE), if it lies in one region. */
static inline bool take_buffer(struct vhu_ring *ring, struct span *span, uint64_t address, uint32_t length,
                               uint16_t direction, struct ring_buffer *ret)
{
    uint64_t offset = address - span->start;

    /* a length of 0 is none that fits, and left to the general walk, too */
    if (__builtin_expect(offset < span->size && (uint64_t)length - 1 < span->size - offset, 1)) {
        ret->hva = span->hva + offset;
    } else if (length == 0) {
        return false;
    } else {
        ret->hva = mem_find_range(ring->mem, &ring->hit, address, length);
        if (!ret->hva)
            return false;
        *span = ring->mem->by_gpa[ring->hit];
    }
    ret->length = length;
    ret->slots = 1;
    prefetch_buffer(ret->hva, direction == DESC_WRITE);
    return true;
}

static inline uint32_t split_take(struct vhu_ring *ring, uint16_t direction, uint32_t limit,
                                  struct ring_buffer *ret, enum taking *why)
{
    struct split_device *split = &ring->split;
    const struct desc *table = ring->desc;
    const uint16_t *heads = split->avail->ring;
    uint32_t num = ring->num, count = 0;
    uint16_t next = split->next_avail;
    struct span span = ring->mem->by_gpa[ring->hit];

    if ((uint16_t)(split->seen_avail - next) < limit) {
        uint16_t index = load_acquire(&split->avail->idx);

        if ((uint16_t)(index - next) > num) {
            *why = TAKE_CHAIN;
            return 0;
        }
        split->seen_avail = index;
    }
    uint32_t ready = (uint16_t)(split->seen_avail - next);
    *why = ready < limit ? TAKE_EMPTY : TAKEN;
    for (limit = ready < limit ? ready : limit; count < limit; count++) {
        uint16_t head = load_relaxed(&heads[(next + count) & (num - 1)]);
        struct desc desc;

        if (head < num)
            desc = read_desc(&table[head]);
        if (count % LINE_DESCS == 0 && head + AHEAD < num)
            __builtin_prefetch(&table[head + AHEAD]); /* most drivers use them in their order */
        if (head >= num || (desc.split.flags & ONE_BUFFER) != direction ||
            !take_buffer(ring, &span, desc.address, desc.split.length, direction, &ret[count])) {
            *why = TAKE_CHAIN;
            break;
        }
        ret[count].id = head;
    }
    split->next_avail = (uint16_t)(next + count);
    return count;
}

static inline uint32_t packed_take(struct vhu_ring *ring, uint16_t direction, uint32_t limit,
                                   struct ring_buffer *ret, enum taking *why)
{
    struct packed_device *pack = &ring->pack;
    const struct desc *table = ring->desc;
    struct packed_cursor next = pack->avail;
    const uint16_t turn = DESC_AVAIL | DESC_USED;
    uint16_t ready = packed_avail_flags(next.wrap);
    uint32_t num = ring->num, count = 0, room = num - pack->slots_in_flight;
    struct span span = ring->mem->by_gpa[ring->hit];

    *why = room < limit ? TAKE_CHAIN : TAKEN;
    for (limit = room < limit ? room : limit; count < limit; count++) {
        const struct desc *shared = &table[next.offset];
        struct desc desc = {.word = load_acquire(&shared->word)};

        if ((desc.packed.flags & (turn | ONE_BUFFER)) != (ready | direction)) {
            *why = (desc.packed.flags & turn) == ready ? TAKE_CHAIN : TAKE_EMPTY;
            break;
        }
        if (next.offset % LINE_DESCS == 0 && next.offset + AHEAD < num)
            prefetch_to_write(shared + AHEAD);
        desc.address = load_relaxed(&shared->address);
        if (desc.packed.id >= num || !take_buffer(ring, &span, desc.address, desc.packed.length,
                                                  direction, &ret[count])) {
            *why = TAKE_CHAIN;
            break;
        }
        ret[count].id = desc.packed.id;
        if (++next.offset == num) {
            next = (struct packed_cursor){0, !next.wrap};
            ready = packed_avail_flags(next.wrap);
        }
    }
    pack->avail = next;
    pack->slots_in_flight += count;
    return count;
}

/* Have the buffer at hand that will be taken next, if there is one: that much less is to be waited for when its frame
 * comes. What is read of it here counts for nothing. Drivers of packed rings watch the descriptor, so that nothing is
 * gained there. */
static inline void ring_expect(const struct vhu_ring *ring)
{
    uint32_t mask = ring->num - 1;

    if (ring->packed)
        return;
    uint16_t head = load_relaxed(&ring->split.avail->ring[ring->split.next_avail & mask]);
    uint64_t address = load_relaxed(&ring->desc[head & mask].address);
    const struct span *span = &ring->mem->by_gpa[ring->hit];
    if (address - span->start < span->size)
        prefetch_buffer(span->hva + (address - span->start), true);
}

/* Take the next chains as long as they are one buffer of that direction, up to `limit`. Returns how many; `why`: why
 * not more. */
static inline uint32_t ring_take(struct vhu_ring *ring, uint16_t direction, uint32_t limit,
                                 struct ring_buffer *ret, enum taking *why)
{
    if (__builtin_expect(ring->fault != VHU_FAULT_NONE, 0)) {
        *why = TAKE_CHAIN;
        return 0;
    }
    return ring->packed ? packed_take(ring, direction, limit, ret, why)
                        : split_take(ring, direction, limit, ret, why);
}

/* Undo the last takes. */
static inline void ring_untake(struct vhu_ring *ring, uint32_t count)
{
    if (ring->packed) {
        packed_retreat(&ring->pack.avail, ring->num, count);
        ring->pack.slots_in_flight -= count;
    } else {
        ring->split.next_avail -= (uint16_t)count;
    }
}

/* ---- Giving back -------------------------------------------------------------------------------- */

static inline void split_give(struct vhu_ring *ring, const struct ring_buffer *buffers, uint32_t count,
                              bool written)
{
    struct split_used_entry *entries = ring->split.used->ring;
    uint32_t mask = ring->num - 1;
    uint16_t next = ring->split.next_used;

    for (uint32_t i = 0; i < count; i++) {
        struct split_used_entry *entry = &entries[(next + i) & mask];

        store_relaxed(&entry->id, buffers[i].id);
        store_relaxed(&entry->length, written ? buffers[i].length : 0);
    }
    ring->split.next_used = (uint16_t)(next + count);
}

static inline uint64_t packed_used_word(uint16_t id, uint16_t flags, uint32_t written)
{
    struct desc used = {.packed = {.length = written, .id = id, .flags = flags}};

    return used.word;
}

/* The first one makes all of them visible: it is kept back until they are published. */
static inline void packed_give(struct vhu_ring *ring, const struct ring_buffer *buffers, uint32_t count,
                               bool written)
{
    struct packed_device *pack = &ring->pack;
    struct desc *table = ring->desc;
    struct packed_cursor next = pack->used;
    uint16_t flags = packed_used_flags(next.wrap) | (written ? DESC_WRITE : 0);
    uint32_t num = ring->num, slots = 0, kept = pack->pushed_slots == 0 ? 0 : UINT32_MAX;

    for (uint32_t i = 0; i < count; i++) {
        uint64_t word = packed_used_word(buffers[i].id, flags, written ? buffers[i].length : 0);

        if (i == kept)
            pack->first_word = word;
        else
            store_relaxed(&table[next.offset].word, word);
        slots += buffers[i].slots;
        next.offset += buffers[i].slots;
        if (next.offset >= num) {
            next = (struct packed_cursor){(uint16_t)(next.offset - num), !next.wrap};
            flags ^= DESC_AVAIL | DESC_USED;
        }
    }
    pack->used = next;
    pack->pushed_slots += slots;
    pack->slots_in_flight -= slots;
}

/* Give back what was taken, or popped as chains of so many slots, in that order. */
static inline void ring_give(struct vhu_ring *ring, const struct ring_buffer *buffers, uint32_t count,
                             bool written)
{
    if (ring->packed)
        packed_give(ring, buffers, count, written);
    else
        split_give(ring, buffers, count, written);
}

/* As ring_give, for a queue that may have been told to misbehave. */
static inline void net_give(struct vhu_queue *queue, struct ring_buffer *buffers, uint32_t count,
                            bool written)
{
    if (__builtin_expect(load_relaxed(&queue->mischief[VHU_MISCHIEF_WRONG_IDS]) > 0, 0)) {
        for (uint32_t i = 0; i < count; i++) {
            if (vhu_queue_misbehaves(queue, VHU_MISCHIEF_WRONG_IDS))
                buffers[i].id = (uint16_t)queue->ring->num;
        }
    }
    ring_give(queue->ring, buffers, count, written);
}

#endif
