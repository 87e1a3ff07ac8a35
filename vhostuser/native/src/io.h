/* SPDX-License-Identifier: Apache-2.0
 *
 * Host I/O of a worker: one operation at a time in the calling thread, or many at once behind its
 * back, by io_uring (uring.c) or by threads (pool.c).
 */
#ifndef VHU_IO_H
#define VHU_IO_H

#include "vhu.h"

enum io_kind { IO_READ, IO_WRITE, IO_SYNC, IO_FALLOCATE };

struct io_op {
    enum io_kind kind;
    int fd;
    int flags;           /* read and write: RWF_...; fallocate: its mode */
    uint32_t count;      /* read and write: entries of iov ... */
    struct iovec *iov;   /* ... which must stay as they are until the operation is done */
    uint64_t offset;
    uint64_t length;     /* fallocate */
};

/* An operation in flight. The memory is its owner's. */
struct io_job {
    struct io_op op;
    int64_t result; /* as of io_run */
    struct io_job *next;
};

/* Carry out an operation; returns bytes moved (0 for sync and fallocate) or a negative errno.
 * Waits as long as the host does, and goes on after signals. */
int64_t vhu_io_run(const struct io_op *op);

/* What carries jobs out behind a worker's back. Used by one thread. */
struct vhu_io_engine {
    enum vhu_io kind;
    int ready_fd; /* readable while jobs are done that were not reaped */
    /* Take a job in; it may start now or at the next flush. Always finds room, perhaps by flushing. */
    void (*submit)(struct vhu_io_engine *engine, struct io_job *job);
    /* Have all that was taken in start. False: the host has no room for some of it now. */
    bool (*flush)(struct vhu_io_engine *engine);
    /* Jobs that are done, as a list; NULL: none. Makes no system call where there is none. */
    struct io_job *(*reap)(struct vhu_io_engine *engine);
    /* Only with no job in flight. */
    void (*destroy)(struct vhu_io_engine *engine);
};

int vhu_io_create(enum vhu_io kind, struct vhu_io_engine **ret);
int vhu_uring_create(struct vhu_io_engine **ret);
int vhu_pool_create(struct vhu_io_engine **ret);

#endif
