/* SPDX-License-Identifier: Apache-2.0
 *
 * A worker: a thread that serves the rings of its queues. It polls while that pays and sleeps
 * otherwise (idle.c).
 */
#include "worker.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "sigbus.h"
#include "thread.h"

enum {
    INTERRUPT_NS = 50000000, /* how often a thread that does not end is interrupted */
    RETRY_MS = 1,            /* how soon jobs are started for which the host had no room, or which
                                wait for those of another worker */
    NAP_US = 100,
    CLOCK_EVERY = 1024, /* passes between two looks at the clock */
};

/* ---- The thread ------------------------------------------------------------------------------ */

static void unlink_queue(struct vhu_queue **list, const struct vhu_queue *queue)
{
    for (; *list; list = &(*list)->next) {
        if (*list == queue) {
            *list = queue->next;
            return;
        }
    }
}

/* Get to know new queues. */
static void take_in(struct vhu_worker *worker, struct vhu_queue *incoming)
{
    while (incoming) {
        struct vhu_queue *queue = incoming;

        incoming = queue->next;
        queue->next = worker->queues;
        worker->queues = queue;
        queue->device->joined(queue);
    }
}

/* Forget a queue that somebody waits to free. Not with the lock: who delivers to it takes its own lock first, and
 * the worker's inside that. */
static void let_go(struct vhu_worker *worker, struct vhu_queue *queue)
{
    queue->device->leaving(queue);
    vhu_queue_unwatch(queue);
    pthread_mutex_lock(&worker->lock);
    unlink_queue(&worker->queues, queue);
    queue->mailbox.leaving = false;
    pthread_cond_broadcast(&worker->changed);
    pthread_mutex_unlock(&worker->lock);
}

static bool is_leaving(struct vhu_queue *queue)
{
    pthread_mutex_lock(&queue->worker->lock);
    bool leaving = queue->mailbox.leaving;
    pthread_mutex_unlock(&queue->worker->lock);
    return leaving;
}

/* Take in new queues and let go of leaving ones. Returns false when the thread shall end. */
static bool sort_queues(struct vhu_worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    store_relaxed(&worker->attention, 0);
    struct vhu_queue *incoming = worker->incoming;
    worker->incoming = NULL;
    bool go_on = !worker->stopping;
    pthread_mutex_unlock(&worker->lock);
    take_in(worker, incoming);
    for (struct vhu_queue *queue = worker->queues, *next; queue; queue = next) {
        next = queue->next;
        if (is_leaving(queue))
            let_go(worker, queue);
    }
    return go_on;
}

/* Carry out what other threads want. Returns false when the thread shall end. */
static bool attend(struct vhu_worker *worker)
{
    if (!sort_queues(worker))
        return false;
    for (struct vhu_queue *queue = worker->queues; queue; queue = queue->next) {
        vhu_queue_apply(queue);
        queue->device->attend(queue);
    }
    vhu_turns_arrange(worker);
    return true;
}

/* Take in what the store has done. Returns whether there was anything. */
static bool reap(struct vhu_worker *worker)
{
    struct io_job *job = worker->io->reap(worker->io);

    if (!job)
        return false;
    while (job) {
        struct io_job *next = job->next;

        vhu_queue_go_on((struct slot *)job);
        job = next;
    }
    for (struct vhu_queue *queue = worker->queues; queue; queue = queue->next)
        vhu_queue_settle(queue);
    return true;
}

/* Have jobs started, and take in those that are done. Returns whether there were any. */
static bool carry_on(struct vhu_worker *worker)
{
    if (worker->waiting)
        vhu_queue_start_waiting(worker);
    worker->held_back = !worker->io->flush(worker->io);
    return reap(worker);
}

int vhu_worker_completion_timeout(const struct vhu_worker *worker)
{
    return worker->held_back || worker->waiting ? RETRY_MS : -1;
}

/* Somebody's memory was lost; whose, is looked for only then. */
static void check_memory(struct vhu_worker *worker)
{
    worker->faults_seen = vhu_sigbus_count();
    for (struct vhu_queue *queue = worker->queues; queue; queue = queue->next)
        vhu_queue_check_memory(queue);
}

static bool serve_all(struct vhu_worker *worker)
{
    if (++worker->passes % CLOCK_EVERY == 0)
        worker->now_s = (uint32_t)(now_ns() / SECOND_NS);
    bool worked = vhu_turns_take(worker);
    if (worker->in_flight > 0)
        worked |= carry_on(worker);
    if (worker->faults_seen != vhu_sigbus_count())
        check_memory(worker);
    return worked;
}

/* As serve_all, and add up the time it took if there was something to do. */
static bool serve_measured(struct vhu_worker *worker)
{
    uint64_t start = now_ns();
    bool worked = serve_all(worker);

    if (worked)
        count_more(&worker->busy_ns, now_ns() - start);
    return worked;
}

/* The store still writes to guest memory: wait for it, and give back what it did. */
static void finish_jobs(struct vhu_worker *worker)
{
    while (worker->in_flight > 0) {
        struct pollfd ready = {.fd = worker->io->ready_fd, .events = POLLIN};

        if (!carry_on(worker) && poll(&ready, 1, vhu_worker_completion_timeout(worker)) < 0)
            continue; /* a signal */
    }
}

static void *run(void *argument)
{
    struct vhu_worker *worker = argument;

    bool (*const serve)(struct vhu_worker *) = worker->config.account ? serve_measured : serve_all;

    worker->now_s = (uint32_t)(now_ns() / SECOND_NS);
    while (!load_acquire(&worker->attention) || attend(worker)) {
        if (serve(worker)) {
            if (worker->empty_passes > 0)
                worker->poll_ns = worker->poll_max_ns; /* polling paid */
            worker->empty_passes = 0;
        } else if (!vhu_worker_keeps_polling(worker)) {
            vhu_worker_sleep(worker);
        }
    }
    finish_jobs(worker);
    vhu_signal_release_guard();
    pthread_mutex_lock(&worker->lock);
    worker->ended = true;
    pthread_cond_broadcast(&worker->changed);
    pthread_mutex_unlock(&worker->lock);
    return NULL;
}

/* ---- Other threads --------------------------------------------------------------------------- */

static void unref_worker(struct vhu_worker *worker)
{
    if (__atomic_sub_fetch(&worker->references, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    worker->io->destroy(worker->io);
    if (worker->epoll_fd >= 0)
        close(worker->epoll_fd);
    if (worker->wake_fd >= 0)
        close(worker->wake_fd);
    pthread_cond_destroy(&worker->changed);
    pthread_mutex_destroy(&worker->lock);
    free(worker);
}

/* Timeouts must not depend on somebody setting the clock. */
static void init_condition(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;

    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

static int open_fds(struct vhu_worker *worker)
{
    struct epoll_event wake = {.events = EPOLLIN, .data.ptr = NULL};
    struct epoll_event done = {.events = EPOLLIN, .data.ptr = worker->io};

    worker->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    worker->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (worker->wake_fd < 0 || worker->epoll_fd < 0 ||
        epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, worker->wake_fd, &wake) < 0 ||
        epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, worker->io->ready_fd, &done) < 0)
        return -errno;
    return 0;
}

int vhu_worker_create_with(const struct vhu_worker_config *config, struct vhu_io_engine *io,
                           struct vhu_worker **ret)
{
    struct vhu_worker *worker = calloc(1, sizeof(*worker));

    if (!worker) {
        io->destroy(io);
        return -ENOMEM;
    }
    worker->config = *config;
    worker->io = io;
    worker->references = 1;
    worker->epoll_fd = worker->wake_fd = NO_FD;
    worker->poll_max_ns = worker->poll_ns = (uint64_t)config->poll_us * 1000;
    worker->nap_ns = (uint64_t)(config->nap_us ? config->nap_us : NAP_US) * 1000;
    pthread_mutex_init(&worker->lock, NULL);
    init_condition(&worker->changed);
    int rc = open_fds(worker);
    if (rc == 0)
        rc = vhu_thread_start(&worker->thread, "vhu-worker", run, worker);
    if (rc < 0) {
        unref_worker(worker);
        return rc;
    }
    *ret = worker;
    return 0;
}

int vhu_worker_create(const struct vhu_worker_config *config, struct vhu_worker **ret)
{
    struct vhu_io_engine *io;
    int rc = vhu_io_create(config->io, &io);

    return rc < 0 ? rc : vhu_worker_create_with(config, io, ret);
}

enum vhu_io vhu_worker_io(const struct vhu_worker *worker)
{
    return worker->io->kind;
}

uint64_t vhu_worker_busy_ns(const struct vhu_worker *worker)
{
    return load_relaxed(&worker->busy_ns);
}

void vhu_worker_wake(struct vhu_worker *worker)
{
    const uint64_t one = 1;

    store_release(&worker->attention, 1);
    if (write(worker->wake_fd, &one, sizeof(one)) < 0)
        return; /* full: it is awake */
}

void vhu_worker_interrupt(struct vhu_worker *worker)
{
    if (!worker->ended) /* it has not been joined then, either */
        vhu_thread_interrupt(worker->thread);
}

static void ask_to_stop(struct vhu_worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    worker->stopping = true;
    vhu_worker_wake(worker);
    pthread_mutex_unlock(&worker->lock);
}

int vhu_worker_stop(struct vhu_worker *worker, uint32_t timeout_ms)
{
    uint64_t end = now_ns() + (uint64_t)timeout_ms * 1000000, next = now_ns();

    if (worker->joined)
        return 0;
    ask_to_stop(worker);
    pthread_mutex_lock(&worker->lock);
    while (!worker->ended && next < end) {
        next = next + INTERRUPT_NS < end ? next + INTERRUPT_NS : end;
        struct timespec until = {(time_t)(next / SECOND_NS), (long)(next % SECOND_NS)};
        int rc = 0;

        while (!worker->ended && rc == 0)
            rc = pthread_cond_timedwait(&worker->changed, &worker->lock, &until);
        vhu_worker_interrupt(worker);
    }
    bool ended = worker->ended;
    pthread_mutex_unlock(&worker->lock);
    if (!ended)
        return -ETIMEDOUT;
    pthread_join(worker->thread, NULL);
    worker->joined = true;
    return 0;
}

void vhu_worker_destroy(struct vhu_worker *worker)
{
    if (!worker)
        return;
    if (!worker->joined) {
        ask_to_stop(worker);
        pthread_join(worker->thread, NULL);
    }
    unref_worker(worker);
}

void vhu_worker_attach(struct vhu_worker *worker, struct vhu_queue *queue)
{
    __atomic_fetch_add(&worker->references, 1, __ATOMIC_RELAXED);
    pthread_mutex_lock(&worker->lock);
    queue->next = worker->incoming;
    worker->incoming = queue;
    vhu_worker_wake(worker);
    pthread_mutex_unlock(&worker->lock);
}

void vhu_worker_detach(struct vhu_worker *worker, struct vhu_queue *queue)
{
    pthread_mutex_lock(&worker->lock);
    queue->mailbox.leaving = true;
    vhu_worker_wake(worker);
    while (queue->mailbox.leaving && !worker->ended)
        pthread_cond_wait(&worker->changed, &worker->lock);
    if (worker->ended) {
        unlink_queue(&worker->incoming, queue);
        unlink_queue(&worker->queues, queue);
    }
    pthread_mutex_unlock(&worker->lock);
    vhu_queue_release(queue);
    unref_worker(worker);
}
