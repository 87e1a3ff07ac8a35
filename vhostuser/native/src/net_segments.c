/* SPDX-License-Identifier: Apache-2.0
 *
 * What a receiver cannot do is done for it: large frames are cut, checksums computed. Payload stays where it is, and
 * is read for its checksum alone; who changes it meanwhile has a wrong checksum, as on a bad wire.
 */
#include "net_checksum.h"
#include "net_offload.h"

enum {
    IPV4_LENGTH_AT = 2,
    IPV4_ID_AT = 4,
    IPV4_CHECKSUM_AT = 10,
    IPV6_LENGTH_AT = 4,
    TCP_SEQUENCE_AT = 4,
    TCP_LENGTH_AT = 12, /* in 32-bit words, in the upper half */
    TCP_FLAGS_AT = 13,
    UDP_LENGTH_AT = 4,
};

enum tcp_flag { TCP_FIN = 0x01, TCP_PUSH = 0x08, TCP_WINDOW_REDUCED = 0x80 };

/* ---- Pieces ------------------------------------------------------------------------------------ */

/* The next piece of the frame, of at most `most` bytes. */
static struct iovec next_piece(struct net_segments *segments, uint64_t most)
{
    const struct iovec *iov = &segments->frame->iov[segments->iov_index];
    struct iovec piece = {(uint8_t *)iov->iov_base + segments->iov_offset,
                          iov->iov_len - segments->iov_offset};

    if (piece.iov_len > most) {
        piece.iov_len = most;
        segments->iov_offset += most;
    } else {
        segments->iov_index++;
        segments->iov_offset = 0;
    }
    return piece;
}

static void skip_pieces(struct net_segments *segments, uint64_t bytes)
{
    while (bytes > 0)
        bytes -= next_piece(segments, bytes).iov_len;
}

/* Put the next bytes of the frame behind what the segment has already. False: they are in too many pieces. */
static bool take_pieces(struct net_segments *segments, uint64_t bytes, uint32_t *count)
{
    while (bytes > 0) {
        if (*count > SEGMENT_IOV)
            return false;
        struct iovec piece = next_piece(segments, bytes);
        segments->iov[(*count)++] = piece;
        bytes -= piece.iov_len;
    }
    return true;
}

static void emit(struct net_segments *segments, uint32_t count, uint32_t payload, struct net_frame *ret)
{
    *ret = *segments->frame;
    ret->header = (struct net_header){0};
    ret->bytes = segments->headers + payload;
    ret->iov = segments->iov;
    ret->count = count;
    segments->at += payload;
    segments->count++;
}

/* ---- A frame that is left whole ---------------------------------------------------------------- */

/* The checksum is a piece of its own, which can be anywhere. What the sender left in its place is the pseudo
 * header's sum, and is summed up with all the rest. */
static bool next_whole(struct net_segments *segments, struct net_frame *ret)
{
    const struct net_frame *frame = segments->frame;
    uint32_t place = (uint32_t)frame->header.csum_start + frame->header.csum_offset, count = 0;

    if (!segments->sums) {
        if (!take_pieces(segments, frame->bytes, &count))
            return false;
        emit(segments, count, frame->bytes, ret);
        ret->header = frame->header;
        return true;
    }
    uint16_t sum = checksum_finish(
        vhu_checksum_sum_pieces(frame->iov, frame->count, frame->header.csum_start));

    memcpy(segments->current, &sum, sizeof(sum));
    if (!take_pieces(segments, place, &count) || count > SEGMENT_IOV)
        return false;
    segments->iov[count++] = (struct iovec){segments->current, sizeof(sum)};
    skip_pieces(segments, sizeof(sum));
    if (!take_pieces(segments, frame->bytes - place - sizeof(sum), &count))
        return false;
    emit(segments, count, frame->bytes, ret);
    return true;
}

/* ---- Segments ---------------------------------------------------------------------------------- */

/* Whether the headers are those of the type that the frame's own header names. */
static bool is_of_type(const struct net_packet *packet, uint8_t type)
{
    switch (type & (uint8_t)~NET_GSO_ECN) {
    case NET_GSO_TCPV4:
        return packet->version == 4 && packet->protocol == PROTOCOL_TCP;
    case NET_GSO_TCPV6:
        return packet->version == 6 && packet->protocol == PROTOCOL_TCP;
    case NET_GSO_UDP_L4:
        return packet->protocol == PROTOCOL_UDP;
    default:
        return false;
    }
}

static void put_address(uint8_t *to, uint64_t address)
{
    for (int i = 0; i < 6; i++)
        to[i] = (uint8_t)(address >> 8 * i);
}

static bool begin_segments(struct net_segments *segments)
{
    const struct net_frame *frame = segments->frame;
    struct net_packet *packet = &segments->packet;
    uint32_t size = frame_peek(frame, segments->original, SEGMENT_HEADERS), headers;

    if (!vhu_packet_parse(segments->original, size, packet) || packet->fragment ||
        packet->transport != frame->header.csum_start ||
        !is_of_type(packet, frame->header.gso_type))
        return false;
    headers = packet->transport + (packet->protocol == PROTOCOL_TCP ? TCP_HEADER : UDP_HEADER);
    if (headers > size)
        return false;
    if (packet->protocol == PROTOCOL_TCP) {
        uint32_t length = (segments->original[packet->transport + TCP_LENGTH_AT] >> 4) * 4u;

        headers = packet->transport + length;
        if (length < TCP_HEADER || headers > size)
            return false;
    }
    segments->headers = headers;
    segments->segment = frame->header.gso_size;
    if (segments->segment == 0 || (frame->bytes - headers) / segments->segment >= SEGMENTS_MAX)
        return false;
    put_address(segments->original, frame->destination);
    put_address(segments->original + 6, frame->source);
    skip_pieces(segments, headers);
    return true;
}

static void write_network(struct net_segments *segments, uint32_t payload)
{
    const struct net_packet *packet = &segments->packet;
    uint8_t *header = segments->current + packet->network;
    uint32_t length = segments->headers + payload - packet->network;

    if (packet->version == 6) {
        put_be16(header + IPV6_LENGTH_AT, (uint16_t)(length - IPV6_HEADER));
        return;
    }
    put_be16(header + IPV4_LENGTH_AT, (uint16_t)length);
    put_be16(header + IPV4_ID_AT, (uint16_t)(get_be16(header + IPV4_ID_AT) + segments->count));
    put_be16(header + IPV4_CHECKSUM_AT, 0);
    uint16_t sum = (uint16_t)~checksum_fold(
        vhu_checksum_sum(header, packet->transport - packet->network));
    memcpy(header + IPV4_CHECKSUM_AT, &sum, sizeof(sum));
}

static void write_transport(struct net_segments *segments, uint32_t payload)
{
    uint8_t *header = segments->current + segments->packet.transport;
    bool last = segments->headers + segments->at + payload == segments->frame->bytes;
    uint32_t sequence;

    if (segments->packet.protocol == PROTOCOL_UDP) {
        put_be16(header + UDP_LENGTH_AT, (uint16_t)(UDP_HEADER + payload));
        return;
    }
    memcpy(&sequence, header + TCP_SEQUENCE_AT, sizeof(sequence));
    sequence = __builtin_bswap32(__builtin_bswap32(sequence) + segments->at);
    memcpy(header + TCP_SEQUENCE_AT, &sequence, sizeof(sequence));
    if (!last)
        header[TCP_FLAGS_AT] &= (uint8_t)~(TCP_FIN | TCP_PUSH);
    if (segments->at > 0)
        header[TCP_FLAGS_AT] &= (uint8_t)~TCP_WINDOW_REDUCED;
}

/* The sender left the pseudo header's sum, which has the frame's length in it: only that differs. Which addresses
 * went in is the sender's knowledge, where a routing header or a home address stands for another. */
static void write_checksum(struct net_segments *segments, uint32_t payload, uint32_t pieces)
{
    const struct net_packet *packet = &segments->packet;
    uint8_t *header = segments->current + packet->transport;
    uint8_t *place = header + (packet->protocol == PROTOCOL_TCP ? TCP_CHECKSUM : UDP_CHECKSUM);
    uint32_t before = segments->frame->bytes - packet->transport;
    uint32_t after = segments->headers + payload - packet->transport;
    uint16_t left, sum;

    memcpy(&left, place, sizeof(left));
    sum = checksum_fold((uint64_t)left + __builtin_bswap16(checksum_fold(after)) +
                        (uint16_t)~__builtin_bswap16(checksum_fold(before)));
    memcpy(place, &sum, sizeof(sum));
    if (!segments->sums)
        return;
    sum = checksum_finish(vhu_checksum_sum(header, segments->headers - packet->transport) +
                          vhu_checksum_sum_pieces(segments->iov + 1, pieces - 1, 0));
    memcpy(place, &sum, sizeof(sum));
}

static bool next_segment(struct net_segments *segments, struct net_frame *ret)
{
    const struct net_frame *frame = segments->frame;
    uint32_t payload = frame->bytes - segments->headers - segments->at, count = 1;

    if (payload > segments->segment)
        payload = segments->segment;
    if (!take_pieces(segments, payload, &count))
        return false;
    segments->iov[0] = (struct iovec){segments->current, segments->headers};
    memcpy(segments->current, segments->original, segments->headers);
    write_network(segments, payload);
    write_transport(segments, payload);
    write_checksum(segments, payload, count);
    emit(segments, count, payload, ret);
    if (!segments->sums) {
        ret->header.flags = NET_NEEDS_CSUM;
        ret->header.csum_start = frame->header.csum_start;
        ret->header.csum_offset = frame->header.csum_offset;
    }
    return true;
}

/* ---- For those who receive --------------------------------------------------------------------- */

bool vhu_segments_begin(struct net_segments *segments, const struct net_frame *frame, uint64_t features)
{
    bool asks = frame->header.flags & NET_NEEDS_CSUM;

    segments->frame = frame;
    segments->headers = segments->at = segments->count = 0;
    segments->iov_index = 0;
    segments->iov_offset = 0;
    segments->sums = asks && !net_has(features, NET_F_GUEST_CSUM);
    return frame->header.gso_type == NET_GSO_NONE || begin_segments(segments);
}

bool vhu_segments_next(struct net_segments *segments, struct net_frame *ret)
{
    uint32_t index = segments->iov_index;
    uint64_t offset = segments->iov_offset;

    if (!segments_are_left(segments))
        return false;
    if (segments->headers ? next_segment(segments, ret) : next_whole(segments, ret))
        return true;
    segments->iov_index = index;
    segments->iov_offset = offset;
    return false;
}
