/* SPDX-License-Identifier: Apache-2.0
 *
 * Jobs by io_uring: straight between the store and guest memory, submitted in batches. Buffers are
 * not registered: they must not outlive a memory table.
 */
#include "io.h"

#include <errno.h>

#if __has_include(<liburing.h>)

#include <liburing.h>
#include <stdlib.h>

enum {
    ENTRIES = 256,
    COMPLETIONS = 4096,
    TOGETHER = 2, /* jobs submitted at once: of more, all wait in the block layer for the last */
};

struct uring {
    struct vhu_io_engine engine;
    struct io_uring ring;
    uint32_t unsubmitted;
};

static struct uring *uring_of(struct vhu_io_engine *engine)
{
    return (struct uring *)engine;
}

static bool flush(struct vhu_io_engine *engine)
{
    struct uring *uring = uring_of(engine);
    int rc;

    while (uring->unsubmitted > 0) {
        rc = io_uring_submit(&uring->ring);
        if (rc > 0)
            uring->unsubmitted -= (uint32_t)rc;
        else if (rc != -EINTR)
            return false; /* the host is short of something for now: the next flush tries again */
    }
    return true;
}

static void prepare(struct io_uring_sqe *sqe, const struct io_op *op)
{
    switch (op->kind) {
    case IO_READ:
        io_uring_prep_readv2(sqe, op->fd, op->iov, op->count, op->offset, op->flags);
        break;
    case IO_WRITE:
        io_uring_prep_writev2(sqe, op->fd, op->iov, op->count, op->offset, op->flags);
        break;
    case IO_SYNC:
        io_uring_prep_fsync(sqe, op->fd, IORING_FSYNC_DATASYNC);
        break;
    case IO_FALLOCATE:
        io_uring_prep_fallocate(sqe, op->fd, op->flags, (off_t)op->offset, (off_t)op->length);
        break;
    }
}

static void submit(struct vhu_io_engine *engine, struct io_job *job)
{
    struct uring *uring = uring_of(engine);
    struct io_uring_sqe *sqe;

    while (!(sqe = io_uring_get_sqe(&uring->ring)))
        (void)flush(engine);
    prepare(sqe, &job->op);
    io_uring_sqe_set_data(sqe, job);
    if (++uring->unsubmitted >= TOGETHER)
        (void)flush(engine);
}

static struct io_job *reap(struct vhu_io_engine *engine)
{
    struct uring *uring = uring_of(engine);
    struct io_job *first = NULL, **end = &first;
    struct io_uring_cqe *cqe;

    while (io_uring_peek_cqe(&uring->ring, &cqe) == 0) {
        struct io_job *job = io_uring_cqe_get_data(cqe);

        job->result = cqe->res;
        io_uring_cqe_seen(&uring->ring, cqe);
        *end = job;
        end = &job->next;
    }
    *end = NULL;
    return first;
}

static void destroy(struct vhu_io_engine *engine)
{
    struct uring *uring = uring_of(engine);

    io_uring_queue_exit(&uring->ring);
    free(uring);
}

/* Completions are taken in when we look for them, not by interrupting us; older kernels interrupt. */
static int init_ring(struct io_uring *ring)
{
    struct io_uring_params params = {
        .flags = IORING_SETUP_CQSIZE | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        .cq_entries = COMPLETIONS,
    };
    int rc = io_uring_queue_init_params(ENTRIES, ring, &params);

    if (rc == -EINVAL) {
        params = (struct io_uring_params){.flags = IORING_SETUP_CQSIZE, .cq_entries = COMPLETIONS};
        rc = io_uring_queue_init_params(ENTRIES, ring, &params);
    }
    return rc;
}

int vhu_uring_create(struct vhu_io_engine **ret)
{
    struct uring *uring = calloc(1, sizeof(*uring));

    if (!uring)
        return -ENOMEM;
    int rc = init_ring(&uring->ring);
    if (rc < 0) {
        free(uring);
        return rc;
    }
    uring->engine = (struct vhu_io_engine){
        .kind = VHU_IO_URING,
        .ready_fd = uring->ring.ring_fd,
        .submit = submit,
        .flush = flush,
        .reap = reap,
        .destroy = destroy,
    };
    *ret = &uring->engine;
    return 0;
}

#else

int vhu_uring_create(struct vhu_io_engine **ret)
{
    (void)ret;
    return -ENOSYS;
}

#endif
