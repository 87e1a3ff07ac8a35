/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames out of the transmit ring of a driver (VIRTIO 1.2, section 5.1.6.2). A batch is taken, handed on, and
 * given back: nothing is kept, and the bytes are never copied here.
 */
#include "net.h"
#include "net_offload.h"
#include "net_ring.h"
#include "slice.h"
#include "worker.h"

enum {
    AHEAD = 64,        /* bytes of a cache line */
    ANNOUNCEMENT = 60, /* bytes of the shortest frame */
};

/* A chain that was taken, and the frame in it. */
struct taken {
    struct iovec *iov; /* of a chain of several buffers; NULL: `buffer` is all of it */
    uint32_t count;
    uint64_t bytes;
    struct ring_buffer buffer;
};

struct sending {
    struct vhu_queue *queue;
    struct net_source *source;
    uint64_t features;
    uint32_t header_size;
    uint32_t count;    /* chains taken */
    uint32_t good;     /* frames to be handed on */
    uint32_t iov_used; /* of the queue's */
    struct taken taken[BATCH];
    struct net_frame frames[BATCH];
};

/* ---- Taking ------------------------------------------------------------------------------------ */

/* Take a chain of any kind. 1, 0 or -EPROTO, as vhu_ring_pop; 0 also when there is no room for its buffers in
 * this batch any more. */
static int take_chain(struct sending *sending)
{
    struct vhu_queue *queue = sending->queue;
    struct taken *taken = &sending->taken[sending->count];
    struct vhu_chain chain;

    if (sending->iov_used > queue->device->spare_iov)
        return 0;
    int rc = vhu_ring_pop(queue->ring, queue->iov + sending->iov_used, &chain);
    if (rc != 1)
        return rc;
    taken->iov = chain.iov;
    taken->count = chain.readable;
    taken->bytes = chain.readable_bytes;
    taken->buffer.id = chain.id;
    taken->buffer.slots = chain.slots;
    sending->iov_used += chain.readable;
    return 1;
}

/* Take up to a batch. Returns 0, or -EPROTO where the ring broke behind what was taken. */
static int take_batch(struct sending *sending)
{
    struct vhu_ring *ring = sending->queue->ring;
    uint32_t limit = ring->num < BATCH ? ring->num : BATCH;

    for (; sending->count < limit; sending->count++) {
        struct taken *taken = &sending->taken[sending->count];
        enum taking taking = ring_take(ring, 0, &taken->buffer);

        if (__builtin_expect(taking == TAKEN, 1)) {
            taken->iov = NULL;
            __builtin_prefetch(taken->buffer.hva);
            __builtin_prefetch(taken->buffer.hva + AHEAD);
            continue;
        }
        int rc = taking == TAKE_EMPTY ? 0 : take_chain(sending);
        if (rc != 1)
            return rc;
    }
    return 0;
}

/* ---- Reading ----------------------------------------------------------------------------------- */

/* Note where the frame in a chain lies. `ret` is its header, and the frame's first bytes behind it. */
static void find_frame(const struct sending *sending, struct taken *taken, struct net_frame *frame,
                       uint8_t *ret)
{
    uint32_t size = sending->header_size;

    if (__builtin_expect(!taken->iov, 1)) {
        memcpy(ret, taken->buffer.hva, size + FRAME_MIN);
        frame->single.iov_base = taken->buffer.hva + size;
        frame->single.iov_len = taken->buffer.length - size;
        frame->iov = &frame->single;
        frame->count = 1;
    } else {
        struct slice slice = {taken->iov, taken->count, taken->bytes};

        slice_take(&slice, ret, size);
        frame->iov = slice.iov;
        frame->count = slice.count;
        slice_peek(&slice, ret + size, FRAME_MIN);
    }
    __asm__ volatile("" : : "r"(ret) : "memory"); /* the guest's bytes are not looked at again */
}

/* Read the header of a frame and its addresses: once, all of it, and what the frame is handed on with are copies.
 * False: it is dropped. */
static inline bool read_frame(struct sending *sending, struct taken *taken, struct net_frame *frame)
{
    uint64_t bytes = taken->iov ? taken->bytes : taken->buffer.length;
    uint32_t size = sending->header_size;
    uint8_t start[NET_HEADER_SIZE + FRAME_MIN];

    if (__builtin_expect(bytes < size + FRAME_MIN || bytes > size + FRAME_MAX, 0)) {
        count_more(&sending->source->counters.drops[VHU_NET_DROP_LENGTH], 1);
        return false;
    }
    frame->bytes = (uint32_t)bytes - size;
    find_frame(sending, taken, frame, start);
    memcpy(&frame->header, start, NET_HEADER_LEGACY);
    frame->header.num_buffers = 0;
    frame->flow = 0;
    frame->destination = net_address(start + size);
    frame->source = net_address(start + size + 6);
    if (__builtin_expect(!net_header_check(&frame->header, sending->features, frame->bytes), 0)) {
        count_more(&sending->source->counters.drops[VHU_NET_DROP_HEADER], 1);
        return false;
    }
    return true;
}

static void read_batch(struct sending *sending)
{
    for (uint32_t i = 0; i < sending->count; i++)
        sending->good += read_frame(sending, &sending->taken[i], &sending->frames[sending->good]);
}

/* ---- Giving back ------------------------------------------------------------------------------- */

static void give_back(struct sending *sending)
{
    struct vhu_queue *queue = sending->queue;

    for (uint32_t i = 0; i < sending->count; i++) {
        const struct ring_buffer *buffer = &sending->taken[i].buffer;

        ring_give(queue->ring, buffer->id, buffer->slots, 0);
    }
    count_more(&queue->counters.requests, sending->count);
    vhu_queue_publish(queue);
    vhu_queue_renew(queue, sending->count);
}

static bool send_batch(struct vhu_queue *queue)
{
    struct sending sending; /* large: what it holds is written before it is read */

    sending.queue = queue;
    sending.source = &queue->port->sender[queue->pair];
    sending.features = queue->current.config.features;
    sending.header_size = net_header_size(sending.features);
    sending.count = sending.good = sending.iov_used = 0;
    int rc = take_batch(&sending);
    if (sending.count > 0) {
        read_batch(&sending);
        if (sending.good > 0)
            vhu_net_forward(queue->port, queue->pair, queue->worker->now_s, sending.frames, sending.good);
        give_back(&sending);
    }
    if (rc < 0)
        vhu_queue_broke(queue);
    return sending.count > 0 || rc < 0;
}

/* ---- The queue --------------------------------------------------------------------------------- */

/* Tell the others, as a guest would that has just come to another host, where an address lives (RFC 903). */
static void announce(struct vhu_queue *queue, uint64_t address)
{
    uint8_t bytes[ANNOUNCEMENT] = {
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0x80, 0x35, /* broadcast, RARP */
        0, 1, 8, 0, 6, 4, 0, 3,                                           /* Ethernet, IPv4, request */
    };
    struct net_frame frame = {.bytes = sizeof(bytes), .count = 1, .destination = (1ull << 48) - 1, .source = address};

    memcpy(bytes + 6, &address, 6);
    memcpy(bytes + 22, &address, 6);
    memcpy(bytes + 32, &address, 6);
    frame.single = (struct iovec){bytes, sizeof(bytes)};
    frame.iov = &frame.single;
    vhu_net_forward(queue->port, queue->pair, queue->worker->now_s, &frame, 1);
}

static void attend(struct vhu_queue *queue)
{
    if (queue->pair != 0)
        return;
    uint64_t address = __atomic_exchange_n(&queue->port->announced, 0, __ATOMIC_RELAXED);
    if (address)
        announce(queue, address);
}

static bool awaits_kick(const struct vhu_queue *queue)
{
    (void)queue;
    return true;
}

const struct queue_device vhu_net_send_device = {
    .spare_iov = NET_SPARE_IOV,
    .serve = send_batch,
    .awaits_kick = awaits_kick,
    .kicked = vhu_queue_drain_kick,
    .attend = attend,
    .joined = vhu_queue_ignore,
    .leaving = vhu_queue_ignore,
    .released = vhu_net_vacate,
};
