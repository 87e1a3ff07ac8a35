/* SPDX-License-Identifier: Apache-2.0
 *
 * Guest memory snapshots, as the rings see them: a sorted table of spans and the search in it.
 */
#ifndef VHU_MEMORY_H
#define VHU_MEMORY_H

#include "vhu.h"

struct span {
    uint64_t start; /* the peer's address: GPA or UVA */
    uint64_t size;
    uint8_t *hva;
};

struct vhu_mem {
    uint32_t references;
    uint32_t count;
    struct span *by_gpa; /* sorted, followed by an empty span, so that entry 0 always exists */
    struct span *by_uva;
    struct vhu_region **regions;
};

/* The span of `spans` that holds `address`, or NULL. */
const struct span *vhu_span_search(const struct span *spans, uint32_t count, uint64_t address);

/* The span that holds `gpa`, or NULL. `*hit` remembers the last answer: most buffers of a ring lie
 * in one region, and then the length of the table costs nothing. */
static inline const struct span *mem_find(const struct vhu_mem *mem, uint32_t *hit, uint64_t gpa)
{
    const struct span *span = &mem->by_gpa[*hit];

    if (__builtin_expect(gpa - span->start < span->size, 1))
        return span;
    span = vhu_span_search(mem->by_gpa, mem->count, gpa);
    if (span)
        *hit = (uint32_t)(span - mem->by_gpa);
    return span;
}

/* Host address of [gpa, gpa + length) when all of it lies in one region, else NULL. */
static inline void *mem_find_range(const struct vhu_mem *mem, uint32_t *hit, uint64_t gpa,
                                   uint64_t length)
{
    const struct span *span = mem_find(mem, hit, gpa);

    if (!span || length > span->size - (gpa - span->start))
        return NULL;
    return span->hva + (gpa - span->start);
}

#endif
