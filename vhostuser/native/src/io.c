/* SPDX-License-Identifier: Apache-2.0
 *
 * Host I/O: an operation in the calling thread, and the choice of what carries out the others.
 */
#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static int64_t run_once(const struct io_op *op)
{
    off_t offset = (off_t)op->offset;
    int count = (int)op->count;

    switch (op->kind) {
    case IO_READ:
        if (op->flags == 0 && count == 1)
            return pread(op->fd, op->iov->iov_base, op->iov->iov_len, offset);
        return preadv2(op->fd, op->iov, count, offset, op->flags);
    case IO_WRITE:
        if (op->flags == 0 && count == 1)
            return pwrite(op->fd, op->iov->iov_base, op->iov->iov_len, offset);
        return pwritev2(op->fd, op->iov, count, offset, op->flags);
    case IO_SYNC:
        return fdatasync(op->fd);
    case IO_FALLOCATE:
        return fallocate(op->fd, op->flags, offset, (off_t)op->length);
    }
    __builtin_unreachable();
}

int64_t vhu_io_run(const struct io_op *op)
{
    int64_t result;

    do
        result = run_once(op);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}

int vhu_io_create(enum vhu_io kind, struct vhu_io_engine **ret)
{
    int rc = kind == VHU_IO_THREADS ? -ENOSYS : vhu_uring_create(ret);

    if (rc < 0 && kind != VHU_IO_URING)
        rc = vhu_pool_create(ret);
    return rc;
}

int vhu_io_uring_probe(void)
{
    struct vhu_io_engine *engine;
    int rc = vhu_uring_create(&engine);

    if (rc == 0)
        engine->destroy(engine);
    return rc;
}
