/* SPDX-License-Identifier: Apache-2.0
 *
 * What a relay signals. A register lies in a file of the device or of whoever emulates it; that may be
 * truncated, or the device unplugged: its page is guarded, and stores go nowhere from then on.
 */
#include "doorbell.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "sigbus.h"
#include "signals.h"

enum { FDS_MAX = 1024 };

struct exit {
    int fd;
    struct signal_room room;
};

struct doorbell {
    void *address; /* NULL: fds */
    uint32_t width;
    uint32_t value;
    struct guard *guard;
    uint32_t count;
    struct exit exits[];
};

/* What the driver wrote to its ring is there before the device is told, also for a device that is none of
 * the processors. */
static inline void device_fence(void)
{
#if defined(__aarch64__)
    __asm__ volatile("dmb osh" : : : "memory");
#else
    full_fence();
#endif
}

static void close_all(const struct vhu_target *target, uint32_t first)
{
    for (uint32_t i = first; i < target->fd_count; i++)
        vhu_signal_close(target->fds[i]);
}

static bool is_legal(const struct vhu_target *target)
{
    if (!target->address)
        return target->fd_count <= FDS_MAX;
    if (target->fd_count > 0 || (target->width != 2 && target->width != 4))
        return false;
    return (uintptr_t)target->address % target->width == 0;
}

static int guard_page(struct doorbell *doorbell)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = (uintptr_t)doorbell->address / page * page;

    doorbell->guard = vhu_guard_create((void *)start, page, page);
    return doorbell->guard ? 0 : -ENOMEM;
}

static int adopt_all(struct doorbell *doorbell, const struct vhu_target *target)
{
    for (uint32_t i = 0; i < target->fd_count; i++) {
        int rc = vhu_signal_adopt(target->fds[i]);

        if (rc < 0) {
            close_all(target, i + 1);
            return rc;
        }
        doorbell->exits[doorbell->count++] =
            (struct exit){.fd = target->fds[i], .room.full = true};
    }
    return 0;
}

int vhu_doorbell_create(const struct vhu_target *target, struct doorbell **ret)
{
    struct doorbell *doorbell = NULL;
    bool legal = is_legal(target);

    if (legal)
        doorbell = calloc(1, sizeof(*doorbell) + target->fd_count * sizeof(doorbell->exits[0]));
    if (!doorbell) {
        close_all(target, 0);
        return legal ? -ENOMEM : -EINVAL;
    }
    doorbell->address = target->address;
    doorbell->width = target->width;
    doorbell->value = target->value;
    int rc = target->address ? guard_page(doorbell) : adopt_all(doorbell, target);
    if (rc < 0) {
        vhu_doorbell_destroy(doorbell);
        return rc;
    }
    *ret = doorbell;
    return 0;
}

void vhu_doorbell_destroy(struct doorbell *doorbell)
{
    for (uint32_t i = 0; i < doorbell->count; i++)
        vhu_signal_close(doorbell->exits[i].fd);
    vhu_guard_destroy(doorbell->guard);
    free(doorbell);
}

void vhu_doorbell_ring(struct doorbell *doorbell)
{
    device_fence();
    if (doorbell->address && doorbell->width == 2)
        store_relaxed((volatile uint16_t *)doorbell->address, (uint16_t)doorbell->value);
    else if (doorbell->address)
        store_relaxed((volatile uint32_t *)doorbell->address, doorbell->value);
    for (uint32_t i = 0; i < doorbell->count; i++)
        vhu_signal_send_often(doorbell->exits[i].fd, &doorbell->exits[i].room);
}
