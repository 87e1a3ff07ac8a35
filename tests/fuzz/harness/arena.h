/* SPDX-License-Identifier: Apache-2.0
 *
 * Guest memory for fuzz targets. A few layouts of regions are mapped once, each region between two
 * pages that nobody may touch, the rest of its last page poisoned for the address sanitizer. The
 * harness writes through a mapping of its own and keeps a shadow: what differs from it in the end
 * was written by the engine.
 */
#ifndef ARENA_H
#define ARENA_H

#include <stdbool.h>

#include "vhu.h"

enum { LAYOUTS = 6, REGIONS_MAX = 68, SNAPSHOTS = 3 };

struct place {
    uint64_t gpa;
    uint32_t size;
    uint32_t offset; /* in the layout's file */
};

struct arena {
    uint32_t file_size;
    uint32_t count;
    struct place places[REGIONS_MAX];
    uint8_t *bytes;  /* the file, for the harness */
    uint8_t *shadow; /* what is there if the engine has written nothing */
    /* the same table twice, in different mappings, and one that lacks its last region */
    struct vhu_mem *mem[SNAPSHOTS];
    uint8_t *hva[SNAPSHOTS][REGIONS_MAX];
};

/* Bytes of the file that the engine may write: those whose distance from the first has all bits of
 * `bits` set (8: the second half of each descriptor). */
struct extent {
    uint32_t offset;
    uint32_t size;
    uint32_t bits;
};

/* All layouts; mapped by the first call. */
struct arena *arenas(void);

void arena_reset(struct arena *arena);
void arena_write(struct arena *arena, uint32_t offset, const void *bytes, uint32_t size);
/* The offset in the file of `size` bytes at `gpa`, or -1 unless one region holds them. */
int64_t arena_offset(const struct arena *arena, uint64_t gpa, uint64_t size);
/* The region of snapshot `which` in which all of [hva, hva + size) lies, or -1. */
int arena_region(const struct arena *arena, int which, const void *hva, uint64_t size);
/* Abort unless the engine kept to `extents`. */
void arena_check(const struct arena *arena, const struct extent *extents, uint32_t count);

/* From now on until the next reset, the next `loads` loads of guest memory each have what they read
 * changed right after. */
void arena_race(struct arena *arena, int which, uint32_t loads, uint64_t pattern);

/* What must hold; unlike assert it cannot be compiled out. */
#define HOLDS(condition)                                                              \
    do {                                                                              \
        if (!(condition))                                                             \
            arena_violated(__FILE__, __LINE__, #condition);                           \
    } while (0)
_Noreturn void arena_violated(const char *file, int line, const char *what);

#endif
