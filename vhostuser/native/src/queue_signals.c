/* SPDX-License-Identifier: Apache-2.0
 *
 * What a queue and its driver tell each other beside the ring, on the worker's thread: kicks by an fd or a
 * page, and calls.
 */
#include <sys/epoll.h>

#include "worker.h"

enum {
    RENEW_AFTER = 1 << 14, /* chains, long before an event index in the past comes round again */
    MUTE = 100,            /* a peer gets no signal for so many times as long as it may have held us up */
};

static const uint32_t NOTIFY_ARMED = UINT32_MAX; /* no ring has the number 65535 */

static bool is_muted(const struct vhu_queue *queue)
{
    uint64_t until = queue->muted ? load_relaxed(queue->muted) : 0;

    return until > 0 && now_ns() < until;
}

static void note_signal(struct vhu_queue *queue, bool sent)
{
    if (!sent && queue->muted)
        store_relaxed(queue->muted, now_ns() + (uint64_t)GUARD_MS * 1000000 * MUTE);
}

void vhu_queue_signal(struct vhu_queue *queue, enum vhu_queue_fd which)
{
    if (is_muted(queue))
        return;
    if (queue->muted)
        vhu_signal_guard();
    note_signal(queue, vhu_signal_send(queue->fd[which]));
}

static void call_driver(struct vhu_queue *queue)
{
    if (is_muted(queue))
        return;
    if (queue->muted)
        vhu_signal_guard();
    count_more(&queue->counters.calls, 1);
    note_signal(queue, vhu_signal_send_often(queue->fd[VHU_FD_CALL], &queue->call_room));
}

void vhu_queue_publish(struct vhu_queue *queue)
{
    queue->unpublished = 0;
    if (!vhu_ring_publish(queue->ring)) {
        count_more(&queue->counters.calls_suppressed, 1);
    } else if (queue->fd[VHU_FD_CALL] != NO_FD &&
               !vhu_queue_misbehaves(queue, VHU_MISCHIEF_LOST_CALLS)) {
        call_driver(queue);
    }
}

void vhu_queue_renew(struct vhu_queue *queue, uint32_t popped)
{
    queue->since_renewal += popped;
    if (queue->since_renewal >= RENEW_AFTER) {
        vhu_ring_kick_disable(queue->ring);
        queue->since_renewal = 0;
    }
}

/* Closing our fd would not do: the peer has the file open, too, and epoll would go on with it. */
void vhu_queue_unwatch(struct vhu_queue *queue)
{
    if (queue->kick_watched)
        (void)epoll_ctl(queue->worker->epoll_fd, EPOLL_CTL_DEL, queue->fd[VHU_FD_KICK], NULL);
    queue->kick_watched = false;
}

void vhu_queue_watch(struct vhu_queue *queue)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = queue};
    bool wanted = queue_is_active(queue) && queue->fd[VHU_FD_KICK] != NO_FD && !queue->kick_dead;

    if (!wanted) {
        vhu_queue_unwatch(queue);
        return;
    }
    if (queue->kick_watched)
        return;
    int fd = queue->fd[VHU_FD_KICK];
    queue->kick_watched = epoll_ctl(queue->worker->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
    queue->kick_dead = !queue->kick_watched; /* not a thing that can be waited for */
}

void vhu_queue_drain_kick(struct vhu_queue *queue, uint32_t events)
{
    switch (vhu_signal_drain(queue->fd[VHU_FD_KICK], events, queue->muted != NULL)) {
    case DRAINED_NOTHING:
        break;
    case DRAINED_SIGNAL:
        count_more(&queue->counters.kicks, 1);
        break;
    case DRAINED_END:
        queue->kick_dead = true;
        vhu_queue_watch(queue);
    }
}

void vhu_queue_arm_page(struct vhu_queue *queue)
{
    store_relaxed((uint32_t *)queue->current.notify, NOTIFY_ARMED);
}

/* A driver writes the same number at every kick, and 0 looks like memory that nobody wrote to: so the page
 * holds a value that no kick has. A kick that comes before it is back is lost, but not what it told:
 * who asks looks at the ring next, and the fence has it see what the driver put there. */
bool vhu_queue_take_page_kick(struct vhu_queue *queue)
{
    uint32_t *page = queue->current.notify;

    if (!page || load_relaxed(page) == NOTIFY_ARMED)
        return false;
    vhu_queue_arm_page(queue);
    full_fence();
    count_more(&queue->counters.page_kicks, 1);
    return true;
}
