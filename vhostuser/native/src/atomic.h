/* SPDX-License-Identifier: Apache-2.0
 *
 * Access to memory that another party changes: a guest's rings, another thread's counters.
 * Everything shared is little-endian, as virtio 1 demands and as legacy guests on our hosts are.
 */
#ifndef VHU_ATOMIC_H
#define VHU_ATOMIC_H

#include <stdint.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are read without byte swaps");
_Static_assert(sizeof(void *) == 8, "a guest's addresses need a 64-bit process");

#define load_relaxed(pointer) __atomic_load_n((pointer), __ATOMIC_RELAXED)
#define load_acquire(pointer) __atomic_load_n((pointer), __ATOMIC_ACQUIRE)
#define store_relaxed(pointer, value) __atomic_store_n((pointer), (value), __ATOMIC_RELAXED)
#define store_release(pointer, value) __atomic_store_n((pointer), (value), __ATOMIC_RELEASE)

/* Orders an earlier store before a later load: a published index, then the peer's wish. */
#define full_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)

#endif
