#include "worker.h"
#include "net.h"
#include <string.h>
void vhu_control_reset(struct net_control *control, uint64_t features, uint32_t pairs, const uint8_t *mac)
{
    (void)mac;
    store_relaxed(&control->filter.passes_all, true);
    store_relaxed(&control->offloads, features);
    store_relaxed(&control->pairs, pairs);
}
bool vhu_filter_passes(const struct net_filter *filter, const struct net_frame *frame) { (void)filter;(void)frame; return true; }
static bool nothing(struct vhu_queue *q){(void)q;return false;}
static bool never(const struct vhu_queue *q){(void)q;return false;}
const struct queue_device vhu_net_control_device={.serve=nothing,.awaits_kick=never,.kicked=vhu_queue_drain_kick,.attend=vhu_queue_ignore,.joined=vhu_queue_ignore,.leaving=vhu_queue_ignore,.released=vhu_net_vacate};
void vhu_net_port_state(const struct vhu_net *net, uint32_t port, struct vhu_net_port_state *ret)
{
    const struct net_control *control = &net->ports[port]->control;
    *ret = (struct vhu_net_port_state){.offloads = control->offloads, .pairs = control->pairs, .promiscuous = true, .vlans = 4096};
    memcpy(ret->mac, &net->ports[port]->mac, 6);
}
