/* SPDX-License-Identifier: Apache-2.0
 *
 * A fuzzer's input, taken from its front. Behind its end there are zeros, so that a decoder needs
 * no checks, only a look at `left` to know when to stop.
 */
#ifndef INPUT_H
#define INPUT_H

#include <stddef.h>
#include <stdint.h>

struct input {
    const uint8_t *at;
    size_t left;
};

static inline uint8_t take_u8(struct input *input)
{
    if (input->left == 0)
        return 0;
    input->left--;
    return *input->at++;
}

static inline uint64_t take(struct input *input, int bytes)
{
    uint64_t value = 0;

    for (int i = 0; i < bytes; i++)
        value |= (uint64_t)take_u8(input) << (8 * i);
    return value;
}

static inline uint16_t take_u16(struct input *input)
{
    return (uint16_t)take(input, 2);
}

static inline uint32_t take_u32(struct input *input)
{
    return (uint32_t)take(input, 4);
}

#endif
