/* SPDX-License-Identifier: Apache-2.0
 *
 * The headers of a frame, in a copy of its first bytes: Ethernet with up to two VLAN tags, IPv4 or IPv6, and where
 * TCP or UDP begins.
 */
#ifndef VHU_NET_PACKET_H
#define VHU_NET_PACKET_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "net_frame.h"

enum {
    PROTOCOL_TCP = 6,
    PROTOCOL_UDP = 17,
    IPV4_HEADER = 20, /* without options */
    IPV6_HEADER = 40, /* without extensions */
    TCP_HEADER = 20,  /* without options */
    UDP_HEADER = 8,
    TCP_CHECKSUM = 16, /* where it is in its header */
    UDP_CHECKSUM = 6,
};

struct net_packet {
    uint16_t network;   /* offset of the IP header ... */
    uint16_t transport; /* ... and of what comes after it and its extensions */
    uint8_t version;    /* 4 or 6 */
    uint8_t protocol;
    bool fragment;      /* or what was one */
};

/* Look at the first `size` bytes of a frame. False: it is not IP, or its headers up to `transport` are not all there. */
bool vhu_packet_parse(const uint8_t *bytes, uint32_t size, struct net_packet *ret);

/* Copy the first bytes of a frame, at most `room`; returns how many. The barrier keeps the compiler from going back
 * to the guest's bytes. */
static inline uint32_t frame_peek(const struct net_frame *frame, uint8_t *copy, uint32_t room)
{
    uint32_t size = 0;

    for (uint32_t i = 0; i < frame->count && size < room; i++) {
        size_t piece = frame->iov[i].iov_len;

        if (piece > room - size)
            piece = room - size;
        memcpy(copy + size, frame->iov[i].iov_base, piece);
        size += (uint32_t)piece;
    }
    __asm__ volatile("" : : "r"(copy) : "memory");
    return size;
}

static inline uint16_t get_be16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] << 8 | bytes[1]);
}

static inline void put_be16(uint8_t *bytes, uint16_t value)
{
    bytes[0] = (uint8_t)(value >> 8);
    bytes[1] = (uint8_t)value;
}

#endif
