/* SPDX-License-Identifier: Apache-2.0
 *
 * Guest memory for tests: a memfd mapped as three regions. LOW and HIGH touch each other in the
 * guest's addresses but not in the host's; FAR lies apart. Rings live at the start of LOW.
 */
#ifndef GUEST_H
#define GUEST_H

#include "layout.h"
#include "vhu.h"

enum {
    REGION_SIZE = 1 << 20,
    LOW = 1 << 24, /* GPA of each region */
    HIGH = LOW + REGION_SIZE,
    FAR = 1 << 28,
    UVA_SHIFT = 1 << 30, /* UVA - GPA */
    FAR_OFFSET = REGION_SIZE * 4, /* of FAR in the file, and so in the shadow */
    DESC_OFFSET = 0,
    DRIVER_OFFSET = 0x80000 - 0x20000,
    DEVICE_OFFSET = DRIVER_OFFSET + 0x14000,
    TABLE_OFFSET = 0x80000 + 0x40000,
    BUFFERS = LOW + 0x80000, /* GPA of space for buffers */
    TABLES = LOW + TABLE_OFFSET,
};

struct guest {
    int fd;
    struct vhu_region *regions[3];
    struct vhu_mem *mem;
    uint8_t *shadow; /* the same file, mapped once more in one piece */
};

void guest_create(struct guest *guest);
void guest_destroy(struct guest *guest); /* checks that nothing holds the memory any more */

void *guest_at(const struct guest *guest, uint64_t gpa);

/* A ring of `num` descriptors in LOW, at `position`, which for a packed ring is an offset with the
 * wrap counter in bit 15. */
struct vhu_ring_config guest_ring(const struct guest *guest, uint64_t features, uint32_t num,
                                  uint16_t position);

#define FEATURE(name) (1ULL << VIRTIO_F_##name)

#endif
