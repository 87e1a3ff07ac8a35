/* SPDX-License-Identifier: Apache-2.0 */
#include "net_packet.h"

enum {
    ETHERTYPE_IPV4 = 0x0800,
    ETHERTYPE_IPV6 = 0x86DD,
    ETHERTYPE_VLAN = 0x8100,
    ETHERTYPE_VLAN_SERVICE = 0x88A8,
    ETHERTYPE_AT = 12,
    VLAN_TAG = 4,
    VLAN_TAGS_MAX = 2,
    IPV4_OFFSET_OR_MORE = 0x3FFF, /* of the field with the flags */
    EXTENSION_HOPS = 0,
    EXTENSION_ROUTING = 43,
    EXTENSION_FRAGMENT = 44,
    EXTENSION_DESTINATION = 60,
    EXTENSION_MIN = 8,
};

static bool parse_ipv4(const uint8_t *bytes, uint32_t size, struct net_packet *packet)
{
    const uint8_t *header = bytes + packet->network;
    uint32_t length;

    if (size - packet->network < IPV4_HEADER || header[0] >> 4 != 4)
        return false;
    length = (header[0] & 0xF) * 4u;
    if (length < IPV4_HEADER || length > size - packet->network)
        return false;
    packet->version = 4;
    packet->protocol = header[9];
    packet->fragment = get_be16(header + 6) & IPV4_OFFSET_OR_MORE;
    packet->transport = (uint16_t)(packet->network + length);
    return true;
}

/* Each extension takes some of the bytes that there are, so the way through them ends. */
static bool parse_ipv6(const uint8_t *bytes, uint32_t size, struct net_packet *packet)
{
    const uint8_t *header = bytes + packet->network;
    uint32_t at = packet->network + IPV6_HEADER;

    if (size < at || header[0] >> 4 != 6)
        return false;
    packet->version = 6;
    packet->protocol = header[6];
    packet->fragment = false;
    while (packet->protocol == EXTENSION_HOPS || packet->protocol == EXTENSION_ROUTING ||
           packet->protocol == EXTENSION_DESTINATION || packet->protocol == EXTENSION_FRAGMENT) {
        if (size - at < EXTENSION_MIN)
            return false;
        uint32_t length = packet->protocol == EXTENSION_FRAGMENT ? EXTENSION_MIN
                                                                 : (bytes[at + 1] + 1u) * 8;
        if (length > size - at)
            return false;
        packet->fragment |= packet->protocol == EXTENSION_FRAGMENT;
        packet->protocol = bytes[at];
        at += length;
        if (packet->fragment) /* what comes next is the middle of something */
            break;
    }
    packet->transport = (uint16_t)at;
    return true;
}

bool vhu_packet_parse(const uint8_t *bytes, uint32_t size, struct net_packet *ret)
{
    uint32_t at = ETHERTYPE_AT;

    for (int tags = 0; tags <= VLAN_TAGS_MAX && size >= at + 2; tags++, at += VLAN_TAG) {
        uint16_t type = get_be16(bytes + at);

        ret->network = (uint16_t)(at + 2);
        if (type == ETHERTYPE_IPV4)
            return parse_ipv4(bytes, size, ret);
        if (type == ETHERTYPE_IPV6)
            return parse_ipv6(bytes, size, ret);
        if (type != ETHERTYPE_VLAN && type != ETHERTYPE_VLAN_SERVICE)
            return false;
    }
    return false;
}
