/* SPDX-License-Identifier: Apache-2.0 */
#include "trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 1 << 18, BUFFER = 1 << 20 };

static FILE *file;
static uint8_t known[FILE_MAX]; /* what the reader has in guest memory */

static void put(const void *bytes, size_t size)
{
    if (fwrite(bytes, 1, size, file) != size)
        exit(0); /* the reader has enough */
}

static void put_number(uint64_t number, size_t size)
{
    put(&number, size);
}

void trace_open(void)
{
    const char *path = getenv("VHU_FUZZ_TRACE");

    if (!path)
        return;
    file = fopen(path, "wb");
    HOLDS(file && setvbuf(file, NULL, _IOFBF, BUFFER) == 0);
}

bool trace_is_on(void)
{
    return file;
}

void trace_write(uint32_t offset, const void *bytes, uint32_t size)
{
    if (!file)
        return;
    memcpy(known + offset, bytes, size);
    put("W", 1);
    put_number(offset, 4);
    put_number(size, 2);
    put(bytes, size);
}

void trace_input(const uint8_t *bytes, size_t size, const struct arena *arena,
                 const struct vhu_ring_config *config, const uint64_t gpas[3], int created)
{
    if (!file)
        return;
    HOLDS(arena->file_size <= FILE_MAX);
    memset(known, 0, arena->file_size);
    put("I", 1);
    put_number(config->features, 8);
    put_number(config->num, 4);
    put(gpas, 3 * sizeof(gpas[0]));
    put(&config->state, sizeof(config->state));
    put_number((uint64_t)(int64_t)created, 4);
    put_number(arena->file_size, 4);
    put_number(arena->count, 2);
    put(arena->places, arena->count * sizeof(arena->places[0]));
    put_number(size, 4);
    put(bytes, size);
}

void trace_end(void)
{
    if (file)
        put("E", 1);
}

/* The runs of bytes that changed: how many, then offset, size and bytes of each. */
static void put_changes(const struct arena *arena)
{
    uint32_t end = arena->file_size, offset = 0;

    if (memcmp(known, arena->bytes, end) != 0) {
        while (offset < end) {
            uint32_t start = offset;

            while (offset < end && known[offset] != arena->bytes[offset])
                offset++;
            if (offset == start) {
                offset++;
                continue;
            }
            put_number(offset - start, 2);
            put_number(start, 4);
            put(arena->bytes + start, offset - start);
        }
        memcpy(known, arena->bytes, end);
    }
    put_number(0, 2);
}

void trace_call(char kind, const struct arena *arena, const struct vhu_ring *ring,
                uint64_t argument, int64_t result)
{
    struct vhu_ring_state state = {0};
    uint64_t value = 0;

    if (!file)
        return;
    enum vhu_fault fault = ring ? vhu_ring_fault(ring, &value) : VHU_FAULT_NONE;
    if (ring)
        vhu_ring_state(ring, &state);
    put(&kind, 1);
    put_number(argument, 8);
    put_number((uint64_t)result, 4);
    put_number(fault, 1);
    put_number(value, 8);
    put(&state, sizeof(state));
    put_changes(arena);
}

static uint64_t gpa_of(const struct arena *arena, int which, const struct iovec *iov)
{
    int region = arena_region(arena, which, iov->iov_base, iov->iov_len);

    HOLDS(region >= 0);
    return arena->places[region].gpa +
           (uint64_t)((uint8_t *)iov->iov_base - arena->hva[which][region]);
}

void trace_chain(const struct arena *arena, int which, const struct vhu_chain *chain)
{
    if (!file)
        return;
    put("C", 1);
    put_number(chain->id, 2);
    put_number(chain->slots, 2);
    put_number(chain->readable, 2);
    put_number(chain->writable, 2);
    for (uint32_t i = 0; i < chain->readable + chain->writable; i++) {
        put_number(gpa_of(arena, which, &chain->iov[i]), 8);
        put_number(chain->iov[i].iov_len, 4);
    }
}
