/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames out of the transmit ring of a driver (VIRTIO 1.2, section 5.1.6.2). A batch is taken, handed on, and
 * given back: nothing is kept, and the bytes are never copied here.
 */
#include "net.h"
#include "net_copy.h"
#include "net_offload.h"
#include "net_ring.h"
#include "slice.h"
#include "worker.h"

enum {
    ADDRESSES = 12,      /* bytes that a frame begins with */
    ANNOUNCEMENT = 60,   /* bytes of the shortest frame */
    BATCH_MOST = 512 << 10, /* bytes of chains after which a batch is full */
    RUSH = 8,            /* chains at once that are no question to which an answer is awaited */
};

/* A chain of several buffers: what of it may be read. */
struct pieces {
    struct iovec *iov;
    uint32_t count;
    uint64_t bytes;
};

struct sending {
    struct vhu_queue *queue;
    struct net_source *source;
    uint64_t features;
    uint32_t header_size;
    uint32_t count;    /* chains taken */
    uint32_t good;     /* frames to be handed on */
    uint32_t iov_used; /* of the queue's */
    uint64_t bytes;    /* of chains of several buffers, and what a look at them costs */
    struct ring_buffer taken[BATCH]; /* hva NULL: `pieces` says what it is */
    struct pieces pieces[BATCH];
    struct net_frame frames[BATCH];
    uint8_t addresses[BATCH][ADDRESSES]; /* of a locked port's frames ... */
    struct iovec pinned[BATCH][2];       /* ... and where these lie, then, of one buffer */
};

/* ---- Taking ------------------------------------------------------------------------------------ */

/* Take a chain of any kind. 1, 0 or -EPROTO, as vhu_ring_pop; 0 also when there is no room for its buffers in
 * this batch any more. */
static int take_chain(struct sending *sending)
{
    struct vhu_queue *queue = sending->queue;
    struct vhu_ring *ring = queue->ring;
    struct vhu_chain chain;

    if (sending->iov_used >= queue->device->spare_iov || sending->bytes > BATCH_MOST)
        return 0;
    int rc = vhu_ring_pop(ring, queue->iov + sending->iov_used + 1, &chain); /* see pin */
    if (rc != 1)
        return rc;
    ring->in_flight[chain.id] = 0; /* given back before anything else is popped */
    sending->taken[sending->count] = (struct ring_buffer){.id = chain.id, .slots = chain.slots};
    sending->pieces[sending->count++] =
        (struct pieces){chain.iov, chain.readable, chain.readable_bytes};
    sending->iov_used += 1 + chain.readable;
    sending->bytes += chain.readable_bytes + (uint64_t)ring->looks * LOOK_COST;
    sending->source->cost += (uint64_t)ring->looks * LOOK_COST;
    return 1;
}

/* Take up to a batch. Returns 0, or -EPROTO where the ring broke behind what was taken. */
static int take_batch(struct sending *sending)
{
    struct vhu_ring *ring = sending->queue->ring;
    uint32_t limit = ring->num < BATCH ? ring->num : BATCH;
    enum taking why = TAKE_CHAIN;
    int rc = 1;

    while (rc == 1 && why == TAKE_CHAIN && sending->count < limit) {
        sending->count += ring_take(ring, 0, limit - sending->count,
                                    &sending->taken[sending->count], &why);
        if (why == TAKE_CHAIN)
            rc = take_chain(sending);
    }
    return rc < 0 ? rc : 0;
}

/* ---- Reading ----------------------------------------------------------------------------------- */

/* What decides where a frame goes and what is asked for it: copies, of bytes that were read once. */
struct start {
    uint64_t header; /* up to csum_start ... */
    uint64_t rest;   /* ... and on from hdr_len */
    uint64_t destination;
    uint64_t source;
};

enum { REST = 2 /* offset of the second part of a header: both are in a legacy one */ };

static inline void start_in_buffer(const struct ring_buffer *buffer, uint32_t header_size,
                                   struct net_frame *frame, struct start *ret)
{
    uint8_t *bytes = buffer->hva + header_size;

    ret->header = read_word(buffer->hva);
    ret->rest = read_word(buffer->hva + REST);
    ret->destination = read_word(bytes);
    ret->source = read_word(bytes + 6);
    frame->single = (struct iovec){bytes, buffer->length - header_size};
    frame->iov = &frame->single;
    frame->count = 1;
}

static void start_in_pieces(const struct pieces *pieces, uint32_t header_size, struct net_frame *frame,
                            struct start *ret)
{
    struct slice slice = {pieces->iov, pieces->count, pieces->bytes};
    uint8_t bytes[NET_HEADER_SIZE + FRAME_MIN];

    slice_take(&slice, bytes, header_size);
    slice_peek(&slice, bytes + header_size, FRAME_MIN);
    ret->header = read_word(bytes);
    ret->rest = read_word(bytes + REST);
    ret->destination = read_word(bytes + header_size);
    ret->source = read_word(bytes + header_size + 6);
    frame->iov = slice.iov;
    frame->count = slice.count;
}

/* Understand the header. False: it asks for what cannot be. */
static inline bool read_header(const struct start *start, uint64_t features, struct net_frame *frame)
{
    frame->header = (struct net_header){0};
    if (__builtin_expect((start->header & 0xffff) == 0, 1)) /* flags and gso_type */
        return true;
    memcpy(&frame->header, &start->header, REST);
    memcpy((uint8_t *)&frame->header + REST, &start->rest, sizeof(start->rest));
    return net_header_check(&frame->header, features, frame->bytes);
}

/* Read the header of a frame and its addresses. False: the frame is dropped. */
static inline bool read_frame(const struct sending *sending, uint32_t index, struct net_frame *frame)
{
    const struct ring_buffer *buffer = &sending->taken[index];
    const struct pieces *pieces = &sending->pieces[index];
    uint64_t bytes = buffer->hva ? buffer->length : pieces->bytes;
    uint32_t size = sending->header_size;
    struct start start;

    if (__builtin_expect(bytes < size + FRAME_MIN || bytes > size + FRAME_MAX, 0)) {
        count_more(&sending->source->counters.drops[VHU_NET_DROP_LENGTH], 1);
        return false;
    }
    if (__builtin_expect(buffer->hva != NULL, 1))
        start_in_buffer(buffer, size, frame, &start);
    else
        start_in_pieces(pieces, size, frame, &start);
    frame->bytes = (uint32_t)bytes - size;
    frame->flow = 0;
    frame->destination = start.destination & NET_ADDRESS;
    frame->source = start.source & NET_ADDRESS;
    if (__builtin_expect(!read_header(&start, sending->features, frame), 0)) {
        count_more(&sending->source->counters.drops[VHU_NET_DROP_HEADER], 1);
        return false;
    }
    return true;
}

/* Have a frame begin with the addresses that were checked: a guest could write others there before they are copied.
 * In front of a chain's pieces there is room for one more. */
static void pin(struct sending *sending, uint32_t index)
{
    struct net_frame *frame = &sending->frames[index];
    uint8_t *addresses = sending->addresses[index];
    struct slice rest = {frame->iov, frame->count, frame->bytes};

    memcpy(addresses, &frame->destination, ADDRESSES / 2);
    memcpy(addresses + ADDRESSES / 2, &frame->source, ADDRESSES / 2);
    if (frame->iov == &frame->single) {
        sending->pinned[index][1] = frame->single;
        rest.iov = &sending->pinned[index][1];
    }
    slice_skip(&rest, ADDRESSES);
    frame->iov = rest.iov - 1;
    frame->iov[0] = (struct iovec){addresses, ADDRESSES};
    frame->count = rest.count + 1;
}

static void read_batch(struct sending *sending, uint32_t first)
{
    for (uint32_t i = first; i < sending->count; i++)
        sending->good += read_frame(sending, i, &sending->frames[sending->good]);
    if (sending->queue->port->locked) {
        for (uint32_t i = 0; i < sending->good; i++)
            pin(sending, i);
    }
}

/* ---- Giving back ------------------------------------------------------------------------------- */

static void give_back(struct sending *sending)
{
    struct vhu_queue *queue = sending->queue;

    net_give(queue, sending->taken, sending->count, false);
    count_more(&queue->counters.requests, sending->count);
    vhu_queue_publish(queue);
    vhu_queue_renew(queue, sending->count);
}

static bool __attribute__((noinline)) send_batch(struct vhu_queue *queue)
{
    struct sending sending; /* large: what it holds is written before it is read */

    sending.queue = queue;
    sending.source = &queue->port->sender[queue->pair];
    sending.features = queue->current.config.features;
    sending.header_size = net_header_size(sending.features);
    sending.count = sending.good = sending.iov_used = 0;
    sending.bytes = 0;
    sending.source->cost = 0;
    int rc = take_batch(&sending);
    if (sending.count > 0) {
        uint32_t gone = vhu_net_run(queue->port, queue->worker->now_s, sending.header_size,
                                    sending.taken, sending.count);
        read_batch(&sending, gone);
        if (sending.good > 0)
            vhu_net_forward(queue->port, queue->pair, queue->worker->now_s, sending.frames, sending.good);
        give_back(&sending);
    }
    queue->worker->rush = sending.count >= RUSH;
    queue->debt = (uint32_t)(sending.source->cost / SHARE);
    if (rc < 0)
        vhu_queue_broke(queue);
    return sending.count > 0 || rc < 0;
}

static bool send_if_any(struct vhu_queue *queue)
{
    return !ring_is_empty(queue->ring) && send_batch(queue);
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

void vhu_net_announce(struct vhu_queue *queue)
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
    .in_order = true,
    .reads_only = true,
    .serve = send_if_any,
    .awaits_kick = awaits_kick,
    .kicked = vhu_queue_drain_kick,
    .attend = vhu_net_announce,
    .joined = vhu_queue_ignore,
    .leaving = vhu_queue_ignore,
    .released = vhu_net_vacate,
};
