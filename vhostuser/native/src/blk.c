/* SPDX-License-Identifier: Apache-2.0
 *
 * The block device (VIRTIO 1.2, section 5.2): requests straight between a file and guest memory.
 * What a request says is copied once out of guest memory, checked, and only the copy is used. A
 * host error becomes an I/O error in the guest, never success.
 */
#include "blk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "atomic.h"

enum { SECTOR = 512, ZEROES_SIZE = 65536 };

enum blk_feature { VIRTIO_BLK_F_FLUSH = 9 };

enum blk_type {
    BLK_IN = 0,
    BLK_OUT = 1,
    BLK_FLUSH = 4,
    BLK_GET_ID = 8,
    BLK_DISCARD = 11,
    BLK_WRITE_ZEROES = 13,
};

enum blk_status { STATUS_OK = 0, STATUS_IOERR = 1, STATUS_UNSUPP = 2 };

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

struct vhu_blk {
    struct vhu_blk_config config;
};

/* A list of buffers that is consumed from its front. */
struct slice {
    struct iovec *iov;
    uint32_t count;
    uint64_t bytes;
};

struct request {
    struct vhu_blk *blk;
    struct slice out; /* the readable part, the header taken off */
    struct slice in;  /* the writable part, the status taken off */
    uint64_t sector;
    bool stable; /* a write must have reached the medium before it completes */
    struct blk_result *result;
};

static const uint8_t zeroes[ZEROES_SIZE];

int vhu_blk_create(const struct vhu_blk_config *config, struct vhu_blk **ret)
{
    struct vhu_blk *blk = NULL;
    int rc = 0;

    if (config->sectors > INT64_MAX / SECTOR || config->alignment == 0 ||
        (config->alignment & (config->alignment - 1)) != 0)
        rc = -EINVAL;
    else if (!(blk = malloc(sizeof(*blk))))
        rc = -ENOMEM;
    if (rc < 0) {
        if (config->fd >= 0)
            close(config->fd);
        if (config->buffered_fd >= 0)
            close(config->buffered_fd);
        return rc;
    }
    blk->config = *config;
    *ret = blk;
    return 0;
}

void vhu_blk_destroy(struct vhu_blk *blk)
{
    if (!blk)
        return;
    if (blk->config.fd >= 0)
        close(blk->config.fd);
    if (blk->config.buffered_fd >= 0)
        close(blk->config.buffered_fd);
    free(blk);
}

bool vhu_blk_is_slow(const struct vhu_blk *blk)
{
    return blk->config.fd >= 0;
}

static void slice_skip(struct slice *slice, uint64_t bytes)
{
    slice->bytes -= bytes;
    while (slice->count > 0 && bytes >= slice->iov->iov_len) {
        bytes -= slice->iov->iov_len;
        slice->iov++;
        slice->count--;
    }
    if (bytes > 0) {
        slice->iov->iov_base = (uint8_t *)slice->iov->iov_base + bytes;
        slice->iov->iov_len -= bytes;
    }
}

/* Take `bytes`, which the slice must have, off its front into `copy`. The barrier keeps the
 * compiler from going back to the guest's bytes. */
static void slice_take(struct slice *slice, void *copy, uint64_t bytes)
{
    uint8_t *to = copy;

    while (bytes > 0) {
        uint64_t piece = slice->iov->iov_len < bytes ? slice->iov->iov_len : bytes;

        memcpy(to, slice->iov->iov_base, piece);
        slice_skip(slice, piece);
        to += piece;
        bytes -= piece;
    }
    __asm__ volatile("" : : "r"(copy) : "memory");
}

/* Whether [sector, sector + bytes) lies on the disk. */
static bool on_disk(const struct vhu_blk *blk, uint64_t sector, uint64_t bytes)
{
    uint64_t capacity = blk->config.sectors;

    return bytes % SECTOR == 0 && sector <= capacity && bytes / SECTOR <= capacity - sector;
}

/* The fd for this transfer: a direct one makes demands on every address and length. */
static int choose_fd(const struct vhu_blk_config *config, const struct slice *slice,
                     uint64_t offset)
{
    uint64_t bits = offset;

    if (config->buffered_fd < 0)
        return config->fd;
    for (uint32_t i = 0; i < slice->count; i++)
        bits |= (uintptr_t)slice->iov[i].iov_base | slice->iov[i].iov_len;
    return bits & (config->alignment - 1) ? config->buffered_fd : config->fd;
}

/* Move all of `slice` between the store and guest memory. */
static enum blk_status transfer(struct request *request, struct slice *slice, bool write)
{
    const struct vhu_blk_config *config = &request->blk->config;
    off_t offset = (off_t)(request->sector * SECTOR);
    int fd = choose_fd(config, slice, (uint64_t)offset);
    int flags = request->stable ? RWF_DSYNC : 0;

    while (slice->bytes > 0) {
        int count = slice->count < IOV_MAX ? (int)slice->count : IOV_MAX;
        ssize_t done = write ? pwritev2(fd, slice->iov, count, offset, flags)
                             : preadv(fd, slice->iov, count, offset);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) /* 0: the file ends before the disk does */
            return STATUS_IOERR;
        offset += done;
        slice_skip(slice, (uint64_t)done);
    }
    return STATUS_OK;
}

static enum blk_status serve_data(struct request *request, struct slice *slice, bool write)
{
    enum blk_status status = STATUS_OK;
    uint64_t bytes = slice->bytes;

    if (bytes == 0 || !on_disk(request->blk, request->sector, bytes))
        return STATUS_IOERR;
    if (request->blk->config.fd < 0)
        slice->bytes = 0;
    else
        status = transfer(request, slice, write);
    if (write)
        request->result->bytes_written = bytes - slice->bytes;
    else
        request->result->bytes_read = bytes - slice->bytes;
    return status;
}

static enum blk_status flush(const struct vhu_blk *blk)
{
    int rc = 0;

    if (blk->config.fd >= 0)
        do
            rc = fdatasync(blk->config.fd);
        while (rc < 0 && errno == EINTR);
    return rc == 0 ? STATUS_OK : STATUS_IOERR;
}

static enum blk_status get_id(struct request *request)
{
    uint64_t rest = sizeof(request->blk->config.serial);
    const char *serial = request->blk->config.serial;

    while (rest > 0 && request->in.count > 0) {
        uint64_t piece = request->in.iov->iov_len < rest ? request->in.iov->iov_len : rest;

        memcpy(request->in.iov->iov_base, serial, piece);
        slice_skip(&request->in, piece);
        serial += piece;
        rest -= piece;
    }
    return STATUS_OK;
}

/* Punch or zero a range by the file system alone. False: errno says why not. */
static bool try_fallocate(int fd, int mode, off_t offset, off_t length)
{
    int rc;

    do
        rc = fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, offset, length);
    while (rc < 0 && errno == EINTR);
    return rc == 0;
}

static enum blk_status discard(int fd, off_t offset, off_t length)
{
    /* advisory: a store that cannot give space back keeps it */
    return try_fallocate(fd, FALLOC_FL_PUNCH_HOLE, offset, length) || errno == EOPNOTSUPP
               ? STATUS_OK
               : STATUS_IOERR;
}

static enum blk_status write_zeroes(int fd, off_t offset, off_t length, bool unmap)
{
    if (unmap && try_fallocate(fd, FALLOC_FL_PUNCH_HOLE, offset, length))
        return STATUS_OK;
    if (try_fallocate(fd, FALLOC_FL_ZERO_RANGE, offset, length))
        return STATUS_OK;
    if (errno != EOPNOTSUPP)
        return STATUS_IOERR;
    while (length > 0) {
        size_t piece = length < ZEROES_SIZE ? (size_t)length : ZEROES_SIZE;
        ssize_t done = pwrite(fd, zeroes, piece, offset);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return STATUS_IOERR;
        offset += done;
        length -= done;
    }
    return STATUS_OK;
}

/* One segment of a discard or write-zeroes request. */
static enum blk_status serve_segment(struct request *request, const struct blk_segment *segment,
                                     bool zero, uint32_t sectors_max)
{
    const struct vhu_blk_config *config = &request->blk->config;
    uint32_t allowed = zero ? SEGMENT_UNMAP : 0;
    uint64_t bytes = (uint64_t)segment->sectors * SECTOR;

    if (segment->flags & ~allowed)
        return STATUS_UNSUPP;
    if (segment->sectors > sectors_max || !on_disk(request->blk, segment->sector, bytes))
        return STATUS_IOERR;
    if (bytes == 0 || config->fd < 0)
        return STATUS_OK;
    int fd = config->buffered_fd >= 0 ? config->buffered_fd : config->fd;
    off_t offset = (off_t)(segment->sector * SECTOR);
    if (!zero)
        return discard(fd, offset, (off_t)bytes);
    return write_zeroes(fd, offset, (off_t)bytes, segment->flags & SEGMENT_UNMAP);
}

static enum blk_status serve_segments(struct request *request, bool zero)
{
    const struct vhu_blk_config *config = &request->blk->config;
    uint32_t segments_max = zero ? config->max_write_zeroes_segments : config->max_discard_segments;
    uint32_t sectors_max = zero ? config->max_write_zeroes_sectors : config->max_discard_sectors;
    uint64_t count = request->out.bytes / sizeof(struct blk_segment);
    struct blk_segment segment;

    if (segments_max == 0)
        return STATUS_UNSUPP;
    if (count == 0 || count > segments_max || request->out.bytes % sizeof(segment) != 0)
        return STATUS_IOERR;
    while (request->out.bytes > 0) {
        slice_take(&request->out, &segment, sizeof(segment));
        enum blk_status status = serve_segment(request, &segment, zero, sectors_max);
        if (status != STATUS_OK)
            return status;
    }
    return zero && request->stable ? flush(request->blk) : STATUS_OK;
}

static enum blk_status serve_type(struct request *request, uint32_t type)
{
    bool writes = type == BLK_OUT || type == BLK_DISCARD || type == BLK_WRITE_ZEROES;

    if (writes && request->blk->config.read_only)
        return STATUS_IOERR;
    switch (type) {
    case BLK_IN:
        return serve_data(request, &request->in, false);
    case BLK_OUT:
        return serve_data(request, &request->out, true);
    case BLK_FLUSH:
        return flush(request->blk);
    case BLK_GET_ID:
        return get_id(request);
    case BLK_DISCARD:
        return serve_segments(request, false);
    case BLK_WRITE_ZEROES:
        return serve_segments(request, true);
    default:
        return STATUS_UNSUPP;
    }
}

static enum blk_status serve_request(struct request *request, uint32_t extra_pieces)
{
    uint32_t seg_max = request->blk->config.seg_max;
    struct blk_header header;

    if (request->out.bytes < sizeof(header))
        return STATUS_IOERR;
    slice_take(&request->out, &header, sizeof(header));
    /* a buffer that crosses regions has several iov entries but counts once */
    if (seg_max && request->out.count + request->in.count - extra_pieces > seg_max)
        return STATUS_IOERR;
    request->sector = header.sector;
    return serve_type(request, header.type);
}

void vhu_blk_serve(struct vhu_blk *blk, uint64_t features, const struct vhu_chain *chain,
                   uint32_t extra_pieces, struct blk_result *ret)
{
    *ret = (struct blk_result){.failed = true};
    if (chain->writable_bytes == 0)
        return; /* there is no place for a status */

    /* the status is the last writable byte, whether alone or behind data */
    struct iovec *last = &chain->iov[chain->readable + chain->writable - 1];
    uint8_t *status = (uint8_t *)last->iov_base + --last->iov_len;
    uint64_t room = chain->writable_bytes - 1;
    struct request request = {
        .blk = blk,
        .out = {chain->iov, chain->readable, chain->readable_bytes},
        .in = {&chain->iov[chain->readable], chain->writable - (last->iov_len == 0), room},
        .stable = !(features >> VIRTIO_BLK_F_FLUSH & 1),
        .result = ret,
    };
    enum blk_status outcome = serve_request(&request, extra_pieces);
    store_relaxed(status, (uint8_t)outcome);
    uint64_t written = room - request.in.bytes + 1;
    ret->written = written > UINT32_MAX ? UINT32_MAX : (uint32_t)written;
    ret->failed = outcome != STATUS_OK;
}
