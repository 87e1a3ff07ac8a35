/* SPDX-License-Identifier: Apache-2.0 */
#include "states.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REGISTER_BITS = 14, REGISTERS = 1 << REGISTER_BITS };

static struct {
    uint64_t inputs;
    uint64_t states;
    uint64_t history;    /* a hash of all that happened since the input began */
    uint64_t generation; /* goes up whenever something changed */
    uint64_t counted[CALL_KINDS]; /* the generation in which this call was counted last */
    uint8_t registers[REGISTERS];
} own;

/* The finalizer of splitmix64: every bit of the result depends on every bit of `value`. */
static uint64_t mix(uint64_t value)
{
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
    value = (value ^ value >> 27) * 0x94d049bb133111eb;
    return value ^ value >> 31;
}

static void write_figures(void)
{
    const char *path = getenv("VHU_FUZZ_STATES");
    FILE *file = path ? fopen(path, "wb") : NULL;

    if (!file)
        return;
    fwrite(&own.inputs, sizeof(own.inputs), 1, file);
    fwrite(&own.states, sizeof(own.states), 1, file);
    fwrite(own.registers, sizeof(own.registers), 1, file);
    fclose(file);
}

void states_open(void)
{
    atexit(write_figures);
}

void states_begin(void)
{
    own.inputs++;
    own.generation++;
    own.history = 0;
}

void states_changed(uint64_t tag, const void *bytes, uint32_t size)
{
    own.generation++;
    own.history = mix(own.history + 0x9e3779b97f4a7c15 + tag);
    for (uint32_t i = 0; i < size; i += sizeof(uint64_t)) {
        uint64_t word = 0;
        uint32_t piece = size - i < sizeof(word) ? size - i : sizeof(word);

        memcpy(&word, (const uint8_t *)bytes + i, piece);
        own.history = mix(own.history ^ word);
    }
}

void states_count(uint32_t kind, uint64_t argument)
{
    if (own.counted[kind] == own.generation)
        return;
    own.counted[kind] = own.generation;
    own.states++;
    uint64_t hash = mix(own.history ^ mix(argument * CALL_KINDS + kind + 1));
    uint8_t rank = (uint8_t)(1 + __builtin_clzll(hash << REGISTER_BITS | 1));
    uint8_t *reg = &own.registers[hash >> (64 - REGISTER_BITS)];
    if (*reg < rank)
        *reg = rank;
}
