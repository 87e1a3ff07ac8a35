/* SPDX-License-Identifier: Apache-2.0
 *
 * A run: frames of a batch as they mostly are, from one address to another, whole, each in one buffer. They go from
 * ring to ring without being described one by one; what is different is left to the way that can do all.
 */
#include "net.h"
#include "net_copy.h"
#include "net_ring.h"
#include "worker.h"

enum { FEW = 8 /* frames of a sender that may be waiting for an answer */ };

struct run {
    const struct ring_buffer *sent;
    uint32_t count;
    uint32_t header_size; /* of the sender */
    uint64_t destination, source;
};

/* Find out how many of the first chains make a run. What decides is read once; a byte of it that changes later is
 * only ever copied. */
static void measure(struct run *run, uint32_t most)
{
    uint32_t least = run->header_size + FRAME_MIN;

    for (run->count = 0; run->count < most; run->count++) {
        const struct ring_buffer *buffer = &run->sent[run->count];

        if (!buffer->hva || buffer->length - least > FRAME_MAX - FRAME_MIN ||
            (read_word(buffer->hva) & 0xffff) != 0) /* flags and gso_type */
            return;
        const uint8_t *frame = buffer->hva + run->header_size;
        uint64_t destination = read_word(frame) & NET_ADDRESS;
        uint64_t source = read_word(frame + 6) & NET_ADDRESS;
        if (run->count == 0) {
            run->destination = destination;
            run->source = source;
        } else if (destination != run->destination || source != run->source) {
            return;
        }
    }
}

/* The header of a frame that asks for nothing. */
static inline void write_plain_header(uint8_t *to, uint32_t size)
{
    static const uint8_t header[NET_HEADER_SIZE] = {[NET_HEADER_LEGACY] = 1}; /* num_buffers */

    if (__builtin_expect(size == NET_HEADER_SIZE, 1))
        memcpy(to, header, NET_HEADER_SIZE);
    else
        memcpy(to, header, NET_HEADER_LEGACY);
}

/* Fill the next buffers, as long as they are large enough. Returns how many; `ret`: bytes of frames in them. */
static uint32_t fill(struct vhu_queue *queue, const struct run *run, uint64_t *ret)
{
    uint32_t size = net_header_size(queue->current.config.features), filled = 0;
    struct ring_buffer buffers[BATCH];
    enum taking why;
    uint64_t bytes = 0;

    uint32_t taken = ring_take(queue->ring, DESC_WRITE, run->count, buffers, &why);
    for (; filled < taken; filled++) {
        const struct ring_buffer *sent = &run->sent[filled];
        uint32_t length = sent->length - run->header_size;
        uint8_t *to = buffers[filled].hva;

        if (buffers[filled].length < size + length)
            break;
        write_plain_header(to, size);
        copy_bytes(to + size, sent->hva + run->header_size, length);
        buffers[filled].length = size + length;
        bytes += length;
    }
    net_give(queue, buffers, filled, true);
    if (filled < taken)
        ring_untake(queue->ring, taken - filled);
    *ret = bytes;
    return filled;
}

/* Whether its driver takes everything, and nothing else than a look at the ring is due. */
static bool is_open(const struct net_port *port, const struct vhu_queue *queue)
{
    return queue && queue_is_served(queue) && !queue->device->ringless && queue->debt == 0 &&
           queue->ring->fault == VHU_FAULT_NONE && load_relaxed(&port->control.filter.passes_all);
}

uint32_t vhu_net_run(struct net_port *from, uint32_t now_s, uint32_t header_size,
                     const struct ring_buffer *sent, uint32_t count)
{
    struct run run = {.sent = sent, .header_size = header_size};
    struct net_source *source = &from->sender[0];
    uint64_t bytes = 0;
    uint32_t done = 0;

    if (load_relaxed(&from->pairs) != 1 || from->locked)
        return 0;
    measure(&run, count);
    struct net_port *to = run.count ? vhu_net_route(from, now_s, run.destination, run.source) : NULL;
    if (!to || load_relaxed(&to->pairs) != 1)
        return 0;
    endpoint_lock(to, 0);
    struct net_endpoint *endpoint = &to->receiver[0];
    if (is_open(to, endpoint->queue)) {
        done = fill(endpoint->queue, &run, &bytes);
        vhu_net_received(endpoint, done, done, bytes);
        if (done <= FEW)
            ring_expect(endpoint->queue->ring);
    }
    endpoint_unlock(to, 0);
    count_more(&source->counters.frames, done);
    count_more(&source->counters.bytes, bytes);
    source->cost += bytes + (uint64_t)FRAME_COST * done;
    return done;
}
