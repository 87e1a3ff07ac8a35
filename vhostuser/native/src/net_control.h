/* SPDX-License-Identifier: Apache-2.0
 *
 * What a driver sets by its control queue: the receive filter, queue pairs, offloads (VIRTIO 1.2, section
 * 5.1.6.5). The control queue's worker writes it, those who send to the port read it: each field by itself, so
 * that a frame that crosses a change may see half of it, as in hardware.
 *
 * Front-ends that keep the control queue to themselves (QEMU, DPDK's virtio-user) accept features of it all the
 * same, but not CTRL_VQ: all that depends on commands must pass everything until the first one comes.
 */
#ifndef VHU_NET_CONTROL_H
#define VHU_NET_CONTROL_H

#include "net_frame.h"
#include "vhu.h"

enum {
    FILTER_ADDRESSES = 64, /* of each table; with more, all pass */
    FILTER_VLANS = 4096,
    TABLE_OVERFLOW = -1,
};

struct net_addresses {
    int32_t count; /* or TABLE_OVERFLOW */
    uint64_t address[FILTER_ADDRESSES];
};

struct net_filter {
    bool passes_all;  /* what most have: nothing else needs to be looked at */
    bool promiscuous, all_unicast, all_multicast, no_unicast, no_multicast, no_broadcast;
    bool vlan_filter; /* whether `vlans` counts; tagged frames only */
    uint64_t mac;
    struct net_addresses unicast, multicast;
    uint64_t vlans[FILTER_VLANS / 64];
};

struct net_control {
    struct net_filter filter;
    uint64_t offloads;  /* GUEST_* features in force, a subset of those negotiated */
    uint32_t pairs;     /* that the driver uses: others get no frame */
    uint64_t announced; /* this and `changes` only grow, also when a port's number becomes another's */
    uint64_t changes;   /* written last */
};

/* As it is before the driver of `features` says anything. `pairs`: that the port has. Not while a command is
 * carried out. */
void vhu_control_reset(struct net_control *control, uint64_t features, uint32_t pairs, const uint8_t *mac);
/* As net_filter_passes, where there is something to look at. */
bool vhu_filter_passes(const struct net_filter *filter, const struct net_frame *frame);

/* Whether the driver wants the frame. */
static inline bool net_filter_passes(const struct net_filter *filter, const struct net_frame *frame)
{
    return __builtin_expect(__atomic_load_n(&filter->passes_all, __ATOMIC_RELAXED), 1) ||
           vhu_filter_passes(filter, frame);
}

#endif
