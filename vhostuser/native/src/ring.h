/* SPDX-License-Identifier: Apache-2.0
 *
 * The device side of a ring: what both layouts share. split.c and packed.c hold the walkers; ring.c
 * creates, moves and dispatches.
 */
#ifndef VHU_RING_H
#define VHU_RING_H

#include <errno.h>

#include "layout.h"
#include "memory.h"

struct split_device {
    struct split_avail *avail;
    struct split_used *used;
    uint16_t next_avail; /* the entry to pop next */
    uint16_t seen_avail; /* the driver's index when last read, which is when it was reached */
    uint16_t next_used;  /* the entry to push next */
    uint16_t published;  /* the used index that the driver knows */
};

struct packed_device {
    union packed_event *driver_event;
    union packed_event *device_event;
    struct packed_cursor avail;
    struct packed_cursor used;
    struct packed_cursor published; /* where the batch not yet published begins ... */
    uint32_t pushed_slots;          /* ... how many slots it has */
    uint64_t first_word;            /* ... and what makes it visible, written last */
    uint32_t slots_in_flight;
};

struct vhu_ring {
    struct vhu_mem *mem;
    uint32_t hit;
    uint32_t num;
    uint32_t table_limit; /* entries of an indirect table */
    uint32_t iov_limit;
    bool packed;
    bool indirect;
    bool event_idx;
    bool reads_only; /* no buffer is ever written */
    enum vhu_fault fault;
    uint64_t fault_value;
    uint32_t looks; /* descriptors that were read for the chain popped last */
    uint32_t extra_pieces; /* iov entries of the chain popped last beyond one for each buffer */
    struct desc *desc;
    union {
        struct split_device split;
        struct packed_device pack;
    };
    struct vhu_ring_state start; /* as created; a split ring hands its idle fields back */
    uint16_t in_flight[]; /* by head or id: slots of the chain that was popped, 0: none */
};

/* Whether more chains are known to wait, without a look at the ring: a look costs a cache miss. */
static inline bool ring_has_more(const struct vhu_ring *ring)
{
    return !ring->packed && ring->split.next_avail != ring->split.seen_avail;
}

/* Whether the driver made something available: as cheap a look as there is. */
static inline bool ring_is_empty(const struct vhu_ring *ring)
{
    if (ring->packed) {
        struct desc desc = {.word = load_relaxed(&ring->desc[ring->pack.avail.offset].word)};

        return !packed_is_avail(desc.packed.flags, ring->pack.avail.wrap);
    }
    return load_relaxed(&ring->split.avail->idx) == ring->split.next_avail;
}

/* Stop the ring for good. Returns -EPROTO. */
static inline int ring_break(struct vhu_ring *ring, enum vhu_fault fault, uint64_t value)
{
    ring->fault = fault;
    ring->fault_value = value;
    return -EPROTO;
}

/* Undo the last pop that was neither pushed nor undone: the chain is the next one again. Also on a ring
 * that broke since. */
void vhu_ring_unpop(struct vhu_ring *ring, const struct vhu_chain *chain);

/* Append a buffer that does not lie in one region: one entry for each region it touches. */
int vhu_ring_add_pieces(struct vhu_ring *ring, struct vhu_chain *chain, const struct desc *desc,
                        uint32_t length, bool writable);

static inline int chain_append(struct vhu_ring *ring, struct vhu_chain *chain, void *hva,
                               uint64_t length, bool writable)
{
    uint32_t used = chain->readable + chain->writable;

    if (used == ring->iov_limit)
        return ring_break(ring, VHU_FAULT_FRAGMENTED, ring->iov_limit);
    chain->iov[used] = (struct iovec){.iov_base = hva, .iov_len = length};
    if (writable) {
        chain->writable++;
        chain->writable_bytes += length;
    } else {
        chain->readable++;
        chain->readable_bytes += length;
    }
    return 0;
}

/* Check and append the buffer of one descriptor. A buffer of length 0 contributes nothing,
 * wherever it stands, and its address is not looked at. */
static inline int chain_add(struct vhu_ring *ring, struct vhu_chain *chain, const struct desc *desc,
                            uint32_t length, uint16_t flags)
{
    bool writable = flags & DESC_WRITE;

    if (length == 0)
        return 0;
    if (!writable && chain->writable)
        return ring_break(ring, VHU_FAULT_DIRECTION, flags);
    void *hva = mem_find_range(ring->mem, &ring->hit, desc->address, length);
    if (__builtin_expect(!hva, 0))
        return vhu_ring_add_pieces(ring, chain, desc, length, writable);
    return chain_append(ring, chain, hva, length, writable);
}

/* Check an indirect descriptor of the ring's own table and find what it points at. */
int vhu_ring_open_table(struct vhu_ring *ring, const struct desc *desc, uint32_t length,
                        uint16_t flags, const uint8_t **ret_table, uint32_t *ret_entries);

int vhu_split_pop(struct vhu_ring *ring, struct vhu_chain *chain);
bool vhu_split_publish(struct vhu_ring *ring);
bool vhu_split_kick_enable(struct vhu_ring *ring);
void vhu_split_kick_disable(struct vhu_ring *ring);

int vhu_packed_pop(struct vhu_ring *ring, struct vhu_chain *chain);
bool vhu_packed_publish(struct vhu_ring *ring);
bool vhu_packed_kick_enable(struct vhu_ring *ring);
void vhu_packed_kick_disable(struct vhu_ring *ring);

static inline void split_push(struct vhu_ring *ring, uint16_t id, uint32_t written)
{
    struct split_used_entry *entry =
        &ring->split.used->ring[ring->split.next_used & (ring->num - 1)];

    store_relaxed(&entry->id, id);
    store_relaxed(&entry->length, written);
    ring->split.next_used++;
}

static inline void packed_push(struct vhu_ring *ring, uint16_t id, uint16_t slots, uint32_t written)
{
    struct packed_device *pack = &ring->pack;
    struct desc used = {.packed = {
        .length = written,
        .id = id,
        .flags = packed_used_flags(pack->used.wrap) | (written ? DESC_WRITE : 0),
    }};

    if (pack->pushed_slots == 0)
        pack->first_word = used.word;
    else
        store_relaxed(&ring->desc[pack->used.offset].word, used.word);
    packed_advance(&pack->used, ring->num, slots);
    pack->pushed_slots += slots;
    pack->slots_in_flight -= slots;
}

/* A split ring holds its used index itself, and a front-end sends none: take it from there. Where a packed
 * ring begins is seen there, too. Only for a ring that starts.
 *
 * `in_order`: whatever was taken from the ring has been given back before anything else was. Then the used index of
 * a split ring says everything, and it is believed rather than a base: DPDK's virtio-user says 0 to a back-end that
 * comes after another one, in the middle of the ring. */
void vhu_ring_find_position(struct vhu_ring_config *config, bool in_order);

/* Whether a configuration is legal for its layout: size, alignment, position. 0 or -EINVAL. */
int vhu_ring_check_config(const struct vhu_ring_config *config);

#endif
