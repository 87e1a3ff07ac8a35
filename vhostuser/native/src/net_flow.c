/* SPDX-License-Identifier: Apache-2.0
 *
 * Which frames belong together, for steering them to queue pairs. Whoever wants to can find flows with the same
 * number: what that spoils is how evenly the pairs of that port are used.
 */
#include "net_offload.h"

enum {
    FLOW_HEADERS = 160, /* bytes that are looked at: two tags, IPv6, and 90 of extensions */
    PORTS = 4,
    IPV4_SOURCE_AT = 12,
    IPV6_SOURCE_AT = 8,
};

/* One end of a flow. The finalizer of splitmix64: every bit of the result depends on every bit of `value`. */
static uint64_t mix(uint64_t value)
{
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
    value = (value ^ value >> 27) * 0x94d049bb133111eb;
    return value ^ value >> 31;
}

static uint64_t mix_end(const struct net_packet *packet, const uint8_t *address, uint16_t port)
{
    uint64_t high = 0, low = 0;
    uint32_t word;

    if (packet->version == 4) {
        memcpy(&word, address, sizeof(word));
        return mix((uint64_t)word << 16 | port);
    }
    memcpy(&high, address, sizeof(high));
    memcpy(&low, address + sizeof(high), sizeof(low));
    return mix(mix(high) + low + port);
}

uint32_t vhu_flow_hash(const struct net_frame *frame)
{
    uint8_t bytes[FLOW_HEADERS];
    uint32_t size = frame_peek(frame, bytes, sizeof(bytes));
    uint16_t ports[2] = {0};
    struct net_packet packet;

    if (!vhu_packet_parse(bytes, size, &packet) ||
        (packet.protocol != PROTOCOL_TCP && packet.protocol != PROTOCOL_UDP))
        return 0;
    if (!packet.fragment) {
        if (size - packet.transport < PORTS)
            return 0;
        memcpy(ports, bytes + packet.transport, sizeof(ports));
    }
    uint32_t length = packet.version == 4 ? 4 : 16;
    const uint8_t *source = bytes + packet.network + (length == 4 ? IPV4_SOURCE_AT : IPV6_SOURCE_AT);
    uint64_t both = mix_end(&packet, source, ports[0]) + mix_end(&packet, source + length, ports[1]);
    uint32_t hash = (uint32_t)mix(both + packet.protocol);

    return hash ? hash : 1;
}
