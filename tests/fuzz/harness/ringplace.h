/* SPDX-License-Identifier: Apache-2.0
 *
 * A ring in an arena, chosen by an input: shape, position, and where its areas lie. What the
 * targets of both sides of a ring share.
 */
#ifndef RINGPLACE_H
#define RINGPLACE_H

#include "arena.h"
#include "input.h"
#include "layout.h"

struct ringplace {
    struct arena *arena;
    int which; /* the snapshot that the ring uses */
    bool packed;
    uint32_t num;
    uint64_t gpa[3];
    uint32_t offset[3]; /* of each area in the arena's file */
    uint32_t size[3];
    struct vhu_ring_config config;
};

/* What of each region is not a ring's yet. */
struct ringplace_room {
    uint32_t low[REGIONS_MAX], end[REGIONS_MAX];
};

/* Decode a place from the front of `input` and reset its arena. False: no such ring fits there. */
bool ringplace_take(struct input *input, struct ringplace *ret);
/* All of an arena is free. */
void ringplace_room_begin(struct ringplace_room *room, const struct arena *arena);
/* The same for one of several rings that do not overlap, with features that are known. The arena was reset. */
bool ringplace_take_next(struct input *input, struct arena *arena, uint64_t features,
                         struct ringplace_room *room, struct ringplace *ret);
/* The areas' host addresses in snapshot `which`; false: they do not lie in it. */
bool ringplace_enter(struct ringplace *place, int which);

/* Addresses and lengths as a hostile peer picks them: edges of regions, the ring itself, all. */
uint64_t take_address(struct input *input, const struct ringplace *place);
uint32_t take_length(struct input *input, const struct ringplace *place, uint64_t address);
/* A buffer: mostly one that lies in a region, else as above. */
struct desc take_buffer(struct input *input, const struct ringplace *place, uint32_t *ret_length);

/* Write what the peer writes; where no memory is, nothing happens. */
void ringplace_write(const struct ringplace *place, uint64_t gpa, const void *bytes, uint32_t size);
void ringplace_write_u16(const struct ringplace *place, uint64_t gpa, uint16_t value);

#endif
