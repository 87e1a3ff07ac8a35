/* SPDX-License-Identifier: Apache-2.0 */
#include "guest.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

static const uint64_t gpas[3] = {LOW, HIGH, FAR};
/* in the file, HIGH stands before LOW: adjacent for the guest, apart for the host */
static const uint64_t offsets[3] = {REGION_SIZE * 2, 0, FAR_OFFSET};

void guest_create(struct guest *guest)
{
    size_t size = REGION_SIZE * 5;

    guest->fd = memfd_create("guest", MFD_CLOEXEC);
    CHECK_EQUAL(ftruncate(guest->fd, (off_t)size), 0);
    guest->shadow = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, guest->fd, 0);
    for (int i = 0; i < 3; i++)
        CHECK_EQUAL(vhu_region_map(guest->fd, gpas[i], gpas[i] + UVA_SHIFT, REGION_SIZE, offsets[i],
                                   &guest->regions[i]),
                    0);
    CHECK_EQUAL(vhu_mem_create(guest->regions, 3, &guest->mem), 0);
}

void guest_destroy(struct guest *guest)
{
    CHECK_EQUAL(vhu_mem_pins(guest->mem), 0);
    vhu_mem_unref(guest->mem);
    for (int i = 0; i < 3; i++)
        vhu_region_unref(guest->regions[i]);
    munmap(guest->shadow, REGION_SIZE * 5);
    close(guest->fd);
}

void *guest_at(const struct guest *guest, uint64_t gpa)
{
    return vhu_mem_gpa_to_hva(guest->mem, gpa, 1);
}

struct vhu_ring_config guest_ring(const struct guest *guest, uint64_t features, uint32_t num,
                                  uint16_t position)
{
    bool packed = has_feature(features, VIRTIO_F_RING_PACKED);
    uint16_t index = packed ? position & (WRAP_BIT - 1) : position;

    return (struct vhu_ring_config){
        .features = features,
        .num = num,
        .desc = guest_at(guest, LOW + DESC_OFFSET),
        .driver = guest_at(guest, LOW + DRIVER_OFFSET),
        .device = guest_at(guest, LOW + DEVICE_OFFSET),
        .state = {
            .avail = index,
            .used = index,
            .avail_wrap = packed && position & WRAP_BIT,
            .used_wrap = packed && position & WRAP_BIT,
        },
    };
}
