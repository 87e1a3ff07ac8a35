/* SPDX-License-Identifier: Apache-2.0
 *
 * What a frame's header may ask for, and which receivers can be given it.
 */
#include "check.h"
#include "net_offload.h"

#define BIT(number) (1ull << (number))

enum { BYTES = 3000, START = 34, TCP_AT = 16, UDP_AT = 6, SIZE = 1000 };

static const uint64_t every_offload =
    BIT(NET_F_CSUM) | BIT(NET_F_HOST_TSO4) | BIT(NET_F_HOST_TSO6) | BIT(NET_F_HOST_ECN) | BIT(NET_F_HOST_USO) |
    BIT(NET_F_GUEST_CSUM) | BIT(NET_F_GUEST_TSO4) | BIT(NET_F_GUEST_TSO6) | BIT(NET_F_GUEST_ECN) |
    BIT(NET_F_GUEST_USO4) | BIT(NET_F_GUEST_USO6);

static struct net_header checksum(uint16_t start, uint16_t offset)
{
    return (struct net_header){.flags = NET_NEEDS_CSUM, .csum_start = start, .csum_offset = offset};
}

static struct net_header large(uint8_t type, uint16_t size)
{
    struct net_header header = checksum(START, (type & 0x7F) == NET_GSO_UDP_L4 ? UDP_AT : TCP_AT);

    header.gso_type = type;
    header.gso_size = size;
    return header;
}

static bool passes(struct net_header header, uint64_t features, uint32_t bytes)
{
    return net_header_check(&header, features, bytes);
}

static struct net_header as_checked(struct net_header header, uint32_t bytes)
{
    CHECK(net_header_check(&header, every_offload, bytes));
    return header;
}

/* ---- Checksums --------------------------------------------------------------------------------- */

static void what_means_nothing_is_cleared(void)
{
    struct net_header header = as_checked((struct net_header){0, 0, 7, 8, 9, 10, 11}, BYTES);

    CHECK_EQUAL(header.hdr_len | header.gso_size | header.csum_start | header.csum_offset | header.num_buffers, 0);
    header = as_checked((struct net_header){NET_DATA_VALID | 0xFC, 0, 7, 8, 9, 10, 11}, BYTES);
    CHECK_EQUAL(header.flags, 0);
    CHECK_EQUAL(header.hdr_len | header.gso_size | header.csum_start | header.csum_offset | header.num_buffers, 0);
    header = as_checked((struct net_header){0xFF, 0, 7, 8, START, UDP_AT, 11}, BYTES);
    CHECK_EQUAL(header.flags, NET_NEEDS_CSUM);
    CHECK_EQUAL(header.hdr_len | header.gso_size | header.num_buffers, 0);
    CHECK_EQUAL(header.csum_start, START);
    CHECK_EQUAL(header.csum_offset, UDP_AT);
}

static void a_checksum_lies_in_the_frame(void)
{
    CHECK(passes(checksum(START, TCP_AT), every_offload, START + TCP_AT + 2));
    CHECK(!passes(checksum(START, TCP_AT), every_offload, START + TCP_AT + 1));
    CHECK(passes(checksum(14, 0), every_offload, 60));
    CHECK(!passes(checksum(13, 16), every_offload, 60)); /* in the Ethernet header */
    CHECK(!passes(checksum(0, 0), every_offload, 60));
    CHECK(!passes(checksum(UINT16_MAX, UINT16_MAX), every_offload, 60));
    CHECK(!passes(checksum(UINT16_MAX, 0), every_offload, 60));
    CHECK(!passes(checksum(START, UINT16_MAX), every_offload, 60));
    CHECK(!passes(checksum(START, UINT16_MAX - START + 1), every_offload, 60));
    CHECK(!passes(checksum(UINT16_MAX, UINT16_MAX), every_offload, FRAME_MAX));
    CHECK(passes(checksum(UINT16_MAX, FRAME_MAX - UINT16_MAX - 2), every_offload, FRAME_MAX));
}

static void what_was_not_negotiated_is_refused(void)
{
    static const uint8_t types[] = {NET_GSO_TCPV4, NET_GSO_TCPV6, NET_GSO_UDP_L4,
                                    NET_GSO_TCPV4 | NET_GSO_ECN, NET_GSO_TCPV6 | NET_GSO_ECN};
    static const uint64_t needed[] = {BIT(NET_F_HOST_TSO4), BIT(NET_F_HOST_TSO6), BIT(NET_F_HOST_USO),
                                      BIT(NET_F_HOST_TSO4) | BIT(NET_F_HOST_ECN),
                                      BIT(NET_F_HOST_TSO6) | BIT(NET_F_HOST_ECN)};

    CHECK(passes(checksum(START, TCP_AT), BIT(NET_F_CSUM), BYTES));
    CHECK(!passes(checksum(START, TCP_AT), every_offload & ~BIT(NET_F_CSUM), BYTES));
    for (int i = 0; i < 5; i++) {
        uint64_t all = needed[i] | BIT(NET_F_CSUM);

        CHECK(passes(large(types[i], SIZE), all, BYTES));
        for (uint64_t left = all; left; left &= left - 1)
            CHECK(!passes(large(types[i], SIZE), every_offload & ~(left & -left), BYTES));
    }
}

/* ---- Segmentation ------------------------------------------------------------------------------ */

static void types_that_nobody_is_offered_are_refused(void)
{
    for (uint32_t type = 1; type < 256; type++) {
        bool known = type == NET_GSO_TCPV4 || type == NET_GSO_TCPV6 || type == NET_GSO_UDP_L4 ||
                     type == (NET_GSO_TCPV4 | NET_GSO_ECN) || type == (NET_GSO_TCPV6 | NET_GSO_ECN);

        CHECK_EQUAL(passes(large((uint8_t)type, SIZE), UINT64_MAX, BYTES), known);
    }
}

static void what_cannot_be_cut_is_refused(void)
{
    struct net_header without_checksum = large(NET_GSO_TCPV4, SIZE), elsewhere = large(NET_GSO_TCPV4, SIZE);

    CHECK(!passes(large(NET_GSO_TCPV4, 0), every_offload, BYTES));
    CHECK(!passes(large(NET_GSO_UDP_L4, 0), every_offload, BYTES));
    without_checksum.flags = 0;
    CHECK(!passes(without_checksum, every_offload, BYTES));
    without_checksum.flags = NET_DATA_VALID;
    CHECK(!passes(without_checksum, every_offload, BYTES));
    elsewhere.csum_offset = UDP_AT;
    CHECK(!passes(elsewhere, every_offload, BYTES));
    CHECK(!passes(large(NET_GSO_TCPV4, SIZE), every_offload, START + 19)); /* half a TCP header */
    elsewhere = large(NET_GSO_TCPV4, 1);
    elsewhere.csum_start = UINT16_MAX - 10; /* 64 KiB of headers */
    CHECK(!passes(elsewhere, every_offload, FRAME_MAX));
}

static void a_frame_of_one_segment_is_an_ordinary_one(void)
{
    static const uint16_t sizes[] = {BYTES - START - 20, BYTES, UINT16_MAX};

    for (int i = 0; i < 3; i++) {
        struct net_header header = large(NET_GSO_TCPV4 | NET_GSO_ECN, sizes[i]);

        header.hdr_len = UINT16_MAX;
        header = as_checked(header, BYTES);
        CHECK_EQUAL(header.flags, NET_NEEDS_CSUM);
        CHECK_EQUAL(header.gso_type | header.gso_size | header.hdr_len, 0);
        CHECK_EQUAL(header.csum_start, START);
    }
    CHECK_EQUAL(as_checked(large(NET_GSO_TCPV6, BYTES - START - 21), BYTES).gso_type, NET_GSO_TCPV6);
    CHECK_EQUAL(as_checked(large(NET_GSO_UDP_L4, 1), START + 8).gso_type, NET_GSO_NONE);
    CHECK_EQUAL(as_checked(large(NET_GSO_UDP_L4, UINT16_MAX), FRAME_MAX).gso_type, NET_GSO_NONE);
}

static void the_length_of_headers_is_a_hint_that_is_made_good(void)
{
    struct net_header header = large(NET_GSO_TCPV4, SIZE);

    CHECK_EQUAL(as_checked(header, BYTES).hdr_len, START + 20);
    header.hdr_len = START + 32;
    CHECK_EQUAL(as_checked(header, BYTES).hdr_len, START + 32);
    header.hdr_len = UINT16_MAX;
    CHECK_EQUAL(as_checked(header, BYTES).hdr_len, BYTES);
    CHECK_EQUAL(as_checked(header, FRAME_MAX).hdr_len, UINT16_MAX);
}

/* ---- Receivers --------------------------------------------------------------------------------- */

static void a_receiver_gets_what_it_negotiated(void)
{
    static const struct {
        uint8_t type;
        uint64_t needed;
    } rows[] = {
        {NET_GSO_NONE, BIT(NET_F_GUEST_CSUM)},
        {NET_GSO_TCPV4, BIT(NET_F_GUEST_CSUM) | BIT(NET_F_GUEST_TSO4)},
        {NET_GSO_TCPV6, BIT(NET_F_GUEST_CSUM) | BIT(NET_F_GUEST_TSO6)},
        {NET_GSO_UDP_L4, BIT(NET_F_GUEST_CSUM) | BIT(NET_F_GUEST_USO4) | BIT(NET_F_GUEST_USO6)},
        {NET_GSO_TCPV4 | NET_GSO_ECN,
         BIT(NET_F_GUEST_CSUM) | BIT(NET_F_GUEST_TSO4) | BIT(NET_F_GUEST_ECN)},
        {NET_GSO_TCPV6 | NET_GSO_ECN,
         BIT(NET_F_GUEST_CSUM) | BIT(NET_F_GUEST_TSO6) | BIT(NET_F_GUEST_ECN)},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint8_t type = rows[i].type;
        struct net_header header = type ? large(type, SIZE) : checksum(START, TCP_AT);

        header = as_checked(header, BYTES);
        CHECK(net_receiver_takes(&header, rows[i].needed));
        for (uint64_t left = rows[i].needed; left; left &= left - 1)
            CHECK(!net_receiver_takes(&header, UINT64_MAX & ~(left & -left)));
    }
    struct net_header plain = {0};
    CHECK(net_receiver_takes(&plain, 0));
}

static const struct test tests[] = {
    {"what means nothing in a header is cleared", what_means_nothing_is_cleared},
    {"a checksum lies in the frame, behind its Ethernet header", a_checksum_lies_in_the_frame},
    {"an offload that was not negotiated is refused", what_was_not_negotiated_is_refused},
    {"segmentation types that nobody is offered are refused", types_that_nobody_is_offered_are_refused},
    {"what says nothing about how to cut it is refused", what_cannot_be_cut_is_refused},
    {"a frame of one segment is an ordinary one, whatever its size field says",
     a_frame_of_one_segment_is_an_ordinary_one},
    {"the length of the headers is a hint, which is made good", the_length_of_headers_is_a_hint_that_is_made_good},
    {"a receiver gets what it negotiated, and nothing else", a_receiver_gets_what_it_negotiated},
};

CHECK_MAIN(tests)
