/* SPDX-License-Identifier: Apache-2.0
 *
 * The beginning of a block request (VIRTIO 1.2, section 5.2.6): what it says is copied once out of
 * guest memory, checked, and only the copy is used.
 */
#include "blk.h"

#include <string.h>

#include "atomic.h"

enum blk_feature { VIRTIO_BLK_F_SIZE_MAX = 1, VIRTIO_BLK_F_FLUSH = 9 };

enum blk_type {
    BLK_IN = 0,
    BLK_OUT = 1,
    BLK_FLUSH = 4,
    BLK_GET_ID = 8,
    BLK_DISCARD = 11,
    BLK_WRITE_ZEROES = 13,
};

enum { SEGMENT_UNMAP = 1 };

struct blk_header {
    uint32_t type;
    uint32_t priority;
    uint64_t sector;
};

struct blk_segment {
    uint64_t sector;
    uint32_t sectors;
    uint32_t flags;
};

_Static_assert(sizeof(struct blk_header) == 16, "ABI of a request's header");
_Static_assert(sizeof(struct blk_segment) == 16, "ABI of a discard segment");

/* Whether [sector, sector + bytes) lies on the disk. */
static bool on_disk(const struct vhu_blk *blk, uint64_t sector, uint64_t bytes)
{
    uint64_t capacity = load_relaxed(&blk->sectors);

    return bytes % SECTOR == 0 && sector <= capacity && bytes / SECTOR <= capacity - sector;
}

static void begin_data(struct blk_request *request, uint64_t sector, bool write)
{
    const struct vhu_blk_config *config = &request->blk->config;
    struct slice *slice = write ? &request->out : &request->in;
    uint64_t bytes = slice->bytes;

    if (bytes == 0 || !on_disk(request->blk, sector, bytes)) {
        blk_end(request, STATUS_IOERR);
        return;
    }
    if (config->fd < 0) {
        *(write ? &request->bytes_written : &request->bytes_read) = bytes;
        request->filled = write ? 0 : bytes;
        blk_end(request, STATUS_OK);
        return;
    }
    request->offset = sector * SECTOR;
    request->stage = write ? BLK_STAGE_WRITE : BLK_STAGE_READ;
}

static void begin_flush(struct blk_request *request)
{
    if (request->blk->config.fd < 0)
        blk_end(request, STATUS_OK);
    else
        request->stage = BLK_STAGE_SYNC;
}

static void get_id(struct blk_request *request)
{
    const char *serial = request->blk->config.serial;
    uint64_t rest = sizeof(request->blk->config.serial);

    while (rest > 0 && request->in.count > 0) {
        uint64_t piece = request->in.iov->iov_len < rest ? request->in.iov->iov_len : rest;

        memcpy(request->in.iov->iov_base, serial, piece);
        slice_skip(&request->in, piece);
        request->filled += piece;
        serial += piece;
        rest -= piece;
    }
    blk_end(request, STATUS_OK);
}

/* The stage for one segment of a discard or write-zeroes request, or its end with an error. */
static void begin_segment(struct blk_request *request, const struct blk_segment *segment)
{
    const struct vhu_blk_config *config = &request->blk->config;
    bool zeroes_wanted = request->zeroes;
    uint32_t longest = zeroes_wanted ? config->max_write_zeroes_sectors : config->max_discard_sectors;

    if (segment->flags & ~(zeroes_wanted ? (uint32_t)SEGMENT_UNMAP : 0)) {
        blk_end(request, STATUS_UNSUPP);
        return;
    }
    request->offset = segment->sector * SECTOR;
    request->length = (uint64_t)segment->sectors * SECTOR;
    if (segment->sectors > longest || !on_disk(request->blk, segment->sector, request->length))
        blk_end(request, STATUS_IOERR);
    else if (!zeroes_wanted)
        request->stage = BLK_STAGE_DISCARD;
    else
        request->stage =
            segment->flags & SEGMENT_UNMAP ? BLK_STAGE_UNMAP : BLK_STAGE_ZERO_RANGE;
}

void vhu_blk_next_segment(struct blk_request *request)
{
    struct blk_segment segment;

    while (request->out.bytes > 0) {
        slice_take(&request->out, &segment, sizeof(segment));
        begin_segment(request, &segment);
        if (request->stage == BLK_STAGE_DONE)
            return;
        if (request->length > 0 && request->blk->config.fd >= 0)
            return;
    }
    if (request->zeroes && request->stable)
        begin_flush(request);
    else
        blk_end(request, STATUS_OK);
}

static void begin_segments(struct blk_request *request, bool zeroes_wanted)
{
    const struct vhu_blk_config *config = &request->blk->config;
    uint32_t most = zeroes_wanted ? config->max_write_zeroes_segments : config->max_discard_segments;
    uint64_t count = request->out.bytes / sizeof(struct blk_segment);

    request->zeroes = zeroes_wanted;
    if (most == 0)
        blk_end(request, STATUS_UNSUPP);
    else if (count == 0 || count > most || request->out.bytes % sizeof(struct blk_segment) != 0)
        blk_end(request, STATUS_IOERR);
    else
        vhu_blk_next_segment(request);
}

static void begin_type(struct blk_request *request, const struct blk_header *header)
{
    uint32_t type = header->type;
    bool writes = type == BLK_OUT || type == BLK_DISCARD || type == BLK_WRITE_ZEROES;

    if (writes && request->blk->config.read_only) {
        blk_end(request, STATUS_IOERR);
        return;
    }
    switch (type) {
    case BLK_IN:
        begin_data(request, header->sector, false);
        break;
    case BLK_OUT:
        begin_data(request, header->sector, true);
        break;
    case BLK_FLUSH:
        begin_flush(request);
        break;
    case BLK_GET_ID:
        get_id(request);
        break;
    case BLK_DISCARD:
        begin_segments(request, false);
        break;
    case BLK_WRITE_ZEROES:
        begin_segments(request, true);
        break;
    default:
        blk_end(request, STATUS_UNSUPP);
    }
}

static bool is_longer(const struct slice *slice, uint32_t size_max)
{
    for (uint32_t i = 0; i < slice->count; i++) {
        if (slice->iov[i].iov_len > size_max)
            return true;
    }
    return false;
}

/* Whether the buffers keep to what the configuration space announces. */
static bool buffers_are_legal(const struct blk_request *request, uint32_t extra_pieces)
{
    const struct vhu_blk_config *config = &request->blk->config;

    /* a buffer that crosses regions has several iov entries but counts once; it may be the header */
    if (config->seg_max && blk_iov_count(request) > (uint64_t)config->seg_max + extra_pieces)
        return false;
    if (config->size_max && request->features >> VIRTIO_BLK_F_SIZE_MAX & 1)
        return !is_longer(&request->out, config->size_max) &&
               !is_longer(&request->in, config->size_max);
    return true;
}

void vhu_blk_begin(const struct vhu_blk *blk, uint64_t features, const struct vhu_chain *chain,
                   uint32_t extra_pieces, struct blk_request *ret)
{
    struct blk_header header;

    *ret = (struct blk_request){
        .blk = blk,
        .features = features,
        .out = {chain->iov, chain->readable, chain->readable_bytes},
        .stable = !(features >> VIRTIO_BLK_F_FLUSH & 1) || !load_relaxed(&blk->writeback),
    };
    if (chain->writable_bytes == 0) {
        blk_end(ret, STATUS_IOERR); /* there is no place for a status */
        return;
    }
    /* the status is the last writable byte, whether alone or behind data */
    struct iovec *last = &chain->iov[chain->readable + chain->writable - 1];
    ret->status = (uint8_t *)last->iov_base + --last->iov_len;
    ret->in = (struct slice){&chain->iov[chain->readable], chain->writable - (last->iov_len == 0),
                             chain->writable_bytes - 1};
    if (ret->out.bytes < sizeof(header)) {
        blk_end(ret, STATUS_IOERR);
        return;
    }
    slice_take(&ret->out, &header, sizeof(header));
    if (!buffers_are_legal(ret, extra_pieces))
        blk_end(ret, STATUS_IOERR);
    else
        begin_type(ret, &header);
}
