/* SPDX-License-Identifier: Apache-2.0 */
#include "hostile_atomic.h"
#include "switch_ports.h"

#include <stdlib.h>
#include <string.h>

#include "states.h"

enum {
    ADDRESSES_FEW = 3,
    SERVED_MOST = 70000, /* looks at a ring that nobody adds to: more are a loop without end */
    ADDRESS_BITS = 48,
    MULTIPLIER = 0x9E3779B1,
    LISTED = 1024,
};

/* ---- What the engine wants of a worker ------------------------------------------------------- */

const struct queue_device vhu_blk_device;

void vhu_worker_attach(struct vhu_worker *worker, struct vhu_queue *queue)
{
    (void)worker;
    (void)queue;
}

void vhu_worker_detach(struct vhu_worker *worker, struct vhu_queue *queue)
{
    (void)worker;
    (void)queue;
}

void vhu_worker_notify(struct vhu_worker *worker)
{
    (void)worker;
}

void vhu_worker_wake(struct vhu_worker *worker)
{
    (void)worker;
}

void vhu_worker_interrupt(struct vhu_worker *worker)
{
    (void)worker;
}

void vhu_tap_receive(struct net_port *port, uint32_t pair, struct net_frame *const *frames, uint32_t count)
{
    (void)port;
    (void)pair;
    (void)frames;
    (void)count;
    HOLDS(!"there is no TAP");
}

/* ---- Rings ----------------------------------------------------------------------------------- */

static uint64_t take_features(struct input *in)
{
    static const uint8_t ring[] = {NET_F_VERSION_1, NET_F_MRG_RXBUF, VIRTIO_F_INDIRECT_DESC,
                                   VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER,
                                   NET_F_CSUM, NET_F_GUEST_CSUM};
    static const uint8_t offloads[] = {NET_F_HOST_TSO4, NET_F_HOST_TSO6, NET_F_HOST_ECN, NET_F_HOST_USO,
                                       NET_F_GUEST_TSO4, NET_F_GUEST_TSO6, NET_F_GUEST_ECN,
                                       NET_F_GUEST_USO4};
    static const uint8_t control[] = {NET_F_CTRL_VQ, NET_F_CTRL_RX, NET_F_CTRL_VLAN,
                                      NET_F_CTRL_RX_EXTRA, NET_F_GUEST_ANNOUNCE, NET_F_CTRL_MAC_ADDR,
                                      NET_F_CTRL_GUEST_OFFLOADS, NET_F_GUEST_USO6};
    static const uint8_t *const all[] = {ring, offloads, control};
    uint64_t features = 0;

    for (int group = 0; group < 3; group++) {
        uint8_t mask = take_u8(in);

        for (int bit = 0; bit < 8; bit++)
            features |= (uint64_t)(mask >> bit & 1) << all[group][bit];
    }
    return features;
}

/* Move what the engine uses for buffers to where the end is guarded. */
static void guard_iov(struct port_ring *ring)
{
    free(ring->iov);
    ring->iov = NULL;
    if (!ring->queue->ring)
        return;
    size_t count = vhu_ring_iov_limit(ring->queue->ring) + ring->queue->device->spare_iov;
    ring->iov = malloc(count * sizeof(*ring->iov));
    HOLDS(ring->iov);
    ring->queue->iov = ring->iov;
}

void switch_attend(struct switch_ports *s)
{
    for (uint32_t i = 0; i < s->count * RINGS; i++) {
        struct vhu_queue *queue = s->ports[i / RINGS].rings[i % RINGS].queue;

        if (queue->ring && queue->ring->fault)
            vhu_queue_apply(queue);
    }
}

static void apply(struct switch_ports *s, struct port_ring *ring)
{
    uint64_t before = ring->queue->current.start;

    vhu_queue_want(ring->queue, &ring->wanted);
    vhu_queue_apply(ring->queue);
    HOLDS(ring->queue->actual.applied == ring->queue->mailbox.number);
    switch_attend(s);
    if (ring->queue->current.start == before)
        return;
    guard_iov(ring);
    if (ring->queue->ring && !ring->place.packed)
        ring->lag = (uint16_t)(ring->queue->ring->split.next_avail - ring->queue->ring->split.next_used);
}

static void permit_areas(struct switch_ports *s, const struct port_ring *ring)
{
    for (int area = 0; area < 3; area++) {
        if (area == 2 || (area == 0 && ring->place.packed))
            (void)switch_permit(s, ring->place.arena, ring->place.gpa[area], ring->place.size[area]);
    }
}

static void start(struct switch_ports *s, struct port_ring *ring)
{
    hostile_driver_begin(&ring->driver, s->in, &ring->place, &ring->place.config.state);
    ring->slot = 0;
    ring->slots_out = 0;
    ring->wanted.start++;
    ring->wanted.how = VHU_STOP_DRAIN;
    ring->wanted.enabled = true;
    ring->wanted.mem = ring->place.arena->mem[ring->place.which];
    ring->wanted.config = ring->place.config;
    apply(s, ring);
}

/* Have the driver begin where the ring stopped. */
static void restart(struct switch_ports *s, struct port_ring *ring, bool abandon)
{
    uint64_t was = ring->wanted.start;

    ring->wanted.start = 0;
    ring->wanted.how = abandon ? VHU_STOP_ABANDON : VHU_STOP_DRAIN;
    apply(s, ring);
    HOLDS(ring->queue->actual.actual == VHU_QUEUE_STOPPED && !ring->queue->ring);
    ring->place.config.state = ring->queue->actual.state;
    ring->wanted.start = was;
    start(s, ring);
}

void switch_want(struct switch_ports *s, struct port_ring *ring, uint8_t how)
{
    int before = ring->place.which;

    switch (how & 3) {
    case 0:
        restart(s, ring, how & 4);
        break;
    case 1:
        ring->wanted.enabled = how & 4;
        apply(s, ring);
        break;
    default:
        if (!ringplace_enter(&ring->place, (how >> 2) % SNAPSHOTS) && !ringplace_enter(&ring->place, before))
            return;
        ring->wanted.mem = ring->place.arena->mem[ring->place.which];
        ring->wanted.config.desc = ring->place.config.desc;
        ring->wanted.config.driver = ring->place.config.driver;
        ring->wanted.config.device = ring->place.config.device;
        apply(s, ring);
    }
}

/* ---- Serving --------------------------------------------------------------------------------- */

/* Nothing stays in the engine's hands. */
static void check_ring(const struct port_ring *ring)
{
    const struct vhu_ring *own = ring->queue->ring;

    if (!own)
        return;
    HOLDS(own->fault == VHU_FAULT_NONE);
    if (own->packed) {
        HOLDS(own->pack.pushed_slots == 0 && own->pack.slots_in_flight == 0);
        HOLDS(own->pack.avail.offset < own->num && own->pack.used.offset < own->num);
    } else {
        HOLDS(own->split.published == own->split.next_used);
        HOLDS((uint16_t)(own->split.next_avail - own->split.next_used) == ring->lag);
    }
    for (uint32_t id = 0; id < own->num; id++)
        HOLDS(own->in_flight[id] == 0);
}

static bool has_more(const struct vhu_ring *ring)
{
    if (ring->packed)
        return packed_is_avail(ring->desc[ring->pack.avail.offset].packed.flags, ring->pack.avail.wrap);
    return ring->split.avail->idx != ring->split.next_avail;
}

void switch_serve(struct switch_ports *s, struct port_ring *ring)
{
    struct vhu_queue *queue = ring->queue;
    uint32_t looks = 0;

    while (queue->ring && queue_is_served(queue)) {
        states_count((uint32_t)(ring->place.packed ? 1 : 0), (uint64_t)looks);
        bool found = queue->device->serve(queue);

        switch_attend(s);
        if (!found)
            break;
        HOLDS(looks++ < SERVED_MOST || s->wild);
        if (s->wild && looks > SERVED_MOST)
            break; /* its own frames may be what makes further ones available */
    }
    if (!s->wild && queue->ring && queue_is_served(queue) && !queue->device->passive &&
        queue->device != &vhu_net_fill_device)
        HOLDS(!has_more(queue->ring));
}

/* ---- The whole ------------------------------------------------------------------------------- */

static const struct queue_device *device_of(const struct switch_ports *s, int ring)
{
    if (ring == COMMANDS)
        return &vhu_net_control_device;
    if (ring == SENDS)
        return &vhu_net_send_device;
    return s->net->config.mode == VHU_NET_SOURCE ? &vhu_net_fill_device : &vhu_net_receive_device;
}

/* The memory of some layouts is there more than once. */
static bool is_aliased(const struct arena *arena)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < arena->count; i++)
        sum += arena->places[i].size;
    return sum > arena->file_size;
}

static void reserve_tables(struct port *port)
{
    for (uint32_t i = 0; i < port->arena->count && !port->tables; i++) {
        uint32_t low = (port->room.low[i] + 15) & -16u;

        if (low + TABLES_SIZE > port->room.end[i])
            continue;
        port->tables = port->arena->places[i].gpa + low;
        port->room.low[i] = low + TABLES_SIZE;
    }
}

static void begin_port(struct switch_ports *s, uint32_t index)
{
    struct port *port = &s->ports[index];
    uint8_t where = take_u8(s->in);
    struct vhu_net_port_config config = {
        .pairs = 1, .addresses = ADDRESSES_FEW, .mac = {2, 0, 0, 0, 0, (uint8_t)(index + 1)}, .locked = where & 0x80};

    port->features = take_features(s->in);
    port->arena = &arenas()[where % LAYOUTS];
    s->unstrict |= is_aliased(port->arena);
    for (uint32_t i = 0; i < index; i++) {
        if (s->ports[i].arena == port->arena)
            port->room = s->ports[i].room; /* ports of one guest, or of two that share memory */
    }
    HOLDS(vhu_net_port_add(s->net, &config, &port->number) == 0 && port->number == index);
    for (int i = 0; i < RINGS; i++) {
        struct port_ring *ring = &port->rings[i];

        HOLDS(vhu_net_queue_create(&s->worker, device_of(s, i), net_port_at(s->net, index), (uint32_t)i, -1,
                                   &ring->queue) == 0);
        ring->queue->device->joined(ring->queue);
        if (!ringplace_take_next(s->in, port->arena, port->features, &port->room, &ring->place))
            continue;
        permit_areas(s, ring);
        start(s, ring);
    }
    reserve_tables(port);
    s->unstrict |= port->tables == 0; /* nor is there room for frames, perhaps */
    for (uint32_t i = 0; i < index; i++) {
        if (s->ports[i].arena == port->arena)
            s->ports[i].room = port->room;
    }
}

void switch_begin(struct switch_ports *s, struct input *in)
{
    uint8_t shape = take_u8(in);
    struct vhu_net_config config = {
        .mode = (shape & 0xe0) == 0xe0 ? (enum vhu_net_mode)(shape >> 3 & 3) : VHU_NET_SWITCH,
        .ports = PORTS, .ageing_s = 20, .shared = shape >> 2 & 1};

    memset(s, 0, offsetof(struct switch_ports, extents));
    memset(s->extent_count, 0, sizeof(s->extent_count));
    s->in = in;
    pthread_mutex_init(&s->worker.lock, NULL);
    HOLDS(vhu_net_create(&config, &s->net) == 0);
    s->net->table.multiplier = MULTIPLIER; /* the same each time */
    s->worker.now_s = s->net->table.now_s;
    for (int i = 0; i < LAYOUTS; i++)
        arena_reset(&arenas()[i]);
    for (uint32_t count = 2 + (shape & 3) % (PORTS - 1); s->count < count; s->count++) {
        struct port *port = &s->ports[s->count];

        ringplace_room_begin(&port->room, &arenas()[in->left ? in->at[0] % LAYOUTS : 0]);
        begin_port(s, s->count);
    }
}

void switch_end(struct switch_ports *s)
{
    for (uint32_t i = 0; i < s->count * RINGS; i++) {
        struct port_ring *ring = &s->ports[i / RINGS].rings[i % RINGS];

        ring->queue->device->leaving(ring->queue);
        ring->queue->iov = NULL;
        vhu_queue_release(ring->queue);
        free(ring->iov);
    }
    vhu_net_port_remove(s->net, 0);
    HOLDS(s->net->table.learned[0].count == 0);
    vhu_net_destroy(s->net);
    pthread_mutex_destroy(&s->worker.lock);
}

bool switch_permit(struct switch_ports *s, struct arena *arena, uint64_t gpa, uint32_t size)
{
    long layout = arena - arenas();

    while (size > 0) { /* region by region */
        uint32_t *count = &s->extent_count[layout];
        int64_t offset = arena_offset(arena, gpa, 1);

        if (*count == EXTENTS)
            return false;
        if (offset < 0)
            return true; /* the rest is nowhere: nothing of it may be written */
        uint32_t part = size;
        while (arena_offset(arena, gpa, part) < 0)
            part = part > 1 ? part / 2 : 1;
        s->extents[layout][(*count)++] = (struct extent){(uint32_t)offset, part, 0};
        gpa += part;
        size -= part;
    }
    return true;
}

static uint64_t rx_drops(const struct vhu_net_counters *counters)
{
    uint64_t sum = 0;

    for (int reason = VHU_NET_DROP_NO_BUFFER; reason < VHU_NET_DROPS; reason++)
        sum += counters->drops[reason];
    return sum;
}

/* Every chain that was taken is a frame that was handed on, or dropped for one reason. */
static void check_sender(struct switch_ports *s, const struct port *port)
{
    struct vhu_net_counters sent;
    uint64_t sum = 0;

    vhu_net_counters(s->net, port->number, SENDS, &sent);
    for (int reason = 0; reason < VHU_NET_DROP_NO_BUFFER; reason++)
        sum += sent.drops[reason];
    HOLDS(rx_drops(&sent) == 0);
    HOLDS(sent.frames + sum == port->rings[SENDS].queue->counters.requests + port->announced);
    HOLDS(sent.bytes >= sent.frames * FRAME_MIN && sent.bytes <= sent.frames * (uint64_t)FRAME_MAX);
}

/* Every frame that was handed to the only receiver came in, or was dropped for one reason. */
static void check_pair(struct switch_ports *s, uint32_t from, uint32_t to)
{
    struct vhu_net_counters sent, received;

    vhu_net_counters(s->net, from, SENDS, &sent);
    vhu_net_counters(s->net, to, RECEIVES, &received);
    HOLDS(received.segments <= received.frames);
    if (received.segments == 0)
        HOLDS(sent.frames == received.frames + rx_drops(&received));
    HOLDS(s->ports[to].rings[RECEIVES].queue->counters.requests >= received.frames);
}

static void check_table(struct switch_ports *s)
{
    static struct vhu_net_address found[LISTED];
    size_t count = vhu_net_addresses(s->net, found, LISTED);
    uint32_t of_port[PORTS] = {0};

    for (size_t i = 0; i < count; i++) {
        HOLDS(found[i].port < s->count && !(found[i].mac[0] & 1));
        of_port[found[i].port]++;
    }
    for (uint32_t i = 0; i < s->count; i++)
        HOLDS(of_port[i] <= ADDRESSES_FEW && of_port[i] == s->net->table.learned[i].count);
}

void switch_check(struct switch_ports *s)
{
    enum vhu_net_mode mode = s->net->config.mode;

    for (uint32_t i = 0; i < s->count; i++) {
        for (int ring = 0; ring < RINGS; ring++)
            check_ring(&s->ports[i].rings[ring]);
        check_sender(s, &s->ports[i]);
        if (mode == VHU_NET_ECHO)
            check_pair(s, i, i);
        else if (mode == VHU_NET_SWITCH && s->count == 2)
            check_pair(s, i, 1 - i);
    }
    check_table(s);
    for (int i = 0; i < LAYOUTS && !s->wild && !s->unstrict; i++)
        arena_check(&arenas()[i], s->extents[i], s->extent_count[i]);
}
