/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames that are cut, and checksums that are computed, for receivers that cannot: against a slow reference that is
 * written for itself (packets.c), for many shapes of frames and of the pieces that they come in.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "net_offload.h"
#include "packets.h"

#define BIT(number) (1ull << (number))

enum { TCP = 6, UDP = 17, FLAGS = 0xFF /* all of TCP */ };

/* How a frame is spread over buffers: so many bytes each, in turns. The last repeats. */
struct cuts {
    const char *name;
    uint32_t sizes[6];
};

static const struct cuts all_cuts[] = {
    {"one buffer", {PACKET_MAX}},
    {"Ethernet alone", {14, PACKET_MAX}},
    {"odd pieces", {13, 1, 7, 333, 1001, 777}},
    {"headers byte by byte", {1, 1, 1, 1, 1, 61}},
    {"pages", {66, 4096}},
    {"a long piece between short ones", {3, 5, 2049, 1, 4097, 4095}},
};

static struct packet made;     /* what the driver has */
static struct packet want, got;
static struct net_segments segments;
static struct iovec pieces[PIECES_MAX];
static struct net_frame frame;

/* Each piece is memory of its own, so that the address sanitizer sees a byte too many. */
static void spread(const struct packet *packet, const uint32_t sizes[6], struct net_header header)
{
    uint32_t at = 0, count = 0, turn = 0;

    for (; at < packet->size; count++) {
        uint32_t size = sizes[turn];

        if (size > packet->size - at)
            size = packet->size - at;
        pieces[count] = (struct iovec){malloc(size), size};
        memcpy(pieces[count].iov_base, packet->bytes + at, size);
        at += size;
        turn += turn < 5 && sizes[turn + 1];
    }
    frame = (struct net_frame){.header = header,
                               .bytes = packet->size,
                               .iov = pieces,
                               .count = count,
                               .flow = 17};
    for (int i = 0; i < 6; i++) {
        frame.destination |= (uint64_t)packet->bytes[i] << 8 * i;
        frame.source |= (uint64_t)packet->bytes[6 + i] << 8 * i;
    }
}

static void release(void)
{
    for (uint32_t i = 0; i < frame.count; i++)
        free(pieces[i].iov_base);
}

static struct net_header ask(const struct packet *packet, uint16_t size)
{
    struct net_header header = {.flags = NET_NEEDS_CSUM,
                                .csum_start = (uint16_t)packet->transport,
                                .csum_offset = (uint16_t)(packet_checksum_at(packet) - packet->transport)};

    if (size > 0) {
        header.gso_type = packet->protocol == UDP    ? NET_GSO_UDP_L4
                          : packet->version == 4 ? NET_GSO_TCPV4
                                                 : NET_GSO_TCPV6;
        header.gso_size = size;
    }
    return header;
}

/* Whether what came out is what must. Where the receiver sums up, 0 and all ones are the same. */
static bool is_wanted(const struct net_frame *ret, bool sums)
{
    uint32_t at = packet_checksum_at(&want);

    got.size = gather(ret->iov, ret->count, got.bytes, PACKET_MAX);
    if (got.size != want.size || ret->bytes != want.size)
        return false;
    if (!sums && got.bytes[at] + got.bytes[at + 1] == 2 * 0xFF)
        memset(got.bytes + at, 0, 2);
    if (!sums && want.bytes[at] + want.bytes[at + 1] == 2 * 0xFF)
        memset(want.bytes + at, 0, 2);
    return memcmp(got.bytes, want.bytes, want.size) == 0;
}

static void check_headers(const struct net_frame *ret, bool sums)
{
    CHECK_EQUAL(ret->header.flags, sums ? 0 : NET_NEEDS_CSUM);
    CHECK_EQUAL(ret->header.gso_type | ret->header.gso_size | ret->header.hdr_len, 0);
    CHECK_EQUAL(ret->header.csum_start, sums ? 0 : want.transport);
    CHECK_EQUAL(ret->header.csum_offset, sums ? 0 : packet_checksum_at(&want) - want.transport);
    CHECK_EQUAL(ret->destination, frame.destination);
    CHECK_EQUAL(ret->source, frame.source);
    CHECK_EQUAL(ret->flow, frame.flow);
    CHECK(ret->count > 0 && ret->count <= SEGMENT_IOV + 1);
    for (uint32_t i = 0; i < ret->count; i++)
        CHECK(ret->iov[i].iov_len > 0);
}

/* Cut `made` and compare each segment; returns how many there were. */
static uint32_t cut(const uint32_t sizes[6], uint16_t size, uint64_t features)
{
    bool sums = !net_has(features, NET_F_GUEST_CSUM);
    struct net_frame ret;
    uint32_t index = 0;

    spread(&made, sizes, ask(&made, size));
    CHECK(vhu_segments_begin(&segments, &frame, features));
    for (; packet_segment(&made, size, index, sums, &want); index++) {
        CHECK(vhu_segments_next(&segments, &ret));
        CHECK(is_wanted(&ret, sums));
        memcpy(&got, &want, offsetof(struct packet, bytes));
        CHECK(!sums || packet_is_sound(&got));
        check_headers(&ret, sums);
        memset(ret.iov, 0, ret.count * sizeof(*ret.iov)); /* as those do who use it up */
    }
    CHECK(!vhu_segments_next(&segments, &ret));
    CHECK(!vhu_segments_next(&segments, &ret));
    CHECK(!segments_are_left(&segments));
    release();
    return index;
}

/* ---- Segments ---------------------------------------------------------------------------------- */

static void cut_every_way(const struct shape *shape, uint16_t size)
{
    packet_make(&made, shape);
    for (size_t i = 0; i < sizeof(all_cuts) / sizeof(all_cuts[0]); i++) {
        int before = check_failures;
        uint32_t count = cut(all_cuts[i].sizes, size, 0);

        CHECK_EQUAL(count, (shape->payload + size - 1) / size);
        CHECK_EQUAL(cut(all_cuts[i].sizes, size, BIT(NET_F_GUEST_CSUM)), count);
        if (check_failures != before) {
            fprintf(stderr, "IPv%d, protocol %d, %d tags, options %d and %d, %u bytes by %u, %s\n",
                    shape->version, shape->protocol, shape->tags, shape->options, shape->tcp_options,
                    shape->payload, size, all_cuts[i].name);
            return;
        }
    }
}

static void segments_are_what_the_sender_would_have_sent(void)
{
    static const uint32_t payloads[] = {2, 1449, 2897, 4344, 9001};

    for (int tags = 0; tags <= 2; tags++) {
        for (int options = 0; options < 2; options++) {
            for (int i = 0; i < 5; i++) {
                uint16_t size = payloads[i] == 2 ? 1 : payloads[i] == 9001 ? 777 : 1448;
                struct shape shape = {.tags = (uint8_t)tags,
                                      .options = (uint8_t)options * 4,
                                      .tcp_options = (uint8_t)options * 3,
                                      .tcp_flags = FLAGS,
                                      .payload = payloads[i]};

                for (int kind = 0; kind < 4; kind++) {
                    shape.version = kind & 1 ? 6 : 4;
                    shape.protocol = kind & 2 ? UDP : TCP;
                    cut_every_way(&shape, size);
                }
            }
        }
    }
}

static void the_largest_frames_and_the_longest_headers_are_cut(void)
{
    struct shape shape = {.version = 4, .protocol = TCP, .tcp_flags = 0x10, .payload = 65535 - 40};

    cut_every_way(&shape, 1460);
    shape = (struct shape){.version = 6, .protocol = UDP, .payload = 65535 - 8};
    cut_every_way(&shape, 1440);
    shape = (struct shape){2, 4, TCP, 10, 10, FLAGS, 5000};
    cut_every_way(&shape, 999);
    shape = (struct shape){2, 6, TCP, 16, 10, FLAGS, 5000}; /* 22 + 40 + 128 + 60 of 256 */
    cut_every_way(&shape, 999);
}

static void small_pieces_are_followed_as_far_as_a_segment_has_room_for_them(void)
{
    static const uint32_t single[6] = {1}, pairs[6] = {2};
    const struct shape shape = {.version = 4, .protocol = TCP, .payload = 700};
    struct net_frame ret;

    packet_make(&made, &shape);
    CHECK_EQUAL(cut(single, SEGMENT_IOV, 0), 9);
    CHECK_EQUAL(cut(pairs, 2 * SEGMENT_IOV, 0), 5);

    spread(&made, single, ask(&made, SEGMENT_IOV + 1));
    CHECK(vhu_segments_begin(&segments, &frame, 0));
    for (int i = 0; i < 3; i++)
        CHECK(!vhu_segments_next(&segments, &ret));
    CHECK(segments_are_left(&segments));
    release();
}

static void flags_that_concern_the_end_or_the_beginning_stay_there(void)
{
    const struct shape shape = {.version = 4, .protocol = TCP, .tcp_flags = FLAGS, .payload = 300};
    static const uint32_t sizes[6] = {PACKET_MAX};
    static const uint8_t flags[] = {0xF6, 0x76, 0x7F}; /* all but PSH and FIN; nor CWR; all but CWR */
    struct net_frame ret;

    packet_make(&made, &shape);
    spread(&made, sizes, ask(&made, 100));
    CHECK(vhu_segments_begin(&segments, &frame, 0));
    for (int i = 0; i < 3; i++) {
        CHECK(vhu_segments_next(&segments, &ret));
        CHECK_EQUAL(((uint8_t *)ret.iov[0].iov_base)[made.transport + 13], flags[i]);
    }
    release();
}

static void a_frame_without_payload_stays_one_segment(void)
{
    struct shape shape = {.version = 4, .protocol = TCP, .tcp_options = 5};

    for (int kind = 0; kind < 4; kind++) {
        shape.version = kind & 1 ? 6 : 4;
        shape.protocol = kind & 2 ? UDP : TCP;
        packet_make(&made, &shape);
        CHECK_EQUAL(cut(all_cuts[2].sizes, 10, 0), 1);
    }
}

static void headers_that_change_meanwhile_are_not_looked_at_again(void)
{
    const struct shape shape = {.version = 4, .protocol = TCP, .payload = 3000};
    struct net_frame ret;
    uint32_t index = 0;

    packet_make(&made, &shape);
    spread(&made, all_cuts[1].sizes, ask(&made, 1000));
    CHECK(vhu_segments_begin(&segments, &frame, 0));
    memset(pieces[0].iov_base, 0xFF, 14);
    memset(pieces[1].iov_base, 0xFF, made.headers - 14);
    for (; packet_segment(&made, 1000, index, true, &want); index++) {
        CHECK(vhu_segments_next(&segments, &ret));
        CHECK(is_wanted(&ret, true));
    }
    release();
}

/* ---- Refusals ---------------------------------------------------------------------------------- */

static bool begins(struct net_header header)
{
    spread(&made, all_cuts[0].sizes, header);
    bool begun = vhu_segments_begin(&segments, &frame, 0);
    release();
    return begun;
}

/* Whether it is still cut when a byte of its headers says something else. */
static bool begins_with(const struct shape *shape, uint32_t at, uint8_t value)
{
    packet_make(&made, shape);
    CHECK(begins(ask(&made, 100)));
    made.bytes[at] = value;
    return begins(ask(&made, 100));
}

static void headers_that_are_not_what_they_should_be_are_refused(void)
{
    const struct shape v4 = {.version = 4, .protocol = TCP, .payload = 1000};
    const struct shape v6 = {.version = 6, .protocol = TCP, .options = 1, .payload = 1000};
    const struct shape udp = {.version = 6, .protocol = UDP, .payload = 1000};
    struct shape tagged = {.tags = 2, .version = 4, .protocol = TCP, .payload = 1000};

    CHECK(!begins_with(&v4, 12, 0x86));      /* another type of frame */
    CHECK(!begins_with(&v4, 14, 0x65));      /* another version */
    CHECK(!begins_with(&v4, 14, 0x44));      /* less than an IP header */
    CHECK(!begins_with(&v4, 14, 0x46));      /* options where there are none */
    CHECK(!begins_with(&v4, 20, 0x20));      /* more fragments follow */
    CHECK(!begins_with(&v4, 21, 1));         /* the middle of a packet */
    CHECK(!begins_with(&v4, 23, UDP));       /* another protocol */
    CHECK(!begins_with(&v4, 34 + 12, 0x40)); /* less than a TCP header */
    CHECK(!begins_with(&v6, 14, 0x45));
    CHECK(!begins_with(&v6, 20, 44));        /* a fragment */
    CHECK(!begins_with(&v6, 20, 51));        /* an authentication header */
    CHECK(!begins_with(&v6, 54, 59));        /* nothing comes next */
    CHECK(!begins_with(&v6, 55, 1));         /* a longer extension */
    CHECK(!begins_with(&v6, 55, 0xFF));
    CHECK(!begins_with(&udp, 20, 0));        /* an extension, which is longer than all that there is */
    CHECK(!begins_with(&tagged, 16, 0x82));  /* no tag that is known */
    tagged.tags = 3;
    packet_make(&made, &tagged);
    CHECK(!begins(ask(&made, 100)));
}

static void what_the_frames_own_header_says_must_fit(void)
{
    const struct shape v4 = {.version = 4, .protocol = TCP, .payload = 1000};
    struct net_header header;

    packet_make(&made, &v4);
    for (uint32_t type = 1; type < 256; type++) {
        header = ask(&made, 100);
        header.gso_type = (uint8_t)type;
        CHECK_EQUAL(begins(header), (type & 0x7F) == NET_GSO_TCPV4);
    }
    for (uint32_t start = 0; start <= UINT16_MAX; start += start < 300 ? 1 : 1777) {
        header = ask(&made, 100);
        header.csum_start = (uint16_t)start;
        CHECK_EQUAL(begins(header), start == made.transport);
    }
    header = ask(&made, 100);
    header.gso_size = 0;
    CHECK(!begins(header));
}

static void headers_that_are_not_all_there_are_refused(void)
{
    const struct shape v4 = {.version = 4, .protocol = TCP, .tcp_options = 10, .payload = 0};
    const struct shape v6 = {.version = 6, .protocol = TCP, .options = 18, .tcp_options = 10, .payload = 1000};
    const struct shape udp = {.tags = 1, .version = 6, .protocol = UDP, .options = 24, .payload = 1000};

    packet_make(&made, &v4);
    CHECK(begins(ask(&made, 100)));
    for (made.size--; made.size >= FRAME_MIN; made.size--)
        CHECK(!begins(ask(&made, 100)));
    packet_make(&made, &v6); /* 14 + 40 + 144 + 60: more than are copied */
    CHECK(!begins(ask(&made, 100)));
    packet_make(&made, &udp); /* 18 + 40 + 192 + 8 */
    CHECK(!begins(ask(&made, 100)));
}

static void a_frame_is_not_cut_into_crumbs(void)
{
    struct shape shape = {.version = 4, .protocol = TCP, .payload = 2 * SEGMENTS_MAX - 1};

    packet_make(&made, &shape);
    CHECK(begins(ask(&made, 2)));
    shape.payload++;
    packet_make(&made, &shape);
    CHECK(!begins(ask(&made, 2)));
    CHECK(!begins(ask(&made, 1)));
    CHECK(begins(ask(&made, 3)));
}

/* ---- Frames that are left whole ---------------------------------------------------------------- */

/* Have the checksum at `place` of the sum from `start` on computed. */
static void sum_up(const uint32_t sizes[6], uint32_t start, uint32_t place)
{
    uint32_t sum = ~slow_sum(made.bytes, start, made.size, 0) & 0xFFFF;
    struct net_frame ret;

    spread(&made, sizes, (struct net_header){.flags = NET_NEEDS_CSUM,
                                             .csum_start = (uint16_t)start,
                                             .csum_offset = (uint16_t)(place - start)});
    memcpy(want.bytes, made.bytes, made.size);
    want.bytes[place] = sum ? (uint8_t)(sum >> 8) : 0xFF;
    want.bytes[place + 1] = sum ? (uint8_t)sum : 0xFF;
    CHECK(vhu_segments_begin(&segments, &frame, 0));
    CHECK(vhu_segments_next(&segments, &ret));
    CHECK_EQUAL(ret.bytes, made.size);
    CHECK_EQUAL(gather(ret.iov, ret.count, got.bytes, PACKET_MAX), made.size);
    CHECK(memcmp(got.bytes, want.bytes, made.size) == 0);
    CHECK_EQUAL(ret.header.flags | ret.header.csum_start | ret.header.csum_offset, 0);
    CHECK_EQUAL(ret.destination, frame.destination);
    CHECK(!vhu_segments_next(&segments, &ret));
    CHECK(!segments_are_left(&segments));
    release();
}

static void a_checksum_is_computed_wherever_it_is(void)
{
    const struct shape shape = {.version = 4, .protocol = UDP, .payload = 4400};
    static const uint32_t starts[] = {14, 15, 34, 201, 254, 255, 256, 3000, 4097};

    packet_make(&made, &shape);
    for (size_t i = 0; i < sizeof(all_cuts) / sizeof(all_cuts[0]); i++) {
        for (size_t at = 0; at < sizeof(starts) / sizeof(starts[0]); at++) {
            for (uint32_t offset = 0; offset < 8; offset++)
                sum_up(all_cuts[i].sizes, starts[at], starts[at] + offset);
        }
        sum_up(all_cuts[i].sizes, 14, made.size - 2);
        sum_up(all_cuts[i].sizes, made.size - 2, made.size - 2);
    }
}

static void a_computed_checksum_is_one_that_receivers_accept(void)
{
    for (int kind = 0; kind < 4; kind++) {
        struct shape shape = {.version = kind & 1 ? 6 : 4, .protocol = kind & 2 ? UDP : TCP, .options = 2};

        for (shape.payload = 0; shape.payload < 140; shape.payload++) {
            struct net_frame ret;

            packet_make(&made, &shape);
            spread(&made, all_cuts[3].sizes, ask(&made, 0));
            CHECK(vhu_segments_begin(&segments, &frame, 0));
            CHECK(vhu_segments_next(&segments, &ret));
            memcpy(&got, &made, offsetof(struct packet, bytes));
            CHECK_EQUAL(gather(ret.iov, ret.count, got.bytes, PACKET_MAX), got.size);
            CHECK_EQUAL(slow_sum(got.bytes, got.transport, got.size, packet_pseudo_sum(&got)) % 0xFFFF, 0);
            release();
        }
    }
}

static void a_checksum_of_zero_is_told_from_none(void)
{
    const struct shape shape = {.version = 4, .protocol = UDP, .payload = 100};
    struct net_frame ret;

    packet_make(&made, &shape);
    /* what is summed up is all ones, so that what is stored would be 0 */
    uint32_t sum = slow_sum(made.bytes, made.transport, made.size - 2, 0);
    made.bytes[made.size - 2] = (uint8_t)(~sum >> 8);
    made.bytes[made.size - 1] = (uint8_t)~sum;
    spread(&made, all_cuts[2].sizes, ask(&made, 0));
    CHECK(vhu_segments_begin(&segments, &frame, 0));
    CHECK(vhu_segments_next(&segments, &ret));
    gather(ret.iov, ret.count, got.bytes, PACKET_MAX);
    CHECK_EQUAL(got.bytes[packet_checksum_at(&made)], 0xFF);
    CHECK_EQUAL(got.bytes[packet_checksum_at(&made) + 1], 0xFF);
    release();
}

static void a_frame_that_asks_for_nothing_comes_out_as_it_is(void)
{
    const struct shape shape = {.version = 4, .protocol = UDP, .payload = 1000};
    struct net_frame ret;

    packet_make(&made, &shape);
    for (int asks = 0; asks < 2; asks++) {
        struct net_header header = asks ? ask(&made, 0) : (struct net_header){0};

        spread(&made, all_cuts[2].sizes, header);
        CHECK(vhu_segments_begin(&segments, &frame, BIT(NET_F_GUEST_CSUM)));
        CHECK(vhu_segments_next(&segments, &ret));
        CHECK(memcmp(&ret.header, &header, sizeof(header)) == 0);
        CHECK_EQUAL(gather(ret.iov, ret.count, got.bytes, PACKET_MAX), made.size);
        CHECK(memcmp(got.bytes, made.bytes, made.size) == 0);
        CHECK(ret.iov != frame.iov);
        CHECK(!vhu_segments_next(&segments, &ret));
        release();
    }
}

static void a_whole_frame_in_too_many_pieces_does_not_go_on(void)
{
    static const uint32_t sizes[6] = {10};
    const struct shape shape = {.version = 4, .protocol = UDP, .payload = 810 - 42};
    struct net_frame ret;

    packet_make(&made, &shape); /* in 81 pieces; the checksum at 40 makes one more of them, at 42 two */
    for (int place = 40; place <= 42; place++) {
        spread(&made, sizes, (struct net_header){NET_NEEDS_CSUM, 0, 0, 0, 34, (uint16_t)(place - 34), 0});
        CHECK(vhu_segments_begin(&segments, &frame, 0));
        for (int i = 0; i < 3; i++)
            CHECK(!vhu_segments_next(&segments, &ret));
        CHECK(segments_are_left(&segments));
        release();
    }
    made.size -= 10;
    sum_up(sizes, 34, 40);
    made.size -= 10;
    sum_up(sizes, 34, 42);
}

static const struct test tests[] = {
    {"segments are what the sender would have sent", segments_are_what_the_sender_would_have_sent},
    {"the largest frames and the longest headers are cut", the_largest_frames_and_the_longest_headers_are_cut},
    {"small pieces are followed as far as a segment has room for them",
     small_pieces_are_followed_as_far_as_a_segment_has_room_for_them},
    {"flags that concern a frame's end or beginning stay there",
     flags_that_concern_the_end_or_the_beginning_stay_there},
    {"a frame without payload stays one segment", a_frame_without_payload_stays_one_segment},
    {"headers that change meanwhile are not looked at again",
     headers_that_change_meanwhile_are_not_looked_at_again},
    {"headers that are not what they should be are refused",
     headers_that_are_not_what_they_should_be_are_refused},
    {"what the frame's own header says must fit the frame", what_the_frames_own_header_says_must_fit},
    {"headers that are not all there are refused", headers_that_are_not_all_there_are_refused},
    {"a frame is not cut into crumbs", a_frame_is_not_cut_into_crumbs},
    {"a checksum is computed wherever it is", a_checksum_is_computed_wherever_it_is},
    {"a computed checksum is one that receivers accept", a_computed_checksum_is_one_that_receivers_accept},
    {"a datagram's checksum of zero is told from none", a_checksum_of_zero_is_told_from_none},
    {"a frame that asks for nothing comes out as it is", a_frame_that_asks_for_nothing_comes_out_as_it_is},
    {"a whole frame in too many pieces does not go on", a_whole_frame_in_too_many_pieces_does_not_go_on},
};

CHECK_MAIN(tests)
