/* SPDX-License-Identifier: Apache-2.0
 *
 * Device side of a packed ring (VIRTIO 1.2, section 2.8). The driver may change any shared byte at
 * any time: each is read once, checked, and only the copy is used.
 */
#include "ring.h"

/* All entries of an indirect table belong to the chain, in order; of their flags only WRITE counts
 * (2.8.8), but a table inside a table is a driver's bug that is better reported than followed. A ring of which
 * everything is read does without that one, too: DPDK's driver sets it in the first entry of each of its tables, the
 * header of a frame to send (22.11 to 26.07). */
static int walk_table(struct vhu_ring *ring, struct vhu_chain *chain, const struct desc *indirect)
{
    const uint8_t *table;
    uint32_t entries;
    int rc = vhu_ring_open_table(ring, indirect, indirect->packed.length, indirect->packed.flags,
                                 &table, &entries);

    if (rc < 0)
        return rc;
    ring->looks = entries;
    for (uint32_t i = 0; i < entries; i++) {
        struct desc desc = read_indirect_desc(table, i);

        if (desc.packed.flags & DESC_INDIRECT)
            return ring_break(ring, VHU_FAULT_INDIRECT_NESTED, desc.packed.flags);
        rc = chain_add(ring, chain, &desc, desc.packed.length,
                       ring->reads_only ? 0 : desc.packed.flags);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int add_desc(struct vhu_ring *ring, struct vhu_chain *chain, const struct desc *desc,
                    uint32_t count)
{
    uint16_t flags = desc->packed.flags;

    if (!(flags & DESC_INDIRECT))
        return chain_add(ring, chain, desc, desc->packed.length, flags);
    /* an indirect descriptor is a chain of its own: neither before nor behind another one */
    if (ring->indirect && count > 1)
        return ring_break(ring, VHU_FAULT_INDIRECT_NEXT, flags);
    return walk_table(ring, chain, desc);
}

int vhu_packed_pop(struct vhu_ring *ring, struct vhu_chain *chain)
{
    struct packed_cursor cursor = ring->pack.avail;
    uint32_t count = 0;
    struct desc desc;

    /* the acquire load that finds the first descriptor available brings the rest of the chain */
    desc.word = load_acquire(&ring->desc[cursor.offset].word);
    if (!packed_is_avail(desc.packed.flags, cursor.wrap))
        return 0;
    for (;;) {
        if (count++ == ring->num)
            return ring_break(ring, VHU_FAULT_CHAIN_LENGTH, count);
        desc.address = load_relaxed(&ring->desc[cursor.offset].address);
        packed_advance(&cursor, ring->num, 1);
        int rc = add_desc(ring, chain, &desc, count);
        if (rc < 0)
            return rc;
        if (!(desc.packed.flags & DESC_NEXT))
            break;
        desc.word = load_relaxed(&ring->desc[cursor.offset].word);
    }
    uint16_t id = desc.packed.id;
    if (ring->pack.slots_in_flight + count > ring->num)
        return ring_break(ring, VHU_FAULT_AVAIL_JUMP, ring->pack.slots_in_flight + count);
    if (id >= ring->num)
        return ring_break(ring, VHU_FAULT_ID, id);
    if (ring->in_flight[id])
        return ring_break(ring, VHU_FAULT_IN_FLIGHT, id);
    chain->id = id;
    chain->slots = ring->in_flight[id] = (uint16_t)count;
    ring->looks += count;
    ring->pack.slots_in_flight += count;
    ring->pack.avail = cursor;
    return 1;
}

bool vhu_packed_publish(struct vhu_ring *ring)
{
    struct packed_device *pack = &ring->pack;
    uint32_t slots = pack->pushed_slots;

    if (slots == 0)
        return false;
    store_release(&ring->desc[pack->published.offset].word, pack->first_word);
    pack->published = pack->used;
    pack->pushed_slots = 0;
    full_fence();
    return packed_event_wanted(pack->driver_event, ring->event_idx, ring->num, pack->used, slots);
}

bool vhu_packed_kick_enable(struct vhu_ring *ring)
{
    struct packed_cursor next = ring->pack.avail;

    packed_event_enable(ring->pack.device_event, ring->event_idx, next);
    full_fence();
    struct desc desc = {.word = load_acquire(&ring->desc[next.offset].word)};
    return packed_is_avail(desc.packed.flags, next.wrap);
}

void vhu_packed_kick_disable(struct vhu_ring *ring)
{
    packed_event_disable(ring->pack.device_event);
}
