/* SPDX-License-Identifier: Apache-2.0
 *
 * A lock for a few microseconds, between threads that mostly do not meet.
 */
#ifndef VHU_SPIN_H
#define VHU_SPIN_H

#include <sched.h>

#include "atomic.h"

enum { SPINS = 100 /* before the holder, who may have lost its processor, gets ours */ };

static inline void spin_lock(uint32_t *lock)
{
    for (uint32_t spins = 0; __atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE); spins++) {
        if (spins >= SPINS)
            sched_yield();
    }
}

static inline void spin_unlock(uint32_t *lock)
{
    store_release(lock, 0);
}

#endif
