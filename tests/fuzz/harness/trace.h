/* SPDX-License-Identifier: Apache-2.0
 *
 * What happened, for the comparison with the pure-Python ring: every write to guest memory, every
 * call with its result, and every byte that the engine changed. A stream of records to the file
 * $VHU_FUZZ_TRACE; nothing at all without that variable. fuzzing/trace.py reads it: the formats
 * stand there and in the functions that write them.
 */
#ifndef TRACE_H
#define TRACE_H

#include "arena.h"

void trace_open(void);
bool trace_is_on(void);

void trace_write(uint32_t offset, const void *bytes, uint32_t size);
/* An input, and the ring that was created or refused for it. */
void trace_input(const uint8_t *bytes, size_t size, const struct arena *arena,
                 const struct vhu_ring_config *config, const uint64_t gpas[3], int created);
void trace_end(void);
/* A call and its result; `ring` NULL: it is gone. What the engine wrote since the last record. */
void trace_call(char kind, const struct arena *arena, const struct vhu_ring *ring,
                uint64_t argument, int64_t result);
void trace_chain(const struct arena *arena, int which, const struct vhu_chain *chain);

#endif
