/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames out of the kernel, which come in by a TAP (Linux, Documentation/networking/tuntap.rst).
 *
 * Whom a frame is for is known when it was read, and memory of a guest that it is not for must not get it: so it is
 * read into memory of ours and copied from there, unless there is but one whom it could be for (net_tap_direct.c).
 */
#include "net_tap.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "net.h"
#include "net_offload.h"

enum {
    LINE = 64,
    PAUSE_MAX = 64,    /* passes between two looks at a TAP that has nothing */
    FAILURES_MAX = 64, /* reads in a row, after which the device is no good */
};

/* All that the kernel may ask for. */
static const uint64_t KERNEL_OFFLOADS = 1ull << NET_F_CSUM | 1ull << NET_F_HOST_TSO4 |
                                        1ull << NET_F_HOST_TSO6 | 1ull << NET_F_HOST_ECN |
                                        1ull << NET_F_HOST_USO;

/* ---- Reading ----------------------------------------------------------------------------------- */

static void drop(struct vhu_queue *queue, enum vhu_net_drop reason)
{
    count_more(&queue->port->sender[queue->pair].counters.drops[reason], 1);
}

enum tap_read vhu_tap_failed(struct vhu_queue *queue)
{
    if (errno == EAGAIN || errno == EINTR)
        return TAP_EMPTY;
    if (errno == EBADFD || ++queue->tap->failures == FAILURES_MAX)
        return TAP_ENDED;
    drop(queue, VHU_NET_DROP_HEADER);
    return TAP_FAILED;
}

bool vhu_tap_note(struct vhu_queue *queue, uint8_t *start, size_t bytes, struct net_frame *ret)
{
    if (bytes < NET_HEADER_SIZE + FRAME_MIN || bytes > TAP_FRAME) {
        drop(queue, VHU_NET_DROP_LENGTH);
        return false;
    }
    const uint8_t *frame = start + NET_HEADER_SIZE;
    *ret = (struct net_frame){
        .bytes = (uint32_t)bytes - NET_HEADER_SIZE,
        .count = 1,
        .destination = net_address(frame),
        .source = net_address(frame + 6),
        .single = {start + NET_HEADER_SIZE, bytes - NET_HEADER_SIZE},
    };
    memcpy(&ret->header, start, NET_HEADER_LEGACY);
    ret->iov = &ret->single;
    if (!net_header_check(&ret->header, KERNEL_OFFLOADS, ret->bytes)) {
        drop(queue, VHU_NET_DROP_HEADER);
        return false;
    }
    return true;
}

/* Read frames, as many as there are and fit. Returns what ended it; `ret`: how many are good. */
static enum tap_read read_batch(struct vhu_queue *queue, struct net_frame *frames, uint32_t *ret)
{
    struct tap *tap = queue->tap;
    uint32_t good = 0;
    size_t used = 0;
    enum tap_read end = TAP_GOT;

    for (int reads = 0; reads < BATCH && used + TAP_FRAME < TAP_IN; reads++) {
        /* a byte more than the longest, so that a longer one is known by it */
        ssize_t bytes = read(queue->fd[VHU_FD_KICK], tap->in + used, TAP_FRAME + 1);

        if (bytes <= 0) {
            end = bytes == 0 ? TAP_ENDED : vhu_tap_failed(queue);
            break;
        }
        tap->failures = 0;
        if (!vhu_tap_note(queue, tap->in + used, (size_t)bytes, &frames[good]))
            continue;
        used += ((size_t)bytes + LINE - 1) & ~(size_t)(LINE - 1);
        good++;
    }
    *ret = good;
    return end;
}

/* ---- The queue --------------------------------------------------------------------------------- */

static void publish(struct vhu_queue *queue, enum vhu_queue_actual actual)
{
    queue->actual.actual = actual;
    pthread_mutex_lock(&queue->worker->lock);
    queue->status = queue->actual;
    pthread_mutex_unlock(&queue->worker->lock);
    vhu_signal_send(queue->event_fd);
}

/* The device is gone, or no good: leave the file alone, which would be ready for ever. */
static void end(struct vhu_queue *queue)
{
    queue_lock(queue);
    queue->current.enabled = false;
    store_relaxed(&queue->port->receiver[queue->pair].ready, false);
    queue_unlock(queue);
    vhu_queue_watch(queue);
    publish(queue, VHU_QUEUE_BROKEN);
}

/* Whether to look at the file in this pass: a look at an empty one costs a system call. */
static bool is_due(const struct tap *tap, const struct vhu_worker *worker)
{
    return (int32_t)(worker->passes - tap->next_look) >= 0;
}

static void put_off(struct tap *tap, const struct vhu_worker *worker)
{
    tap->pause = tap->pause < PAUSE_MAX ? tap->pause * 2 : PAUSE_MAX;
    tap->next_look = worker->passes + tap->pause;
}

/* Read by way of our memory, and hand on. `ret`: how many frames there were. */
static enum tap_read read_and_forward(struct vhu_queue *queue, uint32_t *ret)
{
    struct net_frame frames[BATCH];
    enum tap_read end = read_batch(queue, frames, ret);

    if (*ret > 0)
        vhu_net_forward(queue->port, queue->pair, queue->worker->now_s, frames, *ret);
    return end;
}

static bool serve(struct vhu_queue *queue)
{
    struct net_source *source = &queue->port->sender[queue->pair];
    struct tap *tap = queue->tap;
    enum tap_read read;
    uint32_t frames;

    if (!is_due(tap, queue->worker))
        return false;
    source->cost = 0;
    struct net_port *only = vhu_tap_only_receiver(queue);
    if (!only || !vhu_tap_read_direct(queue, only, &read, &frames))
        read = read_and_forward(queue, &frames);
    count_more(&queue->counters.requests, frames);
    queue->debt = (uint32_t)(source->cost / SHARE);
    if (read == TAP_ENDED)
        end(queue);
    if (read == TAP_EMPTY && frames == 0) {
        put_off(tap, queue->worker);
        return false;
    }
    tap->pause = 1;
    return true;
}

/* Its thread slept, and epoll has something. */
static void kicked(struct vhu_queue *queue, uint32_t events)
{
    (void)events; /* errors show in a read */
    queue->tap->next_look = queue->worker->passes;
    queue->tap->pause = 1;
    count_more(&queue->counters.kicks, 1);
}

static bool awaits_kick(const struct vhu_queue *queue)
{
    (void)queue;
    return true;
}

static void joined(struct vhu_queue *queue)
{
    struct net_endpoint *endpoint = &queue->port->receiver[queue->pair];

    queue_lock(queue);
    queue->current.enabled = true;
    endpoint->queue = queue;
    store_relaxed(&endpoint->ready, true);
    queue_unlock(queue);
    queue->tap->next_look = queue->worker->passes;
    vhu_queue_watch(queue);
    publish(queue, VHU_QUEUE_RUNNING);
}

static void leaving(struct vhu_queue *queue)
{
    struct net_endpoint *endpoint = &queue->port->receiver[queue->pair];

    queue_lock(queue);
    endpoint->queue = NULL;
    store_relaxed(&endpoint->ready, false);
    queue_unlock(queue);
}

static void released(struct vhu_queue *queue)
{
    vhu_net_vacate(queue);
    munmap(queue->tap, sizeof(*queue->tap));
}

const struct queue_device vhu_tap_device = {
    .ringless = true,
    .serve = serve,
    .kicked = kicked,
    .attend = vhu_net_announce,
    .awaits_kick = awaits_kick,
    .joined = joined,
    .leaving = leaving,
    .released = released,
};

/* Most of it is never touched where frames are small. */
static struct tap *make_tap(uint64_t features)
{
    struct tap *tap =
        mmap(NULL, sizeof(*tap), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (tap == MAP_FAILED)
        return NULL;
    tap->features = features;
    tap->pause = 1;
    return tap;
}

static int create(struct vhu_worker *worker, struct vhu_net *net, uint32_t number, uint32_t pair,
                  struct tap *tap, int event_fd, struct vhu_queue **ret)
{
    struct net_port *port = net_port_at(net, number);

    if (!tap)
        return -ENOMEM;
    if (!port || !port->used || pair >= port->pairs)
        return -EINVAL;
    int rc = vhu_net_queue_create(worker, &vhu_tap_device, port, 2 * pair, event_fd, ret);
    if (rc == 0)
        (*ret)->tap = tap;
    return rc;
}

int vhu_queue_create_tap(struct vhu_worker *worker, struct vhu_net *net, uint32_t port, uint32_t pair,
                         int fd, uint64_t features, int event_fd, struct vhu_queue **ret)
{
    struct tap *tap = make_tap(features);
    int rc = create(worker, net, port, pair, tap, event_fd, ret);

    if (rc < 0) {
        if (tap)
            munmap(tap, sizeof(*tap));
        close(fd);
        return rc;
    }
    struct vhu_queue *queue = *ret;
    queue->fd[VHU_FD_KICK] = fd;
    vhu_worker_attach(worker, queue);
    return 0;
}
