/* SPDX-License-Identifier: Apache-2.0
 *
 * Network ports: which queue stands at which port, and what became of frames.
 */
#ifndef VHU_NET_H
#define VHU_NET_H

#include "vhu.h"

enum { NET_RINGS = 2 };

struct net_port {
    uint32_t peer;
    struct vhu_queue *queues[NET_RINGS]; /* as the worker's thread knows them */
    bool blocked; /* what it sends waits for a buffer of its peer; the thread's */
    struct vhu_net_counters counters;
};

struct vhu_net {
    uint32_t count;
    struct net_port ports[];
};

#endif
