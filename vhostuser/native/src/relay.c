/* SPDX-License-Identifier: Apache-2.0
 *
 * A relay: a thread that passes signals on. Its lock is held while one signal is passed on, so that
 * whoever holds it may close what a route uses. A peer that keeps the thread in a write (signals.c)
 * is interrupted by whoever waits for the lock.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "atomic.h"
#include "doorbell.h"
#include "signals.h"
#include "thread.h"

enum {
    EVENTS = 32,
    READS = 64,                /* of one source that is no counter, before others get their turn */
    INTERRUPT_NS = 50000000,   /* how long to wait for the lock before the thread is interrupted */
    SECOND_NS = 1000000000,
};

struct vhu_relay {
    pthread_t thread;
    int epoll_fd;
    int wake_fd;
    pthread_mutex_t lock;
    bool stopping;
    struct vhu_route *routes;
    struct vhu_route *removed; /* freed by the thread, which may hold an event of theirs */
};

struct vhu_route {
    struct vhu_relay *relay;
    struct vhu_route *next;
    int source; /* NO_FD: removed */
    bool counts; /* one read empties the source, as that of an eventfd */
    bool watched;
    uint32_t rung;
    uint64_t signals;
    struct doorbell *doorbell;
};

/* ---- The lock -------------------------------------------------------------------------------- */

static struct timespec soon(void)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += INTERRUPT_NS;
    until.tv_sec += until.tv_nsec / SECOND_NS;
    until.tv_nsec %= SECOND_NS;
    return until;
}

/* Take the lock from another thread than the relay's. The clock that can be set is the one that the thread
 * sanitizer knows locks by; setting it back delays the end of an attack. */
static void lock_relay(struct vhu_relay *relay)
{
    struct timespec until = soon();

    while (pthread_mutex_timedlock(&relay->lock, &until) == ETIMEDOUT) {
        vhu_thread_interrupt(relay->thread);
        until = soon();
    }
}

static void unlock_relay(struct vhu_relay *relay)
{
    pthread_mutex_unlock(&relay->lock);
}

/* ---- The thread ------------------------------------------------------------------------------ */

/* Closing our fd would not do: the peer has the file open, too, and epoll would go on with it. */
static void unwatch(struct vhu_route *route)
{
    if (route->watched)
        (void)epoll_ctl(route->relay->epoll_fd, EPOLL_CTL_DEL, route->source, NULL);
    route->watched = false;
}

/* Empty a route's source. Epoll tells of what comes, not of what is there, so that a source that cannot be
 * emptied keeps nobody busy. Returns whether there was a signal. */
static bool drain(struct vhu_route *route, uint32_t events)
{
    bool signalled = false;

    for (int reads = 0; reads < READS; reads++) {
        enum signal_drained drained = vhu_signal_drain(route->source, events, false);

        if (drained == DRAINED_END)
            unwatch(route);
        if (drained != DRAINED_SIGNAL)
            break;
        signalled = true;
        if (route->counts)
            break;
    }
    return signalled;
}

static void pass_on(struct vhu_relay *relay, struct vhu_route *route, uint32_t events)
{
    pthread_mutex_lock(&relay->lock);
    if (route->watched && drain(route, events)) {
        store_relaxed(&route->signals, route->signals + 1);
        vhu_doorbell_ring(route->doorbell);
    }
    pthread_mutex_unlock(&relay->lock);
}

static void ring_wanted(struct vhu_relay *relay)
{
    uint64_t count;

    if (read(relay->wake_fd, &count, sizeof(count)) < 0)
        return;
    pthread_mutex_lock(&relay->lock);
    for (struct vhu_route *route = relay->routes; route; route = route->next) {
        if (__atomic_exchange_n(&route->rung, 0, __ATOMIC_ACQ_REL))
            vhu_doorbell_ring(route->doorbell);
    }
    pthread_mutex_unlock(&relay->lock);
}

static void free_list(struct vhu_route *route)
{
    for (struct vhu_route *next; route; route = next) {
        next = route->next;
        free(route);
    }
}

/* Between two looks at events: forget routes that are gone. Returns false when the thread shall end. */
static bool clean_up(struct vhu_relay *relay)
{
    pthread_mutex_lock(&relay->lock);
    struct vhu_route *removed = relay->removed;
    relay->removed = NULL;
    bool go_on = !relay->stopping;
    pthread_mutex_unlock(&relay->lock);
    free_list(removed);
    return go_on;
}

static void *run(void *argument)
{
    struct vhu_relay *relay = argument;
    struct epoll_event events[EVENTS];

    while (clean_up(relay)) {
        int ready = epoll_wait(relay->epoll_fd, events, EVENTS, -1);

        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr)
                pass_on(relay, events[i].data.ptr, events[i].events);
            else
                ring_wanted(relay);
        }
    }
    return NULL;
}

/* ---- Other threads --------------------------------------------------------------------------- */

static void wake(struct vhu_relay *relay)
{
    vhu_signal_send(relay->wake_fd);
}

static void free_relay(struct vhu_relay *relay)
{
    free_list(relay->removed);
    vhu_signal_close(relay->epoll_fd);
    vhu_signal_close(relay->wake_fd);
    pthread_mutex_destroy(&relay->lock);
    free(relay);
}

static int open_relay(struct vhu_relay *relay)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};

    relay->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    relay->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (relay->wake_fd < 0 || relay->epoll_fd < 0 ||
        epoll_ctl(relay->epoll_fd, EPOLL_CTL_ADD, relay->wake_fd, &event) < 0)
        return -errno;
    return vhu_thread_start(&relay->thread, "vhu-relay", run, relay);
}

int vhu_relay_create(struct vhu_relay **ret)
{
    struct vhu_relay *relay = calloc(1, sizeof(*relay));

    if (!relay)
        return -ENOMEM;
    relay->wake_fd = relay->epoll_fd = NO_FD;
    pthread_mutex_init(&relay->lock, NULL);
    int rc = open_relay(relay);
    if (rc < 0) {
        free_relay(relay);
        return rc;
    }
    *ret = relay;
    return 0;
}

static void remove_locked(struct vhu_route *route)
{
    struct vhu_relay *relay = route->relay;
    struct vhu_route **place = &relay->routes;

    unwatch(route);
    vhu_signal_close(route->source);
    vhu_doorbell_destroy(route->doorbell);
    while (*place != route)
        place = &(*place)->next;
    *place = route->next;
    route->next = relay->removed;
    relay->removed = route;
}

void vhu_relay_destroy(struct vhu_relay *relay)
{
    if (!relay)
        return;
    lock_relay(relay);
    while (relay->routes)
        remove_locked(relay->routes); /* nothing can hold the thread up now */
    relay->stopping = true;
    unlock_relay(relay);
    wake(relay);
    pthread_join(relay->thread, NULL);
    free_relay(relay);
}

/* Whether one read empties a source: a pipe or socket may hold more than that. */
static bool is_counter(int fd)
{
    struct stat status;

    return fstat(fd, &status) == 0 && !S_ISFIFO(status.st_mode) && !S_ISSOCK(status.st_mode);
}

static int watch(struct vhu_route *route)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = route};

    if (epoll_ctl(route->relay->epoll_fd, EPOLL_CTL_ADD, route->source, &event) < 0)
        return -errno;
    route->watched = true;
    return 0;
}

/* Under the lock, so that the thread sees the route complete. */
static int add_locked(struct vhu_route *route)
{
    struct vhu_relay *relay = route->relay;
    int rc = watch(route);

    if (rc < 0)
        return rc;
    route->next = relay->routes;
    relay->routes = route;
    return 0;
}

static struct vhu_route *create_route(struct vhu_relay *relay, int source, struct doorbell *doorbell)
{
    struct vhu_route *route = calloc(1, sizeof(*route));

    if (!route)
        return NULL;
    route->relay = relay;
    route->source = source;
    route->counts = is_counter(source);
    route->doorbell = doorbell;
    return route;
}

int vhu_relay_add(struct vhu_relay *relay, int source, const struct vhu_target *target,
                  struct vhu_route **ret)
{
    struct doorbell *doorbell;
    int rc = vhu_doorbell_create(target, &doorbell);

    if (rc < 0) {
        vhu_signal_close(source);
        return rc;
    }
    rc = vhu_signal_adopt(source);
    if (rc < 0) {
        vhu_doorbell_destroy(doorbell);
        return rc;
    }
    struct vhu_route *route = create_route(relay, source, doorbell);
    rc = -ENOMEM;
    if (route) {
        lock_relay(relay);
        rc = add_locked(route);
        unlock_relay(relay);
    }
    if (rc < 0) {
        free(route);
        vhu_signal_close(source);
        vhu_doorbell_destroy(doorbell);
        return rc;
    }
    *ret = route;
    return 0;
}

int vhu_route_retarget(struct vhu_route *route, const struct vhu_target *target)
{
    struct doorbell *old, *new;
    int rc = vhu_doorbell_create(target, &new);

    if (rc < 0)
        return rc;
    lock_relay(route->relay);
    old = route->doorbell;
    route->doorbell = new;
    unlock_relay(route->relay);
    vhu_doorbell_destroy(old);
    return 0;
}

void vhu_route_remove(struct vhu_route *route)
{
    struct vhu_relay *relay = route->relay;

    lock_relay(relay);
    remove_locked(route);
    unlock_relay(relay);
    wake(relay); /* to free it */
}

void vhu_route_ring(struct vhu_route *route)
{
    store_release(&route->rung, 1);
    wake(route->relay);
}

uint64_t vhu_route_signals(const struct vhu_route *route)
{
    return load_relaxed(&route->signals);
}
