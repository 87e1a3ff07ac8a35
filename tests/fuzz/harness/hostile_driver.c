/* SPDX-License-Identifier: Apache-2.0 */
#include "hostile_driver.h"

static uint16_t take_small(struct input *in, uint32_t num)
{
    uint16_t value = take_u8(in);

    if (value >= 0xf8)
        return take_u16(in); /* anything */
    return (uint16_t)(num > 256 ? value * 5 : num ? value % (num + 1) : value);
}

/* A descriptor as the input wants it; `lap` gives a packed one the flags of that lap. */
static struct desc take_desc(struct hostile_driver *d, bool lap)
{
    uint32_t length;
    struct desc desc = take_buffer(d->in, d->place, &length);
    uint8_t flags = take_u8(d->in);
    uint16_t link = take_small(d->in, d->place->num);

    if (d->place->packed) {
        desc.packed.length = length;
        desc.packed.id = link;
        desc.packed.flags = flags & 7;
        desc.packed.flags |= flags & 0x40 ? (uint16_t)(flags << 8) : packed_avail_flags(lap);
    } else {
        desc.split.length = length;
        desc.split.flags = flags & 0x40 ? (uint16_t)(flags << 8 | flags) : flags & 7;
        desc.split.next = link;
    }
    return desc;
}

static void write_slot(struct hostile_driver *d, uint16_t slot, const struct desc *desc)
{
    ringplace_write(d->place, d->place->gpa[0] + 16ULL * slot, desc, sizeof(*desc));
}

/* One descriptor of the ring. */
static void step_desc(struct hostile_driver *d)
{
    uint16_t slot = take_small(d->in, d->place->num);
    struct desc desc = take_desc(d, slot >= d->next.offset ? d->next.wrap : !d->next.wrap);

    write_slot(d, slot, &desc);
}

static void step_available(struct hostile_driver *d)
{
    uint16_t head = take_small(d->in, d->place->num);

    if (d->place->packed) {
        struct desc desc = take_desc(d, d->next.wrap);

        write_slot(d, d->next.offset, &desc);
        packed_advance(&d->next, d->place->num, 1);
        return;
    }
    uint64_t entry = d->place->gpa[1] + 4 + 2ULL * (d->index & (d->place->num - 1));
    ringplace_write_u16(d->place, entry, head);
    ringplace_write_u16(d->place, d->place->gpa[1] + 2, ++d->index);
}

/* The available index of a split ring, somewhere near or far. */
static void step_index(struct hostile_driver *d)
{
    int8_t by = (int8_t)take_u8(d->in);

    if (d->place->packed)
        return;
    d->index = (uint16_t)(d->index + (by == INT8_MIN ? take_u16(d->in) : by));
    ringplace_write_u16(d->place, d->place->gpa[1] + 2, d->index);
}

/* A table of descriptors anywhere, linked as it should be, and then one of them spoilt. */
static uint64_t put_table(struct hostile_driver *d, uint32_t entries)
{
    uint64_t table = take_address(d->in, d->place);
    uint32_t spoilt = take_u8(d->in);
    uint32_t writable = take_u8(d->in);
    uint32_t length;
    struct desc buffer = take_buffer(d->in, d->place, &length);

    for (uint32_t i = 0; i < entries; i++) {
        uint16_t flags = i >= writable ? DESC_WRITE : 0, more = i + 1 < entries;
        struct desc desc = buffer;

        if (d->place->packed) {
            desc.packed.length = length;
            desc.packed.flags = flags;
        } else {
            desc.split.length = length;
            desc.split.flags = flags | (more ? DESC_NEXT : 0);
            desc.split.next = (uint16_t)(i + 1);
        }
        if (i == spoilt)
            desc = take_desc(d, d->next.wrap);
        ringplace_write(d->place, table + 16ULL * i, &desc, sizeof(desc));
    }
    return table;
}

static void step_table(struct hostile_driver *d)
{
    uint8_t some = take_u8(d->in);
    uint32_t entries = some < 0xf0 ? some % 40 + 1 : take_u16(d->in) % 1030;
    uint16_t slot = take_small(d->in, d->place->num);
    struct desc desc = {.address = put_table(d, entries)};

    if (d->place->packed) {
        desc.packed.length = entries * 16;
        desc.packed.id = slot;
        desc.packed.flags = DESC_INDIRECT | packed_avail_flags(d->next.wrap);
        write_slot(d, d->next.offset, &desc);
        packed_advance(&d->next, d->place->num, 1);
        return;
    }
    desc.split.length = entries * 16;
    desc.split.flags = DESC_INDIRECT;
    write_slot(d, slot, &desc);
    ringplace_write_u16(d->place, d->place->gpa[1] + 4 + 2ULL * (d->index & (d->place->num - 1)),
                        slot);
    ringplace_write_u16(d->place, d->place->gpa[1] + 2, ++d->index);
}

/* A chain as drivers make it. */
static void step_chain(struct hostile_driver *d)
{
    uint8_t shape = take_u8(d->in);
    uint32_t count = shape % 7 + 1, writable = shape >> 5, num = d->place->num;
    uint16_t slot = take_small(d->in, num), head = slot;
    uint32_t length;
    struct desc buffer = take_buffer(d->in, d->place, &length);

    if (shape >= 0xf8)
        count = num; /* as long as it can be */
    for (uint32_t i = 0; i < count && num; i++) {
        uint16_t flags = (i >= writable ? DESC_WRITE : 0) | (i + 1 < count ? DESC_NEXT : 0);
        struct desc desc = buffer;

        if (d->place->packed) {
            desc.packed.length = length;
            desc.packed.id = slot;
            desc.packed.flags = flags | packed_avail_flags(d->next.wrap);
            write_slot(d, d->next.offset, &desc);
            packed_advance(&d->next, num, 1);
            continue;
        }
        desc.split.length = length;
        desc.split.flags = flags;
        desc.split.next = (uint16_t)((slot + 1) % num);
        write_slot(d, slot % num, &desc);
        slot = desc.split.next;
    }
    if (!d->place->packed && num) {
        uint64_t entry = d->place->gpa[1] + 4 + 2ULL * (d->index & (num - 1));

        ringplace_write_u16(d->place, entry, (uint16_t)(head % num));
        ringplace_write_u16(d->place, d->place->gpa[1] + 2, ++d->index);
    }
}

/* Any bytes at a place of interest. */
static void step_bytes(struct hostile_driver *d)
{
    uint64_t address = take_address(d->in, d->place);
    uint8_t size = take_u8(d->in) % 8 + 1;
    uint64_t value = take(d->in, size);

    ringplace_write(d->place, address, &value, size);
}

/* What the driver says about notifications. */
static void step_event(struct hostile_driver *d)
{
    uint16_t value = take_u16(d->in);
    uint8_t kind = take_u8(d->in);
    struct ringplace *place = d->place;

    if (place->packed) {
        ringplace_write_u16(place, place->gpa[1], kind & 8 ? value % (place->num + 1) : value);
        ringplace_write_u16(place, place->gpa[1] + 2, kind & 3);
        return;
    }
    ringplace_write_u16(place, place->gpa[1], kind & 1);
    ringplace_write_u16(place, place->gpa[1] + 4 + 2ULL * place->num,
                        kind & 2 ? (uint16_t)(d->index - value % 8) : value);
}

static void step_race(struct hostile_driver *d)
{
    uint8_t loads = take_u8(d->in), shift = take_u8(d->in);
    uint64_t pattern = take_u16(d->in) * (1ULL << shift % 49);

    arena_race(d->place->arena, d->place->which, loads % 32, pattern);
}

void hostile_driver_begin(struct hostile_driver *d, struct input *in, struct ringplace *place,
                          const struct vhu_ring_state *state)
{
    *d = (struct hostile_driver){
        .in = in,
        .place = place,
        .next = {state->avail, state->avail_wrap},
        .index = state->avail,
    };
    if (!place->packed)
        ringplace_write_u16(place, place->gpa[1] + 2, d->index);
}

void hostile_driver_step(struct hostile_driver *d, uint8_t which)
{
    static void (*const steps[HOSTILE_STEPS])(struct hostile_driver *) = {
        step_available, step_chain, step_table, step_desc, step_event, step_index,
        step_bytes,     step_race,  step_chain, step_table, step_available, step_desc,
    };

    steps[which % HOSTILE_STEPS](d);
}
