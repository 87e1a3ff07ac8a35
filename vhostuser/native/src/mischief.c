/* SPDX-License-Identifier: Apache-2.0
 *
 * Faults on request: a queue that behaves as those of broken devices do, so that drivers can be tried.
 */
#include "worker.h"

void vhu_queue_misbehave(struct vhu_queue *queue, enum vhu_mischief what, uint32_t times)
{
    if ((unsigned)what >= MISCHIEFS)
        return;
    store_relaxed(&queue->mischief[what], times);
    vhu_queue_look(queue); /* a queue that was stuck goes on */
}

bool vhu_queue_misbehaves(struct vhu_queue *queue, enum vhu_mischief what)
{
    uint32_t left = load_relaxed(&queue->mischief[what]);

    while (left > 0) {
        if (__atomic_compare_exchange_n(&queue->mischief[what], &left, left - 1, true,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            return true;
    }
    return false;
}

void vhu_queue_push_wrong(struct vhu_queue *queue, const struct vhu_chain *chain, uint32_t written)
{
    struct vhu_ring *ring = queue->ring;
    uint16_t slots = ring->in_flight[chain->id], wrong = (uint16_t)ring->num;

    ring->in_flight[chain->id] = 0;
    if (ring->packed)
        packed_push(ring, wrong, slots, written);
    else
        split_push(ring, wrong, written);
}
