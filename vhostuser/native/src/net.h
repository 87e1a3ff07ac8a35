/* SPDX-License-Identifier: Apache-2.0
 *
 * The switch: its ports, who may touch what of them, and how frames go through.
 *
 * A ring that sends belongs to its worker's thread. What receives is an endpoint, which any worker delivers to
 * with its lock held; so is the queue behind it changed.
 */
#ifndef VHU_NET_H
#define VHU_NET_H

#include "atomic.h"
#include "net_control.h"
#include "net_frame.h"
#include "net_table.h"
#include "vhu.h"

enum {
    PORTS_MAX = 1024,
    PAIRS_MAX = 128,
    BATCH = 64,       /* frames before other rings get their turn */
    STEERING = 256,   /* flows that are told apart */
};

/* Where frames for one pair of a port go. */
struct net_endpoint {
    uint32_t lock;
    struct vhu_queue *queue; /* under the lock; NULL: nobody is there */
    struct vhu_net_counters counters; /* under the lock; read by anyone */
};

struct net_pair {
    struct net_endpoint receiver;
    struct vhu_queue *sender;          /* who has the ring that sends; under the net's mutex */
    struct vhu_net_counters sent;      /* the sender's thread's; read by anyone */
    uint64_t known_source;             /* the sender's thread's: learned, and fresh in this second ... */
    uint32_t known_at;
};

struct net_port {
    struct vhu_net *net;
    uint32_t number;
    uint32_t pairs;
    uint32_t pairs_ready; /* receiving pairs that are served, from the first on without a gap */
    bool link_down;
    bool locked;
    uint64_t mac;
    uint64_t announce;    /* an address that the others shall hear of, and bit 63; 0: none */
    struct vhu_queue *control_queue; /* under the net's mutex */
    struct net_control control;
    struct net_learned learned;
    uint8_t steering[STEERING]; /* on which pair it sends a flow */
    struct net_pair pair[];
};

struct vhu_net {
    struct vhu_net_config config;
    struct net_table table;
    pthread_mutex_t mutex; /* ports come and go, and their queues */
    uint32_t top;          /* ports have smaller numbers */
    struct net_port *ports[PORTS_MAX]; /* freed with the net alone, so that they can be looked at at any time */
    bool used[PORTS_MAX];
};

#endif
