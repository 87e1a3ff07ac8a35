/* SPDX-License-Identifier: Apache-2.0
 *
 * Invariant: whatever a request says and whatever the host answers, each operation that a request
 * asks for lies on the disk, moves only what the guest gave for data, uses the direct file only for
 * what is aligned, changes nothing on a read-only disk, and ends; the guest is told its status in
 * the last writable byte and nowhere else, and never success where the host failed.
 *
 * An input is a disk, a chain in guest memory with a request in it, and the host's answers. What is
 * counted are calls of the block device, which are no ring states.
 */
#include <errno.h>
#include <limits.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>

#include "blk.h"
#include "hostile_atomic.h"
#include "ringplace.h"
#include "states.h"

enum { PARTS_MAX = 48, OPS_MAX = 64, DIRECT_FD = 1000, BUFFERED_FD = 1001 };
enum { BLK_IN = 0, BLK_OUT = 1, BLK_FLUSH = 4, BLK_GET_ID = 8, BLK_DISCARD = 11, BLK_ZEROES = 13 };
enum call { CALL_BEGIN, CALL_DONE, CALL_COPY, CALL_FINISH };

struct fuzz {
    struct input in;
    struct ringplace place; /* the memory; its ring is not used */
    struct vhu_blk blk;
    uint64_t features;
    uint32_t type;
    struct iovec parts[PARTS_MAX]; /* used up as the request goes on ... */
    struct iovec given[PARTS_MAX]; /* ... and as the guest gave them */
    struct vhu_chain chain;
    bool host_failed; /* in a way that the guest must hear of */
    uint32_t ops;
};

extern int LLVMFuzzerInitialize(int *count, char ***arguments);
extern int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void take_disk(struct fuzz *f)
{
    uint8_t shape = take_u8(&f->in), limits = take_u8(&f->in);

    f->blk = (struct vhu_blk){
        .config = {
            .fd = shape & 1 ? -1 : DIRECT_FD,
            .buffered_fd = (shape & 3) == 2 ? BUFFERED_FD : -1,
            .alignment = (shape & 3) == 2 ? 512u << (shape >> 6) : 1,
            .seg_max = limits & 1 ? limits >> 4 : 0,
            .size_max = limits & 2 ? 512u << (limits >> 6) : 0,
            .max_discard_sectors = limits & 4 ? 64 : UINT32_MAX,
            .max_discard_segments = limits >> 3 & 3,
            .max_write_zeroes_sectors = limits & 4 ? 64 : UINT32_MAX,
            .max_write_zeroes_segments = limits >> 4 & 7,
            .read_only = shape >> 2 & 1,
            .serial = "0123456789abcdefghi",
        },
        .sectors = shape & 8 ? take(&f->in, 8) & INT64_MAX >> 9 : take_u8(&f->in),
        .writeback = shape >> 4 & 1,
    };
    f->features = (shape & 0x20 ? 1ULL << 9 : 0) | (uint64_t)(limits & 2);
}

/* Parts anywhere in guest memory. */
static uint32_t take_parts(struct fuzz *f, uint32_t from, uint32_t count, uint64_t *bytes)
{
    for (uint32_t i = 0; i < count && from < PARTS_MAX; i++) {
        const struct place *region;
        uint8_t which = take_u8(&f->in);
        uint32_t index = which % f->place.arena->count, length;

        region = &f->place.arena->places[index];
        length = which & 0x80 ? take_u16(&f->in) : 512u * (take_u8(&f->in) % 8u) + (which >> 6 & 1);
        length = length == 0 ? 16 : length > region->size ? region->size : length;
        /* at the region's end, where one byte more is caught, or at its start */
        uint32_t offset = which & 0x20 ? 0 : region->size - length;
        f->given[from++] = (struct iovec){f->place.arena->hva[0][index] + offset, length};
        *bytes += length;
    }
    return from;
}

static void put_bytes(struct fuzz *f, uint64_t at, const void *bytes, uint32_t size)
{
    const uint8_t *from = bytes;

    for (uint32_t i = 0; i < f->chain.readable && size > 0; i++) {
        const struct iovec *part = &f->given[i];

        for (; at < part->iov_len && size > 0; at++, size--) {
            int region = arena_region(f->place.arena, 0, part->iov_base, part->iov_len);
            uint64_t offset = (uintptr_t)part->iov_base -
                              (uintptr_t)f->place.arena->hva[0][region] + at;

            arena_write(f->place.arena,
                        f->place.arena->places[region].offset + (uint32_t)offset, from++, 1);
        }
        at = at > part->iov_len ? at - part->iov_len : 0;
    }
}

static uint64_t take_sector(struct fuzz *f)
{
    uint8_t kind = take_u8(&f->in);

    if (kind < 0xc0)
        return kind % 16;
    if (kind < 0xe0)
        return f->blk.sectors - (kind & 0xf);
    return take(&f->in, 8);
}

static void take_request(struct fuzz *f)
{
    static const uint32_t types[] = {
        BLK_IN,  BLK_OUT, BLK_FLUSH,  BLK_GET_ID, BLK_DISCARD, BLK_ZEROES,
        BLK_OUT, BLK_IN,  BLK_ZEROES, 2,          14,          0x80000000,
    };
    uint8_t type = take_u8(&f->in), segments = take_u8(&f->in) % 10;
    struct {
        uint32_t type, priority;
        uint64_t sector;
    } header = {types[type % 12], 0, take_sector(f)};

    put_bytes(f, 0, &header, sizeof(header));
    for (uint32_t i = 0; i < segments; i++) {
        struct {
            uint64_t sector;
            uint32_t count, flags;
        } segment = {.sector = take_sector(f)};
        uint8_t shape = take_u8(&f->in);

        segment.count = shape & 0x80 ? take_u32(&f->in) : shape & 0x3f;
        segment.flags = shape >> 6 & 1 ? take_u8(&f->in) : 0;
        put_bytes(f, sizeof(header) + i * sizeof(segment), &segment, sizeof(segment));
    }
}

/* The type that the chain says in the end: its parts may overlap. */
static uint32_t find_type(const struct fuzz *f)
{
    uint8_t bytes[sizeof(uint32_t)] = {0};
    uint32_t type, have = 0;

    for (uint32_t i = 0; i < f->chain.readable && have < sizeof(bytes); i++) {
        for (uint32_t at = 0; at < f->given[i].iov_len && have < sizeof(bytes); at++)
            bytes[have++] = ((const uint8_t *)f->given[i].iov_base)[at];
    }
    memcpy(&type, bytes, sizeof(type));
    return type;
}

static void take_chain(struct fuzz *f)
{
    uint8_t counts = take_u8(&f->in);
    uint64_t readable = 0, writable = 0;

    f->chain = (struct vhu_chain){.iov = f->parts, .slots = 1};
    uint32_t first = f->chain.readable = take_parts(f, 0, counts % 16, &readable);
    f->chain.writable = take_parts(f, first, counts / 16, &writable) - first;
    f->chain.readable_bytes = readable;
    f->chain.writable_bytes = writable;
    take_request(f);
    f->type = find_type(f);
    memcpy(f->parts, f->given, sizeof(f->parts));
}

/* ---- The host -------------------------------------------------------------------------------- */

/* Whether [hva, hva + length) lies in the parts from `first` on, without the last `less` bytes. */
static bool is_given(const struct fuzz *f, uint32_t first, uint32_t count, const uint8_t *hva,
                     uint64_t length, uint64_t less)
{
    for (uint32_t i = first; i < first + count; i++) {
        uint64_t size = f->given[i].iov_len - (i + 1 == first + count ? less : 0);
        uint64_t offset = (uintptr_t)hva - (uintptr_t)f->given[i].iov_base;

        if (offset < size && length <= size - offset)
            return true;
    }
    return false;
}

static uint64_t check_transfer(struct fuzz *f, const struct io_op *op)
{
    const struct vhu_blk_config *config = &f->blk.config;
    bool zeroes = f->type == BLK_ZEROES, write = op->kind == IO_WRITE;
    uint32_t first = f->chain.readable, count = f->chain.writable;
    uint64_t bytes = 0, bits = op->offset;

    HOLDS(op->count > 0 && op->count <= IOV_MAX);
    HOLDS(write == (f->type != BLK_IN));
    for (uint32_t i = 0; i < op->count; i++) {
        volatile uint8_t *hva = op->iov[i].iov_base;
        uint64_t length = op->iov[i].iov_len;

        HOLDS(length > 0);
        bits |= (uintptr_t)hva | length;
        bytes += length;
        if (!write) {
            HOLDS(is_given(f, first, count, op->iov[i].iov_base, length, 1));
            hva[0] = hva[length - 1] = (uint8_t)f->ops;
        } else if (!zeroes) {
            HOLDS(is_given(f, 0, first, op->iov[i].iov_base, length, 0));
        } else {
            HOLDS(hva[0] == 0 && hva[length - 1] == 0);
        }
    }
    if (op->fd == DIRECT_FD && config->buffered_fd >= 0)
        HOLDS(bits % config->alignment == 0);
    if (write && !zeroes && (!f->blk.writeback || !(f->features >> 9 & 1)))
        HOLDS(op->flags & RWF_DSYNC);
    return bytes;
}

/* Check an operation and say what came of it. */
static int64_t answer(struct fuzz *f, const struct io_op *op)
{
    const struct vhu_blk_config *config = &f->blk.config;
    uint64_t end = f->blk.sectors * SECTOR, bytes = op->length;
    uint8_t choice = f->ops < OPS_MAX ? take_u8(&f->in) : 0;

    HOLDS(op->fd == config->fd || (op->fd == config->buffered_fd && op->fd >= 0));
    HOLDS(config->fd >= 0);
    HOLDS(op->kind == IO_READ || op->kind == IO_SYNC || !config->read_only);
    if (op->kind == IO_READ || op->kind == IO_WRITE)
        bytes = check_transfer(f, op);
    if (op->kind != IO_SYNC)
        HOLDS(bytes > 0 && op->offset <= end && bytes <= end - op->offset);
    if (op->kind == IO_FALLOCATE) {
        HOLDS(f->type == BLK_DISCARD || f->type == BLK_ZEROES);
        HOLDS(op->flags & FALLOC_FL_KEEP_SIZE);
    }
    if (choice < 0xa0)
        return op->kind == IO_READ || op->kind == IO_WRITE ? (int64_t)bytes : 0;
    if (choice < 0xb8)
        return choice & 1 ? -EINTR : -EAGAIN;
    if (choice < 0xc8 && op->kind == IO_FALLOCATE)
        return -EOPNOTSUPP;
    if (choice < 0xe0 && op->kind != IO_SYNC && op->kind != IO_FALLOCATE)
        return (int64_t)(1 + take_u16(&f->in) % bytes);
    f->host_failed |= op->kind != IO_FALLOCATE || f->type == BLK_DISCARD ||
                      op->flags & FALLOC_FL_ZERO_RANGE;
    if (choice < 0xf0 && (op->kind == IO_READ || op->kind == IO_WRITE))
        return 0;
    return choice & 1 ? -EIO : -ENOSPC;
}

/* Go on with a copy of the request, as one that waits does. Room is for just what it needs. */
static struct iovec *move_request(struct blk_request *request)
{
    uint32_t count = request->stage == BLK_STAGE_DONE ? 0 : blk_iov_count(request);
    struct iovec *iov = malloc(count ? count * sizeof(*iov) : 1);
    struct blk_request copy;

    HOLDS(iov);
    vhu_blk_copy(&copy, request, iov);
    *request = copy;
    return iov;
}

/* ---- Inputs ---------------------------------------------------------------------------------- */

static void check_end(struct fuzz *f, const struct blk_result *result)
{
    uint32_t count = f->chain.readable + f->chain.writable;
    struct extent extents[PARTS_MAX];

    for (uint32_t i = 0; i < f->chain.writable; i++) {
        const struct iovec *part = &f->given[f->chain.readable + i];
        int region = arena_region(f->place.arena, 0, part->iov_base, part->iov_len);

        extents[i] = (struct extent){
            f->place.arena->places[region].offset +
                (uint32_t)((uint8_t *)part->iov_base - f->place.arena->hva[0][region]),
            (uint32_t)part->iov_len, 0};
    }
    arena_check(f->place.arena, extents, f->chain.writable);
    if (f->chain.writable == 0) {
        HOLDS(result->failed && result->written == 0 && f->ops == 0);
        return;
    }
    uint8_t status = ((uint8_t *)f->given[count - 1].iov_base)[f->given[count - 1].iov_len - 1];
    HOLDS(status <= STATUS_UNSUPP && result->failed == (status != STATUS_OK));
    HOLDS(result->written >= 1 && result->written <= f->chain.writable_bytes);
    HOLDS(!f->host_failed || status != STATUS_OK);
    if (status == STATUS_OK && f->type == BLK_IN)
        HOLDS(result->written == f->chain.writable_bytes && result->bytes_read > 0);
    if (status == STATUS_OK && f->blk.config.fd >= 0 && f->type <= BLK_FLUSH)
        HOLDS(f->ops > 0);
}

static void play(struct fuzz *f)
{
    struct blk_request request;
    struct blk_result result;
    struct iovec *kept = NULL;
    struct io_op op;

    states_count(CALL_BEGIN, f->type);
    vhu_blk_begin(&f->blk, f->features, &f->chain, take_u8(&f->in) % 2, &request);
    while (vhu_blk_next(&request, &op)) {
        int64_t result_of_op = answer(f, &op);

        f->ops++;
        HOLDS(f->ops < 1 << 24);
        states_changed(CALL_DONE, &result_of_op, sizeof(result_of_op));
        states_count(CALL_DONE, f->type);
        vhu_blk_done(&request, result_of_op);
        if (!kept && f->ops < OPS_MAX && take_u8(&f->in) & 1)
            kept = move_request(&request);
    }
    vhu_blk_finish(&request, &result);
    free(kept);
    check_end(f, &result);
}

int LLVMFuzzerInitialize(int *count, char ***arguments)
{
    (void)count;
    (void)arguments;
    arenas();
    states_open();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct fuzz fuzz;
    struct fuzz *f = &fuzz;

    *f = (struct fuzz){.in = {bytes, size}};
    f->place.arena = &arenas()[take_u8(&f->in) % LAYOUTS];
    arena_reset(f->place.arena);
    take_disk(f);
    take_chain(f);
    play(f);
    return 0;
}
