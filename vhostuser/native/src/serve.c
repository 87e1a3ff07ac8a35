/* SPDX-License-Identifier: Apache-2.0
 *
 * The requests of a disk's queue, on its worker's thread: a chain is served at once where the store does not
 * make it wait, else it is kept in a slot until its job is done. No memory is allocated here.
 */
#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

#include "worker.h"

enum {
    BATCH = 64,            /* chains before other rings get their turn */
    TOGETHER = 16,         /* chains that are shown to the driver at once where more are waiting */
    MOST_JOBS = 2048,      /* of a worker, well below what its completion queue holds */
    MISSES = 16,           /* reads in a row that miss the page cache before it is left alone ... */
    RETRY_EVERY = 64,      /* ... but for one in so many */
    QUICK_NS = 200000,     /* a write into the page cache takes less, unless it had to wait ... */
    COPIED_PER_NS = 4,     /* ... or is long: bytes that are copied in a nanosecond, or more */
    PAUSE_MAX = 1 << 14,   /* most writes in a row that go the long way without a try */
};

static struct slot *take_slot(struct vhu_queue *queue)
{
    struct slot *slot = queue->unused;

    if (slot)
        queue->unused = slot->next;
    else
        slot = &queue->slots[queue->slots_used++];
    slot->queue = queue;
    slot->done = false;
    slot->next = NULL;
    return slot;
}

static void give_back(struct vhu_queue *queue, struct slot *slot)
{
    slot->next = queue->unused;
    queue->unused = slot;
}

/* Whether a further request could wait for the store. If not, a completion comes first. */
static bool has_room(const struct vhu_queue *queue)
{
    const struct vhu_worker *worker = queue->worker;

    return (queue->unused || queue->slots_used < SLOTS) && worker->in_flight < MOST_JOBS &&
           !worker->held_back;
}

static void complete(struct vhu_queue *queue, const struct vhu_chain *chain,
                     struct blk_request *request)
{
    struct blk_result result;

    if (queue->abandoning)
        return;
    vhu_blk_finish(request, &result);
    queue_push(queue, chain, result.written);
    count_more(&queue->counters.requests, 1);
    count_more(&queue->counters.errors, result.failed);
    count_more(&queue->counters.bytes_read, result.bytes_read);
    count_more(&queue->counters.bytes_written, result.bytes_written);
}

/* Keep a request in a slot. With IN_ORDER that is also its place in the row. */
static struct slot *keep(struct vhu_queue *queue, const struct vhu_chain *chain,
                         const struct blk_request *request)
{
    struct slot *slot = take_slot(queue);

    slot->chain = *chain;
    vhu_blk_copy(&slot->request, request, slot->iov);
    if (queue->in_order) {
        *queue->youngest = slot;
        queue->youngest = &slot->next;
    }
    return slot;
}

/* Hand an announced operation to the store, or have it wait. */
static void submit(struct slot *slot)
{
    struct vhu_worker *worker = slot->queue->worker;

    if (vhu_blk_may_start(slot->queue->blk, &slot->job.op)) {
        worker->io->submit(worker->io, &slot->job);
    } else {
        slot->job.next = worker->waiting;
        worker->waiting = &slot->job;
    }
}

/* Begin with the next operation of a kept request. */
static void start_job(struct slot *slot)
{
    struct vhu_queue *queue = slot->queue;
    struct vhu_worker *worker = queue->worker;

    queue->in_flight++;
    worker->in_flight++;
    count_more(&queue->counters.waits, 1);
    vhu_blk_announce(queue->blk, &slot->job.op);
    submit(slot);
}

void vhu_queue_start_waiting(struct vhu_worker *worker)
{
    struct io_job *job = worker->waiting, *next;

    worker->waiting = NULL;
    for (; job; job = next) {
        next = job->next;
        submit((struct slot *)job);
    }
}

/* The oldest requests that are done, when they must be given back in order. */
static void complete_in_order(struct vhu_queue *queue)
{
    while (queue->oldest && queue->oldest->done) {
        struct slot *slot = queue->oldest;

        queue->oldest = slot->next;
        if (!queue->oldest)
            queue->youngest = &queue->oldest;
        complete(queue, &slot->chain, &slot->request);
        give_back(queue, slot);
    }
}

static void finish_slot(struct vhu_queue *queue, struct slot *slot)
{
    slot->done = true;
    if (queue->in_order) {
        complete_in_order(queue);
    } else {
        complete(queue, &slot->chain, &slot->request);
        give_back(queue, slot);
    }
}

void vhu_queue_go_on(struct slot *slot)
{
    struct vhu_queue *queue = slot->queue;

    queue->in_flight--;
    queue->worker->in_flight--;
    vhu_blk_ended(queue->blk, &slot->job.op);
    vhu_blk_done(&slot->request, slot->job.result);
    if (vhu_blk_next(&slot->request, &slot->job.op))
        start_job(slot);
    else
        finish_slot(queue, slot);
}

/* A read that the page cache may answer. Reads that miss again and again are not tried any more, but
 * now and then. */
static int64_t try_cache(struct vhu_queue *queue, struct io_op *op)
{
    if (queue->misses >= MISSES && ++queue->misses % RETRY_EVERY != 0)
        return -EAGAIN;
    op->flags |= RWF_NOWAIT;
    int64_t result = vhu_io_run(op);
    op->flags &= ~RWF_NOWAIT;
    if (result == -EOPNOTSUPP) {
        vhu_blk_set_slow(queue->blk);
        return -EAGAIN;
    }
    if (result == -EAGAIN)
        queue->misses++;
    else
        queue->misses = 0;
    return result;
}

/* Carry out what may wait. The driver does not wait with it for what is done already. */
static int64_t run_here(struct vhu_queue *queue, const struct io_op *op)
{
    if (queue->unpublished)
        vhu_queue_publish(queue);
    return vhu_io_run(op);
}

/* A write that the page cache takes. File systems cannot tell beforehand whether one would have to wait,
 * for room or for the medium: after one that did, the next ones go the long way. */
static int64_t try_write(struct vhu_queue *queue, const struct io_op *op)
{
    if (op->flags & RWF_DSYNC)
        return -EAGAIN;
    if (queue->write_pause > 0) {
        queue->write_pause--;
        return -EAGAIN;
    }
    uint64_t start = now_ns();
    int64_t result = run_here(queue, op);
    uint64_t copying = result > 0 ? (uint64_t)result / COPIED_PER_NS : 0;
    if (now_ns() - start < QUICK_NS + copying) {
        queue->next_pause = 1;
    } else {
        queue->write_pause = queue->next_pause;
        queue->next_pause = queue->next_pause < PAUSE_MAX ? queue->next_pause * 2 : PAUSE_MAX;
    }
    return result;
}

/* Carry an operation out here, if that does not wait: its result, or -EAGAIN. */
static int64_t attempt(struct vhu_queue *queue, const struct blk_request *request, struct io_op *op)
{
    if (blk_iov_count(request) > SLOT_IOV) {
        /* In too many pieces to be kept. A host that says "again" although it may wait means it. */
        int64_t result = run_here(queue, op);
        return result == -EAGAIN ? -EIO : result;
    }
    switch (vhu_blk_speed(queue->blk)) {
    case BLK_SPEED_NULL:
    case BLK_SPEED_SLOW:
        return -EAGAIN;
    case BLK_SPEED_INLINE:
        return op->kind == IO_FALLOCATE ? -EAGAIN : vhu_io_run(op);
    case BLK_SPEED_NOWAIT:
        if (op->kind == IO_READ)
            return try_cache(queue, op);
        return op->kind == IO_WRITE ? try_write(queue, op) : -EAGAIN;
    }
    __builtin_unreachable();
}

/* Serve a chain, or let it wait in a slot. */
static void serve_chain(struct vhu_queue *queue, const struct vhu_chain *chain)
{
    struct blk_request request;
    struct io_op op;

    vhu_blk_begin(queue->blk, queue->current.config.features, chain, queue->ring->extra_pieces,
                  &request);
    while (vhu_blk_next(&request, &op)) {
        int64_t result = attempt(queue, &request, &op);

        if (result == -EAGAIN) {
            struct slot *slot = keep(queue, chain, &request);
            (void)vhu_blk_next(&slot->request, &slot->job.op);
            start_job(slot);
            return;
        }
        vhu_blk_done(&request, result);
    }
    if (__builtin_expect(queue->in_order && queue->oldest != NULL, 0))
        finish_slot(queue, keep(queue, chain, &request));
    else
        complete(queue, chain, &request);
}

/* Whether to show the driver now what was served, in the middle of a batch. The null store is done with
 * the next chain sooner than the driver could have looked. */
static bool publish_now(const struct vhu_queue *queue, enum blk_speed speed)
{
    if (speed == BLK_SPEED_NULL || queue->unpublished == 0)
        return false;
    return queue->unpublished >= TOGETHER || !ring_has_more(queue->ring);
}

static bool serve(struct vhu_queue *queue)
{
    enum blk_speed speed = vhu_blk_speed(queue->blk);
    struct vhu_chain chain;
    uint32_t served = 0;
    int rc = 0;

    while (served < BATCH && has_room(queue) &&
           (rc = vhu_ring_pop(queue->ring, queue->iov, &chain)) == 1) {
        serve_chain(queue, &chain);
        served++;
        if (publish_now(queue, speed))
            vhu_queue_publish(queue);
        if (speed != BLK_SPEED_NULL && load_relaxed(&queue->worker->attention))
            break; /* a stop waits for one request, not for a batch */
    }
    if (queue->unpublished)
        vhu_queue_publish(queue);
    if (rc < 0) {
        vhu_queue_broke(queue);
        return true;
    }
    vhu_queue_renew(queue, served);
    return served > 0;
}

const struct queue_device vhu_blk_device = {
    .slots = SLOTS,
    .serve = serve,
    .awaits_kick = has_room,
    .kicked = vhu_queue_drain_kick,
    .attend = vhu_queue_ignore,
    .joined = vhu_queue_ignore,
    .leaving = vhu_queue_ignore,
    .released = vhu_queue_ignore,
};
