/* SPDX-License-Identifier: Apache-2.0
 *
 * A frame on its way from a sender to its receivers, and the header before it in a virtio ring or a TAP
 * (VIRTIO 1.2, section 5.1.6).
 */
#ifndef VHU_NET_FRAME_H
#define VHU_NET_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum net_feature {
    NET_F_CSUM = 0,
    NET_F_GUEST_CSUM = 1,
    NET_F_CTRL_GUEST_OFFLOADS = 2,
    NET_F_GUEST_TSO4 = 7,
    NET_F_GUEST_TSO6 = 8,
    NET_F_GUEST_ECN = 9,
    NET_F_GUEST_UFO = 10,
    NET_F_HOST_TSO4 = 11,
    NET_F_HOST_TSO6 = 12,
    NET_F_HOST_ECN = 13,
    NET_F_HOST_UFO = 14,
    NET_F_MRG_RXBUF = 15,
    NET_F_CTRL_VQ = 17,
    NET_F_CTRL_RX = 18,
    NET_F_CTRL_VLAN = 19,
    NET_F_CTRL_RX_EXTRA = 20,
    NET_F_GUEST_ANNOUNCE = 21,
    NET_F_MQ = 22,
    NET_F_CTRL_MAC_ADDR = 23,
    NET_F_VERSION_1 = 32,
    NET_F_GUEST_USO4 = 54,
    NET_F_GUEST_USO6 = 55,
    NET_F_HOST_USO = 56,
};

enum net_header_flag {
    NET_NEEDS_CSUM = 1, /* the checksum at csum_start + csum_offset covers the pseudo header alone */
    NET_DATA_VALID = 2, /* only of a device: it was verified */
};

enum net_gso {
    NET_GSO_NONE = 0,
    NET_GSO_TCPV4 = 1,
    NET_GSO_UDP = 3, /* fragments: nobody is offered it */
    NET_GSO_TCPV6 = 4,
    NET_GSO_UDP_L4 = 5,
    NET_GSO_ECN = 0x80, /* together with one of TCP */
};

struct net_header {
    uint8_t flags;
    uint8_t gso_type;
    uint16_t hdr_len;
    uint16_t gso_size;
    uint16_t csum_start;
    uint16_t csum_offset;
    uint16_t num_buffers; /* a legacy device has it only where it merges buffers */
};

enum {
    NET_HEADER_SIZE = 12,
    NET_HEADER_LEGACY = 10, /* neither VERSION_1 nor MRG_RXBUF */
    FRAME_MIN = 14,
    FRAME_MAX = 65550,
    GROUP_BIT = 1, /* of an address's first byte: multicast and broadcast */
};

/* What CTRL_GUEST_OFFLOADS turns on and off. */
static const uint64_t GUEST_OFFLOADS = 1ull << NET_F_GUEST_CSUM | 1ull << NET_F_GUEST_TSO4 |
                                       1ull << NET_F_GUEST_TSO6 | 1ull << NET_F_GUEST_ECN |
                                       1ull << NET_F_GUEST_UFO | 1ull << NET_F_GUEST_USO4 |
                                       1ull << NET_F_GUEST_USO6;

_Static_assert(sizeof(struct net_header) == NET_HEADER_SIZE, "ABI of a network header");
_Static_assert(offsetof(struct net_header, num_buffers) == NET_HEADER_LEGACY, "ABI of a legacy one");

static const uint64_t NET_ADDRESS = (1ull << 48) - 1; /* the bits of an address */

/* The bytes may be a guest's, who changes them while we look: `header`, `destination` and `source` are
 * copies, and the only ones that decide anything. */
struct net_frame {
    struct net_header header; /* as checked: what its receivers must be able to do; num_buffers 0 */
    uint32_t bytes;           /* of the frame, without the header */
    struct iovec *iov;        /* the frame */
    uint32_t count;           /* its entries: at least 1, none of them empty */
    uint32_t flow;            /* vhu_flow_hash, once somebody asked for it */
    uint64_t destination;     /* address, its first byte in the lowest bits; above them 0 */
    uint64_t source;
    struct iovec single;      /* what `iov` points at, mostly */
};

static inline bool net_has(uint64_t features, enum net_feature number)
{
    return features >> number & 1;
}

static inline uint32_t net_header_size(uint64_t features)
{
    return net_has(features, NET_F_VERSION_1) || net_has(features, NET_F_MRG_RXBUF) ? NET_HEADER_SIZE
                                                                                  : NET_HEADER_LEGACY;
}

#endif
