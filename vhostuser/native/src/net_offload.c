/* SPDX-License-Identifier: Apache-2.0
 *
 * What a frame's header may say, and to whom (VIRTIO 1.2, section 5.1.6.2). How a frame is cut: net_segments.c.
 */
#include "net_offload.h"

#define FEATURE(number) (1ull << (number))

struct kind {
    uint64_t sender;   /* features that the sender must have, none of them 0: there is no such type ... */
    uint64_t receiver; /* ... and the receiver */
    uint16_t checksum; /* where in the transport header it is */
    uint16_t header;   /* bytes of that, at least */
};

/* A datagram's header does not tell its version of IP, so its receiver must know both. */
static const struct kind kinds[] = {
    [NET_GSO_TCPV4] = {FEATURE(NET_F_HOST_TSO4), FEATURE(NET_F_GUEST_TSO4), TCP_CHECKSUM, TCP_HEADER},
    [NET_GSO_TCPV6] = {FEATURE(NET_F_HOST_TSO6), FEATURE(NET_F_GUEST_TSO6), TCP_CHECKSUM, TCP_HEADER},
    [NET_GSO_UDP_L4] = {FEATURE(NET_F_HOST_USO),
                        FEATURE(NET_F_GUEST_USO4) | FEATURE(NET_F_GUEST_USO6), UDP_CHECKSUM,
                        UDP_HEADER},
};

static const struct kind *find_kind(const struct net_header *header)
{
    uint8_t type = header->gso_type & (uint8_t)~NET_GSO_ECN;

    return type < sizeof(kinds) / sizeof(kinds[0]) && kinds[type].sender ? &kinds[type] : NULL;
}

static bool check_segmentation(struct net_header *header, uint64_t features, uint32_t bytes)
{
    const struct kind *kind = find_kind(header);
    uint32_t headers = (uint32_t)header->csum_start + (kind ? kind->header : 0);

    if (!kind || !(features & kind->sender) || header->gso_size == 0)
        return false;
    if (header->gso_type & NET_GSO_ECN &&
        (kind->checksum != TCP_CHECKSUM || !net_has(features, NET_F_HOST_ECN)))
        return false;
    if (header->csum_offset != kind->checksum || headers > bytes || headers > UINT16_MAX)
        return false;
    if (bytes - headers <= header->gso_size) { /* one segment: there is nothing to cut */
        header->gso_type = NET_GSO_NONE;
        header->gso_size = 0;
        header->hdr_len = 0;
        return true;
    }
    /* a hint, of which receivers expect that it is not too small */
    if (header->hdr_len < headers)
        header->hdr_len = (uint16_t)headers;
    if (header->hdr_len > bytes)
        header->hdr_len = (uint16_t)bytes;
    return true;
}

bool vhu_net_header_check_offload(struct net_header *header, uint64_t features, uint32_t bytes)
{
    header->num_buffers = 0;
    header->flags &= NET_NEEDS_CSUM;
    if (!header->flags) {
        bool plain = header->gso_type == NET_GSO_NONE;

        *header = (struct net_header){0};
        return plain;
    }
    if (!net_has(features, NET_F_CSUM) || header->csum_start < FRAME_MIN ||
        (uint32_t)header->csum_start + header->csum_offset + sizeof(uint16_t) > bytes)
        return false;
    if (header->gso_type != NET_GSO_NONE)
        return check_segmentation(header, features, bytes);
    header->hdr_len = 0;
    header->gso_size = 0;
    return true;
}

bool vhu_net_receiver_takes_offload(const struct net_header *header, uint64_t features)
{
    const struct kind *kind = find_kind(header);

    if (header->flags & NET_NEEDS_CSUM && !net_has(features, NET_F_GUEST_CSUM))
        return false;
    if (header->gso_type == NET_GSO_NONE)
        return true;
    if (header->gso_type & NET_GSO_ECN && !net_has(features, NET_F_GUEST_ECN))
        return false;
    return kind && (features & kind->receiver) == kind->receiver;
}
