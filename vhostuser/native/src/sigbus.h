/* SPDX-License-Identifier: Apache-2.0
 *
 * Protection of memory that a peer's file holds: who truncates that file makes the next access a
 * SIGBUS. A guarded range gets anonymous memory instead, and says so; the process goes on.
 */
#ifndef VHU_SIGBUS_H
#define VHU_SIGBUS_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "atomic.h"

/* A guarded range: a place in the table that the signal handler reads. */
struct guard;

/* Guard the mapping [start, start + size) of a file with pages of `page` bytes, before anybody
 * touches it. NULL: no memory. */
struct guard *vhu_guard_create(void *start, size_t size, size_t page);
/* Before the range is unmapped, and when nobody touches it any more. */
void vhu_guard_destroy(struct guard *guard);
/* Whether memory of the range was lost. It stays so. */
bool vhu_guard_faulted(const struct guard *guard);
/* See to it that the handler is the first in line: others that came later pushed it aside. */
void vhu_sigbus_install(void);

/* What a thread of the engine blocks: every signal but those that its own accesses raise, which end
 * the process at once where they are blocked. */
void vhu_sigbus_mask(sigset_t *ret);

/* Faults caught in this process. Compare it before guards are looked at one by one. */
extern uint32_t vhu_sigbus_faults;

static inline uint32_t vhu_sigbus_count(void)
{
    return load_acquire(&vhu_sigbus_faults);
}

#endif
