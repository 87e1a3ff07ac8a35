/* SPDX-License-Identifier: Apache-2.0
 *
 * Rings with requests that wait for the store: how these are given back, and what happens when a ring
 * stops, moves or breaks meanwhile.
 */
#include <errno.h>

#include "check.h"
#include "held.h"

static void requests_are_given_back_as_they_end_or_in_order(void)
{
    const uint64_t layouts[] = {0, FEATURE(RING_PACKED), FEATURE(IN_ORDER),
                                FEATURE(RING_PACKED) | FEATURE(IN_ORDER)};

    for (int i = 0; i < 4; i++) {
        bool in_order = layouts[i] & FEATURE(IN_ORDER);

        open_slow(layouts[i], NUM);
        for (int number = 0; number < 3; number++)
            add(number, IN, 40 + (uint32_t)number);
        await_held(3);
        release(2, 0);
        release(0, 0); /* taken in after the other, or with it */
        CHECK(receive() >= 0);
        if (!in_order)
            CHECK(receive() >= 0);
        CHECK_EQUAL(*status_at(0), OK);
        CHECK_EQUAL(*status_at(2), in_order ? NONE : OK);
        CHECK_EQUAL(data_at(2)[0], 42);
        release(0, 0);
        CHECK(receive() >= 0);
        if (in_order)
            CHECK(receive() >= 0);
        for (int number = 0; number < 3; number++) {
            CHECK_EQUAL(*status_at(number), OK);
            CHECK_EQUAL(data_at(number)[SECTOR - 1], 40 + number);
        }
        CHECK(nothing_was_used());
        CHECK_EQUAL(status_of(line).waits, 3);
        close_bench();
    }
}

static void a_request_that_is_served_at_once_keeps_its_place_in_the_order(void)
{
    open_slow(FEATURE(IN_ORDER), NUM);
    add(0, IN, 7);
    await_held(1);
    add(1, UNKNOWN, 0); /* needs nothing of the store */
    CHECK(nothing_was_used());
    release(0, 0);
    CHECK(receive() >= 0);
    CHECK(receive() >= 0);
    CHECK_EQUAL(*status_at(0), OK);
    CHECK_EQUAL(*status_at(1), UNSUPP);
    close_bench();
}

static void a_draining_stop_waits_for_what_is_in_flight(void)
{
    const uint64_t layouts[] = {0, FEATURE(RING_PACKED)};

    for (int i = 0; i < 2; i++) {
        open_slow(layouts[i], NUM);
        add(0, IN, 5);
        add(1, IN, 6);
        await_held(2);
        line->wanted.start = 0;
        uint64_t number = vhu_queue_want(line->queue, &line->wanted);
        CHECK(await_actual(line, VHU_QUEUE_STOPPING).applied < number);
        add(2, IN, 7); /* comes too late */
        release(1, 0);
        CHECK(status_of(line).applied < number);
        release(0, 0);
        struct vhu_queue_status status = await_applied(line, number);
        CHECK_EQUAL(status.actual, VHU_QUEUE_STOPPED);
        CHECK_EQUAL(status.requests, 2);
        CHECK_EQUAL(*status_at(0), OK);
        CHECK_EQUAL(*status_at(1), OK);
        CHECK_EQUAL(*status_at(2), NONE);
        /* and it goes on where it was */
        line->wanted.start = 2;
        line->wanted.config.state = status.state;
        (void)want(line);
        await_held(1);
        release(0, 0);
        for (int used = 0; used < 3; used++)
            CHECK(receive() >= 0);
        CHECK_EQUAL(*status_at(2), OK);
        close_bench();
    }
}

static void an_abandoning_stop_waits_too_but_gives_nothing_back(void)
{
    open_slow(0, NUM);
    add(0, OUT, 5);
    await_held(1);
    line->wanted.start = 0;
    line->wanted.how = VHU_STOP_ABANDON;
    uint64_t number = vhu_queue_want(line->queue, &line->wanted);
    CHECK(await_actual(line, VHU_QUEUE_STOPPING).applied < number);
    release(0, 0);
    CHECK_EQUAL(await_applied(line, number).actual, VHU_QUEUE_STOPPED);
    CHECK_EQUAL(*status_at(0), NONE);
    CHECK(nothing_was_used());
    close_bench();
}

static void a_ring_moves_to_other_memory_when_nothing_uses_the_old(void)
{
    struct vhu_mem *fresh;

    open_slow(0, NUM);
    CHECK_EQUAL(vhu_mem_create(bench.guest.regions, 3, &fresh), 0);
    add(0, IN, 5);
    await_held(1);
    line->wanted.mem = fresh;
    uint64_t number = vhu_queue_want(line->queue, &line->wanted);
    CHECK(vhu_mem_pins(bench.guest.mem) > 0);
    CHECK(status_of(line).applied < number);
    release(0, 0);
    (void)await_applied(line, number);
    CHECK_EQUAL(vhu_mem_pins(bench.guest.mem), 0);
    add(1, IN, 6);
    await_held(1);
    release(0, 0);
    CHECK(receive() >= 0);
    CHECK(receive() >= 0);
    line->wanted = (struct vhu_queue_wanted){.start = 0};
    (void)want(line);
    vhu_mem_unref(fresh);
    close_bench();
}

static void more_requests_than_can_wait_stay_in_the_ring(void)
{
    const int more = 8;

    open_slow(0, RING);
    for (int number = 0; number < SLOTS + more; number++)
        add(number, IN, (uint32_t)number);
    await_held(SLOTS);
    for (int number = 0; number < SLOTS + more; number++) {
        release(0, 0);
        CHECK(receive() >= 0);
        await_held(SLOTS + more - number - 1 < SLOTS ? SLOTS + more - number - 1 : SLOTS);
    }
    for (int number = 0; number < SLOTS + more; number++) {
        CHECK_EQUAL(*status_at(number), OK);
        CHECK_EQUAL(data_at(number)[0], (uint8_t)number);
    }
    close_bench();
}

static void a_fault_lets_what_is_in_flight_end_first(void)
{
    open_slow(0, NUM);
    struct split_avail *avail = line->wanted.config.driver;
    add(0, IN, 5);
    await_held(1);
    store_release(&avail->idx, (uint16_t)(load_relaxed(&avail->idx) + NUM + 1));
    push_fd(line->kick);
    release(0, 0);
    struct vhu_queue_status status = await_actual(line, VHU_QUEUE_BROKEN);
    CHECK_EQUAL(status.fault, VHU_FAULT_AVAIL_JUMP);
    CHECK(await(line->err));
    CHECK_EQUAL(*status_at(0), OK);
    close_bench();
}

static void a_worker_ends_only_when_the_store_has_let_go(void)
{
    open_slow(0, NUM);
    add(0, OUT, 5);
    await_held(1);
    CHECK_EQUAL(vhu_worker_stop(bench.worker, 1), (uint64_t)-ETIMEDOUT);
    release(0, 0);
    CHECK_EQUAL(vhu_worker_stop(bench.worker, PATIENCE_MS), 0);
    CHECK_EQUAL(*status_at(0), OK); /* no torn request */
    CHECK_EQUAL(receive() >= 0, true);
    close_bench();
}

static const struct test tests[] = {
    {"requests are given back as they end, or in order", requests_are_given_back_as_they_end_or_in_order},
    {"a request that is served at once keeps its place in the order",
     a_request_that_is_served_at_once_keeps_its_place_in_the_order},
    {"a draining stop waits for what is in flight", a_draining_stop_waits_for_what_is_in_flight},
    {"an abandoning stop waits too but gives nothing back",
     an_abandoning_stop_waits_too_but_gives_nothing_back},
    {"a ring moves to other memory when nothing uses the old",
     a_ring_moves_to_other_memory_when_nothing_uses_the_old},
    {"more requests than can wait stay in the ring", more_requests_than_can_wait_stay_in_the_ring},
    {"a fault lets what is in flight end first", a_fault_lets_what_is_in_flight_end_first},
    {"a worker ends only when the store has let go", a_worker_ends_only_when_the_store_has_let_go},
};

CHECK_MAIN(tests)
