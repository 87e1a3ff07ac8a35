/* SPDX-License-Identifier: Apache-2.0 */
#include "hostile_atomic.h"
#include "ringplace.h"
#include "states.h"

#include <string.h>

enum { NUM_CHOICES = 16, ALIGN_LOW = 64, HOSTILE_FROM = 0xa0 };

static const uint32_t split_nums[NUM_CHOICES] = {
    1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2, 4, 8, 3, 0,
};
static const uint32_t packed_nums[NUM_CHOICES] = {
    1, 2, 3, 4, 5, 7, 8, 13, 16, 33, 64, 100, 255, 512, 1024, 0,
};

/* Take `size` bytes of `region` from its low end, or so that they end where it ends. */
static bool put_area(struct ringplace *place, int area, uint32_t region, bool high, uint32_t *low,
                     uint32_t *end)
{
    uint32_t align = vhu_ring_area_alignment(place->config.features, area);
    uint32_t size = place->size[area];
    uint32_t start = (*low + ALIGN_LOW - 1) & -(uint32_t)ALIGN_LOW;

    if (size > *end || start > *end - size)
        return false;
    if (high)
        *end = start = (*end - size) & -align;
    else
        *low = start + size;
    place->gpa[area] = place->arena->places[region].gpa + start;
    place->offset[area] = place->arena->places[region].offset + start;
    return true;
}

/* The areas in one region or in three, each at one of its ends. */
static bool put_areas(struct ringplace *place, uint8_t how, struct ringplace_room *room)
{
    uint32_t count = place->arena->count, usable = count < 4 ? count : 4;
    struct ringplace_room left = *room;

    for (int area = 0; area < 3; area++) {
        uint32_t region = ((how & 3) + (how & 4 ? (uint32_t)area : 0)) % usable;

        place->size[area] =
            (uint32_t)vhu_ring_area_size(place->config.features, place->num, area);
        if (!put_area(place, area, region, how >> (3 + area) & 1, &left.low[region],
                      &left.end[region]))
            return false;
    }
    *room = left;
    return true;
}

bool ringplace_enter(struct ringplace *place, int which)
{
    void *hva[3];

    for (int area = 0; area < 3; area++) {
        hva[area] =
            vhu_mem_gpa_to_hva(place->arena->mem[which], place->gpa[area], place->size[area]);
        if (!hva[area])
            return false;
        HOLDS(arena_region(place->arena, which, hva[area], place->size[area]) >= 0);
    }
    place->which = which;
    place->config.desc = hva[0];
    place->config.driver = hva[1];
    place->config.device = hva[2];
    return true;
}

static void take_state(struct input *input, struct ringplace *place, bool odd)
{
    struct vhu_ring_state *state = &place->config.state;
    uint16_t avail = take_u16(input);
    uint8_t wraps = take_u8(input), behind = wraps >> 2;

    state->avail_wrap = wraps & 1;
    state->used_wrap = wraps >> 1 & 1;
    state->avail = avail;
    state->used = odd ? take_u16(input) : avail;
    if (odd || place->num == 0)
        return;
    /* behind: chains that are in flight for good */
    behind = behind > 56 && behind - 56u <= place->num ? behind - 56 : 0;
    if (place->packed) {
        state->avail = (uint16_t)(avail % place->num);
        state->used = (uint16_t)((state->avail + place->num - behind) % place->num);
        state->used_wrap = state->avail_wrap ^ (state->used > state->avail);
    } else {
        state->used = (uint16_t)(avail - behind);
    }
}

void ringplace_room_begin(struct ringplace_room *room, const struct arena *arena)
{
    for (uint32_t i = 0; i < arena->count; i++) {
        room->low[i] = 0;
        room->end[i] = arena->places[i].size;
    }
}

bool ringplace_take_next(struct input *input, struct arena *arena, uint64_t features,
                         struct ringplace_room *room, struct ringplace *ret)
{
    uint8_t shape = take_u8(input), how = take_u8(input);

    *ret = (struct ringplace){
        .arena = arena,
        .packed = features >> VIRTIO_F_RING_PACKED & 1,
        .config.features = features,
    };
    const uint32_t *nums = ret->packed ? packed_nums : split_nums;
    ret->num = nums[shape & (NUM_CHOICES - 1)];
    while (!put_areas(ret, how, room)) {
        if (ret->num == 0)
            return false;
        ret->num /= 2;
    }
    ret->config.num = ret->num;
    states_changed(features, ret->gpa, sizeof(ret->gpa));
    take_state(input, ret, shape >> 4 == 0xf);
    states_changed(ret->num, &ret->config.state, sizeof(ret->config.state));
    return ringplace_enter(ret, 0);
}

bool ringplace_take(struct input *input, struct ringplace *ret)
{
    uint8_t layout = take_u8(input);
    uint64_t features = (uint64_t)(layout >> 4) << VIRTIO_F_INDIRECT_DESC & (3ULL << 28);
    struct arena *arena = &arenas()[(layout & 0xf) % LAYOUTS];
    struct ringplace_room room;

    if (layout & 0x40)
        features |= 1ULL << VIRTIO_F_RING_PACKED;
    if (layout & 0x80)
        features |= 1ULL << 35; /* IN_ORDER */
    arena_reset(arena);
    ringplace_room_begin(&room, arena);
    return ringplace_take_next(input, arena, features, &room, ret);
}

uint64_t take_address(struct input *input, const struct ringplace *place)
{
    uint8_t kind = take_u8(input);
    const struct place *region = &place->arena->places[(kind >> 3) % place->arena->count];
    uint8_t little;

    switch (kind & 7) {
    case 0:
        return region->gpa + take_u16(input) % region->size;
    case 1:
        return region->gpa + region->size - take_u8(input);
    case 2:
        return region->gpa - take_u8(input);
    case 3:
        return region->gpa + 16 * take_u8(input);
    case 4:
        little = take_u8(input);
        return place->gpa[little % 3] + little;
    case 5:
        return UINT64_MAX - take_u8(input);
    case 6:
        return region->gpa;
    default:
        return take(input, 8);
    }
}

uint32_t take_length(struct input *input, const struct ringplace *place, uint64_t address)
{
    uint8_t kind = take_u8(input);
    uint32_t rest = 0;

    for (uint32_t i = 0; i < place->arena->count; i++) {
        const struct place *region = &place->arena->places[i];

        if (address - region->gpa < region->size)
            rest = (uint32_t)(region->size - (address - region->gpa));
    }
    switch (kind & 7) {
    case 0:
        return kind >> 3;
    case 1:
        return 16u * (kind >> 3);
    case 2:
        return rest;
    case 3:
        return rest + (kind >> 3);
    case 4:
        return UINT32_MAX - (kind >> 3);
    case 5:
        return 4096u * (2u + (kind >> 3) * 2u);
    case 6:
        return take_u16(input);
    default:
        return take_u32(input);
    }
}

struct desc take_buffer(struct input *input, const struct ringplace *place, uint32_t *ret_length)
{
    uint8_t kind = take_u8(input);
    struct desc desc = {0};

    if (kind < HOSTILE_FROM) {
        const struct place *region = &place->arena->places[kind % place->arena->count];
        uint32_t offset = take_u16(input) % region->size, rest = region->size - offset;

        desc.address = region->gpa + offset;
        *ret_length = 1 + take_u16(input) % rest;
    } else {
        desc.address = take_address(input, place);
        *ret_length = take_length(input, place, desc.address);
    }
    return desc;
}

void ringplace_write(const struct ringplace *place, uint64_t gpa, const void *bytes, uint32_t size)
{
    int64_t offset = arena_offset(place->arena, gpa, size);

    if (offset >= 0)
        arena_write(place->arena, (uint32_t)offset, bytes, size);
}

void ringplace_write_u16(const struct ringplace *place, uint64_t gpa, uint16_t value)
{
    ringplace_write(place, gpa, &value, sizeof(value));
}
