/* SPDX-License-Identifier: Apache-2.0
 *
 * The way of a block request: what it wants of the host, operation by operation, and what the guest
 * is told in the end. A host error becomes an I/O error in the guest, never success.
 */
#include "blk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <string.h>

#include "atomic.h"

enum { ZEROES_SIZE = 65536 };

static uint8_t zeroes[ZEROES_SIZE]; /* never written to */

/* The fd for a transfer: a direct one makes demands on every address and length. */
static int choose_fd(const struct vhu_blk_config *config, const struct io_op *op)
{
    uint64_t bits = op->offset;

    if (config->buffered_fd < 0)
        return config->fd;
    for (uint32_t i = 0; i < op->count; i++)
        bits |= (uintptr_t)op->iov[i].iov_base | op->iov[i].iov_len;
    return bits & (config->alignment - 1) ? config->buffered_fd : config->fd;
}

static int any_range_fd(const struct vhu_blk_config *config)
{
    return config->buffered_fd >= 0 ? config->buffered_fd : config->fd;
}

static void next_transfer(struct blk_request *request, enum io_kind kind, struct slice *slice,
                          struct io_op *op)
{
    *op = (struct io_op){
        .kind = kind,
        .flags = kind == IO_WRITE && request->stable ? RWF_DSYNC : 0,
        .iov = slice->iov,
        .count = slice->count < IOV_MAX ? slice->count : IOV_MAX,
        .offset = request->offset,
    };
    op->fd = choose_fd(&request->blk->config, op);
}

static void next_range(const struct blk_request *request, int mode, struct io_op *op)
{
    *op = (struct io_op){
        .kind = IO_FALLOCATE,
        .fd = any_range_fd(&request->blk->config),
        .flags = mode | FALLOC_FL_KEEP_SIZE,
        .offset = request->offset,
        .length = request->length,
    };
}

static void next_zeroes(struct blk_request *request, struct io_op *op)
{
    uint64_t piece = request->length < ZEROES_SIZE ? request->length : ZEROES_SIZE;

    request->piece = (struct iovec){zeroes, piece};
    *op = (struct io_op){
        .kind = IO_WRITE,
        .fd = any_range_fd(&request->blk->config),
        .iov = &request->piece,
        .count = 1,
        .offset = request->offset,
    };
}

bool vhu_blk_next(struct blk_request *request, struct io_op *ret)
{
    switch (request->stage) {
    case BLK_STAGE_DONE:
        return false;
    case BLK_STAGE_READ:
        next_transfer(request, IO_READ, &request->in, ret);
        return true;
    case BLK_STAGE_WRITE:
        next_transfer(request, IO_WRITE, &request->out, ret);
        return true;
    case BLK_STAGE_SYNC:
        *ret = (struct io_op){.kind = IO_SYNC, .fd = request->blk->config.fd};
        return true;
    case BLK_STAGE_DISCARD:
    case BLK_STAGE_UNMAP:
        next_range(request, FALLOC_FL_PUNCH_HOLE, ret);
        return true;
    case BLK_STAGE_ZERO_RANGE:
        next_range(request, FALLOC_FL_ZERO_RANGE, ret);
        return true;
    case BLK_STAGE_ZERO_WRITE:
        next_zeroes(request, ret);
        return true;
    }
    __builtin_unreachable();
}

static void transferred(struct blk_request *request, struct slice *slice, int64_t result,
                        uint64_t *counter)
{
    if (result <= 0) { /* 0: the file ends before the disk does */
        blk_end(request, STATUS_IOERR);
        return;
    }
    slice_skip(slice, (uint64_t)result);
    request->offset += (uint64_t)result;
    *counter += (uint64_t)result;
    if (slice->bytes == 0)
        blk_end(request, STATUS_OK);
}

static void zeroes_written(struct blk_request *request, int64_t result)
{
    if (result <= 0) {
        blk_end(request, STATUS_IOERR);
        return;
    }
    request->offset += (uint64_t)result;
    request->length -= (uint64_t)result;
    if (request->length == 0)
        vhu_blk_next_segment(request);
}

static void ranged(struct blk_request *request, int64_t result, enum blk_stage otherwise)
{
    if (result >= 0)
        vhu_blk_next_segment(request);
    else if (otherwise != BLK_STAGE_DONE)
        request->stage = otherwise;
    else
        blk_end(request, STATUS_IOERR);
}

void vhu_blk_done(struct blk_request *request, int64_t result)
{
    bool unknown = result == -EOPNOTSUPP;

    if (result == -EINTR || result == -EAGAIN)
        return; /* as if it had not been tried */
    switch (request->stage) {
    case BLK_STAGE_DONE:
        return;
    case BLK_STAGE_READ:
        transferred(request, &request->in, result, &request->bytes_read);
        request->filled = request->bytes_read;
        return;
    case BLK_STAGE_WRITE:
        transferred(request, &request->out, result, &request->bytes_written);
        return;
    case BLK_STAGE_SYNC:
        blk_end(request, result < 0 ? STATUS_IOERR : STATUS_OK);
        return;
    case BLK_STAGE_DISCARD: /* advisory: a store that cannot give space back keeps it */
        ranged(request, unknown ? 0 : result, BLK_STAGE_DONE);
        return;
    case BLK_STAGE_UNMAP:
        ranged(request, result, BLK_STAGE_ZERO_RANGE);
        return;
    case BLK_STAGE_ZERO_RANGE:
        ranged(request, result, unknown ? BLK_STAGE_ZERO_WRITE : BLK_STAGE_DONE);
        return;
    case BLK_STAGE_ZERO_WRITE:
        zeroes_written(request, result);
        return;
    }
}

void vhu_blk_finish(struct blk_request *request, struct blk_result *ret)
{
    uint64_t written = request->filled + 1;

    *ret = (struct blk_result){
        .failed = !request->status || request->outcome != STATUS_OK,
        .bytes_read = request->bytes_read,
        .bytes_written = request->bytes_written,
    };
    if (!request->status)
        return;
    store_relaxed(request->status, request->outcome);
    ret->written = written > UINT32_MAX ? UINT32_MAX : (uint32_t)written;
}

static void copy_slice(struct slice *slice, struct iovec *to)
{
    for (uint32_t i = 0; i < slice->count; i++)
        to[i] = slice->iov[i];
    slice->iov = to;
}

void vhu_blk_copy(struct blk_request *to, const struct blk_request *from, struct iovec *iov)
{
    *to = *from;
    if (from->stage == BLK_STAGE_DONE)
        to->out.count = to->in.count = 0;
    copy_slice(&to->out, iov);
    copy_slice(&to->in, iov + to->out.count);
}
