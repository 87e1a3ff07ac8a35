/* SPDX-License-Identifier: Apache-2.0
 *
 * Invariant: a memory table is accepted exactly when no two of its regions overlap, by either kind
 * of address, and it finds exactly the ranges that lie in one of its regions, where they are. The
 * reference is a plain search through all regions.
 *
 * An input chooses regions of a fixed set, which holds neighbours, overlaps and both ends of the
 * address space, and then asks for ranges. Nothing here counts as a ring state.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arena.h"
#include "hostile_atomic.h"
#include "input.h"
#include "memory.h"
#include "states.h"

enum { PAGE = 4096, POOL = 64, ASKED_MAX = 64 };

struct candidate {
    uint64_t gpa;
    uint64_t uva;
    uint64_t size;
    struct vhu_region *region;
};

static struct candidate pool[POOL];

extern int LLVMFuzzerInitialize(int *count, char ***arguments);
extern int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerInitialize(int *count, char ***arguments)
{
    static const uint64_t sizes[] = {PAGE, 2 * PAGE, PAGE - 1, 1};
    int fd = memfd_create("pool", MFD_CLOEXEC);

    (void)count;
    (void)arguments;
    HOLDS(fd >= 0 && ftruncate(fd, 4 * PAGE) == 0);
    for (uint64_t i = 0; i < POOL; i++) {
        struct candidate *one = &pool[i];

        /* neighbours in order for the guest, every fourth overlaps the one before; another order
         * for the front-end, where two overlap; some at the very end of either address space */
        one->gpa = (i - (i % 4 == 3)) * 2 * PAGE;
        one->uva = (i * 5 % POOL) * 2 * PAGE + (1ULL << 40);
        one->size = sizes[i / 2 % 4];
        if (i >= POOL - 4)
            one->gpa = -(2 * PAGE * (POOL - i));
        if (i == POOL - 5)
            one->uva = -(uint64_t)(4 * PAGE);
        if (i == POOL - 6)
            one->uva = pool[2].uva + PAGE;
        HOLDS(vhu_region_map(fd, one->gpa, one->uva, one->size, i % 2 * PAGE, &one->region) == 0);
    }
    close(fd);
    states_open();
    return 0;
}

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a < b ? b - a < a_size : a - b < b_size;
}

static bool is_legal(const struct candidate *const *chosen, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < i; j++) {
            if (overlap(chosen[i]->gpa, chosen[i]->size, chosen[j]->gpa, chosen[j]->size) ||
                overlap(chosen[i]->uva, chosen[i]->size, chosen[j]->uva, chosen[j]->size))
                return false;
        }
    }
    return true;
}

static void *reference(const struct candidate *const *chosen, size_t count, bool by_uva,
                       uint64_t address, uint64_t length)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t start = by_uva ? chosen[i]->uva : chosen[i]->gpa;

        if (address >= start && address - start < chosen[i]->size)
            return length <= chosen[i]->size - (address - start)
                       ? (uint8_t *)vhu_region_hva(chosen[i]->region) + (address - start)
                       : NULL;
    }
    return NULL;
}

static void ask(struct input *in, const struct vhu_mem *mem, const struct candidate *const *chosen,
                size_t count)
{
    uint32_t hit = 0;

    for (int i = 0; i < ASKED_MAX && in->left > 0; i++) {
        uint8_t kind = take_u8(in);
        const struct candidate *near = &pool[take_u8(in) % POOL];
        bool by_uva = kind & 1;
        uint64_t address = by_uva ? near->uva : near->gpa, length = kind >> 4;

        address += kind & 2 ? near->size : 0;
        address += kind & 4 ? (uint64_t)(int8_t)take_u8(in) : 0;
        if (kind & 8)
            length = take(in, kind & 0x10 ? 8 : 2);
        void *want = reference(chosen, count, by_uva, address, length);
        if (by_uva) {
            HOLDS(vhu_mem_uva_to_hva(mem, address, length) == want);
            continue;
        }
        HOLDS(vhu_mem_gpa_to_hva(mem, address, length) == want);
        HOLDS(mem_find_range(mem, &hit, address, length) == want);
        HOLDS(count == 0 || hit < count);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct input in = {bytes, size};
    const struct candidate *chosen[POOL];
    struct vhu_region *regions[POOL];
    uint64_t mask = take(&in, 8);
    uint8_t order = take_u8(&in);
    size_t count = 0;
    struct vhu_mem *mem;

    states_begin();
    for (uint32_t i = 0; i < POOL; i++) {
        uint32_t which = (order + i * (order | 1)) % POOL;

        if (!(mask >> which & 1))
            continue;
        chosen[count] = &pool[which];
        regions[count++] = pool[which].region;
    }
    int rc = vhu_mem_create(regions, count, &mem);
    HOLDS((rc == 0) == is_legal(chosen, count));
    if (rc < 0)
        return 0;
    ask(&in, mem, chosen, count);
    HOLDS(vhu_mem_pins(mem) == 0);
    vhu_mem_unref(mem);
    return 0;
}
