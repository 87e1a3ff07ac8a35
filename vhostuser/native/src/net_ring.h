/* SPDX-License-Identifier: Apache-2.0
 *
 * Chains of one buffer, which is what nearly all frames come in: taken and given back without the general walk.
 * All else, and whatever may be wrong, is left to vhu_ring_pop, which says what.
 *
 * What is taken is given back before anything else looks at the ring, so it is never noted as in flight.
 */
#ifndef VHU_NET_RING_H
#define VHU_NET_RING_H

#include "ring.h"

enum taking {
    TAKEN,
    TAKE_EMPTY,
    TAKE_CHAIN, /* not such a chain: use vhu_ring_pop */
};

struct ring_buffer {
    uint8_t *hva;
    uint32_t length;
    uint16_t id;
    uint16_t slots;
};

/* Translate a buffer and check which way it goes. `direction`: 0 or DESC_WRITE. */
static inline enum taking take_buffer(struct vhu_ring *ring, uint64_t address, uint32_t length,
                                      uint16_t flags, uint16_t direction, struct ring_buffer *ret)
{
    if (__builtin_expect(
            (flags & (DESC_NEXT | DESC_INDIRECT | DESC_WRITE)) != direction || length == 0, 0))
        return TAKE_CHAIN;
    ret->hva = mem_find_range(ring->mem, &ring->hit, address, length);
    ret->length = length;
    ret->slots = 1;
    return __builtin_expect(ret->hva != NULL, 1) ? TAKEN : TAKE_CHAIN;
}

static inline enum taking split_take(struct vhu_ring *ring, uint16_t direction,
                                     struct ring_buffer *ret)
{
    struct split_device *split = &ring->split;

    if (split->next_avail == split->seen_avail) {
        uint16_t index = load_acquire(&split->avail->idx);
        uint16_t distance = index - split->next_avail;

        if (distance == 0)
            return TAKE_EMPTY;
        if (distance > ring->num)
            return TAKE_CHAIN;
        split->seen_avail = index;
    }
    uint16_t head = load_relaxed(&split->avail->ring[split->next_avail & (ring->num - 1)]);
    if (head >= ring->num)
        return TAKE_CHAIN;
    struct desc desc = read_desc(&ring->desc[head]);
    ret->id = head;
    enum taking taking =
        take_buffer(ring, desc.address, desc.split.length, desc.split.flags, direction, ret);
    if (taking == TAKEN)
        split->next_avail++;
    return taking;
}

static inline enum taking packed_take(struct vhu_ring *ring, uint16_t direction,
                                      struct ring_buffer *ret)
{
    struct packed_device *pack = &ring->pack;
    const struct desc *shared = &ring->desc[pack->avail.offset];
    struct desc desc = {.word = load_acquire(&shared->word)};

    if (!packed_is_avail(desc.packed.flags, pack->avail.wrap))
        return TAKE_EMPTY;
    if (desc.packed.id >= ring->num || pack->slots_in_flight >= ring->num)
        return TAKE_CHAIN;
    desc.address = load_relaxed(&shared->address);
    ret->id = desc.packed.id;
    enum taking taking =
        take_buffer(ring, desc.address, desc.packed.length, desc.packed.flags, direction, ret);
    if (taking == TAKEN) {
        packed_advance(&pack->avail, ring->num, 1);
        pack->slots_in_flight++;
    }
    return taking;
}

/* Take the next chain, if it is one buffer of that direction. */
static inline enum taking ring_take(struct vhu_ring *ring, uint16_t direction,
                                    struct ring_buffer *ret)
{
    if (__builtin_expect(ring->fault != VHU_FAULT_NONE, 0))
        return TAKE_CHAIN;
    return ring->packed ? packed_take(ring, direction, ret) : split_take(ring, direction, ret);
}

/* Undo the last take. */
static inline void ring_untake(struct vhu_ring *ring)
{
    if (ring->packed) {
        packed_retreat(&ring->pack.avail, ring->num, 1);
        ring->pack.slots_in_flight--;
    } else {
        ring->split.next_avail--;
    }
}

/* Give back what was taken, or popped as a chain of so many slots. */
static inline void ring_give(struct vhu_ring *ring, uint16_t id, uint16_t slots, uint32_t written)
{
    ring->in_flight[id] = 0;
    if (ring->packed)
        packed_push(ring, id, slots, written);
    else
        split_push(ring, id, written);
}

#endif
