/* SPDX-License-Identifier: Apache-2.0
 *
 * Whose turn it is: a queue that had nothing for long is looked at less often, but no less than is promised.
 */
#include <string.h>

#include "check.h"
#include "worker.h"

enum { QUEUES = 100, LONG = 5000, WITHIN = 16 };

static struct vhu_worker worker;
static struct vhu_queue queues[QUEUES];
static uint32_t looks[QUEUES];
static bool has_work[QUEUES];

static bool look(struct vhu_queue *queue)
{
    size_t index = (size_t)(queue - queues);

    looks[index]++;
    return has_work[index];
}

static const struct queue_device device = {.ringless = true, .serve = look};

static void pass(uint32_t count)
{
    memset(looks, 0, sizeof(looks));
    while (count-- > 0)
        vhu_turns_take(&worker);
}

/* The first `busy` queues always have work, the others never had. */
static void open_turns(uint32_t count, uint32_t busy)
{
    memset(&worker, 0, sizeof(worker));
    memset(queues, 0, sizeof(queues));
    memset(has_work, 0, sizeof(has_work));
    memset(has_work, true, busy);
    for (uint32_t i = 0; i < count; i++) {
        queues[i].device = &device;
        queues[i].current.enabled = true;
        queues[i].next = worker.queues;
        worker.queues = &queues[i];
    }
    vhu_turns_arrange(&worker);
    pass(LONG);
}

static void each_rests_and_is_looked_at_all_the_same(void)
{
    for (uint32_t count = 1; count <= QUEUES; count++) {
        uint32_t resting = count - count / 3, turn = (resting + WITHIN - 1) / WITHIN;
        uint32_t most = (turn * WITHIN + resting - 1) / resting;

        open_turns(count, count / 3);
        pass(WITHIN);
        for (uint32_t i = 0; i < count; i++) {
            if (has_work[i])
                CHECK_EQUAL(looks[i], WITHIN);
            else
                CHECK(looks[i] >= 1 && looks[i] <= most);
        }
    }
}

static void who_has_work_rests_no_more(void)
{
    static const uint32_t again[] = {0, QUEUES - 1, 50, 51, 1};

    open_turns(QUEUES, 0);
    for (size_t i = 0; i < sizeof(again) / sizeof(again[0]); i++) {
        has_work[again[i]] = true;
        pass(WITHIN);
        pass(WITHIN);
        CHECK_EQUAL(looks[again[i]], WITHIN);
    }
    pass(WITHIN);
    for (uint32_t i = 0; i < QUEUES; i++)
        CHECK(looks[i] >= 1);
    memset(has_work, false, sizeof(has_work));
    pass(LONG);
    pass(WITHIN);
    for (uint32_t i = 0; i < QUEUES; i++)
        CHECK(looks[i] >= 1 && looks[i] <= 2);
}

static void all_are_looked_at_after_a_sleep(void)
{
    open_turns(QUEUES, 1);
    worker.look_at_all = true;
    pass(1);
    for (uint32_t i = 0; i < QUEUES; i++)
        CHECK_EQUAL(looks[i], 1);
    pass(1);
    uint32_t sum = 0;
    for (uint32_t i = 0; i < QUEUES; i++)
        sum += looks[i];
    CHECK(sum < QUEUES / 2);
}

static void what_is_over_its_share_sits_out(void)
{
    open_turns(2, 2);
    queues[0].debt = WITHIN / 2;
    pass(WITHIN);
    CHECK_EQUAL(looks[0], WITHIN / 2);
    CHECK_EQUAL(looks[1], WITHIN);
}

static const struct test tests[] = {
    {"each rests, and is looked at all the same", each_rests_and_is_looked_at_all_the_same},
    {"who has work rests no more", who_has_work_rests_no_more},
    {"all are looked at after a sleep", all_are_looked_at_after_a_sleep},
    {"what is over its share sits out", what_is_over_its_share_sits_out},
};

CHECK_MAIN(tests)
