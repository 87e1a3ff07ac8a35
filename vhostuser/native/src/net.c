/* SPDX-License-Identifier: Apache-2.0
 *
 * The switch and its ports come and go; what goes through is in net_send.c, net_forward.c and net_receive.c.
 */
#include "net.h"

#include <errno.h>
#include <stdlib.h>

#include "worker.h"

enum {
    ADDRESSES = 1024, /* learned at a port that does not say how many */
    MADE_BYTES = 64,
};

/* ---- The switch -------------------------------------------------------------------------------- */

/* A broadcast of a local experiment (IEEE 802, ethertype 88B5). */
static void make_frame(struct vhu_net *net, uint32_t bytes)
{
    static const uint8_t start[FRAME_MIN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2,
                                             0,    0,    0,    0,    0,    0x88, 0xb5};

    for (uint32_t i = 0; i < bytes; i++)
        net->made_bytes[i] = i < sizeof(start) ? start[i] : (uint8_t)i;
    net->made = (struct net_frame){
        .bytes = bytes,
        .count = 1,
        .destination = net_address(start),
        .source = net_address(start + 6),
        .single = {net->made_bytes, bytes},
    };
}

int vhu_net_create(const struct vhu_net_config *config, struct vhu_net **ret)
{
    uint32_t bytes = config->frame_size ? config->frame_size : MADE_BYTES;

    if (config->ports == 0 || config->ports > PORTS_MAX || bytes < FRAME_MIN || bytes > MADE_MAX ||
        (unsigned)config->mode > VHU_NET_SOURCE)
        return -EINVAL;
    struct vhu_net *net = calloc(1, sizeof(*net));
    if (!net)
        return -ENOMEM;
    net->config = *config;
    int rc = vhu_table_create(config->ageing_s, &net->table);
    if (rc < 0) {
        free(net);
        return rc;
    }
    pthread_mutex_init(&net->mutex, NULL);
    make_frame(net, bytes);
    *ret = net;
    return 0;
}

void vhu_net_destroy(struct vhu_net *net)
{
    if (!net)
        return;
    for (uint32_t number = 0; number < net->top; number++)
        free(net->ports[number]);
    vhu_table_destroy(&net->table);
    pthread_mutex_destroy(&net->mutex);
    free(net);
}

size_t vhu_net_addresses(const struct vhu_net *net, struct vhu_net_address *ret, size_t room)
{
    return vhu_table_list(&net->table, ret, room);
}

/* ---- Ports ------------------------------------------------------------------------------------- */

/* A port's memory is used again by the next one of its number, and some thread may be looking at it: what is set
 * here is set field by field. */
static void open_port(struct net_port *port, const struct vhu_net_port_config *config)
{
    struct net_learned *learned = &port->net->table.learned[port->number];
    uint64_t mac = net_address(config->mac);

    for (uint32_t pair = 0; pair < PAIRS_MAX; pair++) {
        port->receiver[pair].counters = (struct vhu_net_counters){0};
        port->sender[pair] = (struct net_source){.known = NO_STATION};
    }
    for (uint32_t flow = 0; flow < STEERING; flow++)
        store_relaxed(&port->steering[flow], 0);
    store_relaxed(&learned->most, config->addresses ? config->addresses : ADDRESSES);
    store_relaxed(&port->pairs, config->pairs);
    store_relaxed(&port->link_down, false);
    store_relaxed(&port->announced, 0);
    store_relaxed(&port->muted, 0);
    port->locked = config->locked;
    port->reset = true;
    port->mac = mac;
    vhu_control_reset(&port->control, 0, config->pairs, config->mac);
    __atomic_store_n(&port->used, true, __ATOMIC_RELEASE);
}

/* The first free number, and its port. NULL: all are used, or there is no memory. */
static struct net_port *find_free(struct vhu_net *net)
{
    for (uint32_t number = 0; number < net->config.ports; number++) {
        struct net_port *port = net->ports[number];

        if (port && port->used)
            continue;
        if (port)
            return port;
        port = aligned_alloc(_Alignof(struct net_port), sizeof(*port));
        if (!port)
            return NULL;
        memset(port, 0, sizeof(*port));
        port->net = net;
        port->number = number;
        store_release(&net->ports[number], port);
        if (number >= net->top)
            store_release(&net->top, number + 1);
        return port;
    }
    return NULL;
}

int vhu_net_port_add(struct vhu_net *net, const struct vhu_net_port_config *config, uint32_t *ret)
{
    if (config->pairs == 0 || config->pairs > PAIRS_MAX)
        return -EINVAL;
    pthread_mutex_lock(&net->mutex);
    struct net_port *port = find_free(net);
    if (port) {
        open_port(port, config);
        *ret = port->number;
    }
    pthread_mutex_unlock(&net->mutex);
    return port ? 0 : -ENOSPC;
}

/* The port of a number that vhu_net_port_add has given. */
static struct net_port *port_of(const struct vhu_net *net, uint32_t number)
{
    return load_acquire(&net->ports[number]);
}

void vhu_net_port_remove(struct vhu_net *net, uint32_t number)
{
    struct net_port *port = port_of(net, number);

    pthread_mutex_lock(&net->mutex);
    store_relaxed(&port->used, false);
    vhu_table_forget(&net->table, (uint16_t)number);
    pthread_mutex_unlock(&net->mutex);
}

void vhu_net_port_reset(struct vhu_net *net, uint32_t number)
{
    store_relaxed(&port_of(net, number)->reset, true);
}

void vhu_net_port_set_link(struct vhu_net *net, uint32_t number, bool up)
{
    struct net_port *port = port_of(net, number);

    store_relaxed(&port->link_down, !up);
    if (!up)
        vhu_table_forget(&net->table, (uint16_t)number);
    for (uint32_t pair = 0; pair < port->pairs; pair++)
        store_relaxed(&port->sender[pair].known, NO_STATION); /* to be learned anew */
}

void vhu_net_port_announce(struct vhu_net *net, uint32_t number, const uint8_t *mac)
{
    struct net_port *port = port_of(net, number);

    store_relaxed(&port->announced, net_address(mac));
    pthread_mutex_lock(&net->mutex);
    struct vhu_queue *queue = port->sender[0].queue;
    if (queue)
        vhu_queue_look(queue);
    pthread_mutex_unlock(&net->mutex);
}

void vhu_net_counters(const struct vhu_net *net, uint32_t number, uint32_t ring,
                      struct vhu_net_counters *ret)
{
    const struct net_port *port = port_of(net, number);
    const struct vhu_net_counters *counters =
        ring % 2 ? &port->sender[ring / 2].counters : &port->receiver[ring / 2].counters;

    ret->frames = load_relaxed(&counters->frames);
    ret->bytes = load_relaxed(&counters->bytes);
    ret->segments = load_relaxed(&counters->segments);
    for (int reason = 0; reason < VHU_NET_DROPS; reason++)
        ret->drops[reason] = load_relaxed(&counters->drops[reason]);
}

/* ---- Queues ------------------------------------------------------------------------------------ */

static const struct queue_device *device_of(const struct net_port *port, uint32_t ring)
{
    if (ring == 2 * port->pairs)
        return &vhu_net_control_device;
    if (ring % 2)
        return &vhu_net_send_device;
    return port->net->config.mode == VHU_NET_SOURCE ? &vhu_net_fill_device : &vhu_net_receive_device;
}

/* Where it is noted that a ring has a queue; what receives is noted by its own thread, besides. */
static struct vhu_queue **place_of(struct net_port *port, uint32_t ring)
{
    if (ring == 2 * port->pairs)
        return &port->control_queue;
    return ring % 2 ? &port->sender[ring / 2].queue : &port->receives[ring / 2];
}

/* Take the place of a ring for a queue. -EBUSY: it has one. */
static int occupy(struct net_port *port, uint32_t ring, struct vhu_queue *queue)
{
    struct vhu_queue **place = place_of(port, ring);
    struct vhu_queue **other = queue->device->ringless ? place_of(port, ring + 1) : place;

    pthread_mutex_lock(&port->net->mutex);
    int rc = *place || *other ? -EBUSY : 0;
    if (rc == 0)
        *place = *other = queue;
    pthread_mutex_unlock(&port->net->mutex);
    return rc;
}

void vhu_net_vacate(struct vhu_queue *queue)
{
    struct net_port *port = queue->port;

    pthread_mutex_lock(&port->net->mutex);
    for (uint32_t ring = 0; ring <= 2 * port->pairs; ring++) {
        if (*place_of(port, ring) == queue)
            *place_of(port, ring) = NULL;
    }
    pthread_mutex_unlock(&port->net->mutex);
    if (queue->pair < port->pairs) {
        /* its thread has done so, unless it had ended before */
        endpoint_lock(port, queue->pair);
        if (port->receiver[queue->pair].queue == queue)
            port->receiver[queue->pair].queue = NULL;
        endpoint_unlock(port, queue->pair);
    }
}

int vhu_net_queue_create(struct vhu_worker *worker, const struct queue_device *device, struct net_port *port,
                         uint32_t ring, int event_fd, struct vhu_queue **ret)
{
    struct vhu_queue *queue;
    int rc = vhu_queue_create_for(worker, device, event_fd, &queue);

    if (rc < 0)
        return rc;
    queue->port = port;
    queue->pair = ring / 2;
    queue->muted = &port->muted;
    if (ring % 2 == 0 && ring < 2 * port->pairs && port->net->config.shared)
        queue->shared = &port->receiver[ring / 2].lock;
    rc = occupy(port, ring, queue);
    if (rc < 0) {
        free(queue);
        return rc;
    }
    *ret = queue;
    return 0;
}

int vhu_queue_create_net(struct vhu_worker *worker, struct vhu_net *net, uint32_t number, uint32_t ring,
                         int event_fd, struct vhu_queue **ret)
{
    struct net_port *port = net_port_at(net, number);

    if (!port || !port->used || ring > 2 * port->pairs)
        return -EINVAL;
    int rc = vhu_net_queue_create(worker, device_of(port, ring), port, ring, event_fd, ret);
    if (rc == 0)
        vhu_worker_attach(worker, *ret);
    return rc;
}
