/* SPDX-License-Identifier: Apache-2.0
 *
 * The device side of a ring: creation, checks that both layouts share, dispatch to split.c and
 * packed.c. A ring has no thread and does no I/O.
 */
#include "ring.h"

#include <stdlib.h>

enum {
    TABLE_MIN = 1024,   /* Linux makes indirect tables longer than the ring */
    PIECES_EXTRA = 512, /* iov entries for buffers that cross from region to region */
};

uint64_t vhu_ring_area_size(uint64_t features, uint32_t num, int area)
{
    if (area == 0)
        return (uint64_t)num * sizeof(struct desc);
    if (has_feature(features, VIRTIO_F_RING_PACKED))
        return sizeof(union packed_event);
    uint64_t event = has_feature(features, VIRTIO_F_EVENT_IDX) ? sizeof(uint16_t) : 0;
    if (area == 1)
        return sizeof(struct split_avail) + (uint64_t)num * sizeof(uint16_t) + event;
    return sizeof(struct split_used) + (uint64_t)num * sizeof(struct split_used_entry) + event;
}

uint32_t vhu_ring_area_alignment(uint64_t features, int area)
{
    if (area == 0)
        return 16;
    return area == 1 && !has_feature(features, VIRTIO_F_RING_PACKED) ? 2 : 4;
}

static bool is_aligned(const void *area, uint64_t features, int number)
{
    return area && (uintptr_t)area % vhu_ring_area_alignment(features, number) == 0;
}

static bool areas_are_aligned(uint64_t features, const void *desc, const void *driver,
                              const void *device)
{
    return is_aligned(desc, features, 0) && is_aligned(driver, features, 1) &&
           is_aligned(device, features, 2);
}

/* Whether used ones lag behind available ones by a ring's length at most; never the other way. */
static bool is_packed_position(const struct vhu_ring_state *state, uint32_t num)
{
    if (state->avail >= num || state->used >= num || state->avail_wrap > 1 || state->used_wrap > 1)
        return false;
    return state->avail_wrap == state->used_wrap ? state->used <= state->avail
                                                 : state->avail <= state->used;
}

int vhu_ring_check_config(const struct vhu_ring_config *config)
{
    const struct vhu_ring_state *state = &config->state;
    uint32_t num = config->num;
    bool legal;

    if (num == 0 || num > RING_NUM_MAX ||
        !areas_are_aligned(config->features, config->desc, config->driver, config->device))
        return -EINVAL;
    if (has_feature(config->features, VIRTIO_F_RING_PACKED))
        legal = is_packed_position(state, num);
    else
        legal = (num & (num - 1)) == 0 && (uint16_t)(state->avail - state->used) <= num;
    return legal ? 0 : -EINVAL;
}

static void set_areas(struct vhu_ring *ring, void *desc, void *driver, void *device)
{
    ring->desc = desc;
    if (ring->packed) {
        ring->pack.driver_event = driver;
        ring->pack.device_event = device;
    } else {
        ring->split.avail = driver;
        ring->split.used = device;
    }
}

/* Whether a packed ring was never once around: then a driver has left at least one of the two flags set
 * in its last descriptor, and it is used again only in the lap after that. */
static bool packed_is_in_first_lap(const struct vhu_ring_config *config)
{
    const struct desc *last = (const struct desc *)config->desc + config->num - 1;
    struct desc desc = {.word = load_relaxed(&last->word)};

    return packed_is_used(desc.packed.flags, false);
}

void vhu_ring_find_position(struct vhu_ring_config *config, bool in_order)
{
    const struct split_used *used = config->device;
    struct vhu_ring_state *state = &config->state;

    if (!has_feature(config->features, VIRTIO_F_RING_PACKED)) {
        if (is_aligned(used, config->features, 2))
            state->used = load_relaxed(&used->idx);
        if (in_order)
            state->avail = state->used;
        return;
    }
    /* User-mode Linux says 0 for a ring's beginning, which by the letter is where lap 2 begins. */
    if (state->avail == 0 && state->used == 0 && !state->avail_wrap && !state->used_wrap &&
        vhu_ring_check_config(config) == 0 && packed_is_in_first_lap(config))
        state->avail_wrap = state->used_wrap = 1;
}

int vhu_ring_create(struct vhu_mem *mem, const struct vhu_ring_config *config,
                    struct vhu_ring **ret)
{
    const struct vhu_ring_state *state = &config->state;
    int rc = vhu_ring_check_config(config);

    if (rc < 0)
        return rc;
    struct vhu_ring *ring = calloc(1, sizeof(*ring) + config->num * sizeof(ring->in_flight[0]));
    if (!ring)
        return -ENOMEM;
    vhu_mem_ref(mem);
    ring->mem = mem;
    ring->num = config->num;
    ring->start = *state;
    ring->table_limit = config->num > TABLE_MIN ? config->num : TABLE_MIN;
    ring->iov_limit = ring->table_limit + PIECES_EXTRA;
    ring->packed = has_feature(config->features, VIRTIO_F_RING_PACKED);
    ring->indirect = has_feature(config->features, VIRTIO_F_INDIRECT_DESC);
    ring->event_idx = has_feature(config->features, VIRTIO_F_EVENT_IDX);
    set_areas(ring, config->desc, config->driver, config->device);
    if (ring->packed) {
        ring->pack.avail = (struct packed_cursor){state->avail, state->avail_wrap};
        ring->pack.used = (struct packed_cursor){state->used, state->used_wrap};
        ring->pack.published = ring->pack.used;
    } else {
        ring->split.next_avail = ring->split.seen_avail = state->avail;
        ring->split.next_used = ring->split.published = state->used;
    }
    *ret = ring;
    return 0;
}

void vhu_ring_destroy(struct vhu_ring *ring)
{
    if (!ring)
        return;
    vhu_mem_unref(ring->mem);
    free(ring);
}

int vhu_ring_move(struct vhu_ring *ring, struct vhu_mem *mem, void *desc, void *driver,
                  void *device)
{
    uint64_t layout = (uint64_t)ring->packed << VIRTIO_F_RING_PACKED;

    if (!areas_are_aligned(layout, desc, driver, device))
        return -EINVAL;
    vhu_mem_ref(mem);
    vhu_mem_unref(ring->mem);
    ring->mem = mem;
    ring->hit = 0;
    set_areas(ring, desc, driver, device);
    return 0;
}

uint32_t vhu_ring_iov_limit(const struct vhu_ring *ring)
{
    return ring->iov_limit;
}

int vhu_ring_add_pieces(struct vhu_ring *ring, struct vhu_chain *chain, const struct desc *desc,
                        uint32_t length, bool writable)
{
    uint64_t address = desc->address;

    if (length - 1 > UINT64_MAX - address)
        return ring_break(ring, VHU_FAULT_ADDRESS, address);
    while (length > 0) {
        const struct span *span = mem_find(ring->mem, &ring->hit, address);
        if (!span)
            return ring_break(ring, VHU_FAULT_ADDRESS, desc->address);
        uint64_t offset = address - span->start;
        uint32_t piece = span->size - offset < length ? (uint32_t)(span->size - offset) : length;
        int rc = chain_append(ring, chain, span->hva + offset, piece, writable);
        if (rc < 0)
            return rc;
        address += piece;
        length -= piece;
        ring->extra_pieces += length > 0;
    }
    return 0;
}

int vhu_ring_open_table(struct vhu_ring *ring, const struct desc *desc, uint32_t length,
                        uint16_t flags, const uint8_t **ret_table, uint32_t *ret_entries)
{
    uint32_t entries = length / sizeof(*desc);

    if (!ring->indirect)
        return ring_break(ring, VHU_FAULT_INDIRECT_FEATURE, flags);
    if (flags & DESC_NEXT)
        return ring_break(ring, VHU_FAULT_INDIRECT_NEXT, flags);
    if (length == 0 || length % sizeof(*desc) != 0 || entries > ring->table_limit)
        return ring_break(ring, VHU_FAULT_INDIRECT_SIZE, length);
    *ret_table = mem_find_range(ring->mem, &ring->hit, desc->address, length);
    if (!*ret_table)
        return ring_break(ring, VHU_FAULT_INDIRECT_ADDRESS, desc->address);
    *ret_entries = entries;
    return 0;
}

int vhu_ring_pop(struct vhu_ring *ring, struct iovec *iov, struct vhu_chain *ret)
{
    if (ring->fault)
        return -EPROTO;
    *ret = (struct vhu_chain){.iov = iov};
    ring->extra_pieces = ring->looks = 0;
    return ring->packed ? vhu_packed_pop(ring, ret) : vhu_split_pop(ring, ret);
}

void vhu_ring_unpop(struct vhu_ring *ring, const struct vhu_chain *chain)
{
    uint16_t slots = ring->in_flight[chain->id];

    ring->in_flight[chain->id] = 0;
    if (ring->packed) {
        packed_retreat(&ring->pack.avail, ring->num, slots);
        ring->pack.slots_in_flight -= slots;
    } else {
        ring->split.next_avail--;
    }
}

int vhu_ring_push(struct vhu_ring *ring, const struct vhu_chain *chain, uint32_t written)
{
    uint16_t id = chain->id;

    if (id >= ring->num || !ring->in_flight[id])
        return -EINVAL;
    uint16_t slots = ring->in_flight[id];
    ring->in_flight[id] = 0;
    if (ring->packed)
        packed_push(ring, id, slots, written);
    else
        split_push(ring, id, written);
    return 0;
}

bool vhu_ring_publish(struct vhu_ring *ring)
{
    return ring->packed ? vhu_packed_publish(ring) : vhu_split_publish(ring);
}

bool vhu_ring_kick_enable(struct vhu_ring *ring)
{
    if (ring->fault)
        return false;
    return ring->packed ? vhu_packed_kick_enable(ring) : vhu_split_kick_enable(ring);
}

void vhu_ring_kick_disable(struct vhu_ring *ring)
{
    if (ring->fault)
        return;
    if (ring->packed)
        vhu_packed_kick_disable(ring);
    else
        vhu_split_kick_disable(ring);
}

void vhu_ring_state(const struct vhu_ring *ring, struct vhu_ring_state *ret)
{
    if (ring->packed)
        *ret = (struct vhu_ring_state){
            .avail = ring->pack.avail.offset,
            .used = ring->pack.published.offset,
            .avail_wrap = ring->pack.avail.wrap,
            .used_wrap = ring->pack.published.wrap,
        };
    else
        *ret = (struct vhu_ring_state){
            .avail = ring->split.next_avail,
            .used = ring->split.published,
            .avail_wrap = ring->start.avail_wrap,
            .used_wrap = ring->start.used_wrap,
        };
}

enum vhu_fault vhu_ring_fault(const struct vhu_ring *ring, uint64_t *value)
{
    *value = ring->fault_value;
    return ring->fault;
}
