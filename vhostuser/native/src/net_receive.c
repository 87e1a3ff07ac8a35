/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames into the receive buffers of a driver (VIRTIO 1.2, section 5.1.6.3). Nothing waits here: what finds no
 * buffer is dropped.
 */
#include "net.h"
#include "net_copy.h"
#include "net_offload.h"
#include "net_ring.h"
#include "slice.h"
#include "worker.h"

enum {
    MERGED_MAX = 64,                       /* receive buffers of a frame */
    LOOKS_FREE = 2 * MERGED_MAX,           /* descriptors of these; no driver has more ... */
    LOOKS_PAID = FRAME_COST / LOOK_COST,   /* ... for each so many of which it loses a frame */
    DEBT_MAX = MERGED_MAX * 1024 / LOOKS_PAID,
};

struct receiver {
    struct net_port *port;
    struct vhu_queue *queue;
    struct vhu_net_counters *counters;
    uint64_t features;    /* as negotiated, with the offloads in force */
    uint32_t header_size;
    uint32_t pushed;      /* chains ... */
    uint32_t frames;      /* ... with so many frames ... */
    uint64_t bytes;       /* ... of so many bytes */
};

static void drop(struct receiver *receiver, enum vhu_net_drop reason, uint32_t count)
{
    count_more(&receiver->counters->drops[reason], count);
}

/* ---- Into one buffer --------------------------------------------------------------------------- */

/* The header is ours, but for the offloads that the receiver has agreed to: a sender's is not to be believed. In
 * whole words, which processors pass on from a store to a load; from halves of one they do not. */
static inline void write_header(uint8_t *to, const struct net_header *header, uint32_t size)
{
    uint64_t first;
    uint32_t rest = header->csum_offset | 1u << 16; /* num_buffers */

    memcpy(&first, header, sizeof(first));
    memcpy(to, &first, sizeof(first));
    if (__builtin_expect(size == NET_HEADER_SIZE, 1))
        memcpy(to + sizeof(first), &rest, sizeof(rest));
    else
        memcpy(to + sizeof(first), &header->csum_offset, sizeof(header->csum_offset));
}

static inline void copy_frame(uint8_t *to, const struct net_frame *frame)
{
    if (__builtin_expect(frame->count == 1, 1)) {
        copy_bytes(to, frame->iov->iov_base, frame->bytes);
        return;
    }
    for (uint32_t i = 0; i < frame->count; i++) {
        memmove(to, frame->iov[i].iov_base, frame->iov[i].iov_len);
        to += frame->iov[i].iov_len;
    }
}

/* Frames that go as they are, each into one buffer, as long as there are such. Returns how many; `ret`: why the
 * next one is none. */
static uint32_t receive_plain(struct receiver *receiver, struct net_frame *const *frames,
                              uint32_t count, enum taking *ret)
{
    struct vhu_ring *ring = receiver->queue->ring;
    uint32_t size = receiver->header_size;
    struct ring_buffer buffers[BATCH];
    uint64_t bytes = 0;

    uint32_t taken = ring_take(ring, DESC_WRITE, count, buffers, ret), filled = 0;
    for (; filled < taken; filled++) {
        const struct net_frame *frame = frames[filled];
        struct ring_buffer *buffer = &buffers[filled];

        if (buffer->length < size + frame->bytes ||
            !net_receiver_takes(&frame->header, receiver->features))
            break;
        write_header(buffer->hva, &frame->header, size);
        copy_frame(buffer->hva + size, frame);
        buffer->length = size + frame->bytes;
        bytes += frame->bytes;
    }
    net_give(receiver->queue, buffers, filled, true);
    if (filled < taken) {
        ring_untake(ring, taken - filled);
        *ret = TAKE_CHAIN;
    }
    receiver->pushed += filled;
    receiver->frames += filled;
    receiver->bytes += bytes;
    return filled;
}

/* ---- Into any buffers -------------------------------------------------------------------------- */

/* The receive buffers of one frame. They are filled in the order they were popped, and are the driver's only when
 * they are pushed. */
struct reception {
    struct receiver *receiver;
    uint32_t limit;
    uint32_t count;
    uint32_t looks; /* descriptors that were read */
    uint8_t *number[2]; /* where the header says how many there are, byte by byte; NULL: nowhere */
    struct vhu_chain chains[MERGED_MAX];
    uint32_t written[MERGED_MAX];
};

enum outcome { RECEIVED, NO_BUFFER, TOO_LARGE };

static void write_header_pieces(struct reception *reception, const struct net_header *header,
                                struct slice *in)
{
    struct net_header ours = *header;
    struct iovec iov = {&ours, reception->receiver->header_size};
    struct slice from = {&iov, 1, iov.iov_len};

    ours.num_buffers = 1;
    for (int i = 0; i < 2 && from.bytes == NET_HEADER_SIZE; i++)
        reception->number[i] = slice_at(in, (uint64_t)NET_HEADER_LEGACY + (uint64_t)i);
    slice_copy(in, &from, from.bytes);
}

/* Fill the next buffer. False: it cannot be used. */
static bool fill(struct reception *reception, const struct net_header *frame_header, struct slice *frame,
                 const struct vhu_chain *chain)
{
    struct slice in = {chain->iov + chain->readable, chain->writable, chain->writable_bytes};
    uint32_t header = reception->count == 0 ? reception->receiver->header_size : 0;
    uint64_t room = in.bytes > header ? in.bytes - header : 0;

    if (room == 0 || (reception->limit == 1 && room < frame->bytes))
        return false;
    uint64_t piece = room < frame->bytes ? room : frame->bytes;
    if (header)
        write_header_pieces(reception, frame_header, &in);
    slice_copy(&in, frame, piece);
    reception->written[reception->count] = header + (uint32_t)piece;
    return true;
}

/* Pop buffers and fill them until there is nothing left of the frame. */
static enum outcome fill_all(struct reception *reception, const struct net_header *header,
                             struct slice *frame)
{
    struct vhu_queue *queue = reception->receiver->queue;

    while (frame->bytes > 0) {
        struct vhu_chain *chain = &reception->chains[reception->count];

        if (reception->count == reception->limit)
            return TOO_LARGE;
        if (vhu_ring_pop(queue->ring, queue->iov, chain) != 1)
            return NO_BUFFER;
        reception->looks += queue->ring->looks;
        bool usable = fill(reception, header, frame, chain);
        reception->count++;
        if (!usable)
            return TOO_LARGE;
    }
    return RECEIVED;
}

static void push_all(struct reception *reception)
{
    struct receiver *receiver = reception->receiver;

    for (int i = 0; i < 2 && reception->number[i]; i++)
        *reception->number[i] = (uint8_t)(reception->count >> 8 * i);
    for (uint32_t i = 0; i < reception->count; i++)
        queue_push(receiver->queue, &reception->chains[i], reception->written[i]);
    receiver->pushed += reception->count;
}

static void give_up(struct reception *reception)
{
    while (reception->count > 0)
        vhu_ring_unpop(reception->receiver->queue->ring, &reception->chains[--reception->count]);
}

/* Senders have read more descriptors than buffers need: so many frames less are tried for this receiver, or any guest
 * could keep those busy who send to it. */
static void charge(struct vhu_queue *queue, uint32_t looks)
{
    if (__builtin_expect(looks <= LOOKS_FREE, 1))
        return;
    queue->debt += (looks - LOOKS_FREE) / LOOKS_PAID;
    if (queue->debt > DEBT_MAX)
        queue->debt = DEBT_MAX;
}

/* A frame that the receiver takes as it is, in as many pieces as the frame and the buffers have. Its iov is used
 * up, unless it is kept by a copy. */
static enum outcome receive_pieces(struct receiver *receiver, const struct net_frame *frame,
                                   struct iovec *iov)
{
    struct reception reception; /* mostly never touched: no initializer */
    struct slice bytes = {iov, frame->count, frame->bytes};

    reception.receiver = receiver;
    reception.limit = net_has(receiver->features, NET_F_MRG_RXBUF) ? MERGED_MAX : 1;
    reception.count = reception.looks = 0;
    reception.number[0] = reception.number[1] = NULL;
    enum outcome outcome = fill_all(&reception, &frame->header, &bytes);
    charge(receiver->queue, reception.looks);
    if (outcome != RECEIVED) {
        give_up(&reception);
        drop(receiver, outcome == NO_BUFFER ? VHU_NET_DROP_NO_BUFFER : VHU_NET_DROP_TOO_LARGE, 1);
        return outcome;
    }
    push_all(&reception);
    receiver->bytes += frame->bytes;
    receiver->frames++;
    return RECEIVED;
}

/* Cut a frame, or compute its checksum. */
static void receive_segments(struct receiver *receiver, const struct net_frame *frame)
{
    struct net_segments segments; /* large, and filled by its function */
    struct net_frame segment;

    if (!vhu_segments_begin(&segments, frame, receiver->features)) {
        drop(receiver, VHU_NET_DROP_OFFLOAD, 1);
        return;
    }
    while (vhu_segments_next(&segments, &segment)) {
        if (receive_pieces(receiver, &segment, segment.iov) != RECEIVED)
            return; /* the next ones would fare no better */
        count_more(&receiver->counters->segments, frame->header.gso_type != NET_GSO_NONE);
        if (receiver->queue->debt > 0)
            break;
    }
    if (segments_are_left(&segments))
        drop(receiver, VHU_NET_DROP_OFFLOAD, 1);
}

/* Any frame. It may go to others, too: its iov stays. */
static void receive_any(struct receiver *receiver, const struct net_frame *frame)
{
    struct vhu_queue *queue = receiver->queue;

    if (!net_receiver_takes(&frame->header, receiver->features)) {
        receive_segments(receiver, frame);
        return;
    }
    struct iovec *copy = queue->iov + vhu_ring_iov_limit(queue->ring);
    if (frame->count > queue->device->spare_iov) {
        drop(receiver, VHU_NET_DROP_TOO_LARGE, 1);
        return;
    }
    memcpy(copy, frame->iov, frame->count * sizeof(*copy));
    (void)receive_pieces(receiver, frame, copy);
}

/* ---- What others call -------------------------------------------------------------------------- */

uint64_t vhu_net_in_force(const struct net_port *port, uint64_t features)
{
    return (features & ~GUEST_OFFLOADS) | (features & load_relaxed(&port->control.offloads));
}

static void receiver_init(struct receiver *receiver, struct net_port *port, uint32_t pair)
{
    struct net_endpoint *endpoint = &port->receiver[pair];
    uint64_t features = endpoint->queue->current.config.features;

    *receiver = (struct receiver){
        .port = port,
        .queue = endpoint->queue,
        .counters = &endpoint->counters,
        .features = vhu_net_in_force(port, features),
        .header_size = net_header_size(features),
    };
}

void vhu_net_received(struct net_endpoint *endpoint, uint32_t pushed, uint32_t frames, uint64_t bytes)
{
    struct vhu_queue *queue = endpoint->queue;

    if (pushed) {
        count_more(&endpoint->counters.frames, frames);
        count_more(&endpoint->counters.bytes, bytes);
        count_more(&queue->counters.requests, pushed);
        vhu_queue_publish(queue);
        vhu_queue_renew(queue, pushed);
    }
    if (__builtin_expect(queue->ring->fault != VHU_FAULT_NONE, 0))
        vhu_worker_wake(queue->worker);
}

/* Leave out what the driver does not want. Returns how many are left, in `ret`. */
static uint32_t filter(struct receiver *receiver, struct net_frame *const *frames, uint32_t count,
                       struct net_frame **ret)
{
    uint32_t passed = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (net_filter_passes(&receiver->port->control.filter, frames[i]))
            ret[passed++] = frames[i];
    }
    drop(receiver, VHU_NET_DROP_FILTERED, count - passed);
    return passed;
}

/* Leave out the next frames as long as there is a debt. Returns how many. */
static uint32_t pay(struct receiver *receiver, uint32_t count)
{
    struct vhu_queue *queue = receiver->queue;
    uint32_t paid = queue->debt < count ? queue->debt : count;

    if (__builtin_expect(paid > 0, 0)) {
        queue->debt -= paid;
        drop(receiver, VHU_NET_DROP_NO_BUFFER, paid);
    }
    return paid;
}

void vhu_net_receive(struct net_port *port, uint32_t pair, struct net_frame *const *frames,
                     uint32_t count)
{
    struct net_frame *wanted[BATCH];
    struct receiver receiver;

    receiver_init(&receiver, port, pair);
    if (!load_relaxed(&port->control.filter.passes_all)) {
        count = filter(&receiver, frames, count, wanted);
        frames = wanted;
    }
    for (uint32_t done = 0; done < count;) {
        enum taking why;

        done += pay(&receiver, count - done);
        done += receive_plain(&receiver, frames + done, count - done, &why);
        if (done == count)
            break;
        if (why == TAKE_EMPTY) {
            drop(&receiver, VHU_NET_DROP_NO_BUFFER, count - done);
            break;
        }
        receive_any(&receiver, frames[done++]);
    }
    vhu_net_received(&port->receiver[pair], receiver.pushed, receiver.frames, receiver.bytes);
}
