/* SPDX-License-Identifier: Apache-2.0
 *
 * Whose turn it is. A worker looks at its queues again and again, at those that had nothing for long less often, and
 * not at those that others fill.
 */
#include "worker.h"

enum {
    LONG_IDLE = 4096, /* looks in a row that found nothing, after which a queue rests: only ... */
    LOOK_EVERY = 16,  /* ... in every so manieth pass it is looked at */
};

void vhu_turns_arrange(struct vhu_worker *worker)
{
    worker->served = worker->resting = NULL;
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

/* Move the queue that `at` points at to another list. */
static void move(struct vhu_queue **at, struct vhu_queue **list)
{
    struct vhu_queue *queue = *at;

    *at = queue->next_served;
    queue->next_served = *list;
    *list = queue;
}

static bool serve_resting(struct vhu_worker *worker)
{
    bool worked = false;

    for (struct vhu_queue **at = &worker->resting; *at;) {
        if (serve(*at)) {
            worked = true;
            move(at, &worker->served);
        } else {
            at = &(*at)->next_served;
        }
    }
    return worked;
}

bool vhu_turns_take(struct vhu_worker *worker)
{
    bool worked = false;

    for (struct vhu_queue **at = &worker->served; *at;) {
        worked |= serve(*at);
        if (__builtin_expect((*at)->idle < LONG_IDLE, 1))
            at = &(*at)->next_served;
        else
            move(at, &worker->resting);
    }
    if (worker->resting && (worker->look_at_all || worker->passes % LOOK_EVERY == 0)) {
        worker->look_at_all = false;
        worked |= serve_resting(worker);
    }
    return worked;
}
