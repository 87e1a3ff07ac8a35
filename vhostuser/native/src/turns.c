/* SPDX-License-Identifier: Apache-2.0
 *
 * Whose turn it is. A worker looks at its queues in every pass; at those that had nothing for long in turn, some in
 * each pass, so that none of them waits for many; and not at those that others fill.
 */
#include "worker.h"

enum {
    LONG_IDLE = 4096, /* looks in a row that found nothing, after which a queue rests: only ... */
    LOOK_EVERY = 16,  /* ... once in so many passes it is looked at */
};

void vhu_turns_arrange(struct vhu_worker *worker)
{
    worker->served = worker->resting = NULL;
    worker->resting_count = 0;
    for (struct vhu_queue *queue = worker->queues; queue; queue = queue->next) {
        if (queue->device->passive || !(queue->ring || queue->device->ringless))
            continue;
        queue->idle = 0;
        queue->next_served = worker->served;
        worker->served = queue;
    }
}

static inline bool serve(struct vhu_queue *queue)
{
    if (__builtin_expect(queue->debt > 0, 0)) {
        queue->debt--; /* where nobody else has work, these passes take no time */
        return false;
    }
    if (queue_is_served(queue) && queue->device->serve(queue)) {
        queue->idle = 0;
        return true;
    }
    queue->idle++;
    return false;
}

/* The queue that `at` points at is the last of those that rest. */
static void rest(struct vhu_worker *worker, struct vhu_queue **at)
{
    struct vhu_queue *queue = *at;

    *at = queue->next_served;
    queue->next_served = NULL;
    if (worker->resting_count++ == 0)
        worker->resting_end = &worker->resting;
    *worker->resting_end = queue;
    worker->resting_end = &queue->next_served;
}

/* Look at the first one that rests: it is the last one then, or rests no more. */
static bool serve_resting(struct vhu_worker *worker)
{
    struct vhu_queue *queue = worker->resting;

    if (!serve(queue)) {
        *worker->resting_end = queue;
        worker->resting_end = &queue->next_served;
        worker->resting = queue->next_served;
        queue->next_served = NULL;
        return false;
    }
    worker->resting = queue->next_served;
    worker->resting_count--;
    queue->next_served = worker->served;
    worker->served = queue;
    return true;
}

bool vhu_turns_take(struct vhu_worker *worker)
{
    bool worked = false;

    for (struct vhu_queue **at = &worker->served; *at;) {
        worked |= serve(*at);
        if (__builtin_expect((*at)->idle < LONG_IDLE, 1))
            at = &(*at)->next_served;
        else
            rest(worker, at);
    }
    uint32_t turn = (worker->resting_count + LOOK_EVERY - 1) / LOOK_EVERY;
    uint32_t looks = worker->look_at_all ? worker->resting_count : turn;
    for (worker->look_at_all = false; looks > 0; looks--)
        worked |= serve_resting(worker);
    return worked;
}
