/* SPDX-License-Identifier: Apache-2.0
 *
 * Faults on request: each does what it says, as often as it says, and ends.
 */
#include <errno.h>

#include "bench.h"
#include "check.h"

enum { ROUNDS = 20 };

static const struct vhu_worker_config sleepy = {.poll_us = 0};
static struct line *const line = &bench.lines[0];

static uint16_t send(void)
{
    const struct vhu_buffer status = {line->buffers, 1, 1};
    uint16_t id;

    CHECK_EQUAL(vhu_driver_add(line->driver, &status, 1, false, &id), 0);
    if (vhu_driver_publish(line->driver))
        push_fd(line->kick);
    return id;
}

static int look(void)
{
    uint32_t written;
    uint16_t id;

    return vhu_driver_pop(line->driver, &id, &written);
}

static void exchange(void)
{
    int rc;

    (void)send();
    while ((rc = look()) == 0) {
        if (!vhu_driver_call_enable(line->driver) && !await(line->call))
            break;
    }
    CHECK_EQUAL(rc, 1);
}

static void start(uint64_t features)
{
    open_bench(&sleepy, 1, features, features ? WRAP_BIT : 0);
    (void)want(line);
}

static void a_stuck_queue_serves_nothing_until_it_is_let_go(void)
{
    for (int packed = 0; packed < 2; packed++) {
        start(packed ? FEATURE(RING_PACKED) : 0);
        exchange();
        vhu_queue_misbehave(line->queue, VHU_MISCHIEF_STUCK, 1);
        (void)want(line); /* it has seen that */
        (void)send();
        for (int i = 0; i < ROUNDS; i++) {
            vhu_queue_look(line->queue);
            CHECK_EQUAL(want(line).actual, VHU_QUEUE_RUNNING);
        }
        CHECK_EQUAL(status_of(line).requests, 1);
        vhu_queue_misbehave(line->queue, VHU_MISCHIEF_STUCK, 0);
        exchange();
        while (look() == 0 && await(line->call))
            ;
        CHECK_EQUAL(status_of(line).requests, 3);
        close_bench();
    }
}

/* The driver finds out when it looks for itself. */
static void calls_are_lost_as_often_as_asked_for(void)
{
    start(0);
    vhu_queue_misbehave(line->queue, VHU_MISCHIEF_LOST_CALLS, 2);
    for (int i = 0; i < 2; i++) {
        (void)vhu_driver_call_enable(line->driver);
        (void)send();
        while (look() == 0)
            ;
    }
    (void)want(line); /* it is past its publish */
    CHECK(!is_readable(line->call));
    CHECK_EQUAL(status_of(line).calls, 0);
    (void)vhu_driver_call_enable(line->driver);
    (void)send();
    CHECK(await(line->call));
    CHECK_EQUAL(look(), 1);
    close_bench();
}

static void an_id_that_is_not_in_flight_is_returned(void)
{
    for (int packed = 0; packed < 2; packed++) {
        start(packed ? FEATURE(RING_PACKED) : 0);
        exchange();
        vhu_queue_misbehave(line->queue, VHU_MISCHIEF_WRONG_IDS, 1);
        (void)send();
        int rc;
        while ((rc = look()) == 0)
            ;
        CHECK_EQUAL(rc, -EPROTO);
        (void)want(line);
        CHECK_EQUAL(status_of(line).requests, 2);
        close_bench();
    }
}

static const struct test tests[] = {
    {"a stuck queue serves nothing until it is let go",
     a_stuck_queue_serves_nothing_until_it_is_let_go},
    {"calls are lost as often as asked for", calls_are_lost_as_often_as_asked_for},
    {"an id that is not in flight is returned", an_id_that_is_not_in_flight_is_returned},
};

CHECK_MAIN(tests)
