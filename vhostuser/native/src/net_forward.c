/* SPDX-License-Identifier: Apache-2.0
 *
 * Where frames go: their source is learned, their destination looked up, and those for the same receiver are handed
 * on together (IEEE 802.1D, section 7). No frame's bytes are read here.
 */
#include "net.h"
#include "net_offload.h"
#include "worker.h"

enum {
    TO_FLOOD = 0xFFFE,  /* as PORT_NONE, no port's number ... */
    TO_NOBODY = 0xFFFD, /* ... and so is this, of a frame that must not come from there */
};

static void drop(struct net_source *source, enum vhu_net_drop reason, uint32_t count)
{
    count_more(&source->counters.drops[reason], count);
}

/* Frames went to so many ports. */
static void count_sent(struct net_source *source, struct net_frame *const *frames, uint32_t count,
                       uint32_t ports)
{
    uint64_t bytes = 0, pieces = count; /* if they are cut */

    for (uint32_t i = 0; i < count; i++) {
        bytes += frames[i]->bytes;
        if (__builtin_expect(frames[i]->header.gso_type != NET_GSO_NONE, 0))
            pieces += frames[i]->bytes / frames[i]->header.gso_size;
    }
    count_more(&source->counters.frames, count);
    count_more(&source->counters.bytes, bytes);
    source->cost += (bytes + FRAME_COST * pieces) * ports;
}

/* ---- To one receiver --------------------------------------------------------------------------- */

/* Hand frames to one pair of a port. False: nobody is there. */
static bool deliver(struct net_port *to, uint32_t pair, struct net_frame *const *frames, uint32_t count)
{
    struct net_endpoint *endpoint = &to->receiver[pair];

    endpoint_lock(to, pair);
    struct vhu_queue *queue = endpoint->queue;
    bool in_use = pair < load_relaxed(&to->control.pairs); /* the driver may have just given it up */
    bool there = queue && in_use && queue_is_served(queue);
    if (there && queue->device->ringless)
        vhu_tap_receive(to, pair, frames, count);
    else if (there)
        vhu_net_receive(to, pair, frames, count);
    endpoint_unlock(to, pair);
    return there;
}

/* The pair on which a port receives a flow: the one on which it sends it, so that one processor of the guest has
 * both (VIRTIO 1.2, 5.1.6.5.5). */
static uint32_t steer(const struct net_port *to, struct net_frame *frame)
{
    if (frame->flow == 0)
        frame->flow = vhu_flow_hash(frame);
    uint32_t learned = load_relaxed(&to->steering[frame->flow % STEERING]);
    uint32_t pairs = load_relaxed(&to->control.pairs);
    uint32_t pair = learned && learned <= pairs ? learned - 1 : frame->flow % pairs;

    return pair < load_relaxed(&to->pairs) && load_relaxed(&to->receiver[pair].ready) ? pair : 0;
}

/* Hand frames to a port, each to its pair. False: nobody is there. */
static bool deliver_steered(struct net_port *to, struct net_frame *const *frames, uint32_t count)
{
    struct net_frame *together[BATCH];
    uint8_t pairs[BATCH];
    bool there = false;

    if (load_relaxed(&to->pairs) == 1)
        return deliver(to, 0, frames, count);
    for (uint32_t i = 0; i < count; i++)
        pairs[i] = (uint8_t)steer(to, frames[i]);
    for (uint64_t left = UINT64_MAX >> (BATCH - count); left;) {
        uint32_t pair = pairs[__builtin_ctzll(left)], gathered = 0;

        for (uint64_t look = left; look; look &= look - 1) {
            int i = __builtin_ctzll(look);

            if (pairs[i] != pair)
                continue;
            together[gathered++] = frames[i];
            left &= ~(1ull << i);
        }
        there |= deliver(to, pair, together, gathered);
    }
    return there;
}

/* ---- Who is to receive ------------------------------------------------------------------------- */

/* Learn where a frame came from. False: it must not come from there. */
static inline bool admit(struct net_port *from, struct net_source *source, uint32_t pair,
                         struct net_frame *frame)
{
    struct net_table *table = &from->net->table;
    uint32_t now_s = load_relaxed(&table->now_s), losses = load_relaxed(&table->losses);

    if (from->pairs > 1) {
        frame->flow = vhu_flow_hash(frame);
        if (frame->flow)
            store_relaxed(&from->steering[frame->flow % STEERING], (uint8_t)(pair + 1));
    }
    if (frame->source == load_relaxed(&source->known) && now_s == source->at_s && losses == source->losses)
        return true;
    if (frame->source & GROUP_BIT || frame->source == 0 ||
        (from->locked && frame->source != from->mac))
        return false;
    vhu_table_learn(table, frame->source, (uint16_t)from->number);
    store_relaxed(&source->known, frame->source);
    source->at_s = now_s;
    source->losses = losses; /* as it was before: one that comes meanwhile counts */
    return true;
}

static inline uint16_t look_up(const struct net_port *from, uint64_t destination)
{
    if (destination & GROUP_BIT)
        return TO_FLOOD;
    uint16_t to = table_find(&from->net->table, destination);
    return to == PORT_NONE ? TO_FLOOD : to;
}

struct net_port *vhu_net_route(struct net_port *from, uint32_t now_s, uint64_t destination,
                               uint64_t source)
{
    struct net_frame frame = {.destination = destination, .source = source};
    struct vhu_net *net = from->net;

    if (load_relaxed(&from->link_down))
        return NULL;
    if (net->config.mode != VHU_NET_SWITCH)
        return net->config.mode == VHU_NET_ECHO ? from : NULL;
    if (now_s != load_relaxed(&net->table.now_s))
        vhu_table_tick(&net->table, now_s);
    if (!admit(from, &from->sender[0], 0, &frame))
        return NULL;
    struct net_port *to = net_port_at(net, look_up(from, destination));
    return to && to != from && port_is_up(to) ? to : NULL;
}

/* To all others. */
static void flood(struct net_port *from, struct net_source *source, struct net_frame *const *frames,
                  uint32_t count)
{
    const struct vhu_net *net = from->net;
    uint32_t top = load_relaxed(&net->top), ports = 0;

    for (uint32_t number = 0; number < top; number++) {
        struct net_port *to = net_port_at(net, number);

        if (to && to != from && port_is_up(to))
            ports += deliver_steered(to, frames, count);
    }
    if (ports > 0)
        count_sent(source, frames, count, ports);
    else
        drop(source, VHU_NET_DROP_NO_RECEIVER, count);
}

static void send_to(struct net_port *from, struct net_source *source, uint16_t number,
                    struct net_frame *const *frames, uint32_t count)
{
    struct net_port *to = net_port_at(from->net, number);

    if (number == TO_NOBODY)
        drop(source, VHU_NET_DROP_SPOOFED, count);
    else if (number == TO_FLOOD)
        flood(from, source, frames, count);
    else if (to && to != from && port_is_up(to) && deliver_steered(to, frames, count))
        count_sent(source, frames, count, 1);
    else
        drop(source, VHU_NET_DROP_NO_RECEIVER, count);
}

/* Frames of one receiver go together: those for different ones may overtake each other, but nobody overtakes one that
 * goes to all, nor the other way round. */
static void send_mixed(struct net_port *from, struct net_source *source, struct net_frame *frames,
                       const uint16_t *to, uint32_t count)
{
    struct net_frame *together[BATCH];

    for (uint64_t left = UINT64_MAX >> (BATCH - count); left;) {
        uint32_t gathered = 0;
        uint16_t number = to[__builtin_ctzll(left)];

        for (uint64_t look = left; look; look &= look - 1) {
            int i = __builtin_ctzll(look);

            if (to[i] == number) {
                together[gathered++] = &frames[i];
                left &= ~(1ull << i);
            } else if (number == TO_FLOOD || to[i] == TO_FLOOD) {
                break;
            }
        }
        send_to(from, source, number, together, gathered);
    }
}

/* Whether a frame goes where the one before it went, for the same reason. */
static inline bool follows(const struct net_frame *frame, const struct net_frame *before)
{
    return frame->destination == before->destination && frame->source == before->source;
}

static void forward(struct net_port *from, uint32_t pair, struct net_frame *frames, uint32_t count)
{
    struct net_source *source = &from->sender[pair];
    struct net_frame *all[BATCH];
    uint16_t to[BATCH];
    bool same = true, steers = from->pairs > 1;

    for (uint32_t i = 0; i < count; i++) {
        struct net_frame *frame = &frames[i];

        all[i] = frame;
        if (i > 0 && !steers && follows(frame, frame - 1)) {
            to[i] = to[i - 1];
            continue;
        }
        to[i] = admit(from, source, pair, frame) ? look_up(from, frame->destination) : TO_NOBODY;
        same &= to[i] == to[0];
    }
    if (__builtin_expect(same, 1))
        send_to(from, source, to[0], all, count);
    else
        send_mixed(from, source, frames, to, count);
}

static void echo(struct net_port *port, struct net_source *source, struct net_frame *frames,
                 uint32_t count)
{
    struct net_frame *all[BATCH];

    for (uint32_t i = 0; i < count; i++)
        all[i] = &frames[i];
    if (deliver_steered(port, all, count))
        count_sent(source, all, count, 1);
    else
        drop(source, VHU_NET_DROP_NO_RECEIVER, count);
}

bool vhu_net_belongs(struct net_port *port, uint32_t pair, uint32_t now_s, struct net_frame *frame,
                     const struct net_port *to)
{
    struct net_source *source = &port->sender[pair];

    if (load_relaxed(&port->link_down)) {
        drop(source, VHU_NET_DROP_LINK, 1);
        return false;
    }
    if (now_s != load_relaxed(&port->net->table.now_s))
        vhu_table_tick(&port->net->table, now_s);
    if (!admit(port, source, pair, frame)) {
        drop(source, VHU_NET_DROP_SPOOFED, 1);
        return false;
    }
    uint16_t number = look_up(port, frame->destination);
    if (number != TO_FLOOD && number != to->number) {
        drop(source, VHU_NET_DROP_NO_RECEIVER, 1);
        return false;
    }
    count_sent(source, &frame, 1, 1);
    return true;
}

void vhu_net_forward(struct net_port *port, uint32_t pair, uint32_t now_s, struct net_frame *frames,
                     uint32_t count)
{
    struct net_source *source = &port->sender[pair];

    if (load_relaxed(&port->link_down)) {
        drop(source, VHU_NET_DROP_LINK, count);
        return;
    }
    switch (port->net->config.mode) {
    case VHU_NET_SWITCH:
        if (now_s != load_relaxed(&port->net->table.now_s))
            vhu_table_tick(&port->net->table, now_s);
        forward(port, pair, frames, count);
        break;
    case VHU_NET_ECHO:
        echo(port, source, frames, count);
        break;
    case VHU_NET_SINK:
    case VHU_NET_SOURCE:
        drop(source, VHU_NET_DROP_SUNK, count);
        break;
    }
}

struct net_port *vhu_net_only_other(const struct net_port *port)
{
    const struct vhu_net *net = port->net;
    struct net_port *only = NULL;

    for (uint32_t number = 0, top = load_relaxed(&net->top); number < top; number++) {
        struct net_port *other = net_port_at(net, number);

        if (!other || other == port || !port_is_up(other))
            continue;
        if (only)
            return NULL;
        only = other;
    }
    return only;
}
