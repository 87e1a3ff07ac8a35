/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames of TCP and UDP as a driver hands them out, and a slow, plain way to say what their segments must be. Shared
 * with the fuzz target. Nothing in it is the engine's.
 */
#ifndef PACKETS_H
#define PACKETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum { PACKET_MAX = 66000, PIECES_MAX = 2048 };

struct shape {
    uint8_t tags;        /* VLAN */
    uint8_t version;     /* 4 or 6 */
    uint8_t protocol;    /* 6: TCP, 17: UDP */
    uint8_t options;     /* of IP, in units of 4 bytes (IPv4) or 8 (an extension of IPv6; 0: none) */
    uint8_t tcp_options; /* in units of 4 bytes */
    uint8_t tcp_flags;
    uint32_t payload;
};

struct packet {
    uint32_t size;
    uint32_t network, transport, headers; /* offsets; the payload begins at `headers` */
    uint8_t version, protocol;
    uint8_t bytes[PACKET_MAX];
};

/* The Internet checksum's sum, from byte `from` on, folded. */
uint32_t slow_sum(const uint8_t *bytes, uint32_t from, uint32_t to, uint32_t sum);

/* As a driver has it that leaves the checksum, and maybe cutting, to others: in the place of the checksum is the sum
 * of the pseudo header. */
void packet_make(struct packet *packet, const struct shape *shape);
/* The sum of the pseudo header of what begins at `transport` and ends with the frame. */
uint32_t packet_pseudo_sum(const struct packet *packet);
/* Where the checksum of TCP or UDP is. */
uint32_t packet_checksum_at(const struct packet *packet);

/* Write what segment number `index` must be, with up to `size` bytes of payload each; false: there is no such one.
 * Its checksum is computed, or is left to the receiver. */
bool packet_segment(const struct packet *packet, uint32_t size, uint32_t index, bool sums,
                    struct packet *ret);
/* Whether lengths and checksums are right by what the frame itself says, as its receiver would look at it. */
bool packet_is_sound(const struct packet *packet);

/* Gather what is in `count` pieces; at most `room` bytes are written. Returns how many there are. */
uint32_t gather(const struct iovec *iov, uint32_t count, uint8_t *ret, uint32_t room);

#endif
