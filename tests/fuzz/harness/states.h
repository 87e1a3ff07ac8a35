/* SPDX-License-Identifier: Apache-2.0
 *
 * Counts ring states. One state is one call of a ring function that reads or writes the ring, on
 * one image of guest memory and one position of the ring: the same call repeated before anything
 * changed is not counted again, nor is any call on a ring that is broken.
 *
 * Besides, how many of them were different is estimated (HyperLogLog), by what led to them: all
 * writes and calls since the input began. The registers go to a file, so that runs can be merged.
 */
#ifndef STATES_H
#define STATES_H

#include <stdint.h>

enum { CALL_KINDS = 16 };

/* Write the figures to the file $VHU_FUZZ_STATES when the process ends, if that is set. */
void states_open(void);
/* A new input. */
void states_begin(void);
/* Guest memory, or the ring, is no longer what it was. */
void states_changed(uint64_t tag, const void *bytes, uint32_t size);
/* A call of a kind below CALL_KINDS is about to be made. */
void states_count(uint32_t kind, uint64_t argument);

#endif
