/* SPDX-License-Identifier: Apache-2.0
 *
 * The driver side of a ring, for front-ends. It owns the ring's memory and writes it freely, but
 * what the device writes there (used entries, event fields) is read once and checked.
 *
 * Free descriptors (split) and free ids (packed) form one queue: taken from its front, given back
 * at its end. Chains that come back in order therefore use the table in order, as IN_ORDER
 * demands.
 */
#include <errno.h>
#include <stdlib.h>

#include "ring.h"

/* By head or id. */
struct flight {
    uint16_t slots; /* 0: not in flight */
    uint16_t last;  /* split: the chain's last descriptor */
    bool writable;  /* whether the device may write into it */
};

struct vhu_driver {
    struct vhu_driver_config config;
    uint32_t num;
    bool packed;
    bool event_idx;
    bool broken;
    struct desc *desc;
    uint32_t free_slots;  /* room in the table or ring */
    uint32_t free_queued; /* entries of the free queue: descriptors (split) or ids (packed) */
    uint16_t free_first;
    uint16_t free_last;
    union {
        struct {
            struct split_avail *avail;
            struct split_used *used;
            uint16_t next_avail, published, next_used;
        } split;
        struct {
            union packed_event *driver_event, *device_event;
            struct packed_cursor avail, published, used;
            uint32_t added_slots; /* since `published`, where the first word waits to be written */
            uint64_t first_word;
        } pack;
    };
    uint16_t *next; /* links of the free queue and of split chains in flight */
    struct flight flight[];
};

/* Nothing is in flight on a new driver's ring; make the memory say so. */
static void reset_split(struct vhu_driver *driver, const struct vhu_ring_config *ring)
{
    driver->split.avail = ring->driver;
    driver->split.used = ring->device;
    driver->split.next_avail = driver->split.published = ring->state.avail;
    driver->split.next_used = ring->state.used;
    store_relaxed(&driver->split.avail->flags, 0);
    store_relaxed(&driver->split.avail->idx, ring->state.avail);
    store_relaxed(&driver->split.used->flags, 0);
    store_relaxed(&driver->split.used->idx, ring->state.used);
}

static void reset_packed(struct vhu_driver *driver, const struct vhu_ring_config *ring)
{
    driver->pack.driver_event = ring->driver;
    driver->pack.device_event = ring->device;
    driver->pack.avail = (struct packed_cursor){ring->state.avail, ring->state.avail_wrap};
    driver->pack.published = driver->pack.used = driver->pack.avail;
    store_relaxed(&driver->pack.driver_event->word, 0); /* EVENT_ENABLE, place unused */
    store_relaxed(&driver->pack.device_event->word, 0);
    for (uint32_t i = 0; i < driver->num; i++) {
        /* as if used in the lap before the one in which this slot comes next */
        bool lap = i >= ring->state.avail ? ring->state.avail_wrap : !ring->state.avail_wrap;
        struct desc used = {.packed.flags = packed_used_flags(!lap)};

        store_relaxed(&driver->desc[i].word, used.word);
    }
}

int vhu_driver_create(const struct vhu_driver_config *config, struct vhu_driver **ret)
{
    const struct vhu_ring_config *ring = &config->ring;

    if (vhu_ring_check_config(ring) < 0 || ring->state.avail != ring->state.used)
        return -EINVAL;
    bool packed = has_feature(ring->features, VIRTIO_F_RING_PACKED);
    if (packed && ring->state.avail_wrap != ring->state.used_wrap)
        return -EINVAL;
    if (config->indirect_entries &&
        (!config->indirect || !has_feature(ring->features, VIRTIO_F_INDIRECT_DESC)))
        return -EINVAL;
    struct vhu_driver *driver =
        calloc(1, sizeof(*driver) + ring->num * (sizeof(struct flight) + sizeof(uint16_t)));
    if (!driver)
        return -ENOMEM;
    driver->config = *config;
    driver->num = driver->free_slots = driver->free_queued = ring->num;
    driver->packed = packed;
    driver->event_idx = has_feature(ring->features, VIRTIO_F_EVENT_IDX);
    driver->desc = ring->desc;
    driver->next = (uint16_t *)&driver->flight[ring->num];
    driver->free_last = (uint16_t)(ring->num - 1);
    for (uint32_t i = 0; i + 1 < ring->num; i++)
        driver->next[i] = (uint16_t)(i + 1);
    if (packed)
        reset_packed(driver, ring);
    else
        reset_split(driver, ring);
    *ret = driver;
    return 0;
}

void vhu_driver_destroy(struct vhu_driver *driver)
{
    free(driver);
}

/* Fill the indirect table that belongs to `id`; returns the descriptor that points at it. */
static struct desc fill_table(struct vhu_driver *driver, uint16_t id,
                              const struct vhu_buffer *buffers, uint32_t count)
{
    uint64_t offset = (uint64_t)id * driver->config.indirect_entries * sizeof(struct desc);
    uint8_t *table = (uint8_t *)driver->config.indirect + offset;
    struct desc indirect = {.address = driver->config.indirect_address + offset};

    for (uint32_t i = 0; i < count; i++) {
        uint16_t flags = buffers[i].writable ? DESC_WRITE : 0;
        bool more = i + 1 < count;
        struct desc desc = {.address = buffers[i].address};

        if (driver->packed) {
            desc.packed.length = buffers[i].length;
            desc.packed.flags = flags;
        } else {
            desc.split.length = buffers[i].length;
            desc.split.flags = flags | (more ? DESC_NEXT : 0);
            desc.split.next = more ? (uint16_t)(i + 1) : 0;
        }
        memcpy(table + i * sizeof(desc), &desc, sizeof(desc));
    }
    if (driver->packed) {
        indirect.packed.length = count * sizeof(struct desc);
        indirect.packed.flags = DESC_INDIRECT;
    } else {
        indirect.split.length = count * sizeof(struct desc);
        indirect.split.flags = DESC_INDIRECT;
    }
    return indirect;
}

static void add_split(struct vhu_driver *driver, const struct vhu_buffer *buffers, uint32_t count,
                      bool indirect)
{
    uint16_t head = driver->free_first, index = head;
    uint32_t slots = indirect ? 1 : count;

    for (uint32_t i = 0; i < slots; i++) {
        uint16_t next = driver->next[index];
        bool more = i + 1 < slots;
        struct desc desc = {.address = buffers[i].address};

        if (indirect) {
            desc = fill_table(driver, head, buffers, count);
        } else {
            desc.split.length = buffers[i].length;
            desc.split.flags = (buffers[i].writable ? DESC_WRITE : 0) | (more ? DESC_NEXT : 0);
            desc.split.next = more ? next : 0;
        }
        store_relaxed(&driver->desc[index].address, desc.address);
        store_relaxed(&driver->desc[index].word, desc.word);
        driver->flight[head].last = index;
        driver->free_first = index = next;
    }
    uint32_t entry = driver->split.next_avail++ & (driver->num - 1);
    store_relaxed(&driver->split.avail->ring[entry], head);
}

static void add_packed(struct vhu_driver *driver, const struct vhu_buffer *buffers, uint32_t count,
                       bool indirect)
{
    uint16_t id = driver->free_first;
    uint32_t slots = indirect ? 1 : count;

    for (uint32_t i = 0; i < slots; i++) {
        struct packed_cursor *cursor = &driver->pack.avail;
        struct desc desc = {.address = buffers[i].address};

        if (indirect) {
            desc = fill_table(driver, id, buffers, count);
        } else {
            desc.packed.length = buffers[i].length;
            desc.packed.flags =
                (buffers[i].writable ? DESC_WRITE : 0) | (i + 1 < slots ? DESC_NEXT : 0);
        }
        desc.packed.id = id;
        desc.packed.flags |= packed_avail_flags(cursor->wrap);
        store_relaxed(&driver->desc[cursor->offset].address, desc.address);
        if (driver->pack.added_slots++ == 0)
            driver->pack.first_word = desc.word;
        else
            store_relaxed(&driver->desc[cursor->offset].word, desc.word);
        packed_advance(cursor, driver->num, 1);
    }
    driver->flight[id].last = id;
    driver->free_first = driver->next[id];
}

int vhu_driver_add(struct vhu_driver *driver, const struct vhu_buffer *buffers, uint32_t count,
                   bool indirect, uint16_t *ret)
{
    uint32_t slots = indirect ? 1 : count;

    if (count == 0 || count > (indirect ? driver->config.indirect_entries : driver->num))
        return -EINVAL;
    for (uint32_t i = 1; i < count; i++) {
        if (buffers[i - 1].writable && !buffers[i].writable)
            return -EINVAL;
    }
    if (slots > driver->free_slots)
        return -ENOSPC;
    uint16_t id = driver->free_first;
    driver->free_slots -= slots;
    driver->free_queued -= driver->packed ? 1 : slots;
    driver->flight[id].slots = (uint16_t)slots;
    driver->flight[id].writable = buffers[count - 1].writable;
    if (driver->packed)
        add_packed(driver, buffers, count, indirect);
    else
        add_split(driver, buffers, count, indirect);
    *ret = id;
    return 0;
}

bool vhu_driver_publish(struct vhu_driver *driver)
{
    if (driver->packed) {
        uint32_t slots = driver->pack.added_slots;

        if (slots == 0)
            return false;
        store_release(&driver->desc[driver->pack.published.offset].word, driver->pack.first_word);
        driver->pack.published = driver->pack.avail;
        driver->pack.added_slots = 0;
        full_fence();
        return packed_event_wanted(driver->pack.device_event, driver->event_idx, driver->num,
                                   driver->pack.published, slots);
    }
    uint16_t old = driver->split.published, new = driver->split.next_avail;

    if (new == old)
        return false;
    store_release(&driver->split.avail->idx, new);
    driver->split.published = new;
    full_fence();
    if (!driver->event_idx)
        return !(load_relaxed(&driver->split.used->flags) & NO_NOTIFY);
    return event_passed(load_relaxed(split_avail_event(driver->split.used, driver->num)), new, old);
}

/* Give a chain's slots back. */
static void release(struct vhu_driver *driver, uint16_t id)
{
    struct flight *flight = &driver->flight[id];

    if (driver->free_queued == 0)
        driver->free_first = id;
    else
        driver->next[driver->free_last] = id;
    driver->free_last = flight->last;
    driver->free_queued += driver->packed ? 1 : flight->slots;
    driver->free_slots += flight->slots;
    flight->slots = 0;
}

/* The device broke a rule. Returns -EPROTO. */
static int break_driver(struct vhu_driver *driver)
{
    driver->broken = true;
    return -EPROTO;
}

static int pop_split(struct vhu_driver *driver, uint32_t *id, uint32_t *written)
{
    uint16_t index = load_acquire(&driver->split.used->idx), next = driver->split.next_used;
    uint16_t outstanding = (uint16_t)(driver->split.published - next);

    if (index == next)
        return 0;
    if ((uint16_t)(index - next) > outstanding)
        return break_driver(driver);
    struct split_used_entry *entry = &driver->split.used->ring[next & (driver->num - 1)];
    *id = load_relaxed(&entry->id);
    *written = load_relaxed(&entry->length);
    return 1;
}

static int pop_packed(struct vhu_driver *driver, uint32_t *id, uint32_t *written)
{
    struct packed_cursor cursor = driver->pack.used;
    struct desc desc = {.word = load_acquire(&driver->desc[cursor.offset].word)};

    if (!packed_is_used(desc.packed.flags, cursor.wrap))
        return 0;
    *id = desc.packed.id;
    /* The write flag says whether the length counts, but QEMU's devices never set it. */
    bool counts = desc.packed.flags & DESC_WRITE ||
                  (*id < driver->num && driver->flight[*id].writable);
    *written = counts ? desc.packed.length : 0;
    return 1;
}

int vhu_driver_pop(struct vhu_driver *driver, uint16_t *id, uint32_t *written)
{
    uint32_t found;

    if (driver->broken)
        return -EPROTO;
    int rc = driver->packed ? pop_packed(driver, &found, written)
                            : pop_split(driver, &found, written);

    if (rc != 1)
        return rc;
    if (found >= driver->num || !driver->flight[found].slots)
        return break_driver(driver);
    if (driver->packed)
        packed_advance(&driver->pack.used, driver->num, driver->flight[found].slots);
    else
        driver->split.next_used++;
    *id = (uint16_t)found;
    release(driver, *id);
    return 1;
}

bool vhu_driver_call_enable(struct vhu_driver *driver)
{
    if (driver->packed) {
        struct packed_cursor cursor = driver->pack.used;

        packed_event_enable(driver->pack.driver_event, driver->event_idx, cursor);
        full_fence();
        struct desc desc = {.word = load_acquire(&driver->desc[cursor.offset].word)};
        return packed_is_used(desc.packed.flags, cursor.wrap);
    }
    if (driver->event_idx)
        store_relaxed(split_used_event(driver->split.avail, driver->num), driver->split.next_used);
    else
        store_relaxed(&driver->split.avail->flags, 0);
    full_fence();
    return load_acquire(&driver->split.used->idx) != driver->split.next_used;
}

void vhu_driver_call_disable(struct vhu_driver *driver)
{
    if (driver->packed)
        packed_event_disable(driver->pack.driver_event);
    else if (driver->event_idx)
        store_relaxed(split_used_event(driver->split.avail, driver->num),
                      (uint16_t)(driver->split.next_used - 1));
    else
        store_relaxed(&driver->split.avail->flags, NO_NOTIFY);
}

void vhu_driver_state(const struct vhu_driver *driver, struct vhu_ring_state *ret)
{
    if (driver->packed)
        *ret = (struct vhu_ring_state){
            .avail = driver->pack.avail.offset,
            .used = driver->pack.used.offset,
            .avail_wrap = driver->pack.avail.wrap,
            .used_wrap = driver->pack.used.wrap,
        };
    else
        *ret = (struct vhu_ring_state){
            .avail = driver->split.next_avail,
            .used = driver->split.next_used,
        };
}
