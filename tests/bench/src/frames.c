/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames, and the names of what is done with them.
 */
#include "frames.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const NAMES[TRAFFICS] = {"sink", "source", "one-way", "both-ways", "round-trip"};

enum traffic traffic_named(const char *name)
{
    for (int i = 0; i < TRAFFICS; i++) {
        if (strcmp(name, NAMES[i]) == 0)
            return (enum traffic)i;
    }
    fprintf(stderr, "there is no traffic called %s\n", name);
    exit(2);
}

static void write_address(uint8_t *at, int port)
{
    const uint8_t local[ADDRESS_BYTES] = {2, 0, 0, 0, 0, (uint8_t)(port + 1)};

    memcpy(at, local, ADDRESS_BYTES);
}

void frame_write(uint8_t *frame, uint32_t bytes, int port)
{
    write_address(frame, port ^ 1);
    write_address(frame + ADDRESS_BYTES, port);
    frame[12] = 0x88; /* IEEE 802's local experimental type */
    frame[13] = 0xB5;
    for (uint32_t i = ETHERNET_BYTES; i < bytes; i++)
        frame[i] = (uint8_t)(i * 31 + 7);
}

void frame_write_broadcast(uint8_t *frame, uint32_t bytes, int port)
{
    frame_write(frame, bytes, port);
    memset(frame, 0xFF, ADDRESS_BYTES);
}
