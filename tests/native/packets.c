/* SPDX-License-Identifier: Apache-2.0 */
#include "packets.h"

#include <string.h>

enum { TCP = 6, UDP = 17 };

static void put(uint8_t *to, uint32_t value, int bytes)
{
    while (bytes-- > 0)
        *to++ = (uint8_t)(value >> 8 * bytes);
}

static uint32_t get(const uint8_t *from, int bytes)
{
    uint32_t value = 0;

    while (bytes-- > 0)
        value = value << 8 | *from++;
    return value;
}

uint32_t slow_sum(const uint8_t *bytes, uint32_t from, uint32_t to, uint32_t sum)
{
    for (uint32_t at = from; at < to; at++) {
        sum += (at - from) % 2 ? bytes[at] : bytes[at] * 256u;
        if (sum > 0xFFFF)
            sum -= 0xFFFF;
    }
    return sum;
}

/* One's complement has two zeros. */
static bool is_same(uint32_t one, uint32_t other)
{
    return one % 0xFFFF == other % 0xFFFF;
}

uint32_t packet_pseudo_sum(const struct packet *packet)
{
    uint32_t addresses = packet->network + (packet->version == 4 ? 12 : 8);
    uint32_t length = packet->version == 4 ? 8 : 32;
    uint32_t sum = slow_sum(packet->bytes, addresses, addresses + length, 0);

    return (sum + packet->protocol + packet->size - packet->transport) % 0xFFFF;
}

uint32_t packet_checksum_at(const struct packet *packet)
{
    return packet->transport + (packet->protocol == TCP ? 16 : 6);
}

/* ---- Making ------------------------------------------------------------------------------------ */

static void make_network(struct packet *packet, const struct shape *shape)
{
    uint8_t *header = packet->bytes + packet->network;
    uint32_t length = packet->size - packet->network;

    if (shape->version == 4) {
        header[0] = (uint8_t)(0x40 | (5 + shape->options));
        put(header + 2, length, 2);
        put(header + 4, 0xFFFE, 2); /* wraps with the second segment */
        put(header + 6, 0x4000, 2); /* do not fragment */
        header[8] = 64;
        header[9] = shape->protocol;
        put(header + 10, 0xDEAD, 2); /* nobody may believe it */
        return;
    }
    put(header, 0x60000000, 4);
    put(header + 4, length - 40, 2);
    header[6] = shape->options ? 60 : shape->protocol;
    header[7] = 64;
    if (shape->options) {
        header[40] = shape->protocol;
        header[41] = (uint8_t)(shape->options - 1);
    }
}

static void make_transport(struct packet *packet, const struct shape *shape)
{
    uint8_t *header = packet->bytes + packet->transport;

    if (shape->protocol == TCP) {
        put(header + 4, 0xFFFFFC00, 4); /* wraps soon */
        header[12] = (uint8_t)((5 + shape->tcp_options) << 4);
        header[13] = shape->tcp_flags;
    } else {
        put(header + 4, packet->size - packet->transport, 2);
    }
    put(packet->bytes + packet_checksum_at(packet), packet_pseudo_sum(packet), 2);
}

void packet_make(struct packet *packet, const struct shape *shape)
{
    uint32_t random = 1, at = 12;

    packet->version = shape->version;
    packet->protocol = shape->protocol;
    packet->network = 14 + 4u * shape->tags;
    packet->transport = packet->network + (shape->version == 4 ? 20 + 4u * shape->options
                                                               : 40 + 8u * shape->options);
    packet->headers = packet->transport + (shape->protocol == TCP ? 20 + 4u * shape->tcp_options : 8);
    packet->size = packet->headers + shape->payload;
    for (uint32_t i = 0; i < packet->size; i++) {
        random = random * 1664525 + 1013904223;
        packet->bytes[i] = (uint8_t)(random >> 24);
    }
    for (uint32_t tag = shape->tags; tag > 0; tag--, at += 4)
        put(packet->bytes + at, tag == 2 ? 0x88A8 : 0x8100, 2);
    put(packet->bytes + at, shape->version == 4 ? 0x0800 : 0x86DD, 2);
    make_network(packet, shape);
    make_transport(packet, shape);
}

/* ---- Cutting ----------------------------------------------------------------------------------- */

static void segment_network(struct packet *segment, uint32_t index)
{
    uint8_t *header = segment->bytes + segment->network;
    uint32_t length = segment->size - segment->network;

    if (segment->version == 6) {
        put(header + 4, length - 40, 2);
        return;
    }
    put(header + 2, length, 2);
    put(header + 4, get(header + 4, 2) + index, 2);
    put(header + 10, 0, 2);
    put(header + 10, ~slow_sum(segment->bytes, segment->network, segment->transport, 0), 2);
}

bool packet_segment(const struct packet *packet, uint32_t size, uint32_t index, bool sums,
                    struct packet *ret)
{
    uint32_t payload = packet->size - packet->headers, from = index * size;
    uint32_t length = from >= payload ? 0 : payload - from < size ? payload - from : size;
    uint8_t *checksum = ret->bytes + packet_checksum_at(packet);
    uint8_t *header = ret->bytes + packet->transport;

    if (index > 0 && length == 0)
        return false;
    memcpy(ret, packet, offsetof(struct packet, bytes));
    memcpy(ret->bytes, packet->bytes, packet->headers);
    memcpy(ret->bytes + packet->headers, packet->bytes + packet->headers + from, length);
    ret->size = packet->headers + length;
    segment_network(ret, index);
    if (packet->protocol == UDP) {
        put(header + 4, ret->size - ret->transport, 2);
    } else {
        put(header + 4, get(header + 4, 4) + from, 4);
        header[13] &= from + length < payload ? 0xF6 : 0xFF;
        header[13] &= index > 0 ? 0x7F : 0xFF;
    }
    /* what the driver left has the frame's length in it */
    put(checksum, (get(checksum, 2) + 2 * 0xFFFF + ret->size - packet->size) % 0xFFFF, 2);
    if (!sums)
        return true;
    uint32_t sum = ~slow_sum(ret->bytes, ret->transport, ret->size, 0) & 0xFFFF;
    put(checksum, sum ? sum : 0xFFFF, 2);
    return true;
}

/* ---- Looking at it ----------------------------------------------------------------------------- */

bool packet_is_sound(const struct packet *packet)
{
    const uint8_t *header = packet->bytes + packet->network;
    uint32_t length = packet->size - packet->network;
    uint32_t sum = slow_sum(packet->bytes, packet->transport, packet->size, packet_pseudo_sum(packet));

    if (packet->version == 4 &&
        (get(header + 2, 2) != length ||
         slow_sum(packet->bytes, packet->network, packet->transport, 0) != 0xFFFF))
        return false;
    if (packet->version == 6 && get(header + 4, 2) != length - 40)
        return false;
    if (packet->protocol == UDP &&
        get(packet->bytes + packet->transport + 4, 2) != packet->size - packet->transport)
        return false;
    return is_same(sum, 0) && get(packet->bytes + packet_checksum_at(packet), 2) != 0;
}

uint32_t gather(const struct iovec *iov, uint32_t count, uint8_t *ret, uint32_t room)
{
    uint32_t size = 0;

    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *from = iov[i].iov_base;

        for (uint32_t at = 0; at < iov[i].iov_len; at++, size++) {
            if (size < room)
                ret[size] = from[at];
        }
    }
    return size;
}
