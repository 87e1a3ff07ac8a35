/* SPDX-License-Identifier: Apache-2.0
 *
 * A driver that writes whatever an input says into its ring: mostly nearly what the specification
 * asks for, so that walks get far, and spoilt somewhere.
 */
#ifndef HOSTILE_DRIVER_H
#define HOSTILE_DRIVER_H

#include "hostile_atomic.h"
#include "ringplace.h"

enum { HOSTILE_STEPS = 12 };

struct hostile_driver {
    struct input *in;
    struct ringplace *place;
    struct packed_cursor next; /* where an obedient driver would put its next descriptor ... */
    uint16_t index;            /* ... and what its index would be */
};

/* A driver that starts, or starts anew, with the ring at `state`. */
void hostile_driver_begin(struct hostile_driver *driver, struct input *in, struct ringplace *place,
                          const struct vhu_ring_state *state);
/* Do what step `which` says, with operands from the input. */
void hostile_driver_step(struct hostile_driver *driver, uint8_t which);

#endif
