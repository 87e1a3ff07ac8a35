/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames, and the names of what is done with them.
 */
#include "frames.h"

#include <arpa/inet.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const NAMES[TRAFFICS] = {"sink", "source", "one-way", "both-ways", "round-trip"};

enum traffic traffic_named(const char *name)
{
    for (int i = 0; i < TRAFFICS; i++) {
        if (strcmp(name, NAMES[i]) == 0)
            return (enum traffic)i;
    }
    fprintf(stderr, "there is no traffic called %s\n", name);
    exit(2);
}

static void write_address(uint8_t *at, int port)
{
    const uint8_t local[ADDRESS_BYTES] = {2, 0, 0, 0, 0, (uint8_t)(port + 1)};

    memcpy(at, local, ADDRESS_BYTES);
}

void frame_write(uint8_t *frame, uint32_t bytes, int port)
{
    write_address(frame, port ^ 1);
    write_address(frame + ADDRESS_BYTES, port);
    frame[12] = 0x88; /* IEEE 802's local experimental type */
    frame[13] = 0xB5;
    for (uint32_t i = ETHERNET_BYTES; i < bytes; i++)
        frame[i] = (uint8_t)(i * 31 + 7);
}

void frame_write_broadcast(uint8_t *frame, uint32_t bytes, int port)
{
    frame_write(frame, bytes, port);
    memset(frame, 0xFF, ADDRESS_BYTES);
}

static uint16_t folded(const void *bytes, size_t count)
{
    const uint8_t *at = bytes;
    uint32_t sum = 0;

    for (size_t i = 0; i < count; i += 2)
        sum += (uint32_t)at[i] << 8 | at[i + 1];
    while (sum >> 16)
        sum = (sum & 0xFFFF) + (sum >> 16);
    return (uint16_t)sum;
}

static uint16_t write_ip(uint8_t *at, uint16_t bytes, uint8_t protocol, int port)
{
    struct iphdr ip = {
        .version = 4,
        .ihl = IP_BYTES / 4,
        .tot_len = htons(bytes),
        .ttl = 64,
        .protocol = protocol,
        .saddr = htonl(0x0A000001u + (uint32_t)port),
        .daddr = htonl(0x0A000001u + (uint32_t)(port ^ 1)),
    };
    const uint16_t length = htons((uint16_t)(bytes - IP_BYTES)), number = htons(protocol);

    ip.check = htons((uint16_t)~folded(&ip, IP_BYTES));
    memcpy(at, &ip, IP_BYTES);
    /* what of the pseudo header a checksum begins with */
    uint32_t sum = (uint32_t)folded(&ip.saddr, 8) + folded(&length, 2) + folded(&number, 2);
    return (uint16_t)((sum & 0xFFFF) + (sum >> 16));
}

void frame_write_flow(uint8_t *frame, uint32_t bytes, int port, uint16_t flow, bool tcp)
{
    const uint16_t ip_bytes = (uint16_t)(bytes - ETHERNET_BYTES), source = htons(1024 + flow);
    uint8_t *at = frame + ETHERNET_BYTES + IP_BYTES;

    frame_write(frame, bytes, port);
    frame[12] = 0x08; /* IPv4 */
    frame[13] = 0x00;
    uint16_t pseudo =
        write_ip(frame + ETHERNET_BYTES, ip_bytes, tcp ? IPPROTO_TCP : IPPROTO_UDP, port);
    if (tcp) {
        struct tcphdr header = {.source = source, .dest = htons(9), .doff = TCP_BYTES / 4, .ack = 1};

        header.check = htons(pseudo);
        memcpy(at, &header, TCP_BYTES);
    } else { /* without a checksum */
        struct udphdr header = {
            .source = source, .dest = htons(9), .len = htons((uint16_t)(ip_bytes - IP_BYTES))};

        memcpy(at, &header, sizeof(header));
    }
}
