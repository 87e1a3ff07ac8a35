/* SPDX-License-Identifier: Apache-2.0
 *
 * Invariant: a frame's header passes exactly when it asks for what was negotiated and lies in the frame; a frame is
 * cut exactly when its headers are what its header says, and then every segment is, byte for byte, what a slow
 * reference makes of it (tests/native/packets.c): all payload once and in order, lengths and checksums right; no
 * byte outside the frame's pieces is read, whatever the guest changes meanwhile; both directions of a flow have the
 * same number, however they are spread.
 *
 * An input is a frame as a driver makes it, spoilt or not, its header, what both ends negotiated, and how the frame
 * is cut into pieces, each of which is memory of its own. Nothing here counts as a ring state.
 */
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "input.h"
#include "net_offload.h"
#include "packets.h"
#include "states.h"

enum { PIECES = 300, CUTS = 8, POKES = 12, TCP = 6, UDP = 17, FLOW_SEEN = 160 };

struct fuzz {
    struct input in;
    bool spoilt;           /* it is not what a driver that means well would send */
    bool fragment;
    struct net_header header;
    uint64_t sender, receiver;
    uint32_t cuts[CUTS];
    struct iovec pieces[PIECES];
    struct net_frame frame;
};

static struct packet flat, want, got;

extern int LLVMFuzzerInitialize(int *count, char ***arguments);
extern int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* ---- Inputs ------------------------------------------------------------------------------------ */

static void take_packet(struct fuzz *f)
{
    uint8_t kind = take_u8(&f->in), options = take_u8(&f->in), pokes = take_u8(&f->in);
    struct shape shape = {.version = kind & 1 ? 6 : 4,
                          .protocol = kind & 2 ? UDP : TCP,
                          .tags = kind >> 2 & 3,
                          .options = options % (kind & 1 ? 28 : 11),
                          .tcp_options = (options >> 4) % 11,
                          .tcp_flags = kind & 0x10 ? 0xFF : 0x19,
                          .payload = take_u8(&f->in) * 8u};

    if (kind & 0x20)
        shape.payload = pokes >= 0xF8 ? take_u16(&f->in) % 65200u : take_u16(&f->in) % 5000u;
    packet_make(&flat, &shape);
    for (uint32_t i = 0; i < pokes % POKES; i++) {
        uint8_t where = take_u8(&f->in), value = take_u8(&f->in);
        uint32_t at = !(kind & 0x40) ? where : (where & 0x80 ? flat.network : flat.transport) + where % 32u;

        f->spoilt = true;
        if (at < flat.size)
            flat.bytes[at] = value;
    }
    if (kind & 0x80) {
        uint32_t size = FRAME_MIN + take_u8(&f->in);

        f->spoilt = true;
        flat.size = size < flat.size ? size : flat.size;
    }
}

static uint64_t take_features(struct fuzz *f, uint64_t all, const uint8_t *numbers, uint32_t count)
{
    uint8_t without = take_u8(&f->in);

    for (uint32_t i = 0; i < count; i++) {
        if (without >> i & 1)
            all &= ~(1ull << numbers[i]);
    }
    return all;
}

static void take_header(struct fuzz *f)
{
    static const uint8_t sender[] = {NET_F_CSUM, NET_F_HOST_TSO4, NET_F_HOST_TSO6, NET_F_HOST_ECN, NET_F_HOST_USO};
    static const uint8_t receiver[] = {NET_F_GUEST_CSUM, NET_F_GUEST_TSO4, NET_F_GUEST_TSO6,
                                       NET_F_GUEST_ECN,  NET_F_GUEST_USO4, NET_F_GUEST_USO6};
    uint8_t kind = take_u8(&f->in);

    f->sender = take_features(f, UINT64_MAX, sender, sizeof(sender));
    f->receiver = take_features(f, UINT64_MAX, receiver, sizeof(receiver));
    f->header = (struct net_header){
        .flags = NET_NEEDS_CSUM,
        .hdr_len = (uint16_t)flat.headers,
        .csum_start = (uint16_t)flat.transport,
        .csum_offset = (uint16_t)(packet_checksum_at(&flat) - flat.transport),
    };
    if (kind & 1) {
        f->header.gso_type = flat.protocol == UDP ? NET_GSO_UDP_L4
                             : flat.version == 4  ? NET_GSO_TCPV4
                                                  : NET_GSO_TCPV6;
        f->header.gso_type |= kind & 0x20 ? NET_GSO_ECN : 0;
        f->header.gso_size = kind & 2 ? take_u16(&f->in) : take_u8(&f->in) * 6u;
    }
    if (kind & 0x1c)
        f->spoilt = true;
    if (kind & 4) /* at the edges of what is legal */
        f->header.csum_start = (uint16_t)(kind & 8 ? flat.size - take_u8(&f->in) % 32u : take_u8(&f->in) % 64u);
    if (kind & 0x10)
        f->header.csum_offset = (uint16_t)(flat.size - f->header.csum_start - take_u8(&f->in) % 5u);
    for (uint32_t i = 0; i < kind >> 6; i++) {
        uint8_t at = take_u8(&f->in) % sizeof(f->header), value = take_u8(&f->in);

        f->spoilt = true;
        memcpy((uint8_t *)&f->header + at, &value, 1);
    }
}

static void take_cuts(struct fuzz *f)
{
    for (uint32_t i = 0; i < CUTS; i++) {
        uint8_t size = take_u8(&f->in);

        f->cuts[i] = size == 0 ? PACKET_MAX : size < 0xC0 ? size : (size - 0xBFu) * 100;
    }
}

static void lay_out(struct fuzz *f)
{
    uint32_t at = 0, count = 0;

    for (; at < flat.size; count++) {
        uint32_t size = count + 1 < PIECES ? f->cuts[count % CUTS] : PACKET_MAX;

        size = size < flat.size - at ? size : flat.size - at;
        f->pieces[count] = (struct iovec){malloc(size), size};
        HOLDS(f->pieces[count].iov_base);
        memcpy(f->pieces[count].iov_base, flat.bytes + at, size);
        at += size;
    }
    f->frame = (struct net_frame){.bytes = flat.size, .iov = f->pieces, .count = count};
    for (int i = 0; i < 6; i++) {
        f->frame.destination |= (uint64_t)flat.bytes[i] << 8 * i;
        f->frame.source |= (uint64_t)flat.bytes[6 + i] << 8 * i;
    }
}

static void release(struct fuzz *f)
{
    for (uint32_t i = 0; i < f->frame.count; i++)
        free(f->pieces[i].iov_base);
}

/* The guest changes a part of its frame. */
static void scramble(struct fuzz *f, uint32_t from, uint32_t to, uint8_t pattern)
{
    uint32_t at = 0;

    for (uint32_t i = 0; i < f->frame.count; i++) {
        for (uint32_t j = 0; j < f->pieces[i].iov_len; j++, at++) {
            if (at >= from && at < to)
                ((uint8_t *)f->pieces[i].iov_base)[j] ^= pattern;
        }
    }
}

/* ---- What must be ------------------------------------------------------------------------------ */

static uint32_t two(uint32_t at)
{
    return flat.bytes[at] * 256u + flat.bytes[at + 1];
}

/* Find the headers anew, in the first `size` bytes. False: there are none that can be followed. */
static bool look(struct fuzz *f, uint32_t size)
{
    uint32_t type = 12, next;

    size = size < flat.size ? size : flat.size;
    while (type + 6 <= size && type < 20 && (two(type) == 0x8100 || two(type) == 0x88A8))
        type += 4;
    flat.network = type + 2;
    if (flat.network + 20 > size || (two(type) != 0x0800 && two(type) != 0x86DD))
        return false;
    flat.version = two(type) == 0x0800 ? 4 : 6;
    if (flat.bytes[flat.network] >> 4 != flat.version)
        return false;
    if (flat.version == 4) {
        flat.transport = flat.network + flat.bytes[flat.network] % 16 * 4;
        flat.protocol = flat.bytes[flat.network + 9];
        f->fragment = two(flat.network + 6) % 0x4000 != 0;
        return flat.transport >= flat.network + 20 && flat.transport <= size;
    }
    f->fragment = false;
    flat.protocol = flat.bytes[flat.network + 6];
    for (next = flat.network + 40; next <= size && !f->fragment;) {
        flat.transport = next;
        if (flat.protocol != 0 && flat.protocol != 43 && flat.protocol != 44 && flat.protocol != 60)
            return true;
        if (next + 8 > size)
            return false;
        f->fragment = flat.protocol == 44;
        flat.protocol = flat.bytes[next];
        next += f->fragment ? 8 : 8 + 8u * flat.bytes[next + 1];
    }
    flat.transport = next;
    return next <= size;
}

static bool is_offered(const struct fuzz *f, uint8_t type)
{
    switch (type) {
    case NET_GSO_TCPV4:
        return net_has(f->sender, NET_F_HOST_TSO4);
    case NET_GSO_TCPV6:
        return net_has(f->sender, NET_F_HOST_TSO6);
    case NET_GSO_TCPV4 | NET_GSO_ECN:
        return net_has(f->sender, NET_F_HOST_TSO4) && net_has(f->sender, NET_F_HOST_ECN);
    case NET_GSO_TCPV6 | NET_GSO_ECN:
        return net_has(f->sender, NET_F_HOST_TSO6) && net_has(f->sender, NET_F_HOST_ECN);
    case NET_GSO_UDP_L4:
        return net_has(f->sender, NET_F_HOST_USO);
    default:
        return false;
    }
}

static bool may_pass(const struct fuzz *f)
{
    const struct net_header *header = &f->header;
    bool udp = header->gso_type == NET_GSO_UDP_L4;

    if (!(header->flags & NET_NEEDS_CSUM))
        return header->gso_type == NET_GSO_NONE;
    if (!net_has(f->sender, NET_F_CSUM) || header->csum_start < 14 ||
        header->csum_start + header->csum_offset + 2 > (int)flat.size)
        return false;
    if (header->gso_type == NET_GSO_NONE)
        return true;
    return is_offered(f, header->gso_type) && header->gso_size > 0 &&
           header->csum_offset == (udp ? 6 : 16) && header->csum_start + (udp ? 8u : 20u) <= flat.size &&
           header->csum_start + (udp ? 8 : 20) <= UINT16_MAX;
}

/* What the receiver would have to do for the frame. */
static bool is_taken(const struct fuzz *f, const struct net_header *header)
{
    if (header->flags && !net_has(f->receiver, NET_F_GUEST_CSUM))
        return false;
    if (header->gso_type & NET_GSO_ECN && !net_has(f->receiver, NET_F_GUEST_ECN))
        return false;
    switch (header->gso_type & 0x7F) {
    case NET_GSO_TCPV4:
        return net_has(f->receiver, NET_F_GUEST_TSO4);
    case NET_GSO_TCPV6:
        return net_has(f->receiver, NET_F_GUEST_TSO6);
    case NET_GSO_UDP_L4:
        return net_has(f->receiver, NET_F_GUEST_USO4) && net_has(f->receiver, NET_F_GUEST_USO6);
    default:
        return true;
    }
}

static bool can_be_cut(struct fuzz *f)
{
    const struct net_header *header = &f->frame.header;
    uint32_t within = flat.size < SEGMENT_HEADERS ? flat.size : SEGMENT_HEADERS;

    if (!look(f, within) || f->fragment || flat.transport != header->csum_start)
        return false;
    if (header->gso_type == NET_GSO_UDP_L4 ? flat.protocol != UDP : flat.protocol != TCP)
        return false;
    if (flat.protocol == TCP && flat.version != ((header->gso_type & 0x7F) == NET_GSO_TCPV4 ? 4 : 6))
        return false;
    flat.headers = flat.transport + (flat.protocol == UDP ? 8 : 20);
    if (flat.protocol == TCP && flat.headers <= within) {
        uint32_t length = flat.bytes[flat.transport + 12] / 16 * 4;

        flat.headers = length < 20 ? UINT32_MAX : flat.transport + length;
    }
    return flat.headers <= within &&
           (flat.size - flat.headers) / header->gso_size < SEGMENTS_MAX;
}

/* In how many pieces [from, to) of the frame lies. */
static uint32_t count_pieces(const struct fuzz *f, uint32_t from, uint32_t to)
{
    uint32_t at = 0, count = 0;

    for (uint32_t i = 0; i < f->frame.count; i++) {
        uint32_t end = at + (uint32_t)f->pieces[i].iov_len;

        count += from < end && at < to && from < to;
        at = end;
    }
    return count;
}

static bool is_in(const struct fuzz *f, const struct iovec *piece)
{
    for (uint32_t i = 0; i < f->frame.count; i++) {
        uint64_t offset = (uintptr_t)piece->iov_base - (uintptr_t)f->pieces[i].iov_base;

        if (offset < f->pieces[i].iov_len && piece->iov_len <= f->pieces[i].iov_len - offset)
            return true;
    }
    return false;
}

/* ---- Cutting ----------------------------------------------------------------------------------- */

/* Where the receiver sums up, 0 and all ones are the same. */
static void level(struct packet *packet, uint32_t at)
{
    if (packet->bytes[at] == 0xFF && packet->bytes[at + 1] == 0xFF)
        memset(packet->bytes + at, 0, 2);
}

static void check_segment(struct fuzz *f, const struct net_frame *ret, bool sums, bool compare)
{
    uint32_t at = packet_checksum_at(&want);

    memcpy(&got, &want, offsetof(struct packet, bytes));
    HOLDS(gather(ret->iov, ret->count, got.bytes, PACKET_MAX) == want.size && ret->bytes == want.size);
    HOLDS(ret->count > 0 && ret->count <= SEGMENT_IOV + 1);
    HOLDS(ret->destination == f->frame.destination && ret->source == f->frame.source);
    HOLDS(ret->header.gso_type == NET_GSO_NONE && ret->header.gso_size == 0);
    HOLDS(ret->header.flags == (sums ? 0 : NET_NEEDS_CSUM));
    HOLDS(sums || (ret->header.csum_start == want.transport && ret->header.csum_start + ret->header.csum_offset == at));
    for (uint32_t i = 1; i < ret->count; i++)
        HOLDS(is_in(f, &ret->iov[i]));
    if (!sums || !compare) {
        level(&got, at);
        level(&want, at);
    }
    if (!compare)
        memcpy(got.bytes + at, want.bytes + at, 2);
    HOLDS(memcmp(got.bytes, want.bytes, compare ? want.size : want.headers) == 0);
    if (sums && compare && !f->spoilt)
        HOLDS(packet_is_sound(&got));
}

static void cut(struct fuzz *f, struct net_segments *segments, bool sums)
{
    uint32_t size = f->frame.header.gso_size, from = flat.headers;
    uint8_t changes = take_u8(&f->in);
    struct net_frame ret;

    if (changes & 1)
        scramble(f, 0, flat.headers, changes);
    for (uint32_t index = 0; packet_segment(&flat, size, index, sums, &want); index++) {
        uint32_t to = from + want.size - want.headers;

        if (changes & 2 && index > 0)
            scramble(f, flat.headers, flat.size, changes);
        if (!vhu_segments_next(segments, &ret)) {
            HOLDS(count_pieces(f, from, to) > SEGMENT_IOV);
            HOLDS(segments_are_left(segments) && !vhu_segments_next(segments, &ret));
            return;
        }
        HOLDS(count_pieces(f, from, to) <= SEGMENT_IOV);
        check_segment(f, &ret, sums, !(changes & 2));
        memset(ret.iov, 0xEE, ret.count * sizeof(*ret.iov)); /* as those do who use it up */
        from = to;
    }
    HOLDS(!segments_are_left(segments) && !vhu_segments_next(segments, &ret));
}

static void sum_up(struct fuzz *f, struct net_segments *segments, bool sums)
{
    const struct net_header *header = &f->frame.header;
    uint32_t place = header->csum_start + header->csum_offset, pieces = f->frame.count;
    struct net_frame ret;

    if (sums)
        pieces = count_pieces(f, 0, place) + 1 + count_pieces(f, place + 2, flat.size);
    if (!vhu_segments_next(segments, &ret)) {
        HOLDS(pieces > SEGMENT_IOV + 1);
        HOLDS(segments_are_left(segments) && !vhu_segments_next(segments, &ret));
        return;
    }
    HOLDS(ret.count == pieces && pieces <= SEGMENT_IOV + 1 && ret.bytes == flat.size);
    HOLDS(gather(ret.iov, ret.count, got.bytes, PACKET_MAX) == flat.size);
    memcpy(want.bytes, flat.bytes, flat.size);
    if (sums) {
        uint32_t sum = 0xFFFF - slow_sum(flat.bytes, header->csum_start, flat.size, 0);

        want.bytes[place] = sum ? (uint8_t)(sum >> 8) : 0xFF;
        want.bytes[place + 1] = sum ? (uint8_t)sum : 0xFF;
    }
    HOLDS(memcmp(got.bytes, want.bytes, flat.size) == 0);
    HOLDS(ret.header.flags == (sums ? 0 : header->flags) && ret.header.gso_type == NET_GSO_NONE);
    HOLDS(!segments_are_left(segments) && !vhu_segments_next(segments, &ret));
}

/* ---- Flows ------------------------------------------------------------------------------------- */

static void swap(uint32_t from, uint32_t size)
{
    uint8_t kept[16];

    memcpy(kept, flat.bytes + from, size);
    memcpy(flat.bytes + from, flat.bytes + from + size, size);
    memcpy(flat.bytes + from + size, kept, size);
}

/* What the other end would send; the same again undoes it. */
static void turn_round(const struct fuzz *f)
{
    swap(flat.network + (flat.version == 4 ? 12 : 8), flat.version == 4 ? 4 : 16);
    if (!f->fragment)
        swap(flat.transport, 2);
}

static void check_flow(struct fuzz *f)
{
    struct net_frame whole = {.bytes = flat.size, .iov = &whole.single, .count = 1};
    uint32_t hash = vhu_flow_hash(&f->frame);

    whole.single = (struct iovec){flat.bytes, flat.size};
    HOLDS(vhu_flow_hash(&whole) == hash);
    bool flow = look(f, FLOW_SEEN) && (flat.protocol == TCP || flat.protocol == UDP);
    uint32_t seen = flat.size < FLOW_SEEN ? flat.size : FLOW_SEEN;
    flow = flow && (f->fragment || flat.transport + 4 <= seen);
    HOLDS(flow == (hash != 0));
    if (!flow)
        return;
    turn_round(f);
    HOLDS(vhu_flow_hash(&whole) == hash);
    turn_round(f);
}

/* ---- Inputs, from end to end ------------------------------------------------------------------- */

static void play(struct fuzz *f)
{
    static struct net_segments segments;
    bool may = may_pass(f), sums;
    struct net_header header = f->header;

    HOLDS(net_header_check(&header, f->sender, flat.size) == may);
    if (!may)
        return;
    HOLDS(header.flags == (f->header.flags & NET_NEEDS_CSUM) && header.num_buffers == 0);
    HOLDS(header.hdr_len <= flat.size && (header.gso_type != NET_GSO_NONE) == (header.gso_size != 0));
    HOLDS(header.gso_type == NET_GSO_NONE || header.gso_type == f->header.gso_type);
    HOLDS(net_receiver_takes(&header, f->receiver) == is_taken(f, &header));
    f->frame.header = header;
    sums = header.flags && !net_has(f->receiver, NET_F_GUEST_CSUM);
    if (header.gso_type == NET_GSO_NONE) {
        HOLDS(vhu_segments_begin(&segments, &f->frame, f->receiver));
        sum_up(f, &segments, sums);
        return;
    }
    bool can = can_be_cut(f);
    HOLDS(vhu_segments_begin(&segments, &f->frame, f->receiver) == can);
    if (can)
        cut(f, &segments, sums);
}

int LLVMFuzzerInitialize(int *count, char ***arguments)
{
    (void)count;
    (void)arguments;
    states_open();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct fuzz fuzz;
    struct fuzz *f = &fuzz;

    f->in = (struct input){bytes, size};
    f->spoilt = false;
    states_begin();
    take_packet(f);
    take_header(f);
    take_cuts(f);
    lay_out(f);
    check_flow(f);
    play(f);
    release(f);
    return 0;
}
