// See frames.h.

#define ALLOW_EXPERIMENTAL_API // the functions that verify a checksum

#include "frames.h"

#include <inttypes.h>
#include <rte_ether.h>
#include <rte_ip.h>
#include <rte_tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TCP_PORT = 1000,    // of queue 0
    GREETING = 0x88b5,  // Ethernet type for experiments
    STRIDE = 733,       // between the lengths of two frames
    BUFFER = 2048,      // bytes that a receive buffer holds, roughly
    PUSH = RTE_TCP_PSH_FLAG | RTE_TCP_ACK_FLAG,
};

void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("virtio_user: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

void port_address(int port, uint8_t *ret)
{
    const uint8_t address[] = {0x02, 0, 0, 0, 0, (uint8_t)(port + 1)};
    memcpy(ret, address, sizeof(address));
}

static uint32_t headers(const struct stream *stream)
{
    return stream->ipv6 ? HEADERS6 : HEADERS4;
}

// Payload of frame n: all lengths come in turn, short after long.
static uint32_t length_of(const struct stream *stream, uint64_t n)
{
    uint32_t least = stream->ipv6 ? 1 : SHORTEST - HEADERS4;
    uint32_t most = stream->longest - headers(stream);
    return least + (uint32_t)(n * STRIDE % (most - least + 1));
}

// The byte that belongs at a place of the stream: no two streams look alike.
static uint8_t pattern(const struct stream *stream, uint64_t place)
{
    uint64_t word = (place >> 3) + ((uint64_t)(stream->from * 256 + stream->queue + 1) << 40);
    word *= 0x9e3779b97f4a7c15u;
    word ^= word >> 29;
    return (uint8_t)(word >> (place & 7) * 8);
}

static void fill_ip(const struct stream *stream, uint8_t *ip, uint32_t payload)
{
    uint32_t l4 = payload + sizeof(struct rte_tcp_hdr);
    if (stream->ipv6) {
        struct rte_ipv6_hdr *header = (struct rte_ipv6_hdr *)ip;
        *header = (struct rte_ipv6_hdr){.vtc_flow = rte_cpu_to_be_32(6u << 28),
                                        .payload_len = rte_cpu_to_be_16((uint16_t)l4),
                                        .proto = IPPROTO_TCP,
                                        .hop_limits = 64};
        header->src_addr[0] = header->dst_addr[0] = 0xfd;
        header->src_addr[15] = (uint8_t)(stream->from + 1);
        header->dst_addr[15] = (uint8_t)(stream->to + 1);
        return;
    }
    struct rte_ipv4_hdr *header = (struct rte_ipv4_hdr *)ip;
    *header = (struct rte_ipv4_hdr){.version_ihl = 0x45,
                                    .total_length = rte_cpu_to_be_16((uint16_t)(sizeof(*header) + l4)),
                                    .fragment_offset = rte_cpu_to_be_16(RTE_IPV4_HDR_DF_FLAG),
                                    .time_to_live = 64,
                                    .next_proto_id = IPPROTO_TCP};
    header->src_addr = rte_cpu_to_be_32(RTE_IPV4(10, 0, 0, stream->from + 1));
    header->dst_addr = rte_cpu_to_be_32(RTE_IPV4(10, 0, 0, stream->to + 1));
    header->hdr_checksum = rte_ipv4_cksum(header);
}

static uint32_t fill_headers(const struct stream *stream, uint8_t *frame, uint32_t payload)
{
    struct rte_ether_hdr *ether = (struct rte_ether_hdr *)frame;
    port_address(stream->to, ether->dst_addr.addr_bytes);
    port_address(stream->from, ether->src_addr.addr_bytes);
    ether->ether_type = rte_cpu_to_be_16(stream->ipv6 ? RTE_ETHER_TYPE_IPV6 : RTE_ETHER_TYPE_IPV4);
    fill_ip(stream, frame + sizeof(*ether), payload);
    struct rte_tcp_hdr *tcp = (struct rte_tcp_hdr *)(frame + headers(stream) - sizeof(*tcp));
    // Both ways of two queues with one number are one flow, as a connection is.
    uint16_t port = rte_cpu_to_be_16((uint16_t)(TCP_PORT + stream->queue));
    *tcp = (struct rte_tcp_hdr){.src_port = port,
                                .dst_port = port,
                                .sent_seq = rte_cpu_to_be_32((uint32_t)stream->sent_bytes),
                                .data_off = sizeof(*tcp) / 4 << 4,
                                .tcp_flags = PUSH};
    return headers(stream);
}

static uint16_t full_checksum(const struct stream *stream, const uint8_t *frame)
{
    const uint8_t *ip = frame + sizeof(struct rte_ether_hdr);
    const uint8_t *tcp = frame + headers(stream) - sizeof(struct rte_tcp_hdr);
    return stream->ipv6 ? rte_ipv6_udptcp_cksum((const struct rte_ipv6_hdr *)ip, tcp)
                        : rte_ipv4_udptcp_cksum((const struct rte_ipv4_hdr *)ip, tcp);
}

// What the device is to add to: the sum of the addresses, the protocol and the length.
static uint16_t partial_checksum(const struct stream *stream, const uint8_t *frame)
{
    const uint8_t *ip = frame + sizeof(struct rte_ether_hdr);
    return stream->ipv6 ? rte_ipv6_phdr_cksum((const struct rte_ipv6_hdr *)ip, 0)
                        : rte_ipv4_phdr_cksum((const struct rte_ipv4_hdr *)ip, 0);
}

static struct rte_mbuf *to_buffers(const uint8_t *bytes, uint32_t length, struct rte_mempool *pool)
{
    struct rte_mbuf *first = rte_pktmbuf_alloc(pool), *last = first;
    while (last != NULL) {
        uint32_t part = RTE_MIN(length, (uint32_t)rte_pktmbuf_tailroom(last));
        memcpy(rte_pktmbuf_append(last, (uint16_t)part), bytes, part);
        if (last != first) {
            first->pkt_len += part;
            first->nb_segs++;
        }
        bytes += part;
        length -= part;
        if (length == 0)
            return first;
        last->next = rte_pktmbuf_alloc(pool);
        last = last->next;
    }
    rte_pktmbuf_free(first);
    return NULL;
}

static void ask_for_offloads(const struct stream *stream, struct rte_mbuf *frame)
{
    if (!stream->summed)
        return;
    frame->ol_flags |= RTE_MBUF_F_TX_TCP_CKSUM;
    frame->ol_flags |= stream->ipv6 ? RTE_MBUF_F_TX_IPV6 : RTE_MBUF_F_TX_IPV4;
    frame->l2_len = sizeof(struct rte_ether_hdr);
    frame->l4_len = sizeof(struct rte_tcp_hdr);
    frame->l3_len = headers(stream) - frame->l2_len - frame->l4_len;
    if (stream->segmented && frame->pkt_len - headers(stream) > MSS) {
        frame->ol_flags |= RTE_MBUF_F_TX_TCP_SEG;
        frame->tso_segsz = MSS;
    }
}

struct rte_mbuf *stream_next(struct stream *stream, struct rte_mempool *pool)
{
    static uint8_t bytes[LARGEST];
    uint32_t payload = length_of(stream, stream->sent);
    uint32_t start = fill_headers(stream, bytes, payload);
    for (uint32_t i = 0; i < payload; i++)
        bytes[start + i] = pattern(stream, stream->sent_bytes + i);
    struct rte_tcp_hdr *tcp = (struct rte_tcp_hdr *)(bytes + start - sizeof(*tcp));
    // Where the device completes it, the driver puts the part there that it begins with.
    tcp->cksum = stream->summed ? 0 : full_checksum(stream, bytes);
    uint32_t buffers = stream_next_buffers(stream);
    struct rte_mbuf *frame = to_buffers(bytes, start + payload, pool);
    if (frame == NULL)
        return NULL;
    ask_for_offloads(stream, frame);
    stream->sent++;
    stream->sent_bytes += payload;
    stream->buffers += buffers;
    return frame;
}

static uint32_t buffers_of(const struct stream *stream, uint64_t n)
{
    uint32_t payload = length_of(stream, n);
    return payload / (stream->segmented && !stream->whole ? MSS : BUFFER) + 2;
}

uint32_t stream_next_buffers(const struct stream *stream)
{
    return buffers_of(stream, stream->sent);
}

static const uint8_t *flat(const struct rte_mbuf *frame)
{
    static uint8_t bytes[LARGEST];
    return rte_pktmbuf_read(frame, 0, frame->pkt_len, bytes);
}

struct stream *stream_of(struct stream *streams, int count, int port, const struct rte_mbuf *frame)
{
    if (frame->pkt_len < HEADERS4 || frame->pkt_len > LARGEST)
        fail("port %d got a frame of %u bytes", port, frame->pkt_len);
    const uint8_t *bytes = flat(frame);
    for (struct stream *stream = streams; stream < streams + count; stream++) {
        uint8_t expected[HEADERS6];
        uint32_t start = fill_headers(stream, expected, 0);
        size_t ports = start - sizeof(struct rte_tcp_hdr);
        if (stream->to == port && frame->pkt_len > start &&
            memcmp(bytes, expected, sizeof(struct rte_ether_hdr)) == 0 &&
            memcmp(bytes + ports, expected + ports, 2 * sizeof(uint16_t)) == 0)
            return stream;
    }
    fail("port %d got a frame of %u bytes that nobody sent", port, frame->pkt_len);
}

// The IP header is the one that was sent, but for what cutting changes.
static void check_ip(const struct stream *stream, const uint8_t *bytes, uint32_t payload)
{
    uint8_t expected[40];
    const uint8_t *ip = bytes + sizeof(struct rte_ether_hdr);
    fill_ip(stream, expected, payload);
    if (stream->ipv6) {
        if (memcmp(ip, expected, sizeof(expected)) != 0)
            fail("frame %" PRIu64 " has another IPv6 header than was sent", stream->seen);
        return;
    }
    struct rte_ipv4_hdr header;
    memcpy(&header, ip, sizeof(header));
    if (rte_raw_cksum(&header, sizeof(header)) != 0xffff)
        fail("frame %" PRIu64 " has a wrong checksum in its IPv4 header", stream->seen);
    struct rte_ipv4_hdr *sent = (struct rte_ipv4_hdr *)expected;
    header.packet_id = sent->packet_id; // segments are numbered
    header.hdr_checksum = sent->hdr_checksum;
    if (memcmp(&header, sent, sizeof(header)) != 0)
        fail("frame %" PRIu64 " has another IPv4 header than was sent", stream->seen);
}

static void check_checksum(const struct stream *stream, const struct rte_mbuf *frame,
                           const uint8_t *bytes)
{
    uint64_t said = frame->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK;
    struct rte_tcp_hdr tcp;
    memcpy(&tcp, bytes + headers(stream) - sizeof(tcp), sizeof(tcp));
    if (said == RTE_MBUF_F_RX_L4_CKSUM_NONE) {
        if (!stream->unsummed)
            fail("frame %" PRIu64 " came without a checksum, which was not negotiated", stream->seen);
        if (tcp.cksum != partial_checksum(stream, bytes))
            fail("frame %" PRIu64 " came with another partial checksum than was sent", stream->seen);
        return;
    }
    const uint8_t *ip = bytes + sizeof(struct rte_ether_hdr);
    const uint8_t *l4 = bytes + headers(stream) - sizeof(tcp);
    if (stream->ipv6 ? rte_ipv6_udptcp_cksum_verify((const struct rte_ipv6_hdr *)ip, l4)
                     : rte_ipv4_udptcp_cksum_verify((const struct rte_ipv4_hdr *)ip, l4))
        fail("frame %" PRIu64 " has a wrong checksum", stream->seen);
}

static void check_length(const struct stream *stream, const struct rte_mbuf *frame, uint32_t payload,
                         uint32_t left)
{
    bool cut = stream->segmented && !stream->whole;
    uint32_t expected = cut ? RTE_MIN(left, (uint32_t)MSS) : left;
    bool large = frame->ol_flags & RTE_MBUF_F_RX_LRO;
    if (payload != expected)
        fail("frame %" PRIu64 " brings %u bytes of payload, it should be %u", stream->seen, payload,
             expected);
    if (large != (stream->segmented && payload > MSS) || (large && frame->tso_segsz != MSS))
        fail("frame %" PRIu64 " of %u bytes says of itself that segments of %u are to be made of it",
             stream->seen, payload, large ? frame->tso_segsz : 0);
}

void stream_check(struct stream *stream, const struct rte_mbuf *frame)
{
    const uint8_t *bytes = flat(frame);
    uint32_t start = headers(stream);
    uint32_t payload = frame->pkt_len - start;
    if (stream->seen == stream->sent)
        fail("there are more frames than were sent: %" PRIu64, stream->sent);
    uint32_t left = length_of(stream, stream->seen) - stream->seen_of_frame;
    struct rte_tcp_hdr tcp;
    memcpy(&tcp, bytes + start - sizeof(tcp), sizeof(tcp));
    if (rte_be_to_cpu_32(tcp.sent_seq) != (uint32_t)stream->seen_bytes)
        fail("frame %" PRIu64 " begins at byte %u of its stream, %u should come next", stream->seen,
             rte_be_to_cpu_32(tcp.sent_seq), (uint32_t)stream->seen_bytes);
    check_length(stream, frame, payload, left);
    check_ip(stream, bytes, payload);
    check_checksum(stream, frame, bytes);
    if (tcp.tcp_flags != (payload == left ? PUSH : RTE_TCP_ACK_FLAG))
        fail("frame %" PRIu64 " has the TCP flags %02x", stream->seen, tcp.tcp_flags);
    for (uint32_t i = 0; i < payload; i++)
        if (bytes[start + i] != pattern(stream, stream->seen_bytes + i))
            fail("byte %u of frame %" PRIu64 " is wrong", start + i, stream->seen);
    stream->received++;
    stream->seen_bytes += payload;
    stream->seen_of_frame += payload;
    if (payload == left) {
        stream->buffers -= buffers_of(stream, stream->seen);
        stream->seen++;
        stream->seen_of_frame = 0;
    }
}

void stream_skip(struct stream *stream)
{
    stream->lost += stream->sent - stream->seen;
    stream->seen = stream->sent;
    stream->seen_bytes = stream->sent_bytes;
    stream->seen_of_frame = 0;
    stream->buffers = 0;
}

// What follows the Ethernet header of a greeting.
struct greeting {
    uint8_t from, queue;
};

struct rte_mbuf *stream_greeting(const struct stream *stream, struct rte_mempool *pool)
{
    uint8_t bytes[SHORTEST] = {0};
    struct rte_ether_hdr *ether = (struct rte_ether_hdr *)bytes;
    struct greeting *greeting = (struct greeting *)(ether + 1);
    memset(ether->dst_addr.addr_bytes, 0xff, sizeof(ether->dst_addr));
    port_address(stream->from, ether->src_addr.addr_bytes);
    ether->ether_type = rte_cpu_to_be_16(GREETING);
    *greeting = (struct greeting){.from = (uint8_t)stream->from, .queue = (uint8_t)stream->queue};
    return to_buffers(bytes, sizeof(bytes), pool);
}

bool stream_greeted(struct stream *streams, int count, const struct rte_mbuf *frame)
{
    const struct rte_ether_hdr *ether = rte_pktmbuf_mtod(frame, const struct rte_ether_hdr *);
    if (frame->pkt_len != SHORTEST || ether->ether_type != rte_cpu_to_be_16(GREETING))
        return false;
    const struct greeting *greeting = (const struct greeting *)(ether + 1);
    for (struct stream *stream = streams; stream < streams + count; stream++)
        if (stream->from == greeting->from && stream->queue == greeting->queue)
            stream->greeted = true;
    return true;
}
