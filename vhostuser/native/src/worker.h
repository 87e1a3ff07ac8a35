/* SPDX-License-Identifier: Apache-2.0
 *
 * What workers, queues and the devices that serve them know of each other. A worker's thread owns its
 * queues' rings; other threads reach them through mailboxes under the worker's lock.
 */
#ifndef VHU_WORKER_H
#define VHU_WORKER_H

#include <pthread.h>
#include <time.h>

#include "atomic.h"
#include "blk.h"
#include "ring.h"
#include "signals.h"
#include "spin.h"

enum { QUEUE_FDS = 3, MISCHIEFS = 3, SECOND_NS = 1000000000 };

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
    struct vhu_queue *served;  /* those of them that are looked at in every pass ... */
    struct vhu_queue *resting; /* ... and those of which some are, the first ones ... */
    struct vhu_queue **resting_end; /* ... which go here then: valid if there are such */
    uint32_t resting_count;
    bool look_at_all; /* that rest, in the next pass */
    uint32_t passes;
    uint32_t now_s;           /* the second it is, or was not long ago */
    uint64_t busy_ns;         /* read by anyone */
    struct vhu_io_engine *io;
    uint32_t in_flight; /* jobs of all queues */
    bool held_back;     /* the host had no room for some of them */
    struct io_job *waiting; /* those that start when writes of another kind have ended */
    uint32_t faults_seen; /* of guest memory, in the whole process */
    uint64_t nap_ns;
    uint64_t poll_max_ns;
    uint64_t poll_ns;      /* how long polling is worth while now */
    uint64_t idle_since;   /* valid once a batch of empty passes was counted */
    uint32_t empty_passes; /* since there was work */
    bool rush;             /* the last work was many chains at once */
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
    uint64_t requests, errors, bytes_read, bytes_written, kicks, page_kicks, calls, calls_suppressed,
        waits;
};

enum {
    SLOTS = 256,    /* requests of a queue that wait for the store; more stay in the ring */
    SLOT_IOV = 160, /* iov entries that one of them may have */
};

/* A request that outlives the look at its ring: it waits for the store, or for its turn. */
struct slot {
    struct io_job job; /* first, so that a job is its slot */
    struct vhu_queue *queue;
    struct slot *next; /* unused, or in the order of the ring */
    struct vhu_chain chain;
    struct blk_request request;
    bool done;
    struct iovec iov[SLOT_IOV];
};

/* What serves a queue's chains. Called by the worker's thread. */
struct queue_device {
    uint32_t slots;     /* requests that a queue keeps while they wait */
    uint32_t spare_iov; /* iov entries beyond those that one chain may need */
    bool ringless;      /* it is no driver's ring, but a file */
    bool passive;       /* others fill its buffers: it is neither served nor kicked */
    bool in_order;      /* what is taken from its ring is given back before anything else is taken */
    bool reads_only;    /* it never writes into a buffer */
    /* Serve up to a batch. Returns whether there was anything to do. */
    bool (*serve)(struct vhu_queue *queue);
    /* epoll has these events of the kick fd. */
    void (*kicked)(struct vhu_queue *queue, uint32_t events);
    /* The thread was told to look at what other threads want; the queue's own mail was carried out. */
    void (*attend)(struct vhu_queue *queue);
    /* Or NULL. The queue's state has changed, which is published next: whoever learns of it finds this done. The ring
     * is nobody else's meanwhile. */
    void (*changed)(struct vhu_queue *queue);
    /* Whether more chains could be served now, so that a kick would be of use. */
    bool (*awaits_kick)(const struct vhu_queue *queue);
    /* The thread has got to know the queue, or is about to forget it. */
    void (*joined)(struct vhu_queue *queue);
    void (*leaving)(struct vhu_queue *queue);
    /* It is about to be freed. By any thread. */
    void (*released)(struct vhu_queue *queue);
};

struct vhu_queue {
    struct vhu_worker *worker;
    const struct queue_device *device;
    struct vhu_queue *next_served; /* see turns.c */
    uint32_t idle;                 /* looks in a row that found nothing */
    uint32_t debt;                 /* passes that it sits out, after one that took more than its share; of one that
                                      receives: frames that it loses */
    uint32_t *shared;              /* NULL, or the lock with which other threads use the ring, too */
    union {
        struct vhu_blk *blk;
        struct {
            struct net_port *port;
            uint32_t pair;
            struct tap *tap; /* of a TAP's queue */
        };
    };
    int event_fd;
    struct vhu_queue *next;
    struct mailbox mailbox;
    struct vhu_queue_status status; /* under the lock; its counters stay unused */
    struct counters counters;
    uint32_t mischief[MISCHIEFS]; /* how often; atomic */

    /* the thread's own */
    struct vhu_ring *ring; /* NULL: not running */
    struct slot *slots;    /* memory of all of them; untouched until it is used ... */
    struct iovec *iov;     /* ... and, behind it, of the chain popped last */
    size_t memory_size;
    struct slot *unused;   /* of those that were used before */
    uint32_t slots_used;
    bool in_order;
    struct slot *oldest;   /* IN_ORDER: the slots in use, as they must be pushed */
    struct slot **youngest;
    uint32_t in_flight;    /* jobs that the store works on */
    uint32_t misses;       /* reads in a row that were not in the page cache */
    uint32_t write_pause;  /* writes that are not tried at once ... */
    uint32_t next_pause;   /* ... and how many it will be after the next that has to wait */
    uint32_t unpublished;  /* chains that were pushed */
    bool settling;         /* no chain is popped until nothing is in flight ... */
    bool abandoning;       /* ... nor given back */
    struct vhu_queue_wanted current;
    struct vhu_queue_status actual;
    int fd[QUEUE_FDS];
    struct signal_room call_room;
    uint64_t *muted; /* NULL, or until when its peer gets no signal: it had a thread wait that serves others, too */
    bool kick_watched;
    bool kick_dead;      /* its other end is gone: it will never be kicked again */
    uint32_t since_renewal; /* chains popped since the driver was last told not to kick */
};

static inline bool queue_is_active(const struct vhu_queue *queue)
{
    return (queue->ring || queue->device->ringless) && queue->current.enabled && !queue->settling;
}

static inline void queue_lock(struct vhu_queue *queue)
{
    if (queue->shared)
        spin_lock(queue->shared);
}

static inline void queue_unlock(struct vhu_queue *queue)
{
    if (queue->shared)
        spin_unlock(queue->shared);
}

/* Whether chains of a queue may be popped. */
static inline bool queue_is_served(const struct vhu_queue *queue)
{
    return queue_is_active(queue) && !load_relaxed(&queue->mischief[VHU_MISCHIEF_STUCK]);
}

/* A counter has one writer, so that it needs no locked addition. */
static inline void count_more(uint64_t *counter, uint64_t more)
{
    store_relaxed(counter, *counter + more);
}

static inline uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* mischief.c, called by the worker's thread */

/* Whether to misbehave this once. */
bool vhu_queue_misbehaves(struct vhu_queue *queue, enum vhu_mischief what);
/* As vhu_ring_push, with an id that no driver can have in flight. */
void vhu_queue_push_wrong(struct vhu_queue *queue, const struct vhu_chain *chain, uint32_t written);

/* Give a popped chain back. */
static inline void queue_push(struct vhu_queue *queue, const struct vhu_chain *chain,
                              uint32_t written)
{
    if (__builtin_expect(load_relaxed(&queue->mischief[VHU_MISCHIEF_WRONG_IDS]) > 0, 0) &&
        vhu_queue_misbehaves(queue, VHU_MISCHIEF_WRONG_IDS))
        vhu_queue_push_wrong(queue, chain, written);
    else
        (void)vhu_ring_push(queue->ring, chain, written); /* popped and not pushed: cannot fail */
    queue->unpublished++;
}

/* serve.c */

extern const struct queue_device vhu_blk_device;

/* Start a worker's waiting jobs that need to wait no longer. */
void vhu_queue_start_waiting(struct vhu_worker *worker);
/* Go on with a request whose job is done. */
void vhu_queue_go_on(struct slot *slot);

/* Of a queue_device, for those that have nothing to do there. */
void vhu_queue_ignore(struct vhu_queue *queue);

/* net_send.c, net_receive.c, net_control.c, net_tap.c */

extern const struct queue_device vhu_net_send_device, vhu_net_receive_device, vhu_net_fill_device,
    vhu_net_control_device, vhu_tap_device;

/* queue.c */

/* As vhu_queue_create. `ret` is not yet known to the worker: attach it. */
int vhu_queue_create_for(struct vhu_worker *worker, const struct queue_device *device, int event_fd,
                         struct vhu_queue **ret);

/* queue_signals.c, called by the worker's thread */

/* Signal the call fd or the err fd now. */
void vhu_queue_signal(struct vhu_queue *queue, enum vhu_queue_fd which);
/* Show the driver what was pushed, and call it if it wants that. */
void vhu_queue_publish(struct vhu_queue *queue);
/* Chains were popped: see to it that the driver still does not kick. */
void vhu_queue_renew(struct vhu_queue *queue, uint32_t popped);
/* Wait for the kick fd while that makes sense. */
void vhu_queue_watch(struct vhu_queue *queue);
/* The thread is about to forget the kick fd. */
void vhu_queue_unwatch(struct vhu_queue *queue);
void vhu_queue_drain_kick(struct vhu_queue *queue, uint32_t events);
/* There is no kick in the notify page, which it has, from now on. */
void vhu_queue_arm_page(struct vhu_queue *queue);
/* Whether the driver wrote to the notify page since the last time. */
bool vhu_queue_take_page_kick(struct vhu_queue *queue);

/* queue.c, called by the worker's thread */

/* The ring was found broken while it was served. */
void vhu_queue_broke(struct vhu_queue *queue);
/* After jobs were done: show the driver, and do what waited for the last of them. */
void vhu_queue_settle(struct vhu_queue *queue);

void vhu_queue_apply(struct vhu_queue *queue);
/* Break the ring if its memory was lost: once nothing is in flight any more. */
void vhu_queue_check_memory(struct vhu_queue *queue);
/* Let go of everything; the thread does not know the queue any more, or has ended. */
void vhu_queue_release(struct vhu_queue *queue);

/* turns.c, called by the worker's thread */

/* Queues came or went, or their rings did. */
void vhu_turns_arrange(struct vhu_worker *worker);
/* Give each queue its turn. Returns whether there was anything to do. */
bool vhu_turns_take(struct vhu_worker *worker);

/* idle.c, called by the worker's thread */

/* After a pass without work: whether to make another one. */
bool vhu_worker_keeps_polling(struct vhu_worker *worker);
/* Sleep until there may be something to do. */
void vhu_worker_sleep(struct vhu_worker *worker);

/* worker.c */
/* For how many ms to wait at most for a completion: -1 for ever. */
int vhu_worker_completion_timeout(const struct vhu_worker *worker);
/* As vhu_worker_create, with an engine of the caller's choice, which is taken over. */
int vhu_worker_create_with(const struct vhu_worker_config *config, struct vhu_io_engine *io,
                           struct vhu_worker **ret);
void vhu_worker_attach(struct vhu_worker *worker, struct vhu_queue *queue);
void vhu_worker_detach(struct vhu_worker *worker, struct vhu_queue *queue);
/* Make the thread look at its mailboxes, which the caller changed with the lock held, and at its queues. */
void vhu_worker_wake(struct vhu_worker *worker);
/* End a system call that the thread waits in, if any. Call it with the lock held. */
void vhu_worker_interrupt(struct vhu_worker *worker);

#endif
