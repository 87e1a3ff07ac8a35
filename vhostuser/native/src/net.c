/* SPDX-License-Identifier: Apache-2.0
 *
 * Network ports: what all their frames share.
 */
#include "net.h"

#include <errno.h>
#include <stdlib.h>

#include "worker.h"

enum { PORTS_MAX = 4096 };

int vhu_net_create(uint32_t ports, struct vhu_net **ret)
{
    if (ports == 0 || ports > PORTS_MAX)
        return -EINVAL;
    struct vhu_net *net = calloc(1, sizeof(*net) + ports * sizeof(net->ports[0]));
    if (!net)
        return -ENOMEM;
    net->count = ports;
    for (uint32_t port = 0; port < ports; port++)
        net->ports[port].peer = port;
    *ret = net;
    return 0;
}

void vhu_net_destroy(struct vhu_net *net)
{
    free(net);
}

int vhu_net_connect(struct vhu_net *net, uint32_t port, uint32_t peer)
{
    if (port >= net->count || peer >= net->count)
        return -EINVAL;
    net->ports[port].peer = peer;
    net->ports[peer].peer = port;
    return 0;
}

void vhu_net_counters(const struct vhu_net *net, uint32_t port, struct vhu_net_counters *ret)
{
    const struct vhu_net_counters *counters = &net->ports[port].counters;

    ret->frames = load_relaxed(&counters->frames);
    ret->bad = load_relaxed(&counters->bad);
    ret->too_large = load_relaxed(&counters->too_large);
    ret->no_receiver = load_relaxed(&counters->no_receiver);
}

int vhu_queue_create_net(struct vhu_worker *worker, struct vhu_net *net, uint32_t port,
                         enum vhu_net_ring ring, int event_fd, struct vhu_queue **ret)
{
    const struct queue_device *device = ring == VHU_NET_RX ? &vhu_net_rx_device : &vhu_net_tx_device;

    if (port >= net->count || (unsigned)ring >= NET_RINGS)
        return -EINVAL;
    int rc = vhu_queue_create_for(worker, device, event_fd, ret);
    if (rc < 0)
        return rc;
    (*ret)->net = net;
    (*ret)->port = port;
    (*ret)->index = ring;
    vhu_worker_attach(worker, *ret);
    return 0;
}
