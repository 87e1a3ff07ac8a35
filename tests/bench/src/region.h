/* SPDX-License-Identifier: Apache-2.0
 *
 * region.h - a vfio-user message about a region's registers.
 */
#ifndef REGION_H
#define REGION_H

#include <stdint.h>

enum {
    VERSION = 1,
    VERSION_MINOR = 2,
    VERSION_SIZE = 20, /* without capabilities */
    REGION_READ = 9,
    FLAG_ANSWER = 1,
    REGION_HEAD = 32,
    REGION_DATA = 4096,
};

struct region_message {
    uint16_t id, command;
    uint32_t size, flags, error;
    uint64_t offset;
    uint32_t region, count;
    char data[REGION_DATA];
};

#endif
