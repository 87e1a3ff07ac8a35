/* SPDX-License-Identifier: Apache-2.0
 *
 * Device side of a split ring (VIRTIO 1.2, section 2.7). The driver may change any shared byte at
 * any time: each is read once, checked, and only the copy is used.
 */
#include "ring.h"

/* Walk the chain that starts at `index`, which is below num, of the ring's own table. */
static int walk(struct vhu_ring *ring, struct vhu_chain *chain, uint32_t index)
{
    const uint8_t *table = NULL; /* the indirect table, once the chain went there */
    uint32_t entries = ring->num, count = 0;
    struct desc desc;
    int rc;

    for (;;) {
        if (count++ == entries)
            return ring_break(ring, VHU_FAULT_CHAIN_LENGTH, count);
        desc = table ? read_indirect_desc(table, index) : read_desc(&ring->desc[index]);
        if (desc.split.flags & DESC_INDIRECT) {
            if (table)
                return ring_break(ring, VHU_FAULT_INDIRECT_NESTED, desc.split.flags);
            rc = vhu_ring_open_table(ring, &desc, desc.split.length, desc.split.flags, &table,
                                     &entries);
            if (rc < 0)
                return rc;
            ring->looks = count;
            index = count = 0;
            continue;
        }
        rc = chain_add(ring, chain, &desc, desc.split.length, desc.split.flags);
        if (rc < 0)
            return rc;
        if (!(desc.split.flags & DESC_NEXT)) {
            ring->looks += count;
            return 0;
        }
        index = desc.split.next;
        if (index >= entries)
            return ring_break(ring, VHU_FAULT_NEXT, index);
    }
}

int vhu_split_pop(struct vhu_ring *ring, struct vhu_chain *chain)
{
    struct split_device *split = &ring->split;
    uint32_t mask = ring->num - 1;

    if (split->next_avail == split->seen_avail) {
        uint16_t index = load_acquire(&split->avail->idx);
        uint16_t distance = index - split->next_avail;

        if (distance == 0)
            return 0;
        if (distance > ring->num)
            return ring_break(ring, VHU_FAULT_AVAIL_JUMP, distance);
        split->seen_avail = index;
    }
    uint16_t head = load_relaxed(&split->avail->ring[split->next_avail & mask]);
    if (head >= ring->num)
        return ring_break(ring, VHU_FAULT_HEAD, head);
    if (ring->in_flight[head])
        return ring_break(ring, VHU_FAULT_IN_FLIGHT, head);
    int rc = walk(ring, chain, head);
    if (rc < 0)
        return rc;
    chain->id = head;
    chain->slots = ring->in_flight[head] = 1;
    split->next_avail++;
    return 1;
}

bool vhu_split_publish(struct vhu_ring *ring)
{
    struct split_device *split = &ring->split;
    uint16_t old = split->published, new = split->next_used;

    if (new == old)
        return false;
    store_release(&split->used->idx, new);
    split->published = new;
    full_fence();
    if (!ring->event_idx)
        return !(load_relaxed(&split->avail->flags) & NO_NOTIFY);
    return event_passed(load_relaxed(split_used_event(split->avail, ring->num)), new, old);
}

bool vhu_split_kick_enable(struct vhu_ring *ring)
{
    struct split_device *split = &ring->split;

    if (ring->event_idx)
        store_relaxed(split_avail_event(split->used, ring->num), split->next_avail);
    else
        store_relaxed(&split->used->flags, 0);
    full_fence();
    return load_acquire(&split->avail->idx) != split->next_avail;
}

void vhu_split_kick_disable(struct vhu_ring *ring)
{
    struct split_device *split = &ring->split;

    /* With the event index there is no "never": an index just passed comes again after 65,536
     * entries, unless it is renewed by another call. */
    if (ring->event_idx)
        store_relaxed(split_avail_event(split->used, ring->num), (uint16_t)(split->next_avail - 1));
    else
        store_relaxed(&split->used->flags, NO_NOTIFY);
}
