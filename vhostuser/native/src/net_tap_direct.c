/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames out of the kernel straight into a guest's receive buffers, where there is nobody else that they could be
 * for: one other port, which is up. What decides anything, the header and the addresses, is read into memory of
 * ours; the guest may see the rest of a frame that it then does not get, as it would at the other end of a cable.
 */
#include <errno.h>
#include <sys/uio.h>

#include "net.h"
#include "net_offload.h"
#include "net_tap.h"
#include "slice.h"

enum {
    POOL = 64,                            /* buffers that wait for frames */
    PIECES = 512,                         /* of these, in a read: less than UIO_MAXIOV */
    START = NET_HEADER_SIZE + FRAME_MIN,  /* bytes of each frame that are ours */
    AT_ONCE = 128 * 1024,                 /* bytes after which the driver hears of them */
    REST = TAP_IN / 2,                    /* where in our memory the rest of a frame goes that is too long */
};

struct direct {
    struct vhu_queue *queue;       /* the TAP's */
    struct net_port *to;
    struct vhu_queue *receiver;
    uint64_t features;             /* the receiver's, in force */
    uint32_t header_size;
    uint32_t first, end;           /* chains that wait */
    uint32_t iov_used;
    uint64_t room;                 /* bytes in those that wait */
    uint32_t pushed;
    uint64_t bytes;
    struct net_frame *detour;      /* to be handed on the usual way afterwards, if its `bytes` are not 0 */
    uint8_t start[START];
    struct vhu_chain chains[POOL];
    struct iovec iov[PIECES + 2];  /* of the frame: its start, the buffers, and what they do not hold */
};

/* ---- Buffers ----------------------------------------------------------------------------------- */

static void give_up(struct direct *direct)
{
    while (direct->end > direct->first)
        vhu_ring_unpop(direct->receiver->ring, &direct->chains[--direct->end]);
}

/* Have enough buffers wait for the next frame, as far as there are any. False: there is none for its start. */
static bool refill(struct direct *direct)
{
    struct vhu_queue *receiver = direct->receiver;
    uint32_t limit = net_has(direct->features, NET_F_MRG_RXBUF) ? POOL : 1;
    uint64_t wanted = direct->header_size + direct->queue->tap->expected;

    while (direct->room < wanted && direct->end < POOL && direct->end - direct->first < limit &&
           direct->iov_used <= receiver->device->spare_iov) {
        struct vhu_chain *chain = &direct->chains[direct->end];

        if (vhu_ring_pop(receiver->ring, receiver->iov + direct->iov_used, chain) != 1)
            break;
        direct->iov_used += chain->readable + chain->writable;
        direct->room += chain->writable_bytes;
        direct->end++;
    }
    if (direct->room < wanted && direct->pushed > 0 && limit > 1)
        return false; /* no more for now: a frame that they do not hold would be copied twice */
    return direct->end > direct->first &&
           direct->chains[direct->first].writable_bytes >= direct->header_size + FRAME_MIN;
}

/* List where the next frame goes. Returns how many entries; 0: too many. */
static uint32_t list(struct direct *direct)
{
    uint32_t skipped = direct->header_size + FRAME_MIN, count = 1;

    direct->iov[0] = (struct iovec){direct->start, START};
    for (uint32_t i = direct->first; i < direct->end; i++) {
        const struct vhu_chain *chain = &direct->chains[i];
        struct slice slice = {direct->iov + count, chain->writable, chain->writable_bytes};

        if (count + chain->writable > PIECES)
            return 0;
        memcpy(slice.iov, chain->iov + chain->readable, chain->writable * sizeof(*slice.iov));
        if (i == direct->first)
            slice_skip(&slice, skipped);
        memmove(direct->iov + count, slice.iov, slice.count * sizeof(*slice.iov));
        count += slice.count;
    }
    direct->iov[count] = (struct iovec){direct->queue->tap->in + REST, TAP_FRAME};
    return count + 1;
}

/* Cut the list after `bytes`. Returns how many entries are left. */
static uint32_t trim(struct direct *direct, uint64_t bytes)
{
    uint32_t count = 0;

    for (; bytes > 0; count++) {
        struct iovec *iov = &direct->iov[count];

        if (iov->iov_len > bytes)
            iov->iov_len = bytes;
        bytes -= iov->iov_len;
    }
    return count;
}

/* ---- A frame ----------------------------------------------------------------------------------- */

/* Give the driver the buffers that hold the frame. */
static void push(struct direct *direct, const struct net_frame *frame)
{
    struct vhu_queue *receiver = direct->receiver;
    struct vhu_chain *chain = &direct->chains[direct->first];
    struct slice in = {chain->iov + chain->readable, chain->writable, chain->writable_bytes};
    struct net_header header = frame->header;
    struct iovec iov[] = {{&header, direct->header_size}, {direct->start + NET_HEADER_SIZE, FRAME_MIN}};
    struct slice start = {iov, 2, direct->header_size + FRAME_MIN};
    uint64_t left = direct->header_size + frame->bytes, counted = 0;

    for (uint32_t i = direct->first; counted < left; i++, header.num_buffers++)
        counted += direct->chains[i].writable_bytes;
    slice_copy(&in, &start, start.bytes);
    for (; left > 0; direct->first++) {
        chain = &direct->chains[direct->first];
        uint64_t piece = chain->writable_bytes < left ? chain->writable_bytes : left;

        queue_push(receiver, chain, (uint32_t)piece);
        direct->room -= chain->writable_bytes;
        direct->pushed++;
        left -= piece;
    }
    direct->bytes += frame->bytes;
    count_more(&direct->to->receiver[0].counters.frames, 1);
}

/* It has to be cut, or there are too few buffers for it: have it go the usual way, from our memory. */
static void keep(struct direct *direct, const struct net_frame *frame)
{
    const struct slice slice = {frame->iov, frame->count, frame->bytes};
    uint8_t *memory = direct->queue->tap->in;

    slice_peek(&slice, memory, frame->bytes);
    *direct->detour = *frame;
    direct->detour->single = (struct iovec){memory, frame->bytes};
    direct->detour->iov = &direct->detour->single;
    direct->detour->count = 1;
}

/* The frame that was read is lost, and with it some guest's memory: in that much of the buffers that a frame can have.
 * There may be terabytes of them. */
static enum tap_read lose(struct direct *direct)
{
    uint32_t count = trim(direct, TAP_FRAME);

    vhu_tap_touch(direct->iov + 1, count - 1);
    count_more(&direct->to->receiver[0].counters.drops[VHU_NET_DROP_NO_BUFFER], 1);
    return TAP_GOT;
}

/* Frames tend to be as long as those before them. */
static void learn(struct tap *tap, uint32_t bytes)
{
    uint32_t less = tap->expected - tap->expected / 8;

    tap->expected = bytes > less ? bytes : less;
}

/* Read a frame. `ret`: whether the next one may be read in the same way. */
static enum tap_read read_frame(struct direct *direct, uint32_t count, bool *ret)
{
    struct vhu_queue *queue = direct->queue;
    struct net_frame frame;
    ssize_t bytes = readv(queue->fd[VHU_FD_KICK], direct->iov, (int)count);

    *ret = false;
    if (bytes < 0 && errno == EFAULT)
        return lose(direct);
    if (bytes <= 0)
        return bytes == 0 ? TAP_ENDED : vhu_tap_failed(queue);
    queue->tap->failures = 0;
    *ret = true;
    if (!vhu_tap_note(queue, direct->start, (size_t)bytes, &frame))
        return TAP_GOT;
    direct->iov[0] = (struct iovec){direct->start + NET_HEADER_SIZE, FRAME_MIN};
    frame.iov = direct->iov;
    frame.count = trim(direct, frame.bytes);
    learn(queue->tap, frame.bytes);
    if (direct->header_size + frame.bytes > direct->room ||
        !net_receiver_takes(&frame.header, direct->features)) {
        keep(direct, &frame);
        *ret = false;
    } else if (vhu_net_belongs(queue->port, queue->pair, queue->worker->now_s, &frame, direct->to)) {
        push(direct, &frame);
    }
    return TAP_GOT;
}

/* ---- What net_tap.c calls ---------------------------------------------------------------------- */

struct net_port *vhu_tap_only_receiver(const struct vhu_queue *queue)
{
    const struct net_port *port = queue->port;

    /* with the cable pulled nobody sees a byte */
    if (port->net->config.mode != VHU_NET_SWITCH || load_relaxed(&port->link_down))
        return NULL;
    struct net_port *only = vhu_net_only_other(port);
    /* of several pairs, the frame itself would have to tell which one is to have it */
    return only && load_relaxed(&only->pairs) == 1 ? only : NULL;
}

static void finish(struct direct *direct)
{
    struct vhu_queue *receiver = direct->receiver;

    give_up(direct);
    if (direct->pushed) {
        count_more(&direct->to->receiver[0].counters.bytes, direct->bytes);
        count_more(&receiver->counters.requests, direct->pushed);
        vhu_queue_publish(receiver);
        vhu_queue_renew(receiver, direct->pushed);
    }
    if (receiver->ring->fault != VHU_FAULT_NONE)
        vhu_worker_wake(receiver->worker);
}

static bool read_locked(struct vhu_queue *queue, struct net_port *to, struct net_frame *detour,
                        enum tap_read *end, uint32_t *ret)
{
    struct vhu_queue *receiver = to->receiver[0].queue;
    struct direct direct; /* large: what it holds is written before it is read */
    uint32_t count;
    bool go_on = true;

    if (!receiver || receiver->device->ringless || !queue_is_served(receiver) ||
        !load_relaxed(&to->control.filter.passes_all))
        return false;
    direct.queue = queue;
    direct.to = to;
    direct.receiver = receiver;
    direct.features = vhu_net_in_force(to, receiver->current.config.features);
    direct.header_size = net_header_size(direct.features);
    direct.first = direct.end = direct.iov_used = direct.pushed = 0;
    direct.room = direct.bytes = 0;
    direct.detour = detour;
    *end = TAP_GOT;
    *ret = 0;
    while (go_on && *ret < BATCH && direct.bytes < AT_ONCE) {
        if (!refill(&direct) || (count = list(&direct)) == 0)
            break;
        *end = read_frame(&direct, count, &go_on);
        *ret += *end == TAP_GOT;
    }
    finish(&direct);
    return *ret > 0 || *end != TAP_GOT;
}

bool vhu_tap_read_direct(struct vhu_queue *queue, struct net_port *to, enum tap_read *end,
                         uint32_t *ret)
{
    struct net_frame detour = {.bytes = 0};

    endpoint_lock(to, 0);
    bool done = read_locked(queue, to, &detour, end, ret);
    endpoint_unlock(to, 0);
    if (detour.bytes > 0)
        vhu_net_forward(queue->port, queue->pair, queue->worker->now_s, &detour, 1);
    return done;
}
