/* SPDX-License-Identifier: Apache-2.0
 *
 * Stands in for src/atomic.h (it is included before everything else and takes its guard): the same
 * accesses, and after each load the driver gets its chance to change what was just read. Code that
 * reads a field of guest memory twice then sees two values.
 */
#ifndef VHU_ATOMIC_H
#define VHU_ATOMIC_H

#include <stddef.h>
#include <stdint.h>

extern uint32_t race_left; /* loads after which the driver still strikes */
void race_strike(const volatile void *loaded, size_t size);

#define load_then_race(pointer, order)                                                \
    ({                                                                                \
        __auto_type pointer_ = (pointer);                                             \
        __auto_type value_ = __atomic_load_n(pointer_, order);                        \
        if (__builtin_expect(race_left > 0, 0))                                       \
            race_strike(pointer_, sizeof(*pointer_));                                 \
        value_;                                                                       \
    })

#define load_relaxed(pointer) load_then_race(pointer, __ATOMIC_RELAXED)
#define load_acquire(pointer) load_then_race(pointer, __ATOMIC_ACQUIRE)
#define store_relaxed(pointer, value) __atomic_store_n((pointer), (value), __ATOMIC_RELAXED)
#define store_release(pointer, value) __atomic_store_n((pointer), (value), __ATOMIC_RELEASE)
#define full_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)

#endif
