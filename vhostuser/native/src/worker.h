/* SPDX-License-Identifier: Apache-2.0
 *
 * What worker.c and queue.c know of each other. A worker's thread owns its queues' rings; other
 * threads reach them through mailboxes under the worker's lock.
 */
#ifndef VHU_WORKER_H
#define VHU_WORKER_H

#include <pthread.h>

#include "atomic.h"
#include "blk.h"
#include "ring.h"

enum { QUEUE_FDS = 3, NO_FD = -1 };

struct vhu_worker {
    struct vhu_worker_config config;
    pthread_t thread;
    bool joined;         /* by the owner of the worker only */
    uint32_t references; /* its owner and its queues */
    int epoll_fd;
    int wake_fd;
    uint32_t attention;  /* something under the lock changed; set with the lock held */

    /* under the lock */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a queue was let go, or the thread ended */
    bool stopping;
    bool ended;
    struct vhu_queue *incoming; /* queues that the thread has not seen yet */

    /* the thread's own */
    struct vhu_queue *queues;
    uint64_t poll_max_ns;
    uint64_t poll_ns;      /* how long polling is worth while now */
    uint64_t idle_since;   /* valid once a batch of empty passes was counted */
    uint32_t empty_passes; /* since there was work */
    uint32_t short_sleeps;
};

/* What others want of a queue. Under the worker's lock. */
struct mailbox {
    bool wanted_changed;
    bool leaving;
    bool fd_changed[QUEUE_FDS];
    int fd[QUEUE_FDS];
    uint64_t number;
    struct vhu_queue_wanted wanted; /* holds a reference on wanted.mem while wanted_changed */
};

/* Written by the thread alone, read by anyone. */
struct counters {
    uint64_t requests, errors, bytes_read, bytes_written, kicks, calls, calls_suppressed;
};

struct vhu_queue {
    struct vhu_worker *worker;
    struct vhu_blk *blk;
    int event_fd;
    struct vhu_queue *next;
    struct mailbox mailbox;
    struct vhu_queue_status status; /* under the lock; its counters stay unused */
    struct counters counters;

    /* the thread's own */
    struct vhu_ring *ring; /* NULL: not running */
    struct iovec *iov;
    struct vhu_queue_wanted current;
    struct vhu_queue_status actual;
    int fd[QUEUE_FDS];
    bool kick_watched;
    bool kick_dead;      /* its other end is gone: it will never be kicked again */
    uint32_t since_renewal; /* chains popped since the driver was last told not to kick */
};

/* queue.c, called by the worker's thread */
static inline bool queue_is_active(const struct vhu_queue *queue)
{
    return queue->ring && queue->current.enabled;
}

bool vhu_queue_serve(struct vhu_queue *queue);
void vhu_queue_apply(struct vhu_queue *queue);
void vhu_queue_drain_kick(struct vhu_queue *queue, uint32_t events);
/* The thread is about to forget the queue. */
void vhu_queue_unwatch(struct vhu_queue *queue);
/* Let go of everything; the thread does not know the queue any more, or has ended. */
void vhu_queue_release(struct vhu_queue *queue);

/* worker.c */
void vhu_worker_attach(struct vhu_worker *worker, struct vhu_queue *queue);
void vhu_worker_detach(struct vhu_worker *worker, struct vhu_queue *queue);
/* Make the thread look at its mailboxes. Call it with the lock held. */
void vhu_worker_notify(struct vhu_worker *worker);
/* End a system call that the thread waits in, if any. Call it with the lock held. */
void vhu_worker_interrupt(struct vhu_worker *worker);

#endif
