/* SPDX-License-Identifier: Apache-2.0 */
#include "arena.h"

#include <sanitizer/asan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hostile_atomic.h"
#include "states.h"
#include "trace.h"

enum { PAGE = 4096, UVA_SHIFT = 1 << 30, EDGES = 64, PAGE_PART = 64 };

uint32_t race_left;

static struct {
    struct arena *arena;
    int which;
    uint64_t pattern;
} race;

static bool guarding; /* mmap is called by the engine for a region */

void *__real_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);

/* The linker gives us every call of mmap: regions go between two guard pages. */
void *__wrap_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    if (!guarding || address)
        return __real_mmap(address, length, protection, flags, fd, offset);
    size_t whole = (length + PAGE - 1) / PAGE * PAGE + 2 * PAGE;
    uint8_t *hole = __real_mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (hole == MAP_FAILED)
        return hole;
    return __real_mmap(hole + PAGE, length, protection, flags | MAP_FIXED, fd, offset);
}

_Noreturn void arena_violated(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
    abort();
}

static void add(struct arena *arena, uint64_t gpa, uint32_t size, uint32_t offset)
{
    uint32_t end = (offset + size + PAGE - 1) / PAGE * PAGE;

    arena->places[arena->count++] = (struct place){gpa, size, offset};
    if (arena->file_size < end)
        arena->file_size = end;
}

static void describe(struct arena *all)
{
    /* one region */
    add(&all[0], 0x10000, 2 * PAGE, 0);
    /* adjacent for the guest, apart for the host and in the file; sizes that are no whole pages */
    add(&all[1], 0x100000, 2 * PAGE, PAGE);
    add(&all[1], 0x100000 + 2 * PAGE, PAGE, 0);
    add(&all[1], 0x40000000, PAGE + 6, 3 * PAGE);
    add(&all[1], 0x80000000, 2 * PAGE + 1028, 5 * PAGE);
    /* both ends of the address space */
    add(&all[2], 0, PAGE, 0);
    add(&all[2], -(uint64_t)(3 * PAGE), 3 * PAGE - 1, PAGE);
    /* a row of small regions, all of them the same page: long buffers have many parts */
    add(&all[3], 0x20000, 2 * PAGE, 0);
    for (uint32_t i = 0; i < EDGES; i++)
        add(&all[3], 0x1000000 + i * PAGE, PAGE, 2 * PAGE);
    /* room for rings of 1024 */
    add(&all[4], 0x200000, 14 * PAGE, 0);
    add(&all[4], 0x300000, PAGE, 14 * PAGE);
    /* the same bytes twice */
    add(&all[5], 0x10000, 3 * PAGE, 0);
    add(&all[5], 0x10000 + 3 * PAGE, 3 * PAGE, 0);
}

static void map_snapshot(struct arena *arena, int fd, int which)
{
    struct vhu_region *regions[REGIONS_MAX];
    uint32_t count = arena->count - (which == 2 && arena->count > 1);

    for (uint32_t i = 0; i < count; i++) {
        const struct place *place = &arena->places[i];
        /* the topmost region would wrap */
        uint64_t uva = place->gpa > INT64_MAX ? UVA_SHIFT / 2 : place->gpa + UVA_SHIFT;

        guarding = true;
        int rc = vhu_region_map(fd, place->gpa, uva, place->size, place->offset, &regions[i]);
        guarding = false;
        HOLDS(rc == 0);
        uint8_t *hva = arena->hva[which][i] = vhu_region_hva(regions[i]);
        __asan_poison_memory_region(hva + place->size, -place->size % PAGE);
    }
    HOLDS(vhu_mem_create(regions, count, &arena->mem[which]) == 0);
    for (uint32_t i = 0; i < count; i++)
        vhu_region_unref(regions[i]);
}

struct arena *arenas(void)
{
    static struct arena all[LAYOUTS];

    if (all[0].bytes)
        return all;
    describe(all);
    for (struct arena *arena = all; arena < all + LAYOUTS; arena++) {
        int fd = memfd_create("arena", MFD_CLOEXEC);

        HOLDS(fd >= 0 && ftruncate(fd, arena->file_size) == 0);
        arena->bytes = mmap(NULL, arena->file_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        arena->shadow = malloc(arena->file_size);
        HOLDS(arena->bytes != MAP_FAILED && arena->shadow);
        for (int which = 0; which < SNAPSHOTS; which++)
            map_snapshot(arena, fd, which);
        close(fd);
    }
    return all;
}

void arena_reset(struct arena *arena)
{
    race_left = 0;
    memset(arena->bytes, 0, arena->file_size);
    memset(arena->shadow, 0, arena->file_size);
    states_begin();
}

void arena_write(struct arena *arena, uint32_t offset, const void *bytes, uint32_t size)
{
    HOLDS(size <= arena->file_size && offset <= arena->file_size - size);
    memcpy(arena->bytes + offset, bytes, size);
    memcpy(arena->shadow + offset, bytes, size);
    states_changed(offset, bytes, size);
    trace_write(offset, bytes, size);
}

int64_t arena_offset(const struct arena *arena, uint64_t gpa, uint64_t size)
{
    for (uint32_t i = 0; i < arena->count; i++) {
        const struct place *place = &arena->places[i];

        if (gpa >= place->gpa && gpa - place->gpa < place->size)
            return size <= place->size - (gpa - place->gpa)
                       ? (int64_t)(place->offset + (gpa - place->gpa))
                       : -1;
    }
    return -1;
}

int arena_region(const struct arena *arena, int which, const void *hva, uint64_t size)
{
    for (uint32_t i = 0; i < arena->count; i++) {
        const uint8_t *start = arena->hva[which][i];
        uint64_t offset = (uintptr_t)hva - (uintptr_t)start;

        if (start && offset < arena->places[i].size && size <= arena->places[i].size - offset)
            return (int)i;
    }
    return -1;
}

/* The first place from `offset` on where memory and shadow differ. */
static uint32_t next_difference(const struct arena *arena, uint32_t offset)
{
    while (offset < arena->file_size && offset % PAGE_PART == 0 &&
           memcmp(arena->bytes + offset, arena->shadow + offset, PAGE_PART) == 0)
        offset += PAGE_PART;
    while (offset < arena->file_size && arena->bytes[offset] == arena->shadow[offset]) {
        if (++offset % PAGE_PART == 0)
            return next_difference(arena, offset);
    }
    return offset;
}

static bool allowed(const struct extent *extents, uint32_t count, uint32_t offset)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t distance = offset - extents[i].offset, bits = extents[i].bits;

        if (distance < extents[i].size && (distance & bits) == bits)
            return true;
    }
    return false;
}

void arena_check(const struct arena *arena, const struct extent *extents, uint32_t count)
{
    if (memcmp(arena->bytes, arena->shadow, arena->file_size) == 0)
        return;
    uint32_t offset = next_difference(arena, 0);
    while (offset < arena->file_size) {
        if (!allowed(extents, count, offset)) {
            fprintf(stderr, "the engine wrote at offset %#x of the file\n", offset);
            arena_violated(__FILE__, __LINE__, "the engine writes only where it may");
        }
        offset = next_difference(arena, offset + 1);
    }
}

void arena_race(struct arena *arena, int which, uint32_t loads, uint64_t pattern)
{
    race.arena = arena;
    race.which = which;
    race.pattern = pattern ? pattern : 1;
    race_left = trace_is_on() ? 0 : loads; /* the oracle reads other fields in another order */
}

void race_strike(const volatile void *loaded, size_t size)
{
    const uint8_t *hva = (const uint8_t *)loaded;
    int region = arena_region(race.arena, race.which, hva, size);
    uint64_t value = 0;

    if (region < 0)
        return; /* not guest memory */
    race_left--;
    uint32_t offset = race.arena->places[region].offset +
                      (uint32_t)(hva - race.arena->hva[race.which][region]);
    memcpy(&value, race.arena->bytes + offset, size);
    value ^= race.pattern;
    arena_write(race.arena, offset, &value, (uint32_t)size);
}
