/* SPDX-License-Identifier: Apache-2.0 */
#include "hostile_atomic.h"
#include "net_driver.h"

#include <string.h>

#include "packets.h"

enum { PARTS = 64, TCP = 6, UDP = 17, COMMAND_MAX = 512, POKES = 8 };

struct part {
    uint64_t gpa;
    uint32_t size;
    bool writable;
};

struct parts {
    struct part list[PARTS];
    uint32_t count;
};

/* ---- Buffers --------------------------------------------------------------------------------- */

/* Somewhere for up to `size` bytes that no ring has. Returns how many there are, at least 1. */
static uint32_t take_room(struct input *in, const struct port *port, uint32_t size, uint64_t *ret)
{
    uint8_t kind = take_u8(in);
    uint32_t region = kind % port->arena->count, low = 0, end = 0;

    for (uint32_t i = 0; i < port->arena->count && low == end; i++) {
        region = (region + i) % port->arena->count;
        low = port->room.low[region];
        end = port->room.end[region];
    }
    if (low == end) {
        *ret = port->arena->places[0].gpa; /* it is all rings */
        return 1;
    }
    size = size < end - low ? size : end - low;
    uint32_t most = end - low - size;
    /* so that one byte more is caught, or anywhere */
    uint32_t offset = kind & 0x80 ? most : most ? take_u16(in) % (most + 1) : 0;
    *ret = port->arena->places[region].gpa + low + offset;
    return size ? size : 1;
}

static void add_part(struct parts *parts, uint64_t gpa, uint32_t size, bool writable)
{
    if (parts->count < PARTS)
        parts->list[parts->count++] = (struct part){gpa, size, writable};
}

/* Put bytes into buffers of sizes that the input chooses. */
static void place_bytes(struct input *in, const struct port *port, struct parts *parts, const uint8_t *bytes,
                        uint32_t size)
{
    uint8_t cut = take_u8(in);

    for (uint32_t at = 0; at < size && parts->count < PARTS;) {
        uint32_t piece = cut == 0 ? size : cut < 0x80 ? cut % 16u + 1 : cut * 16u;
        uint64_t gpa;

        piece = piece < size - at ? piece : size - at;
        if (parts->count > 2)
            piece = size - at;
        piece = take_room(in, port, piece, &gpa);
        piece = piece < size - at ? piece : size - at;
        ringplace_write(&port->rings[SENDS].place, gpa, bytes + at, piece);
        add_part(parts, gpa, piece, false);
        at += piece;
    }
}

/* ---- Chains ---------------------------------------------------------------------------------- */

static bool all_consumed(const struct port_ring *ring)
{
    const struct vhu_ring *own = ring->queue->ring;

    if (!own)
        return false;
    if (own->packed)
        return own->pack.avail.offset == ring->driver.next.offset && own->pack.avail.wrap == ring->driver.next.wrap;
    return own->split.next_avail == ring->driver.index;
}

static struct desc make_desc(const struct port_ring *ring, const struct part *part, bool more, uint16_t link)
{
    struct desc desc = {.address = part->gpa};
    uint16_t flags = (part->writable ? DESC_WRITE : 0) | (more ? DESC_NEXT : 0);

    if (ring->place.packed) {
        desc.packed.length = part->size;
        desc.packed.id = link;
        desc.packed.flags = flags;
    } else {
        desc.split.length = part->size;
        desc.split.flags = flags;
        desc.split.next = link;
    }
    return desc;
}

static void put_slot(struct port_ring *ring, uint32_t slot, const struct desc *desc)
{
    ringplace_write(&ring->place, ring->place.gpa[0] + 16ull * slot, desc, sizeof(*desc));
}

/* Put the parts into a table, to be the only part. */
static void put_table(struct port *port, struct port_ring *ring, struct parts *parts)
{
    uint32_t size = parts->count * (uint32_t)sizeof(struct desc);

    if (!port->tables)
        return;
    if (port->tables_used + size > TABLES_SIZE)
        port->tables_used = 0;
    uint64_t gpa = port->tables + port->tables_used;
    for (uint32_t i = 0; i < parts->count; i++) {
        struct desc desc = make_desc(ring, &parts->list[i], i + 1 < parts->count && !ring->place.packed,
                                     (uint16_t)(i + 1));

        ringplace_write(&ring->place, gpa + i * sizeof(desc), &desc, sizeof(desc));
    }
    port->tables_used += size;
    parts->count = 0;
    add_part(parts, gpa, size, false);
}

static void put_split(struct port_ring *ring, const struct parts *parts, uint16_t indirect)
{
    uint32_t num = ring->place.num;
    uint16_t head = (uint16_t)(ring->slot % num);

    for (uint32_t i = 0; i < parts->count; i++) {
        uint16_t slot = (uint16_t)(ring->slot++ % num), next = (uint16_t)(ring->slot % num);
        struct desc desc = make_desc(ring, &parts->list[i], i + 1 < parts->count, next);

        desc.split.flags |= indirect;
        put_slot(ring, slot, &desc);
    }
    uint16_t *index = &ring->driver.index;
    ringplace_write_u16(&ring->place, ring->place.gpa[1] + 4 + 2ull * (*index & (num - 1)), head);
    ringplace_write_u16(&ring->place, ring->place.gpa[1] + 2, ++*index);
}

static void put_packed(struct port_ring *ring, const struct parts *parts, uint16_t indirect)
{
    uint32_t num = ring->place.num;
    uint16_t id = (uint16_t)(ring->slot++ % num);

    for (uint32_t i = 0; i < parts->count; i++) {
        struct desc desc = make_desc(ring, &parts->list[i], i + 1 < parts->count, id);

        desc.packed.flags |= indirect | packed_avail_flags(ring->driver.next.wrap);
        put_slot(ring, ring->driver.next.offset, &desc);
        packed_advance(&ring->driver.next, num, 1);
    }
}

/* Make a chain of the parts available, if there is room. */
static void put_chain(struct switch_ports *s, struct port *port, struct port_ring *ring,
                      struct parts *parts, bool table)
{
    uint16_t indirect = 0;

    if (!ring->queue->ring || parts->count == 0)
        return;
    for (uint32_t i = 0; i < parts->count; i++) {
        const struct part *part = &parts->list[i];

        if (part->writable && !switch_permit(s, port->arena, part->gpa, part->size))
            return;
    }
    if (table && ring->queue->ring->indirect) {
        put_table(port, ring, parts);
        indirect = port->tables ? DESC_INDIRECT : 0;
    }
    if (all_consumed(ring))
        ring->slots_out = 0;
    if (ring->slots_out + parts->count > ring->place.num)
        return;
    ring->slots_out += parts->count;
    if (ring->place.packed)
        put_packed(ring, parts, indirect);
    else
        put_split(ring, parts, indirect);
}

/* ---- Frames ---------------------------------------------------------------------------------- */

static struct packet packet;

static void take_address_of_port(struct input *in, uint8_t *ret)
{
    uint8_t kind = take_u8(in);
    uint8_t address[6] = {2, 0, 0, 0, 0, kind};

    if (kind == 0)
        memset(address, 0xff, sizeof(address));
    else if (kind == 5)
        address[0] = 0x33;
    else if (kind == 6)
        memset(address, 0, sizeof(address));
    memcpy(ret, address, sizeof(address));
}

static void take_packet(struct input *in, uint8_t kind)
{
    uint8_t options = take_u8(in);
    struct shape shape = {.version = kind & 1 ? 6 : 4,
                          .protocol = kind & 2 ? UDP : TCP,
                          .tags = kind >> 2 & 3,
                          .options = options % (kind & 1 ? 28 : 11),
                          .tcp_options = (options >> 4) % 11,
                          .tcp_flags = 0x19,
                          .payload = take_u8(in) * 4u};

    if (kind & 0x10)
        shape.payload = kind & 0x20 ? take_u16(in) % 65200u : take_u16(in) % 5000u;
    packet_make(&packet, &shape);
    if (kind & 0x40)
        packet.size = take_u8(in);
}

static struct net_header take_header(struct input *in)
{
    uint8_t kind = take_u8(in);
    struct net_header header = {0};

    if (kind & 1) {
        header.flags = NET_NEEDS_CSUM;
        header.hdr_len = (uint16_t)packet.headers;
        header.csum_start = (uint16_t)packet.transport;
        header.csum_offset = packet.protocol == UDP ? 6 : 16;
    }
    if (kind & 2) {
        header.gso_type = packet.protocol == UDP ? NET_GSO_UDP_L4
                          : packet.version == 4  ? NET_GSO_TCPV4
                                                 : NET_GSO_TCPV6;
        header.gso_type |= kind & 4 ? NET_GSO_ECN : 0;
        header.gso_size = kind & 8 ? take_u16(in) : take_u8(in) * 4u;
    }
    for (uint32_t i = 0; i < kind >> 6; i++) {
        uint8_t at = take_u8(in) % sizeof(header), value = take_u8(in);

        memcpy((uint8_t *)&header + at, &value, 1);
    }
    return header;
}

void net_driver_send(struct switch_ports *s, struct port *port)
{
    static uint8_t bytes[NET_HEADER_SIZE + PACKET_MAX];
    struct input *in = s->in;
    struct parts parts = {.count = 0};
    uint8_t kind = take_u8(in), shape = take_u8(in);
    uint32_t size = net_header_size(port->features);

    take_packet(in, kind);
    take_address_of_port(in, packet.bytes);
    take_address_of_port(in, packet.bytes + 6);
    struct net_header header = take_header(in);
    memcpy(bytes, &header, size);
    memcpy(bytes + size, packet.bytes, packet.size);
    size += packet.size;
    if (shape & 1)
        size = take_u8(in) % 32u;
    s->sent = size;
    uint32_t times = (shape >> 1 & 3u) + 1, pieces = shape & 0x40 ? PARTS : 0;
    for (uint32_t i = 0; i < (pieces ? 16 : 1) * times; i++) {
        parts.count = 0;
        place_bytes(in, port, &parts, bytes, size);
        while (parts.count < pieces) /* as many as a table has room for, in many chains */
            add_part(&parts, parts.list[0].gpa, 1, false);
        if (shape & 8) /* all memory that follows, though only a part was written */
            parts.list[parts.count ? parts.count - 1 : 0].size += take_u16(in) * 4u;
        if (shape & 0x10)
            add_part(&parts, port->arena->places[0].gpa, take_u8(in), true);
        put_chain(s, port, &port->rings[SENDS], &parts, shape & 0x80);
    }
}

void net_driver_offer(struct switch_ports *s, struct port *port)
{
    uint8_t kind = take_u8(s->in), times = take_u8(s->in);

    for (uint32_t i = 0; i <= times % 96u; i++) {
        struct parts parts = {.count = 0};

        for (uint32_t part = 0; part <= (kind & 3u); part++) {
            uint32_t size = kind & 0x10 ? take_u8(s->in) % 32u + 1 : kind & 0x20 ? 0x2000 : 1526;
            uint64_t gpa;

            if (kind & 8) /* what was sent last just fits, or does not */
                size = s->sent - 2 + take_u8(s->in) % 4u;
            size = take_room(s->in, port, size ? size : 1, &gpa);
            if (kind & 0x40) { /* over the end of the region, and into the next */
                size = take_u16(s->in) * 4u + 1;
                s->unstrict = true;
            }
            add_part(&parts, gpa, size, !(kind & 4 && part == 0));
        }
        put_chain(s, port, &port->rings[RECEIVES], &parts, kind & 0x80);
    }
}

/* ---- Commands -------------------------------------------------------------------------------- */

static uint32_t take_data(struct input *in, uint8_t *ret)
{
    static const uint8_t lengths[8] = {0, 1, 2, 6, 8, 14, 20, 3};
    uint8_t kind = take_u8(in);
    uint32_t size = kind < 0x80 ? lengths[kind & 7] : (kind & 0x7fu) * 4;

    for (uint32_t i = 0; i < size; i++)
        ret[i] = kind & 8 ? 0 : take_u8(in);
    if (kind & 0x10 && size >= 8) { /* a table of some length, and what is left another */
        uint32_t entries = take_u8(in) % 80u;

        memcpy(ret, &entries, sizeof(entries));
        uint32_t second = 4 + 6 * entries;
        entries = size > second + 4 ? (size - second - 4) / 6 : entries;
        if (second + 4 <= size)
            memcpy(ret + second, &entries, sizeof(entries));
    }
    return size;
}

void net_driver_command(struct switch_ports *s, struct port *port)
{
    uint8_t command[2 + COMMAND_MAX] = {0};
    uint8_t which = take_u8(s->in), shape = take_u8(s->in);
    struct parts parts = {.count = 0};
    uint64_t gpa;

    command[0] = which & 7;
    command[1] = which >> 3 & 7;
    uint32_t size = 2 + take_data(s->in, command + 2);
    if (shape & 1)
        size = shape >> 1 & 3;
    place_bytes(s->in, port, &parts, command, size);
    if (!(shape & 0x10)) {
        uint32_t room = take_room(s->in, port, shape & 0x20 ? 8 : 1, &gpa);
        add_part(&parts, gpa, room, true);
    }
    put_chain(s, port, &port->rings[COMMANDS], &parts, shape & 0x80);
}
