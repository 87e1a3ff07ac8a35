/* SPDX-License-Identifier: Apache-2.0
 *
 * The one copy of a frame. Both sides are guests' memory, which may overlap where they share it.
 */
#ifndef VHU_NET_COPY_H
#define VHU_NET_COPY_H

#include <stdint.h>
#include <string.h>

typedef uint64_t copy_word __attribute__((aligned(1), may_alias));
typedef uint64_t copy_pair __attribute__((vector_size(16), aligned(1), may_alias));

/* Read 8 bytes that somebody else may change: once. */
static inline uint64_t read_word(const uint8_t *from)
{
    return *(const volatile copy_word *)from;
}

/* Copy 8 to 128 bytes without a call: first and last parts overlap where the length is between two sizes. All is
 * read before any of it is written. */
static inline void copy_short(uint8_t *to, const uint8_t *from, uint32_t bytes)
{
    if (bytes <= 16) {
        uint64_t head = *(const copy_word *)from, tail = *(const copy_word *)(from + bytes - 8);

        *(copy_word *)to = head;
        *(copy_word *)(to + bytes - 8) = tail;
    } else if (bytes <= 32) {
        copy_pair head = *(const copy_pair *)from, tail = *(const copy_pair *)(from + bytes - 16);

        *(copy_pair *)to = head;
        *(copy_pair *)(to + bytes - 16) = tail;
    } else if (bytes <= 64) {
        copy_pair a = *(const copy_pair *)from, b = *(const copy_pair *)(from + 16);
        copy_pair c = *(const copy_pair *)(from + bytes - 32), d = *(const copy_pair *)(from + bytes - 16);

        *(copy_pair *)to = a;
        *(copy_pair *)(to + 16) = b;
        *(copy_pair *)(to + bytes - 32) = c;
        *(copy_pair *)(to + bytes - 16) = d;
    } else {
        copy_pair a = *(const copy_pair *)from, b = *(const copy_pair *)(from + 16);
        copy_pair c = *(const copy_pair *)(from + 32), d = *(const copy_pair *)(from + 48);
        const uint8_t *last = from + bytes - 64;
        copy_pair e = *(const copy_pair *)last, f = *(const copy_pair *)(last + 16);
        copy_pair g = *(const copy_pair *)(last + 32), h = *(const copy_pair *)(last + 48);
        uint8_t *end = to + bytes - 64;

        *(copy_pair *)to = a;
        *(copy_pair *)(to + 16) = b;
        *(copy_pair *)(to + 32) = c;
        *(copy_pair *)(to + 48) = d;
        *(copy_pair *)end = e;
        *(copy_pair *)(end + 16) = f;
        *(copy_pair *)(end + 32) = g;
        *(copy_pair *)(end + 48) = h;
    }
}

static inline void copy_bytes(uint8_t *to, const uint8_t *from, uint32_t bytes)
{
    if (bytes >= 8 && bytes <= 128)
        copy_short(to, from, bytes);
    else
        memmove(to, from, bytes);
}

#endif
