/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames on their way from a transmit ring to a receive ring, on the worker's thread that has both
 * (VIRTIO 1.2, section 5.1). Nothing is kept: a frame that cannot be delivered yet stays in its ring.
 */
#include "net.h"
#include "slice.h"
#include "worker.h"

enum {
    BATCH = 64,      /* frames before other rings get their turn */
    FRAME_MIN = 14,
    FRAME_MAX = 65550,
    MERGED_MAX = 64, /* receive buffers of a frame */
    F_MRG_RXBUF = 15,
    F_VERSION_1 = 32,
};

struct net_header {
    uint8_t flags;
    uint8_t gso_type;
    uint16_t hdr_len;
    uint16_t gso_size;
    uint16_t csum_start;
    uint16_t csum_offset;
    uint16_t num_buffers; /* a legacy device has it only where it merges buffers */
};

_Static_assert(sizeof(struct net_header) == 12, "ABI of a network header");

enum { COUNT_OFFSET = offsetof(struct net_header, num_buffers) };

enum outcome { DELIVERED, WAITS, BAD, TOO_LARGE, NO_RECEIVER };

static bool offers(const struct vhu_queue *queue, int feature)
{
    return queue->current.config.features >> feature & 1;
}

static uint32_t header_size(const struct vhu_queue *queue)
{
    bool has_count = offers(queue, F_VERSION_1) || offers(queue, F_MRG_RXBUF);

    return has_count ? sizeof(struct net_header) : COUNT_OFFSET;
}

/* ---- Receiving ------------------------------------------------------------------------------- */

/* The receive buffers that a frame goes into. They are filled in the order they were popped, and are the
 * driver's only when they are pushed. */
struct reception {
    struct vhu_queue *queue;
    uint32_t limit;
    uint32_t count;
    uint8_t *number[2]; /* where the header says how many there are, byte by byte; NULL: nowhere */
    struct vhu_chain chains[MERGED_MAX];
    uint32_t written[MERGED_MAX];
};

/* Write the header, which the first buffer has room for. A sender's own is not to be believed. */
static void write_header(struct reception *reception, struct slice *in)
{
    static const struct net_header header = {.num_buffers = 1};
    struct iovec iov = {(void *)&header, header_size(reception->queue)};
    struct slice from = {&iov, 1, iov.iov_len};

    for (int i = 0; i < 2 && from.bytes == sizeof(header); i++)
        reception->number[i] = slice_at(in, (uint64_t)COUNT_OFFSET + (uint64_t)i);
    slice_copy(in, &from, from.bytes);
}

/* Fill the next buffer. False: it cannot be used. */
static bool fill(struct reception *reception, struct slice *frame, const struct vhu_chain *chain)
{
    struct slice in = {chain->iov + chain->readable, chain->writable, chain->writable_bytes};
    uint32_t header = reception->count == 0 ? header_size(reception->queue) : 0;
    uint64_t room = in.bytes > header ? in.bytes - header : 0;

    if (room == 0 || (reception->limit == 1 && room < frame->bytes))
        return false;
    uint64_t piece = room < frame->bytes ? room : frame->bytes;
    if (header)
        write_header(reception, &in);
    slice_copy(&in, frame, piece);
    reception->written[reception->count] = header + (uint32_t)piece;
    return true;
}

static void give_up(struct reception *reception)
{
    while (reception->count > 0)
        vhu_ring_unpop(reception->queue->ring, &reception->chains[--reception->count]);
}

/* Pop buffers and fill them until there is nothing left of the frame. */
static enum outcome fill_all(struct reception *reception, struct slice *frame)
{
    struct vhu_queue *queue = reception->queue;

    while (frame->bytes > 0) {
        struct vhu_chain *chain = &reception->chains[reception->count];

        if (reception->count == reception->limit)
            return TOO_LARGE;
        int rc = vhu_ring_pop(queue->ring, queue->iov, chain);
        if (rc < 0)
            return NO_RECEIVER;
        if (rc == 0)
            return reception->count == 0 ? WAITS : TOO_LARGE; /* where it waited for more, it might for ever */
        bool usable = fill(reception, frame, chain);
        reception->count++;
        if (!usable)
            return TOO_LARGE;
    }
    return DELIVERED;
}

static void push_all(struct reception *reception)
{
    struct vhu_queue *queue = reception->queue;

    for (int i = 0; i < 2 && reception->number[i]; i++)
        *reception->number[i] = (uint8_t)(reception->count >> 8 * i);
    for (uint32_t i = 0; i < reception->count; i++)
        queue_push(queue, &reception->chains[i], reception->written[i]);
    vhu_queue_renew(queue, reception->count);
}

/* Put a frame into the receive ring of `queue`, NULL: there is none. */
static enum outcome deliver(struct vhu_queue *queue, struct slice *frame)
{
    struct reception reception;
    uint64_t bytes = frame->bytes;

    if (!queue || !queue_is_active(queue))
        return NO_RECEIVER;
    if (!queue_is_served(queue))
        return WAITS; /* it was asked to be stuck */
    reception.queue = queue;
    reception.limit = offers(queue, F_MRG_RXBUF) ? MERGED_MAX : 1;
    reception.count = 0;
    reception.number[0] = reception.number[1] = NULL;
    enum outcome outcome = fill_all(&reception, frame);
    if (outcome == DELIVERED) {
        push_all(&reception);
        count_more(&queue->counters.requests, 1);
        count_more(&queue->counters.bytes_read, bytes);
        return DELIVERED;
    }
    give_up(&reception);
    if (queue->ring->fault)
        vhu_queue_broke(queue);
    return outcome;
}

/* ---- Sending --------------------------------------------------------------------------------- */

/* Read the header of what was sent; `frame` is what follows it. False: no good. */
static bool read_header(const struct vhu_queue *queue, const struct vhu_chain *chain,
                        struct slice *frame)
{
    uint32_t size = header_size(queue);
    struct net_header header;

    *frame = (struct slice){chain->iov, chain->readable, chain->readable_bytes};
    if (frame->bytes < size + FRAME_MIN || frame->bytes > size + FRAME_MAX)
        return false;
    slice_take(frame, &header, size);
    return header.flags == 0 && header.gso_type == 0; /* nothing else was negotiated */
}

static void count(struct net_port *port, enum outcome outcome)
{
    uint64_t *const counters[] = {
        [DELIVERED] = &port->counters.frames,
        [BAD] = &port->counters.bad,
        [TOO_LARGE] = &port->counters.too_large,
        [NO_RECEIVER] = &port->counters.no_receiver,
    };

    count_more(counters[outcome], 1);
}

/* Send the next frame. 1: it went its way; 0: there is none, or it has to wait; -EPROTO: the ring broke. */
static int send_next(struct vhu_queue *queue, struct net_port *port, struct vhu_queue *receiver)
{
    struct vhu_chain chain;
    struct slice frame;
    int rc = vhu_ring_pop(queue->ring, queue->iov, &chain);

    if (rc <= 0)
        return rc;
    bool good = read_header(queue, &chain, &frame);
    uint64_t bytes = frame.bytes;
    enum outcome outcome = good ? deliver(receiver, &frame) : BAD;
    if (outcome == WAITS) {
        vhu_ring_unpop(queue->ring, &chain);
        port->blocked = true;
        return 0;
    }
    queue_push(queue, &chain, 0);
    count(port, outcome);
    count_more(&queue->counters.requests, 1);
    count_more(&queue->counters.errors, outcome != DELIVERED);
    count_more(&queue->counters.bytes_written, good ? bytes : 0);
    return 1;
}

static bool send_batch(struct vhu_queue *queue)
{
    struct net_port *port = &queue->net->ports[queue->port];
    struct vhu_queue *receiver = queue->net->ports[port->peer].queues[VHU_NET_RX];
    uint32_t sent = 0;
    int rc = 0;

    port->blocked = false;
    while (sent < BATCH && (rc = send_next(queue, port, receiver)) == 1)
        sent++;
    if (receiver && receiver->unpublished)
        vhu_queue_publish(receiver);
    if (queue->unpublished)
        vhu_queue_publish(queue);
    if (rc < 0) {
        vhu_queue_broke(queue);
        return true;
    }
    vhu_queue_renew(queue, sent);
    return sent > 0;
}

static bool receive_nothing(struct vhu_queue *queue)
{
    (void)queue;
    return false; /* senders fill its buffers */
}

static bool sender_awaits_kick(const struct vhu_queue *queue)
{
    return !queue->net->ports[queue->port].blocked;
}

static bool receiver_awaits_kick(const struct vhu_queue *queue)
{
    const struct net_port *sender = &queue->net->ports[queue->net->ports[queue->port].peer];
    const struct vhu_queue *sends = sender->queues[VHU_NET_TX];

    return sender->blocked && sends && queue_is_served(sends);
}

static void joined(struct vhu_queue *queue)
{
    queue->net->ports[queue->port].queues[queue->index] = queue;
}

static void leaving(struct vhu_queue *queue)
{
    struct net_port *port = &queue->net->ports[queue->port];

    port->queues[queue->index] = NULL;
    if (queue->index == VHU_NET_TX)
        port->blocked = false;
}

const struct queue_device vhu_net_rx_device = {
    .serve = receive_nothing,
    .awaits_kick = receiver_awaits_kick,
    .joined = joined,
    .leaving = leaving,
};

const struct queue_device vhu_net_tx_device = {
    .serve = send_batch,
    .awaits_kick = sender_awaits_kick,
    .joined = joined,
    .leaving = leaving,
};
