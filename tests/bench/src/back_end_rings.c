/* SPDX-License-Identifier: Apache-2.0
 *
 * Rings of ideal back-ends: chains are given back in the order in which they came.
 */
#include <unistd.h>

#include "back_end.h"
#include "load.h"

enum {
    RENEW = 4096, /* entries after which the place where a kick is wanted is moved on */
    DESC_NEXT = 1,
    DESC_AVAIL = 1 << 7,
    DESC_USED = 1 << 15,
    /* flags of the available ring, of the used ring, and of a packed ring's event areas */
    NO_CALL = 1,
    NO_KICK = 1,
};

/* Ask for a kick at a place that was just passed: none comes until the index has gone all round. */
static void renew(struct ring *ring)
{
    if (!(ring->features & F_EVENT_IDX))
        return;
    _Atomic uint16_t *place = (_Atomic uint16_t *)&ring->used->ring[ring->num];

    atomic_store_explicit(place, (uint16_t)(ring->next - 1), memory_order_relaxed);
    ring->renewed = ring->next;
}

void ring_begin(struct ring *ring)
{
    if (ring->features & F_RING_PACKED) {
        ring->device->flags = NO_KICK;
    } else {
        ring->used->flags = NO_KICK;
        renew(ring);
    }
}

static void call(const struct ring *ring, bool wanted)
{
    uint64_t one = 1;

    if (wanted && ring->call >= 0 && write(ring->call, &one, sizeof(one)) < 0)
        die("call the front-end");
}

static bool split_wants_call(const struct ring *ring, uint16_t old)
{
    if (!(ring->features & F_EVENT_IDX))
        return !(atomic_load_explicit(&ring->avail->flags, memory_order_relaxed) & NO_CALL);
    const _Atomic uint16_t *place = (const _Atomic uint16_t *)&ring->avail->ring[ring->num];
    uint16_t event = atomic_load_explicit(place, memory_order_relaxed);
    return (uint16_t)(ring->next - event - 1) < (uint16_t)(ring->next - old);
}

static uint32_t split_ready(const struct ring *ring, uint32_t most)
{
    uint16_t idx = atomic_load_explicit(&ring->avail->idx, memory_order_acquire);
    uint32_t ready = (uint16_t)(idx - ring->next);

    return ready < most ? ready : most;
}

static uint32_t flip_split(struct ring *ring, uint32_t most, uint32_t length)
{
    uint32_t mask = ring->num - 1, ready = split_ready(ring, most);
    uint16_t old = ring->next, end = (uint16_t)(old + ready);

    if (ready == 0)
        return 0;
    for (; ring->next != end; ring->next++) {
        ring->used->ring[ring->next & mask].id = ring->avail->ring[ring->next & mask];
        ring->used->ring[ring->next & mask].length = length;
    }
    atomic_store_explicit(&ring->used->idx, end, memory_order_release);
    if ((uint16_t)(end - ring->renewed) >= RENEW)
        renew(ring);
    atomic_thread_fence(memory_order_seq_cst);
    call(ring, split_wants_call(ring, old));
    return ready;
}

static bool is_available(uint16_t flags, bool wrap)
{
    return !!(flags & DESC_AVAIL) == wrap && !!(flags & DESC_USED) != wrap;
}

static void advance(const struct ring *ring, uint16_t *place, bool *wrap)
{
    if (++*place == ring->num) {
        *place = 0;
        *wrap = !*wrap;
    }
}

/* The last descriptor of the chain that begins at `place`, which becomes the place behind it. */
static struct packed_desc *last_of_chain(const struct ring *ring, uint16_t flags, uint16_t *place,
                                         bool *wrap)
{
    struct packed_desc *last = &ring->packed[*place];

    advance(ring, place, wrap);
    while (flags & DESC_NEXT) {
        last = &ring->packed[*place];
        flags = atomic_load_explicit(&last->flags, memory_order_relaxed);
        advance(ring, place, wrap);
    }
    return last;
}

static uint32_t packed_ready(const struct ring *ring, uint32_t most)
{
    uint16_t place = ring->next;
    bool wrap = ring->wrap;
    uint32_t ready = 0;

    for (; ready < most; ready++) {
        uint16_t flags =
            atomic_load_explicit(&ring->packed[place].flags, memory_order_acquire);

        if (!is_available(flags, wrap))
            break;
        last_of_chain(ring, flags, &place, &wrap);
    }
    return ready;
}

static uint32_t flip_packed(struct ring *ring, uint32_t most, uint32_t length)
{
    uint32_t flipped = 0;

    for (; flipped < most; flipped++) {
        struct packed_desc *first = &ring->packed[ring->next];
        uint16_t flags = atomic_load_explicit(&first->flags, memory_order_acquire);
        bool wrap = ring->wrap;

        if (!is_available(flags, wrap))
            break;
        first->id = last_of_chain(ring, flags, &ring->next, &ring->wrap)->id;
        first->length = length;
        atomic_store_explicit(&first->flags, wrap ? DESC_AVAIL | DESC_USED : 0,
                              memory_order_release);
    }
    if (flipped == 0)
        return 0;
    atomic_thread_fence(memory_order_seq_cst);
    call(ring, atomic_load_explicit(&ring->driver->flags, memory_order_relaxed) != NO_CALL);
    return flipped;
}

uint32_t ring_ready(const struct ring *ring, uint32_t most)
{
    return ring->features & F_RING_PACKED ? packed_ready(ring, most) : split_ready(ring, most);
}

uint32_t ring_flip(struct ring *ring, uint32_t most, uint32_t length)
{
    return ring->features & F_RING_PACKED ? flip_packed(ring, most, length)
                                          : flip_split(ring, most, length);
}
