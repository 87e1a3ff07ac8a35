/* SPDX-License-Identifier: Apache-2.0
 *
 * net_port.h - a guest's network card as far as a load generator needs one: it sends prebuilt frames, counts what
 * comes, and gives the buffers back.
 */
#ifndef NET_PORT_H
#define NET_PORT_H

#include <stdbool.h>
#include <stdint.h>

#include "front_end.h"

enum { NET_RING = 256, MOST_PAIRS = 128 };

enum shape {
    PLAIN,    /* header and frame in one descriptor */
    CHAINED,  /* the header in one, the frame in others of a page at most: as Linux has it */
    INDIRECT, /* the same in an indirect table */
    SHAPES,
};

struct port_options {
    uint32_t bytes;   /* of a frame */
    uint32_t buffer;  /* bytes of a receive buffer; 0: a frame with its header */
    uint32_t segment; /* bytes of TCP's payload in each segment that is to be cut; 0: frames are whole */
    uint32_t pairs;   /* of queues */
    enum shape shape;
    bool packed;
};

/* A ring that sends, and the frames, each in a place of its own. */
struct sender {
    struct ring_ends ring;
    struct vhu_buffer *buffers; /* `parts` of each place */
    uint32_t parts;
    bool indirect;
    uint16_t free[NET_RING], free_count;
    uint16_t place_of[NET_RING]; /* by the chain's id */
    uint8_t *first;              /* frame */
};

struct receiver {
    struct ring_ends ring;
    char *buffers;
    uint64_t gpa;
    uint32_t length, expected;
    uint16_t place_of[NET_RING];
    uint32_t missing, got; /* buffers of the frame that is coming in, and bytes of it */
};

struct port {
    int number, socket;
    uint32_t pairs;
    struct guest guest;
    struct sender *senders;
    struct receiver *receivers;
};

/* Connect a port and start its rings. */
void port_open(struct port *port, int number, const char *path, const struct port_options *options);
/* Send a frame to everybody, so that a switch learns who is here; wait until it was taken. */
void port_say_hello(struct port *port);
/* Send up to `most` frames. Returns how many. */
uint32_t sender_send(struct sender *sender, uint32_t most);
/* Take in all that has come. Returns how many whole frames; those of another length are errors. */
uint32_t receiver_receive(struct receiver *receiver, uint64_t *errors);

#endif
