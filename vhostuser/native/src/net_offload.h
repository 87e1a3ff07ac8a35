/* SPDX-License-Identifier: Apache-2.0
 *
 * Offloads: what a sender may leave to its receivers, and how it is done for those that cannot
 * (VIRTIO 1.2, sections 5.1.6.2 and 5.1.6.4).
 */
#ifndef VHU_NET_OFFLOAD_H
#define VHU_NET_OFFLOAD_H

#include "net_frame.h"
#include "net_packet.h"

/* As net_header_check, for a header that is not all zero. */
bool vhu_net_header_check_offload(struct net_header *header, uint64_t features, uint32_t bytes);

/* Check the copy of a header that the driver of `features` wrote before a frame of `bytes` bytes, and clear what
 * means nothing in it. False: it asks for what was not negotiated, or makes no sense. */
static inline bool net_header_check(struct net_header *header, uint64_t features, uint32_t bytes)
{
    if (__builtin_expect(header->flags == 0 && header->gso_type == NET_GSO_NONE, 1)) {
        *header = (struct net_header){0};
        return true;
    }
    return vhu_net_header_check_offload(header, features, bytes);
}

/* As net_receiver_takes, for a header that is not all zero. */
bool vhu_net_receiver_takes_offload(const struct net_header *header, uint64_t features);

/* Whether a receiver with these features (GUEST_*) can be given a frame with this header as it is. */
static inline bool net_receiver_takes(const struct net_header *header, uint64_t features)
{
    return __builtin_expect(header->flags == 0 && header->gso_type == NET_GSO_NONE, 1) ||
           vhu_net_receiver_takes_offload(header, features);
}

enum {
    SEGMENT_HEADERS = 256, /* bytes in front of a segment's payload that are written anew */
    SEGMENT_IOV = 80,      /* pieces of a segment's payload */
    SEGMENTS_MAX = 2048,   /* of a frame: with less than 32 bytes of payload each, nobody gains anything */
};

/* A frame on its way to be cut. Large: keep it out of deep stacks. Nothing in it needs to be released. */
struct net_segments {
    const struct net_frame *frame;
    uint32_t headers;      /* bytes that every segment begins with; 0: the frame is left whole */
    uint32_t at;           /* payload bytes that were handed out */
    uint32_t segment;      /* payload bytes of a segment */
    uint32_t count;        /* segments that were handed out */
    uint32_t iov_index;    /* where the next payload begins */
    uint64_t iov_offset;
    bool sums;             /* whether checksums are computed, or left to the receiver */
    struct net_packet packet;
    uint8_t original[SEGMENT_HEADERS]; /* the headers, read once */
    uint8_t current[SEGMENT_HEADERS];  /* as the last segment has them */
    struct iovec iov[SEGMENT_IOV + 1];
};

/* Begin to make of `frame` (which must stay, its `iov` too) one or more that a receiver with `features` takes.
 * False: it cannot be done; the headers are not what the frame's own header says, or there would be too many. */
bool vhu_segments_begin(struct net_segments *segments, const struct net_frame *frame, uint64_t features);
/* The next one, valid until the one after it; its header may still ask for a checksum where the receiver
 * computes it. Its `iov` may be used up. False: there are no more, or the next one is in too many pieces. */
bool vhu_segments_next(struct net_segments *segments, struct net_frame *ret);

/* Whether part of the frame was not handed out. */
static inline bool segments_are_left(const struct net_segments *segments)
{
    return segments->count == 0 || segments->headers + segments->at < segments->frame->bytes;
}

/* A number that is the same for both directions of a flow, for frames of TCP and UDP over IP, also behind
 * VLAN tags; 0 for all others. All fragments between two addresses have the same one. Reads the guest's bytes once. */
uint32_t vhu_flow_hash(const struct net_frame *frame);

#endif
