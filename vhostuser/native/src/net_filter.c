/* SPDX-License-Identifier: Apache-2.0
 *
 * What a driver lets through and what it has set, for threads other than its control queue's: those that have frames
 * for it, and Python's.
 */
#include "net.h"
#include "slice.h"
#include "worker.h"

enum {
    TAG_OFFSET = 12,
    TAG_SIZE = 4,
    TAG_TYPE = 0x8100, /* of customers' VLANs: drivers do not tell us of providers', 88A8, so those pass */
    VLAN_MASK = 0xFFF,
};

static const uint64_t BROADCAST = (1ull << 48) - 1;

static bool table_has(const struct net_addresses *table, uint64_t address)
{
    int32_t count = load_relaxed(&table->count);

    if (count == TABLE_OVERFLOW)
        return true;
    for (int32_t i = 0; i < count; i++) {
        if (load_relaxed(&table->address[i]) == address)
            return true;
    }
    return false;
}

/* Whether the frame's VLAN is let through, or it has none. */
static bool vlan_passes(const struct net_filter *filter, const struct net_frame *frame)
{
    const struct slice slice = {frame->iov, frame->count, frame->bytes};
    uint8_t tag[TAG_SIZE];

    if (frame->bytes < TAG_OFFSET + TAG_SIZE)
        return true;
    for (uint32_t i = 0; i < TAG_SIZE; i++)
        tag[i] = load_relaxed(slice_at(&slice, TAG_OFFSET + i));
    if ((tag[0] << 8 | tag[1]) != TAG_TYPE)
        return true;
    uint32_t vlan = (tag[2] << 8 | tag[3]) & VLAN_MASK;
    return load_relaxed(&filter->vlans[vlan / 64]) >> vlan % 64 & 1;
}

bool vhu_filter_passes(const struct net_filter *filter, const struct net_frame *frame)
{
    uint64_t to = frame->destination;

    if (load_relaxed(&filter->promiscuous))
        return true;
    if (load_relaxed(&filter->vlan_filter) && !vlan_passes(filter, frame))
        return false;
    if (to == BROADCAST)
        return !load_relaxed(&filter->no_broadcast);
    if (to & GROUP_BIT)
        return !load_relaxed(&filter->no_multicast) &&
               (load_relaxed(&filter->all_multicast) || table_has(&filter->multicast, to));
    return !load_relaxed(&filter->no_unicast) &&
           (load_relaxed(&filter->all_unicast) || to == load_relaxed(&filter->mac) ||
            table_has(&filter->unicast, to));
}

static uint32_t count_vlans(const struct net_filter *filter)
{
    uint32_t count = 0;

    if (!load_relaxed(&filter->vlan_filter))
        return FILTER_VLANS;
    for (int word = 0; word < FILTER_VLANS / 64; word++)
        count += (uint32_t)__builtin_popcountll(load_relaxed(&filter->vlans[word]));
    return count;
}

/* TABLE_OVERFLOW becomes UINT32_MAX. */
static uint32_t count_addresses(const struct net_addresses *table)
{
    return (uint32_t)load_relaxed(&table->count);
}

void vhu_net_port_state(const struct vhu_net *net, uint32_t number, struct vhu_net_port_state *ret)
{
    const struct net_control *control = &net_port_at(net, number)->control;
    const struct net_filter *filter = &control->filter;

    *ret = (struct vhu_net_port_state){
        .changes = load_acquire(&control->changes), /* first: what follows is as new, or newer */
    };
    ret->announced = load_relaxed(&control->announced);
    ret->offloads = load_relaxed(&control->offloads);
    ret->pairs = load_relaxed(&control->pairs);
    ret->unicast = count_addresses(&filter->unicast);
    ret->multicast = count_addresses(&filter->multicast);
    ret->vlans = count_vlans(filter);
    uint64_t mac = load_relaxed(&filter->mac);
    memcpy(ret->mac, &mac, sizeof(ret->mac));
    ret->promiscuous = load_relaxed(&filter->promiscuous);
    ret->all_unicast = load_relaxed(&filter->all_unicast);
    ret->all_multicast = load_relaxed(&filter->all_multicast);
    ret->no_unicast = load_relaxed(&filter->no_unicast);
    ret->no_multicast = load_relaxed(&filter->no_multicast);
    ret->no_broadcast = load_relaxed(&filter->no_broadcast);
}
