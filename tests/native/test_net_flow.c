/* SPDX-License-Identifier: Apache-2.0
 *
 * Which frames belong together.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "net_offload.h"
#include "packets.h"

enum { TCP = 6, UDP = 17, ICMP = 1, PAYLOAD = 30, SLOTS = 256 };

static struct packet packet, answer;

static uint32_t hash_in(const struct packet *of, uint32_t first, uint32_t others)
{
    struct iovec pieces[PIECES_MAX];
    struct net_frame frame = {.bytes = of->size, .iov = pieces};

    for (uint32_t at = 0; at < of->size; frame.count++) {
        uint32_t size = frame.count == 0 ? first : others;

        if (size > of->size - at)
            size = of->size - at;
        pieces[frame.count] = (struct iovec){malloc(size), size};
        memcpy(pieces[frame.count].iov_base, of->bytes + at, size);
        at += size;
    }
    uint32_t hash = vhu_flow_hash(&frame);
    for (uint32_t i = 0; i < frame.count; i++)
        free(pieces[i].iov_base);
    return hash;
}

static uint32_t hash(const struct packet *of)
{
    uint32_t whole = hash_in(of, PACKET_MAX, PACKET_MAX);

    CHECK_EQUAL(hash_in(of, 14, 20), whole);
    CHECK_EQUAL(hash_in(of, 1, 1), whole);
    return whole;
}

static void swap(uint8_t *bytes, uint32_t from, uint32_t size)
{
    uint8_t kept[16];

    memcpy(kept, bytes + from, size);
    memcpy(bytes + from, bytes + from + size, size);
    memcpy(bytes + from + size, kept, size);
}

/* What the other end sends back. */
static void make_answer(void)
{
    bool v4 = packet.version == 4;

    answer = packet;
    swap(answer.bytes, 0, 6);
    swap(answer.bytes, answer.network + (v4 ? 12 : 8), v4 ? 4 : 16);
    swap(answer.bytes, answer.transport, 2);
    answer.bytes[answer.size - 1] ^= 1; /* not with the same words */
    answer.bytes[answer.network + (v4 ? 8 : 7)] = 63;
}

static struct shape shape_of(int kind)
{
    return (struct shape){.version = kind & 1 ? 6 : 4,
                          .protocol = kind & 2 ? UDP : TCP,
                          .tags = (uint8_t)(kind / 4 % 3),
                          .options = kind >= 12 ? 2 : 0,
                          .payload = PAYLOAD};
}

static void both_directions_of_a_flow_have_the_same_number(void)
{
    for (int kind = 0; kind < 24; kind++) {
        struct shape shape = shape_of(kind);

        packet_make(&packet, &shape);
        make_answer();
        CHECK(hash(&packet) != 0);
        CHECK_EQUAL(hash(&answer), hash(&packet));
    }
}

static void what_is_not_the_flows_does_not_count(void)
{
    const struct shape plain = shape_of(0);
    struct shape other = plain;

    packet_make(&packet, &plain);
    uint32_t want = hash(&packet);
    for (uint32_t at = packet.transport + 4; at < packet.size; at++)
        packet.bytes[at] ^= 0xFF;
    packet.bytes[packet.network + 5] ^= 0xFF; /* its id */
    CHECK_EQUAL(hash(&packet), want);
    for (other.tags = 1; other.tags <= 2; other.tags++) {
        packet_make(&answer, &other);
        memcpy(answer.bytes + answer.network + 12, packet.bytes + packet.network + 12, 12);
        CHECK_EQUAL(hash(&answer), want);
    }
}

static void flows_are_told_apart(void)
{
    for (int kind = 0; kind < 4; kind++) {
        struct shape shape = shape_of(kind);
        uint32_t first = shape.version == 4 ? 12 : 8, last = shape.version == 4 ? 20 : 40, want;

        packet_make(&packet, &shape);
        want = hash(&packet);
        for (uint32_t at = first; at < last + 4; at++) { /* the addresses, then the ports */
            packet.bytes[packet.network + at] ^= 1;
            CHECK(hash(&packet) != want);
            packet.bytes[packet.network + at] ^= 1;
        }
        CHECK_EQUAL(hash(&packet), want);
    }
}

static void neighbouring_flows_are_spread_evenly(void)
{
    const struct shape shape = shape_of(0);
    uint32_t slots[SLOTS] = {0}, fullest = 0, empty = 0;

    packet_make(&packet, &shape);
    for (uint32_t port = 0; port < 16 * SLOTS; port++) {
        packet.bytes[packet.transport] = (uint8_t)(port >> 8);
        packet.bytes[packet.transport + 1] = (uint8_t)port;
        slots[hash_in(&packet, PACKET_MAX, PACKET_MAX) % SLOTS]++;
    }
    for (uint32_t i = 0; i < SLOTS; i++) {
        empty += slots[i] == 0;
        fullest = slots[i] > fullest ? slots[i] : fullest;
    }
    CHECK_EQUAL(empty, 0);
    CHECK(fullest < 3 * 16);
}

static void fragments_go_by_their_addresses(void)
{
    struct shape shape = shape_of(2);

    packet_make(&packet, &shape);
    packet.bytes[packet.network + 6] = 0x20; /* more follow */
    uint32_t first = hash(&packet);
    packet.bytes[packet.network + 7] = 50;
    packet.bytes[packet.transport + 1] ^= 1;
    CHECK(first != 0);
    CHECK_EQUAL(hash(&packet), first);
    packet.bytes[packet.network + 6] = 0; /* the last, and a short one */
    packet.size = packet.transport + 1;
    CHECK_EQUAL(hash(&packet), first);
    packet.bytes[packet.network + 12] ^= 1;
    CHECK(hash(&packet) != first);

    shape = shape_of(3 + 12);
    packet_make(&packet, &shape);
    packet.bytes[packet.network + 6] = 44;
    first = hash(&packet);
    packet.bytes[packet.transport + 1] ^= 1;
    CHECK(first != 0);
    CHECK_EQUAL(hash(&packet), first);
}

static void all_others_have_none(void)
{
    struct shape shape = shape_of(0);

    packet_make(&packet, &shape);
    packet.bytes[23] = ICMP;
    CHECK_EQUAL(hash(&packet), 0);
    packet_make(&packet, &shape);
    packet.bytes[13] = 6; /* ARP */
    CHECK_EQUAL(hash(&packet), 0);
    packet_make(&packet, &shape);
    packet.bytes[14] = 0x55;
    CHECK_EQUAL(hash(&packet), 0);
    shape = shape_of(1);
    packet_make(&packet, &shape);
    packet.bytes[20] = 51; /* an authentication header */
    CHECK_EQUAL(hash(&packet), 0);
    shape.tags = 3;
    packet_make(&packet, &shape);
    CHECK_EQUAL(hash(&packet), 0);
}

static void a_frame_that_ends_before_its_ports_has_none(void)
{
    for (int kind = 0; kind < 24; kind++) {
        struct shape shape = shape_of(kind);

        packet_make(&packet, &shape);
        packet.size = packet.transport + 4;
        CHECK(hash(&packet) != 0);
        while (--packet.size > 0)
            CHECK_EQUAL(hash(&packet), 0);
    }
}

static const struct test tests[] = {
    {"both directions of a flow have the same number", both_directions_of_a_flow_have_the_same_number},
    {"what is not the flow's does not count", what_is_not_the_flows_does_not_count},
    {"flows are told apart", flows_are_told_apart},
    {"neighbouring flows are spread evenly", neighbouring_flows_are_spread_evenly},
    {"fragments go by their addresses", fragments_go_by_their_addresses},
    {"frames of other protocols have none", all_others_have_none},
    {"a frame that ends before its ports has none", a_frame_that_ends_before_its_ports_has_none},
};

CHECK_MAIN(tests)
