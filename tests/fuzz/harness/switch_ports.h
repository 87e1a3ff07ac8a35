/* SPDX-License-Identifier: Apache-2.0
 *
 * A switch without threads: ports whose rings lie in arenas, served by whoever calls. What a worker does between two
 * looks at a ring is done here, by the engine's own functions.
 */
#ifndef SWITCH_PORTS_H
#define SWITCH_PORTS_H

#include "hostile_driver.h"
#include "net.h"
#include "worker.h"

enum { PORTS = 4, RINGS = 3, RECEIVES = 0, SENDS = 1, COMMANDS = 2, EXTENTS = 1024, TABLES_SIZE = 1024 };

struct port_ring {
    struct ringplace place;
    struct hostile_driver driver;
    struct vhu_queue *queue;
    struct vhu_queue_wanted wanted;
    struct iovec *iov;  /* as many as the engine may use, so that one more is noticed */
    uint16_t lag;       /* split: entries that were in flight when it started, for good */
    uint32_t slots_out; /* of descriptors, since all were consumed */
    uint16_t slot;      /* of a split ring's table, to be used next */
};

struct port {
    struct arena *arena;
    struct ringplace_room room; /* where frames may lie */
    uint64_t tables;            /* where indirect tables do, one behind the other and then anew; 0: there is no room */
    uint32_t tables_used;
    uint64_t features;
    uint32_t number;
    uint64_t announced; /* frames that the switch made for it */
    struct port_ring rings[RINGS];
};

struct switch_ports {
    struct input *in;
    struct vhu_net *net;
    struct vhu_worker worker;
    uint32_t count;
    struct port ports[PORTS];
    uint32_t sent; /* bytes of what was sent last, its header too */
    bool wild;     /* drivers write anything anywhere */
    bool unstrict; /* buffers may overlap rings and tables: nobody can say what the engine may write */
    struct extent extents[LAYOUTS][EXTENTS]; /* what the engine may write, of each arena */
    uint32_t extent_count[LAYOUTS];
};

/* Make a switch, its ports and their rings as the input says. */
void switch_begin(struct switch_ports *s, struct input *in);
/* Stop and free all. */
void switch_end(struct switch_ports *s);

/* Start, stop, enable, disable or move a ring. */
void switch_want(struct switch_ports *s, struct port_ring *ring, uint8_t how);
/* After any call of the engine: whoever found a ring broken has told its worker. */
void switch_attend(struct switch_ports *s);
/* Serve a ring until it has nothing more. */
void switch_serve(struct switch_ports *s, struct port_ring *ring);

/* The engine may write these bytes from now on. False: there is no room for more such. */
bool switch_permit(struct switch_ports *s, struct arena *arena, uint64_t gpa, uint32_t size);
/* Abort unless memory and counters are as they must be. */
void switch_check(struct switch_ports *s);

#endif
