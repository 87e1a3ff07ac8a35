/* SPDX-License-Identifier: Apache-2.0
 *
 * The commands of a driver, on the thread of its control queue (VIRTIO 1.2, section 5.1.6.5). A command is read once
 * and checked as a whole before anything is set: one that is refused changes nothing.
 */
#include "net_control.h"

#include <string.h>

#include "net.h"
#include "slice.h"
#include "worker.h"

enum {
    COMMANDS = 8,    /* before other rings get their turn; a driver sends one and waits for it */
    ADDRESS_SIZE = 6,
    ANY_LENGTH = -1,
};

enum ack { ACK_OK = 0, ACK_ERR = 1 };

enum command_class {
    CLASS_RX = 0,
    CLASS_MAC = 1,
    CLASS_VLAN = 2,
    CLASS_ANNOUNCE = 3,
    CLASS_MQ = 4,
    CLASS_OFFLOADS = 5,
};

enum { RX_PROMISC, RX_ALLMULTI, RX_ALLUNI, RX_NOMULTI, RX_NOUNI, RX_NOBCAST };
enum { MAC_TABLE_SET, MAC_ADDR_SET };
enum { VLAN_ADD, VLAN_DEL };
enum { ANNOUNCE_ACK };
enum { MQ_VQ_PAIRS_SET };
enum { GUEST_OFFLOADS_SET };

/* A command whose length is right and whose feature was negotiated. */
struct request {
    struct net_port *port;
    uint64_t features;
    uint8_t class, number;
    struct slice data;
};

/* ---- What is in force -------------------------------------------------------------------------- */

static bool passes_every(const struct net_addresses *table, bool all, bool none)
{
    return !none && (all || table->count == TABLE_OVERFLOW);
}

static bool passes_all(const struct net_filter *filter)
{
    return filter->promiscuous ||
           (!filter->vlan_filter && !filter->no_broadcast &&
            passes_every(&filter->unicast, filter->all_unicast, filter->no_unicast) &&
            passes_every(&filter->multicast, filter->all_multicast, filter->no_multicast));
}

static void note_change(struct net_control *control)
{
    store_relaxed(&control->filter.passes_all, passes_all(&control->filter));
    store_release(&control->changes, control->changes + 1);
}

/* Promiscuous, as QEMU's device is: a driver that never sends a command gets everything. */
static void reset_filter(struct net_filter *filter, uint64_t features, uint64_t mac)
{
    store_relaxed(&filter->promiscuous, true);
    store_relaxed(&filter->passes_all, true);
    store_relaxed(&filter->all_unicast, false);
    store_relaxed(&filter->all_multicast, false);
    store_relaxed(&filter->no_unicast, false);
    store_relaxed(&filter->no_multicast, false);
    store_relaxed(&filter->no_broadcast, false);
    store_relaxed(&filter->unicast.count, 0);
    store_relaxed(&filter->multicast.count, 0);
    store_relaxed(&filter->mac, mac);
    store_relaxed(&filter->vlan_filter, net_has(features, NET_F_CTRL_VLAN));
    for (int word = 0; word < FILTER_VLANS / 64; word++)
        store_relaxed(&filter->vlans[word], 0);
}

void vhu_control_reset(struct net_control *control, uint64_t features, uint32_t pairs, const uint8_t *mac)
{
    bool one_pair = net_has(features, NET_F_CTRL_VQ) && net_has(features, NET_F_MQ);

    reset_filter(&control->filter, features, net_address(mac));
    store_relaxed(&control->offloads, features & GUEST_OFFLOADS);
    store_relaxed(&control->pairs, one_pair ? 1 : pairs);
    note_change(control);
}

void vhu_net_port_begin(struct net_port *port, uint64_t features)
{
    if (__atomic_exchange_n(&port->reset, false, __ATOMIC_RELAXED))
        vhu_control_reset(&port->control, features, port->pairs, (const uint8_t *)&port->mac);
}

/* ---- Commands ---------------------------------------------------------------------------------- */

static bool set_mode(struct request *request)
{
    struct net_filter *filter = &request->port->control.filter;
    bool *const modes[] = {
        [RX_PROMISC] = &filter->promiscuous,   [RX_ALLMULTI] = &filter->all_multicast,
        [RX_ALLUNI] = &filter->all_unicast,    [RX_NOMULTI] = &filter->no_multicast,
        [RX_NOUNI] = &filter->no_unicast,      [RX_NOBCAST] = &filter->no_broadcast,
    };
    uint8_t on;

    slice_take(&request->data, &on, sizeof(on));
    store_relaxed(modes[request->number], on != 0); /* older drivers know no more of its values */
    return true;
}

static uint64_t take_address(struct slice *data)
{
    uint8_t bytes[ADDRESS_SIZE];

    slice_take(data, bytes, sizeof(bytes));
    return net_address(bytes);
}

/* Take a table off the front of the data. Addresses are not read if there are too many of them: all pass then. */
static bool take_table(struct slice *data, struct net_addresses *ret)
{
    uint32_t entries;

    if (data->bytes < sizeof(entries))
        return false;
    slice_take(data, &entries, sizeof(entries));
    uint64_t bytes = (uint64_t)entries * ADDRESS_SIZE;
    if (data->bytes < bytes)
        return false;
    if (entries > FILTER_ADDRESSES) {
        slice_skip(data, bytes);
        ret->count = TABLE_OVERFLOW;
        return true;
    }
    ret->count = (int32_t)entries;
    for (uint32_t i = 0; i < entries; i++)
        ret->address[i] = take_address(data);
    return true;
}

static void publish_table(struct net_addresses *table, const struct net_addresses *from)
{
    for (int32_t i = 0; i < from->count; i++)
        store_relaxed(&table->address[i], from->address[i]);
    store_relaxed(&table->count, from->count);
}

static bool set_tables(struct request *request)
{
    struct net_filter *filter = &request->port->control.filter;
    struct net_addresses unicast, multicast;

    if (!take_table(&request->data, &unicast) || !take_table(&request->data, &multicast) ||
        request->data.bytes > 0)
        return false;
    publish_table(&filter->unicast, &unicast);
    publish_table(&filter->multicast, &multicast);
    return true;
}

/* A locked port sends from its own address alone: with another the driver would be heard by nobody. */
static bool set_address(struct request *request)
{
    const struct net_port *port = request->port;
    uint64_t address = take_address(&request->data);

    if (address & GROUP_BIT || address == 0 || (port->locked && address != port->mac))
        return false;
    store_relaxed(&request->port->control.filter.mac, address);
    return true;
}

static uint16_t take_16(struct slice *data)
{
    uint16_t value;

    slice_take(data, &value, sizeof(value));
    return value;
}

static bool set_vlan(struct request *request)
{
    uint16_t vlan = take_16(&request->data);

    if (vlan >= FILTER_VLANS)
        return false;
    uint64_t *word = &request->port->control.filter.vlans[vlan / 64];
    uint64_t bit = 1ull << vlan % 64;
    store_relaxed(word, request->number == VLAN_ADD ? *word | bit : *word & ~bit);
    return true;
}

static bool acknowledge(struct request *request)
{
    count_more(&request->port->control.announced, 1);
    return true;
}

/* No frame may go to further pairs once the command is used: who is about to deliver one is waited for. */
static bool set_pairs(struct request *request)
{
    struct net_port *port = request->port;
    uint16_t pairs = take_16(&request->data);

    if (pairs == 0 || pairs > port->pairs)
        return false;
    store_relaxed(&port->control.pairs, pairs);
    for (uint32_t pair = pairs; pair < port->pairs; pair++) {
        endpoint_lock(port, pair);
        endpoint_unlock(port, pair);
    }
    return true;
}

static bool set_offloads(struct request *request)
{
    uint64_t offloads;

    slice_take(&request->data, &offloads, sizeof(offloads));
    if (offloads & ~(request->features & GUEST_OFFLOADS))
        return false;
    store_relaxed(&request->port->control.offloads, offloads);
    return true;
}

static const struct command {
    uint8_t class, number;
    enum net_feature feature;
    int bytes; /* of its data */
    bool (*carry_out)(struct request *request);
} commands[] = {
    {CLASS_RX, RX_PROMISC, NET_F_CTRL_RX, 1, set_mode},
    {CLASS_RX, RX_ALLMULTI, NET_F_CTRL_RX, 1, set_mode},
    {CLASS_RX, RX_ALLUNI, NET_F_CTRL_RX_EXTRA, 1, set_mode},
    {CLASS_RX, RX_NOMULTI, NET_F_CTRL_RX_EXTRA, 1, set_mode},
    {CLASS_RX, RX_NOUNI, NET_F_CTRL_RX_EXTRA, 1, set_mode},
    {CLASS_RX, RX_NOBCAST, NET_F_CTRL_RX_EXTRA, 1, set_mode},
    {CLASS_MAC, MAC_TABLE_SET, NET_F_CTRL_RX, ANY_LENGTH, set_tables},
    {CLASS_MAC, MAC_ADDR_SET, NET_F_CTRL_MAC_ADDR, ADDRESS_SIZE, set_address},
    {CLASS_VLAN, VLAN_ADD, NET_F_CTRL_VLAN, 2, set_vlan},
    {CLASS_VLAN, VLAN_DEL, NET_F_CTRL_VLAN, 2, set_vlan},
    {CLASS_ANNOUNCE, ANNOUNCE_ACK, NET_F_GUEST_ANNOUNCE, 0, acknowledge},
    {CLASS_MQ, MQ_VQ_PAIRS_SET, NET_F_MQ, 2, set_pairs},
    {CLASS_OFFLOADS, GUEST_OFFLOADS_SET, NET_F_CTRL_GUEST_OFFLOADS, 8, set_offloads},
};

/* The command that a request is, or NULL: there is none such. */
static const struct command *find_command(const struct request *request)
{
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        const struct command *command = &commands[i];
        bool fits = command->bytes == ANY_LENGTH || request->data.bytes == (uint64_t)command->bytes;

        if (command->class == request->class && command->number == request->number)
            return fits && net_has(request->features, command->feature) ? command : NULL;
    }
    return NULL;
}

/* ---- The queue --------------------------------------------------------------------------------- */

static bool carry_out(struct vhu_queue *queue, const struct vhu_chain *chain)
{
    struct request request = {
        .port = queue->port,
        .features = queue->current.config.features,
        .data = {chain->iov, chain->readable, chain->readable_bytes},
    };
    uint8_t header[2];

    if (request.data.bytes < sizeof(header))
        return false;
    slice_take(&request.data, header, sizeof(header));
    request.class = header[0];
    request.number = header[1];
    const struct command *command = find_command(&request);
    if (!command || !command->carry_out(&request))
        return false;
    note_change(&queue->port->control);
    return true;
}

/* Serve a command. Returns how much was written: where nothing can be, it is not carried out, either. */
static uint32_t serve_command(struct vhu_queue *queue, const struct vhu_chain *chain)
{
    bool done = chain->writable > 0 && carry_out(queue, chain);

    count_more(&queue->counters.requests, 1);
    count_more(&queue->counters.errors, !done);
    if (chain->writable == 0)
        return 0;
    store_relaxed((uint8_t *)chain->iov[chain->readable].iov_base, done ? ACK_OK : ACK_ERR);
    return 1;
}

static bool serve(struct vhu_queue *queue)
{
    struct net_control *control = &queue->port->control;
    uint64_t changes = control->changes;
    struct vhu_chain chain;
    uint32_t served = 0;
    int rc = 0;

    while (served < COMMANDS && (rc = vhu_ring_pop(queue->ring, queue->iov, &chain)) == 1) {
        queue_push(queue, &chain, serve_command(queue, &chain));
        served++;
    }
    if (queue->unpublished)
        vhu_queue_publish(queue);
    if (control->changes != changes)
        vhu_signal_send(queue->event_fd);
    if (rc < 0) {
        vhu_queue_broke(queue);
        return true;
    }
    vhu_queue_renew(queue, served);
    return served > 0;
}

static bool awaits_kick(const struct vhu_queue *queue)
{
    (void)queue;
    return true;
}

static void changed(struct vhu_queue *queue)
{
    if (!queue_is_active(queue))
        return;
    endpoint_lock(queue->port, 0);
    vhu_net_port_begin(queue->port, queue->current.config.features);
    endpoint_unlock(queue->port, 0);
}

const struct queue_device vhu_net_control_device = {
    .serve = serve,
    .awaits_kick = awaits_kick,
    .kicked = vhu_queue_drain_kick,
    .attend = vhu_queue_ignore,
    .changed = changed,
    .joined = vhu_queue_ignore,
    .leaving = vhu_queue_ignore,
    .released = vhu_net_vacate,
};
