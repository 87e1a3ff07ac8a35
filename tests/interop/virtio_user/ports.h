// The ports of virtio-user, and what the command line says of them.

#ifndef PORTS_H
#define PORTS_H

#include <rte_mempool.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    MAX_PORTS = 2,
    MAX_QUEUES = 4,
    PATIENCE_SECONDS = 30,
};

// See verify.c.
extern struct options {
    uint32_t frames, rounds, queues, size, mtu, ipv6, offload0, offload1, grow, leave, buffers, room;
} options;

void read_options(int count, char **words);

// End the program where `result` is an error.
void check(const char *what, int result);

// A time after which nothing more is expected, in timer cycles.
uint64_t deadline(void);

// Whether a port lets its device compute checksums and cut frames, both ways.
bool port_offloads(int port);

// Whether a port lets its device compute the checksums of what it sends. Rounds take turns: another set of
// features makes the driver reset its device.
bool port_sums(int port, uint32_t round);

void port_start(uint16_t port, uint32_t round, struct rte_mempool *pool);

void port_wait_for_link(uint16_t port, bool up);

#endif
