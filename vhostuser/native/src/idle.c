/* SPDX-License-Identifier: Apache-2.0
 *
 * A worker without work: it polls while that pays and sleeps in epoll otherwise. Notifications are off while
 * it polls; before it sleeps it asks for them and looks once more.
 */
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "sigbus.h"
#include "worker.h"

enum {
    EVENTS = 16,
    NO_KICK_TIMEOUT_MS = 1, /* how late a ring without a kick fd may be looked at */
    CLOCK_EVERY = 32,       /* empty passes between two looks at the clock */
    EAGER = 256,            /* empty passes before another one may come a little later */
    PATIENCE = 32,          /* pauses, about 1 us, before the next look at rings in a rush */
    POLL_SHRUNK = 16,       /* polling for less than 1/16 of what is allowed is given up */
    SHORT_SLEEP = 8,        /* a sleep below 8 times what polling may take was a near miss ... */
    NEAR_MISSES = 16,       /* ... and after 16 of them polling gets another try */
    SHORT_NAPS = 64,        /* without a kick of a notify page, after which they are longer ... */
    LONG_NAP = 10,          /* ... by this factor */
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static bool pays(struct vhu_worker *worker)
{
    if (!worker->config.busy && worker->poll_ns == 0)
        return false;
    if (++worker->empty_passes % CLOCK_EVERY != 0 || worker->config.busy)
        return true;
    uint64_t now = now_ns();
    if (worker->empty_passes == CLOCK_EVERY)
        worker->idle_since = now;
    return now - worker->idle_since < worker->poll_ns;
}

/* Where many chains came at once, more are on their way: looked for all the time, each line of the ring would go to and
 * fro while the driver writes to it. A driver that waits for an answer is not kept waiting. */
static uint32_t pauses(const struct vhu_worker *worker)
{
    if (worker->empty_passes > EAGER)
        return 1;
    return worker->rush ? PATIENCE : 0;
}

bool vhu_worker_keeps_polling(struct vhu_worker *worker)
{
    if (!pays(worker))
        return false;
    for (uint32_t i = pauses(worker); i > 0; i--)
        relax();
    return true;
}

/* Polling that found nothing is tried for half as long next time, until it is given up. Sleeps
 * that were hardly longer than the polling allowed bring it back: so an idle disk costs nothing,
 * and a guest that waits for each request before it sends the next is answered without a sleep. */
static void adapt(struct vhu_worker *worker, uint64_t slept_ns, bool kicked)
{
    if (worker->poll_ns > 0) {
        worker->poll_ns /= 2;
        if (worker->poll_ns < worker->poll_max_ns / POLL_SHRUNK)
            worker->poll_ns = 0;
    } else if (kicked && slept_ns < worker->poll_max_ns * SHORT_SLEEP &&
               ++worker->short_sleeps == NEAR_MISSES) {
        worker->short_sleeps = 0;
        worker->poll_ns = worker->poll_max_ns;
    }
}

static void suppress(struct vhu_queue *queue)
{
    queue_lock(queue);
    vhu_ring_kick_disable(queue->ring);
    queue_unlock(queue);
}

/* Ask for kicks. Returns whether something is there already. */
static bool invite(struct vhu_queue *queue)
{
    if (!queue->ring)
        return false; /* epoll knows */
    queue_lock(queue);
    bool ready = vhu_ring_kick_enable(queue->ring);
    queue_unlock(queue);
    return ready;
}

static void suppress_kicks(struct vhu_worker *worker)
{
    for (struct vhu_queue *queue = worker->queues; queue; queue = queue->next) {
        if (queue_is_active(queue) && queue->ring && !queue->device->passive)
            suppress(queue);
    }
}

/* Whether nothing says that a driver added to its ring: then it is looked at now and then. */
static bool is_mute(const struct vhu_queue *queue)
{
    return queue->fd[VHU_FD_KICK] == NO_FD && !queue->current.notify;
}

/* Ask every driver for kicks. Returns for how many ms to sleep: -1 for ever, 0 if work is there. */
static int invite_kicks(struct vhu_worker *worker)
{
    int timeout = vhu_worker_completion_timeout(worker);

    for (struct vhu_queue *queue = worker->queues; queue; queue = queue->next) {
        if (!queue_is_served(queue) || !queue->device->awaits_kick(queue))
            continue;
        if (invite(queue))
            timeout = 0;
        else if (is_mute(queue) && timeout != 0)
            timeout = NO_KICK_TIMEOUT_MS;
    }
    return worker->faults_seen == vhu_sigbus_count() ? timeout : 0;
}

static bool has_pages(const struct vhu_worker *worker)
{
    for (const struct vhu_queue *queue = worker->queues; queue; queue = queue->next) {
        if (queue_is_served(queue) && queue->current.notify)
            return true;
    }
    return false;
}

/* Whether a driver wrote to its notify page. */
static bool take_page_kicks(struct vhu_worker *worker)
{
    bool kicked = false;

    for (struct vhu_queue *queue = worker->queues; queue; queue = queue->next)
        kicked |= queue_is_served(queue) && vhu_queue_take_page_kick(queue);
    return kicked;
}

/* Sleep until epoll has something, but look at the notify pages again and again. Returns whether one of
 * them ended it. */
static bool nap(struct vhu_worker *worker)
{
    struct pollfd ready = {.fd = worker->epoll_fd, .events = POLLIN};

    for (uint32_t naps = 0; !take_page_kicks(worker); naps++) {
        uint64_t ns = worker->nap_ns * (naps < SHORT_NAPS ? 1 : LONG_NAP);
        struct timespec length = {(time_t)(ns / SECOND_NS), (long)(ns % SECOND_NS)};

        if (ppoll(&ready, 1, &length, NULL) != 0)
            return false;
    }
    return true;
}

/* Sleep for `timeout` ms at most, -1 for ever. Returns how many events there are; `ret`: whether a notify
 * page was written to. */
static int await_events(struct vhu_worker *worker, int timeout, struct epoll_event *events,
                        bool *ret)
{
    *ret = false;
    if (timeout == 0)
        return 0;
    vhu_signal_unguard();
    if (has_pages(worker)) {
        *ret = timeout < 0 ? nap(worker) : take_page_kicks(worker);
        if (timeout < 0 || *ret)
            timeout = 0;
    }
    return epoll_wait(worker->epoll_fd, events, EVENTS, timeout);
}

void vhu_worker_sleep(struct vhu_worker *worker)
{
    struct epoll_event events[EVENTS];
    uint64_t start = now_ns(), count;
    int timeout = invite_kicks(worker);
    bool kicked;

    int ready = await_events(worker, timeout, events, &kicked);
    for (int i = 0; i < ready; i++) {
        struct vhu_queue *queue = events[i].data.ptr;

        if (events[i].data.ptr == worker->io) {
            kicked = true; /* a completion: worth having waited for, too */
        } else if (queue) {
            queue->device->kicked(queue, events[i].events);
            kicked = true;
        } else if (read(worker->wake_fd, &count, sizeof(count)) < 0) {
            continue; /* another wake-up took it: the flag says what there is to do */
        }
    }
    suppress_kicks(worker);
    worker->look_at_all = true;
    uint64_t now = now_ns();
    worker->now_s = (uint32_t)(now / SECOND_NS);
    if (timeout != 0)
        adapt(worker, now - start, kicked);
    /* a ring without a kick fd that has work now was worth polling */
    worker->empty_passes = ready == 0 && timeout > 0;
}
