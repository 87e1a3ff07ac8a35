/* SPDX-License-Identifier: Apache-2.0
 *
 * Guest memory: mappings of the front-end's memory fds, and immutable snapshots of their table.
 * Only address arithmetic and mmap; nothing here reads or writes a guest's bytes. sigbus.c sees to
 * files that are truncated afterwards.
 */
#include "memory.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "atomic.h"
#include "sigbus.h"

enum { REGION_ALIGNMENT = 4096 };

struct vhu_region {
    uint32_t references;
    uint64_t gpa;
    uint64_t uva;
    uint64_t size;
    uint8_t *hva;
    void *map; /* what mmap gave, rounded to the pages of the file */
    size_t map_size;
    struct guard *guard;
};

static void take(uint32_t *references)
{
    __atomic_fetch_add(references, 1, __ATOMIC_RELAXED);
}

/* True: that was the last one. */
static bool drop(uint32_t *references)
{
    return __atomic_sub_fetch(references, 1, __ATOMIC_ACQ_REL) == 0;
}

/* The page size that maps of `fd` must obey, and that the file is long enough. A fault in a map is answered by the file
 * system: where that is a process, its owner decides when, and a worker that others share would wait for it. */
static int inspect_file(int fd, uint64_t end, uint64_t *ret_page)
{
    struct statfs filesystem;
    struct stat status;

    if (fstat(fd, &status) < 0 || fstatfs(fd, &filesystem) < 0)
        return -errno;
    if (!S_ISREG(status.st_mode))
        return -ENODEV;
    if (filesystem.f_type == FUSE_SUPER_MAGIC)
        return -EOPNOTSUPP;
    if (end > (uint64_t)status.st_size)
        return -ERANGE;
    *ret_page = filesystem.f_type == HUGETLBFS_MAGIC ? (uint64_t)filesystem.f_bsize
                                                     : (uint64_t)sysconf(_SC_PAGESIZE);
    return 0;
}

int vhu_region_map(int fd, uint64_t gpa, uint64_t uva, uint64_t size, uint64_t offset,
                   struct vhu_region **ret)
{
    uint64_t end, page, ignored;
    int rc;

    if (size == 0 || (gpa | uva | offset) % REGION_ALIGNMENT != 0 ||
        __builtin_add_overflow(gpa, size, &ignored) ||
        __builtin_add_overflow(uva, size, &ignored) || __builtin_add_overflow(offset, size, &end))
        return -EINVAL;
    rc = inspect_file(fd, end, &page);
    if (rc < 0)
        return rc;

    /* offset + size is at most a file's length, so that none of these sums can wrap */
    uint64_t first = offset - offset % page;
    size_t map_size = (end - first + page - 1) / page * page;
    void *map = mmap(NULL, map_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
                     (off_t)first);
    if (map == MAP_FAILED)
        return -errno;
    struct vhu_region *region = malloc(sizeof(*region));
    struct guard *guard = vhu_guard_create(map, map_size, page);
    if (!region || !guard || madvise(map, map_size, MADV_DONTFORK) < 0) {
        rc = region && guard ? -errno : -ENOMEM;
        vhu_guard_destroy(guard);
        munmap(map, map_size);
        free(region);
        return rc;
    }
    *region = (struct vhu_region){
        .references = 1,
        .gpa = gpa,
        .uva = uva,
        .size = size,
        .hva = (uint8_t *)map + (offset - first),
        .map = map,
        .map_size = map_size,
        .guard = guard,
    };
    *ret = region;
    return 0;
}

void vhu_region_unref(struct vhu_region *region)
{
    if (!region || !drop(&region->references))
        return;
    vhu_guard_destroy(region->guard);
    munmap(region->map, region->map_size);
    free(region);
}

void *vhu_region_hva(const struct vhu_region *region)
{
    return region->hva;
}

static int compare_spans(const void *left, const void *right)
{
    const struct span *a = left, *b = right;

    return (a->start > b->start) - (a->start < b->start);
}

/* Sort `count` spans; -EEXIST when two of them overlap. */
static int sort_spans(struct span *spans, size_t count)
{
    qsort(spans, count, sizeof(*spans), compare_spans);
    for (size_t i = 1; i < count; i++) {
        if (spans[i].start - spans[i - 1].start < spans[i - 1].size)
            return -EEXIST;
    }
    return 0;
}

static void free_mem(struct vhu_mem *mem)
{
    free(mem->by_gpa);
    free(mem->by_uva);
    free(mem->regions);
    free(mem);
}

int vhu_mem_create(struct vhu_region *const *regions, size_t count, struct vhu_mem **ret)
{
    if (count >= UINT32_MAX)
        return -EINVAL;
    vhu_sigbus_install();
    struct vhu_mem *mem = calloc(1, sizeof(*mem));
    if (!mem)
        return -ENOMEM;
    mem->references = 1;
    mem->count = (uint32_t)count;
    mem->by_gpa = calloc(count + 1, sizeof(*mem->by_gpa));
    mem->by_uva = calloc(count + 1, sizeof(*mem->by_uva));
    mem->regions = calloc(count + 1, sizeof(struct vhu_region *));
    if (!mem->by_gpa || !mem->by_uva || !mem->regions) {
        free_mem(mem);
        return -ENOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        struct vhu_region *region = regions[i];

        mem->regions[i] = region;
        mem->by_gpa[i] = (struct span){region->gpa, region->size, region->hva};
        mem->by_uva[i] = (struct span){region->uva, region->size, region->hva};
    }
    if (sort_spans(mem->by_gpa, count) < 0 || sort_spans(mem->by_uva, count) < 0) {
        free_mem(mem);
        return -EEXIST;
    }
    for (size_t i = 0; i < count; i++)
        take(&mem->regions[i]->references);
    *ret = mem;
    return 0;
}

void vhu_mem_ref(struct vhu_mem *mem)
{
    take(&mem->references);
}

void vhu_mem_unref(struct vhu_mem *mem)
{
    if (!mem || !drop(&mem->references))
        return;
    for (uint32_t i = 0; i < mem->count; i++)
        vhu_region_unref(mem->regions[i]);
    free_mem(mem);
}

bool vhu_mem_faulted(const struct vhu_mem *mem, uint64_t *gpa)
{
    for (uint32_t i = 0; i < mem->count; i++) {
        *gpa = mem->regions[i]->gpa;
        if (vhu_guard_faulted(mem->regions[i]->guard))
            return true;
    }
    return false;
}

uint32_t vhu_mem_pins(const struct vhu_mem *mem)
{
    return load_acquire(&mem->references) - 1;
}

const struct span *vhu_span_search(const struct span *spans, uint32_t count, uint64_t address)
{
    uint32_t low = 0, high = count; /* the last span that starts at or below lies below `high` */

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (spans[middle].start <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || address - spans[low - 1].start >= spans[low - 1].size)
        return NULL;
    return &spans[low - 1];
}

static void *range_to_hva(const struct span *spans, uint32_t count, uint64_t address,
                          uint64_t length)
{
    const struct span *span = vhu_span_search(spans, count, address);

    if (!span || length > span->size - (address - span->start))
        return NULL;
    return span->hva + (address - span->start);
}

void *vhu_mem_gpa_to_hva(const struct vhu_mem *mem, uint64_t gpa, uint64_t length)
{
    return range_to_hva(mem->by_gpa, mem->count, gpa, length);
}

void *vhu_mem_uva_to_hva(const struct vhu_mem *mem, uint64_t uva, uint64_t length)
{
    return range_to_hva(mem->by_uva, mem->count, uva, length);
}
