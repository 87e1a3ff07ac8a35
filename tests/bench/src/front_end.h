/* SPDX-License-Identifier: Apache-2.0
 *
 * front_end.h - the part of a front-end that load generators with rings of their own share.
 */
#ifndef FRONT_END_H
#define FRONT_END_H

#include <stdint.h>

#include "vhu.h"
#include "wire.h"

enum { GUEST_PAGE = 4096 };

struct guest {
    char *at;
    uint64_t gpa, size, used;
    int fd;
};

/* A ring that runs. */
struct ring_ends {
    struct vhu_driver *driver;
    int kick, call;
};

/* Where the tables of indirect descriptors lie: `entries` for each of the ring's descriptors; NULL: there are none. */
struct indirect_tables {
    void *at;
    uint16_t entries;
};

int front_end_connect(const char *path);
uint64_t front_end_ask(int socket, uint32_t request);
void front_end_tell(int socket, struct wire_message *message, uint32_t size, int fd);
/* Accept the features, all of which must be offered, and what is offered of the protocol's. */
void front_end_negotiate(int socket, uint64_t features, uint64_t protocol);

void guest_make(struct guest *guest, uint64_t size);
void guest_share(const struct guest *guest, int socket);
/* Take some of it, in whole pages. */
char *guest_take(struct guest *guest, uint64_t size);

static inline uint64_t guest_gpa(const struct guest *guest, const void *at)
{
    return guest->gpa + (uint64_t)((const char *)at - guest->at);
}

/* Start a ring and enable it; the driver wants no calls at first. */
void front_end_start(int socket, struct guest *guest, uint32_t index,
                     const struct vhu_ring_config *config, const struct indirect_tables *tables,
                     struct ring_ends *ret);
/* Make what was added visible, and kick where that is wanted. */
void ring_publish(const struct ring_ends *ring);

#endif
