/* SPDX-License-Identifier: Apache-2.0
 *
 * frames.h - what the load generators for networks share: what they are asked for, and the frames.
 */
#ifndef FRAMES_H
#define FRAMES_H

#include <stdbool.h>
#include <stdint.h>

enum { ADDRESS_BYTES = 6, ETHERNET_BYTES = 14, IP_BYTES = 20, TCP_BYTES = 20 };

enum traffic {
    SINK,       /* send on every port; nothing comes back */
    SOURCE,     /* receive on every port; nothing is sent */
    ONE_WAY,    /* from each even port to the odd one after it */
    BOTH_WAYS,  /* the same, and back */
    ROUND_TRIP, /* one frame at a time, from the first port to itself or to the second */
    TRAFFICS,
};

/* By its name: "sink", "source", "one-way", "both-ways", "round-trip". Ends the program where there is none. */
enum traffic traffic_named(const char *name);

static inline bool traffic_sends(enum traffic traffic, int port)
{
    return traffic == SINK || traffic == BOTH_WAYS || (traffic == ONE_WAY && port % 2 == 0);
}

static inline bool traffic_receives(enum traffic traffic, int port)
{
    return traffic == SOURCE || traffic == BOTH_WAYS || (traffic == ONE_WAY && port % 2 == 1);
}

/* Write a frame from a port to its neighbour: addresses, a type for experiments, a pattern. */
void frame_write(uint8_t *frame, uint32_t bytes, int port);
/* The same to everybody. */
void frame_write_broadcast(uint8_t *frame, uint32_t bytes, int port);
/* A frame of IPv4 and UDP, or of TCP that is to be cut into segments: flows are told apart by their number. */
void frame_write_flow(uint8_t *frame, uint32_t bytes, int port, uint16_t flow, bool tcp);

#endif
