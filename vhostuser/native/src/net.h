/* SPDX-License-Identifier: Apache-2.0
 *
 * The switch: its ports, who may touch what of them, and how frames go through.
 *
 * A ring that sends belongs to its worker's thread. What receives is an endpoint: whichever worker has a frame for
 * it takes its lock, and so does its own worker to change the queue behind it.
 */
#ifndef VHU_NET_H
#define VHU_NET_H

#include <pthread.h>
#include <string.h>

#include "net_control.h"
#include "net_frame.h"
#include "net_table.h"
#include "spin.h"
#include "vhu.h"

struct queue_device;
struct ring_buffer;

enum {
    PORTS_MAX = TABLE_PORTS,
    PAIRS_MAX = 128,
    BATCH = 64,     /* frames before other rings get their turn: no more than a word has bits */
    STEERING = 256, /* flows of a port that are told apart */
    MADE_MAX = 1518,
    SHARE = 128 << 10,    /* bytes that may be copied for a queue before all others had their turn */
    FRAME_COST = 256,     /* bytes that are copied in the time that a frame takes besides, or a segment of one ... */
    LOOK_COST = 16,       /* ... and a descriptor of a chain that is not one buffer */
    NET_SPARE_IOV = 2048, /* of a queue: so that a batch may have more chains than one of the longest */
};

/* Where frames for one pair of a port go. All but `ready` under the lock; counters are read by anyone. */
struct net_endpoint {
    uint32_t lock;
    bool ready; /* frames for it make sense */
    struct vhu_queue *queue; /* NULL: nobody is there */
    struct vhu_net_counters counters;
} __attribute__((aligned(64)));

static const uint64_t NO_STATION = UINT64_MAX; /* what no frame has for a source */

/* What a pair's ring sends. The sender's thread's; counters are read by anyone. */
struct net_source {
    uint64_t known; /* an address that was learned, or NO_STATION ... */
    uint32_t at_s;  /* ... in this second ... */
    uint32_t losses; /* ... and nobody has lost one since */
    uint64_t cost;  /* bytes that its frames took since somebody cleared this, for all receivers together */
    struct vhu_queue *queue; /* under the net's mutex */
    struct vhu_net_counters counters;
} __attribute__((aligned(64)));

struct net_port {
    struct vhu_net *net;
    uint32_t number;
    uint32_t pairs;
    bool used;      /* as all of these that are not a thread's: read at any time */
    bool link_down;
    bool locked;
    bool reset;     /* what the control queue said is forgotten at the next start */
    uint64_t mac;
    uint64_t announced; /* the address that the others shall hear of next; 0: none */
    uint64_t muted;     /* of all its queues */
    struct vhu_queue *control_queue;       /* under the net's mutex, as ... */
    struct vhu_queue *receives[PAIRS_MAX]; /* ... who has the rings that receive */
    struct net_control control;
    uint8_t steering[STEERING]; /* the pair on which it last sent a flow, and 1; 0: none yet */
    struct net_endpoint receiver[PAIRS_MAX];
    struct net_source sender[PAIRS_MAX];
};

struct vhu_net {
    struct vhu_net_config config;
    struct net_table table;
    pthread_mutex_t mutex; /* ports come and go, and their queues */
    uint32_t top;          /* ports have smaller numbers */
    struct net_frame made; /* what VHU_NET_SOURCE fills buffers with ... */
    uint8_t made_bytes[MADE_MAX];
    struct net_port *ports[PORTS_MAX]; /* freed with the net alone: a thread may look at one at any time */
};

/* The port of this number, or NULL: there never was one. */
static inline struct net_port *net_port_at(const struct vhu_net *net, uint32_t number)
{
    return number < PORTS_MAX ? load_acquire(&net->ports[number]) : NULL;
}

static inline bool port_is_up(const struct net_port *port)
{
    return load_acquire(&port->used) && !load_relaxed(&port->link_down);
}

static inline void endpoint_lock(struct net_port *port, uint32_t pair)
{
    if (port->net->config.shared)
        spin_lock(&port->receiver[pair].lock);
}

static inline void endpoint_unlock(struct net_port *port, uint32_t pair)
{
    if (port->net->config.shared)
        spin_unlock(&port->receiver[pair].lock);
}

/* An address, of which the first byte is at `from`, as net_frame has it. */
static inline uint64_t net_address(const uint8_t *from)
{
    uint64_t address = 0;

    memcpy(&address, from, 6);
    return address;
}

/* net.c */

/* Make a queue of a port's ring, or of a pair where it is a file, which has none. Attach it. -EBUSY: it has one. */
int vhu_net_queue_create(struct vhu_worker *worker, const struct queue_device *device,
                         struct net_port *port, uint32_t ring, int event_fd, struct vhu_queue **ret);
/* The queue is about to be freed: its ring may have another. */
void vhu_net_vacate(struct vhu_queue *queue);

/* net_control.c */

/* A ring of the port's driver starts, the first that receives or the control queue, whichever is sooner: forget what a
 * former driver had set. With the lock of the first endpoint, so that neither goes on before that is done. */
void vhu_net_port_begin(struct net_port *port, uint64_t features);

/* net_run.c, called by the thread that has the chains */

/* Have the first of the chains that a port of one pair sends go to where they belong, if they are alike and as simple
 * as can be. Returns how many went: the others are still to be handed on. */
uint32_t vhu_net_run(struct net_port *from, uint32_t now_s, uint32_t header_size,
                     const struct ring_buffer *sent, uint32_t count);

/* net_forward.c, called by the thread that has the frames */

/* Have frames that came in by a port's pair go where they belong: at most BATCH of them, whose header was checked and
 * whose addresses were read. Their iov may be changed. */
void vhu_net_forward(struct net_port *port, uint32_t pair, uint32_t now_s, struct net_frame *frames,
                     uint32_t count);
/* The same for one frame that is in a buffer of `to`, the only other port, already. False: it does not belong there. */
bool vhu_net_belongs(struct net_port *port, uint32_t pair, uint32_t now_s, struct net_frame *frame,
                     const struct net_port *to);
/* The one other port that is up where there is no further one, or NULL. */
struct net_port *vhu_net_only_other(const struct net_port *port);

/* net_send.c: of the first pair's queue, announce the address that waits for it. */
void vhu_net_announce(struct vhu_queue *queue);

/* The port to which a frame of a port of one pair goes, after its source was learned. NULL: to none, to several, or it
 * is nobody's business; vhu_net_forward does what is right then. */
struct net_port *vhu_net_route(struct net_port *from, uint32_t now_s, uint64_t destination,
                               uint64_t source);

/* net_receive.c: chains were pushed with frames. Count them and show the driver; a ring that turned out to be broken
 * is its own worker's to deal with. With the endpoint locked. */
void vhu_net_received(struct net_endpoint *endpoint, uint32_t pushed, uint32_t frames, uint64_t bytes);
/* net_receive.c: the negotiated features, but for offloads that the driver has turned off again. */
uint64_t vhu_net_in_force(const struct net_port *port, uint64_t features);
/* Put frames into the ring of an endpoint's queue, which is served and locked. */
void vhu_net_receive(struct net_port *port, uint32_t pair, struct net_frame *const *frames, uint32_t count);
/* net_tap_write.c: the same for the queue of a TAP. */
void vhu_tap_receive(struct net_port *port, uint32_t pair, struct net_frame *const *frames, uint32_t count);

#endif
