/* SPDX-License-Identifier: Apache-2.0
 *
 * The queue of a ring that receives: who its endpoint leads to, and, where nobody sends, what fills it.
 */
#include "net.h"
#include "worker.h"

/* ---- Filled by senders ------------------------------------------------------------------------- */

static bool serve_nothing(struct vhu_queue *queue)
{
    (void)queue;
    return false; /* senders fill its buffers */
}

static bool awaits_no_kick(const struct vhu_queue *queue)
{
    (void)queue;
    return false;
}

static void changed(struct vhu_queue *queue)
{
    bool ready = queue_is_active(queue);

    store_relaxed(&queue->port->receiver[queue->pair].ready, ready);
    if (ready && queue->pair == 0)
        vhu_net_port_begin(queue->port, queue->current.config.features);
}

static void joined(struct vhu_queue *queue)
{
    queue_lock(queue);
    queue->port->receiver[queue->pair].queue = queue;
    queue_unlock(queue);
}

static void leaving(struct vhu_queue *queue)
{
    struct net_endpoint *endpoint = &queue->port->receiver[queue->pair];

    queue_lock(queue);
    endpoint->queue = NULL;
    store_relaxed(&endpoint->ready, false);
    queue_unlock(queue);
}

const struct queue_device vhu_net_receive_device = {
    .spare_iov = NET_SPARE_IOV,
    .passive = true,
    .in_order = true,
    .serve = serve_nothing,
    .awaits_kick = awaits_no_kick,
    .kicked = vhu_queue_drain_kick,
    .attend = vhu_queue_ignore,
    .changed = changed,
    .joined = joined,
    .leaving = leaving,
    .released = vhu_net_vacate,
};

/* ---- Filled by its own thread: VHU_NET_SOURCE -------------------------------------------------- */

static bool fill_buffers(struct vhu_queue *queue)
{
    struct net_port *port = queue->port;
    struct net_endpoint *endpoint = &port->receiver[queue->pair];
    struct net_frame frame = port->net->made; /* its iov points at memory that stays */
    struct net_frame *frames[BATCH];

    if (load_relaxed(&port->link_down))
        return false;
    frame.iov = &frame.single;
    for (uint32_t i = 0; i < BATCH; i++)
        frames[i] = &frame;
    queue_lock(queue);
    uint64_t received = endpoint->counters.frames, *no_buffer = &endpoint->counters.drops[VHU_NET_DROP_NO_BUFFER];
    uint64_t missed = *no_buffer;
    vhu_net_receive(port, queue->pair, frames, BATCH);
    store_relaxed(no_buffer, missed); /* nobody sent those */
    bool filled = endpoint->counters.frames != received;
    queue_unlock(queue);
    return filled;
}

static bool awaits_kick(const struct vhu_queue *queue)
{
    return !load_relaxed(&queue->port->link_down);
}

const struct queue_device vhu_net_fill_device = {
    .spare_iov = NET_SPARE_IOV,
    .serve = fill_buffers,
    .awaits_kick = awaits_kick,
    .kicked = vhu_queue_drain_kick,
    .attend = vhu_queue_ignore,
    .changed = changed,
    .joined = joined,
    .leaving = leaving,
    .released = vhu_net_vacate,
};
