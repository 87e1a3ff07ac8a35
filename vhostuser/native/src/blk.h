/* SPDX-License-Identifier: Apache-2.0
 *
 * The block device as a queue sees it, without I/O: a popped chain becomes a request, the request
 * says what it wants of the host next, and takes in what came of it, until there is nothing more.
 */
#ifndef VHU_BLK_H
#define VHU_BLK_H

#include "io.h"
#include "slice.h"

enum { SECTOR = 512 };

enum blk_status { STATUS_OK = 0, STATUS_IOERR = 1, STATUS_UNSUPP = 2 };

/* How soon the store answers. */
enum blk_speed {
    BLK_SPEED_NULL,   /* it asks nothing of the host */
    BLK_SPEED_INLINE, /* memory: system calls return at once */
    BLK_SPEED_NOWAIT, /* a file system that can tell whether it would have to wait */
    BLK_SPEED_SLOW,   /* it waits, or cannot tell */
};

struct vhu_blk {
    struct vhu_blk_config config; /* but for its capacity, which changes */
    uint64_t sectors;
    uint32_t speed; /* enum blk_speed */
    uint8_t writeback;
    uint32_t direct_writes; /* in flight, where the fd is direct ... */
    uint32_t cached_writes; /* ... and those through the page cache, from when they wait on */
};

enum blk_speed vhu_blk_speed(const struct vhu_blk *blk);

/* A page of the cache is written as a whole: one that takes in a write while a direct write of other
 * sectors in it is under way later puts their old contents back, and the host reports no error, or one
 * where there is none. So a direct disk is never written both ways at once, whatever the queue.
 *
 * Announce an operation; where writes through the cache are under way, a direct one becomes one, too. */
void vhu_blk_announce(struct vhu_blk *blk, struct io_op *op);
/* Whether an announced operation may start, or must wait for direct writes to end. */
bool vhu_blk_may_start(const struct vhu_blk *blk, const struct io_op *op);
/* It was carried out. */
void vhu_blk_ended(struct vhu_blk *blk, const struct io_op *op);

/* The host does not know RWF_NOWAIT for this store: do not ask again. */
void vhu_blk_set_slow(struct vhu_blk *blk);

enum blk_stage {
    BLK_STAGE_DONE = 0,
    BLK_STAGE_READ,
    BLK_STAGE_WRITE,
    BLK_STAGE_SYNC,
    BLK_STAGE_DISCARD,
    BLK_STAGE_UNMAP,       /* write zeroes by giving the space back ... */
    BLK_STAGE_ZERO_RANGE,  /* ... or by telling the file system ... */
    BLK_STAGE_ZERO_WRITE,  /* ... or by writing them */
};

struct blk_request {
    const struct vhu_blk *blk;
    uint64_t features;
    uint8_t *status; /* where it goes in guest memory; NULL: there is no place */
    struct slice out; /* the readable part, from behind what was used of it */
    struct slice in;  /* the writable part, likewise, without the status */
    enum blk_stage stage;
    uint8_t outcome;
    bool zeroes;      /* the segments are of write-zeroes, not of discard */
    bool stable;      /* a write must have reached the medium before it completes */
    uint64_t offset;  /* where on the disk the next operation begins, bytes ... */
    uint64_t length;  /* ... and what is left of a segment, bytes */
    struct iovec piece; /* of zeroes, while they are written */
    uint64_t bytes_read;
    uint64_t bytes_written;
    uint64_t filled;  /* bytes of the writable part before the status */
};

struct blk_result {
    uint32_t written; /* bytes written into the chain, its status included */
    bool failed;      /* the guest got a status other than OK, or none for want of a place */
    uint64_t bytes_read;
    uint64_t bytes_written;
};

/* Read the request in `chain`, whose iov is used up piece by piece. `features` are those of the
 * ring, `extra_pieces` the iov entries beyond one for each buffer. */
void vhu_blk_begin(const struct vhu_blk *blk, uint64_t features, const struct vhu_chain *chain,
                   uint32_t extra_pieces, struct blk_request *ret);
/* True: `ret` is to be carried out, and its result given to vhu_blk_done; false: nothing is left. */
bool vhu_blk_next(struct blk_request *request, struct io_op *ret);
/* What came of the operation: bytes moved, or a negative errno. */
void vhu_blk_done(struct blk_request *request, int64_t result);
/* Tell the guest, once nothing is left. */
void vhu_blk_finish(struct blk_request *request, struct blk_result *ret);

/* iov entries that the rest of a request needs, and a copy of it that uses `iov` for them. */
static inline uint32_t blk_iov_count(const struct blk_request *request)
{
    return request->out.count + request->in.count;
}

/* One that is done needs none. */
void vhu_blk_copy(struct blk_request *to, const struct blk_request *from, struct iovec *iov);

/* Between blk_begin.c and blk_steps.c: go on with the next segment that is not empty, or end. */
void vhu_blk_next_segment(struct blk_request *request);

static inline void blk_end(struct blk_request *request, enum blk_status status)
{
    request->stage = BLK_STAGE_DONE;
    request->outcome = (uint8_t)status;
}

#endif
