/* SPDX-License-Identifier: Apache-2.0
 *
 * Workers and queues: what is wanted becomes what is, kicks and calls are not lost, nothing is
 * leaked.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "check.h"

enum { HAMMER = 300 };

/* Put a write of one sector into the ring; returns whether the device wants a kick. */
static bool send(struct line *line)
{
    const uint32_t header[4] = {1, 0, 5, 0};
    const struct vhu_buffer buffers[] = {
        {line->buffers, 16, 0}, {line->buffers + 4096, 512, 0}, {line->buffers + 8192, 1, 1}};
    uint16_t id;

    memcpy(guest_at(&bench.guest, line->buffers), header, sizeof(header));
    CHECK_EQUAL(vhu_driver_add(line->driver, buffers, 3, false, &id), 0);
    return vhu_driver_publish(line->driver);
}

/* Wait for one request as a driver does that sleeps until the call. */
static bool receive(struct line *line)
{
    uint32_t written;
    uint16_t id;

    for (;;) {
        int rc = vhu_driver_pop(line->driver, &id, &written);
        if (rc != 0)
            return rc == 1 && written == 1;
        if (!vhu_driver_call_enable(line->driver) && !await(line->call))
            return false;
    }
}

static void exchange(struct line *line)
{
    if (send(line))
        push_fd(line->kick);
    CHECK(receive(line));
}

static const struct vhu_worker_config sleepy = {.poll_us = 0}, polling = {.poll_us = 50},
                                      busy = {.busy = true};

static void no_kick_and_no_call_is_lost(void)
{
    const struct vhu_worker_config configs[] = {sleepy, polling, busy};

    for (int i = 0; i < 3; i++) {
        for (int features = 0; features < 4; features++) {
            uint64_t bits = (features & 1 ? FEATURE(RING_PACKED) : 0) |
                            (features & 2 ? FEATURE(EVENT_IDX) : 0);

            open_bench(&configs[i], 2, bits, features & 1 ? WRAP_BIT : 65530);
            for (int line = 0; line < 2; line++)
                CHECK_EQUAL(want(&bench.lines[line]).actual, VHU_QUEUE_RUNNING);
            for (int round = 0; round < 500 && !check_failures; round++)
                exchange(&bench.lines[round % 3 == 0]);
            CHECK_EQUAL(status_of(&bench.lines[0]).requests + status_of(&bench.lines[1]).requests,
                        500);
            CHECK_EQUAL(status_of(&bench.lines[1]).errors, 0);
            close_bench();
        }
    }
}

/* A worker looks at queues less often that had nothing for long: time enough for that. */
static void have_them_rest(void)
{
    const struct timespec nap = {.tv_nsec = 10 * 1000 * 1000};

    nanosleep(&nap, NULL);
}

static void what_rested_is_served_whenever_it_has_work(void)
{
    static const char *const orders[] = {"0", "3", "12", "0123", "3210", "2", "0", "", "31"};
    const struct vhu_worker_config configs[] = {polling, busy};

    for (int i = 0; i < 2; i++) {
        uint64_t requests = 0, served = 0;

        open_bench(&configs[i], QUEUES_MAX, 0, 0);
        for (int line = 0; line < QUEUES_MAX; line++)
            CHECK_EQUAL(want(&bench.lines[line]).actual, VHU_QUEUE_RUNNING);
        for (size_t round = 0; round < 4 * sizeof(orders) / sizeof(orders[0]); round++) {
            have_them_rest();
            for (const char *at = orders[round % (sizeof(orders) / sizeof(orders[0]))]; *at; at++, requests++)
                exchange(&bench.lines[*at - '0']);
        }
        for (int line = 0; line < QUEUES_MAX; line++)
            served += status_of(&bench.lines[line]).requests;
        CHECK_EQUAL(served, requests);
        have_them_rest();
        close_bench();
    }
}

static void what_was_sent_before_the_start_is_served_without_a_kick(void)
{
    open_bench(&sleepy, 1, 0, 0);
    (void)send(&bench.lines[0]);
    (void)want(&bench.lines[0]);
    CHECK(receive(&bench.lines[0]));
    close_bench();
}

static void a_stopped_ring_reports_where_it_goes_on(void)
{
    for (int packed = 0; packed < 2; packed++) {
        struct line *line = &bench.lines[0];

        open_bench(&polling, 1, packed ? FEATURE(RING_PACKED) : 0, packed ? WRAP_BIT : 65535);
        (void)want(line);
        for (int i = 0; i < 7; i++)
            exchange(line);
        line->wanted.start = 0;
        struct vhu_queue_status status = want(line);
        CHECK_EQUAL(status.actual, VHU_QUEUE_STOPPED);
        CHECK_EQUAL(status.state.avail, packed ? 7 * 3 % NUM : 6);
        CHECK_EQUAL(status.state.used, status.state.avail);
        CHECK_EQUAL(status.state.avail_wrap, 0);
        CHECK_EQUAL(vhu_mem_pins(bench.guest.mem), 0);
        (void)send(line);
        line->wanted.start = 2;
        line->wanted.config.state = status.state;
        CHECK_EQUAL(want(line).actual, VHU_QUEUE_RUNNING);
        CHECK(receive(line));
        exchange(line);
        close_bench();
    }
}

static void a_new_start_needs_no_stop_before_it(void)
{
    struct line *line = &bench.lines[0];

    open_bench(&busy, 1, 0, 0);
    const struct split_used *used = line->wanted.config.device;
    (void)want(line);
    exchange(line);
    exchange(line);
    line->wanted.start = 2;
    line->wanted.config.state = (struct vhu_ring_state){.avail = 2, .used = 2};
    CHECK_EQUAL(want(line).actual, VHU_QUEUE_RUNNING);
    CHECK_EQUAL(load_relaxed(&used->flags), NO_NOTIFY); /* kicks are off while it is polled */
    exchange(line);
    line->wanted.start = 0;
    CHECK_EQUAL(want(line).state.avail, 3);
    CHECK_EQUAL(load_relaxed(&used->flags), 0);
    close_bench();
}

static void a_running_ring_follows_the_memory_table(void)
{
    struct line *line = &bench.lines[0];
    struct vhu_mem *fresh, *poor;

    open_bench(&polling, 1, 0, 0);
    CHECK_EQUAL(vhu_mem_create(bench.guest.regions, 3, &fresh), 0);
    CHECK_EQUAL(vhu_mem_create(bench.guest.regions, 1, &poor), 0);
    (void)want(line);
    exchange(line);
    line->wanted.mem = fresh;
    CHECK_EQUAL(want(line).actual, VHU_QUEUE_RUNNING);
    CHECK_EQUAL(vhu_mem_pins(bench.guest.mem), 0);
    CHECK_EQUAL(vhu_mem_pins(fresh), 1);
    exchange(line);
    line->wanted.mem = poor; /* holds the ring, but not its buffers */
    CHECK_EQUAL(want(line).actual, VHU_QUEUE_RUNNING);
    if (send(line))
        push_fd(line->kick);
    struct vhu_queue_status status = await_actual(line, VHU_QUEUE_BROKEN);
    CHECK_EQUAL(status.fault, VHU_FAULT_ADDRESS);
    CHECK_EQUAL(status.fault_value, line->buffers);
    CHECK_EQUAL(vhu_mem_pins(poor), 0);
    line->wanted.start = 2;
    line->wanted.config.state = status.state;
    line->wanted.mem = fresh;
    CHECK_EQUAL(want(line).actual, VHU_QUEUE_RUNNING);
    CHECK(receive(line));
    line->wanted.config.desc = NULL; /* the table lost the ring itself */
    status = want(line);
    CHECK_EQUAL(status.actual, VHU_QUEUE_BROKEN);
    CHECK_EQUAL(status.fault, VHU_FAULT_RING_ADDRESS);
    CHECK_EQUAL(vhu_mem_pins(fresh), 0);
    vhu_mem_unref(fresh);
    vhu_mem_unref(poor);
    close_bench();
}

static void a_broken_ring_says_why_and_harms_no_other(void)
{
    struct line *bad = &bench.lines[0], *good = &bench.lines[1];

    open_bench(&polling, 2, 0, 0);
    (void)want(bad);
    (void)want(good);
    exchange(bad);
    struct split_avail *avail = bad->wanted.config.driver;
    store_relaxed(&avail->ring[1], NUM + 3);
    store_release(&avail->idx, 2);
    push_fd(bad->kick);
    struct vhu_queue_status status = await_actual(bad, VHU_QUEUE_BROKEN);
    CHECK_EQUAL(status.actual, VHU_QUEUE_BROKEN);
    CHECK_EQUAL(status.fault, VHU_FAULT_HEAD);
    CHECK_EQUAL(status.fault_value, NUM + 3);
    CHECK_EQUAL(status.state.avail, 1);
    CHECK(await(bad->err));
    push_fd(bad->kick);
    exchange(good);
    CHECK_EQUAL(want(bad).actual, VHU_QUEUE_BROKEN); /* the same start: nothing changes */
    CHECK(!is_readable(bad->err));
    bad->wanted.start = 0;
    status = want(bad);
    CHECK_EQUAL(status.actual, VHU_QUEUE_STOPPED);
    CHECK_EQUAL(status.state.avail, 1);
    close_bench();
}

static void a_start_that_cannot_be_is_a_broken_ring(void)
{
    struct line *line = &bench.lines[0];

    open_bench(&sleepy, 1, 0, 0);
    line->wanted.mem = NULL;
    CHECK_EQUAL(want(line).fault, VHU_FAULT_RING_ADDRESS);
    line->wanted.mem = bench.guest.mem;
    line->wanted.start = 2;
    line->wanted.config.state.avail = NUM + 1;
    struct vhu_queue_status status = want(line);
    CHECK_EQUAL(status.actual, VHU_QUEUE_BROKEN);
    CHECK_EQUAL(status.state.avail, NUM + 1);
    CHECK_EQUAL(vhu_mem_pins(bench.guest.mem), 0);
    close_bench();
}

static void a_disabled_ring_is_left_alone_until_it_is_enabled(void)
{
    struct line *line = &bench.lines[0], *other = &bench.lines[1];

    open_bench(&sleepy, 2, 0, 0);
    line->wanted.enabled = false;
    (void)want(line);
    (void)want(other);
    (void)send(line);
    push_fd(line->kick);
    exchange(other);
    exchange(other);
    CHECK_EQUAL(status_of(line).requests, 0);
    CHECK(is_readable(line->kick));
    line->wanted.enabled = true;
    (void)want(line);
    CHECK(receive(line));
    close_bench();
}

static void a_new_call_fd_is_signalled_once(void)
{
    struct line *line = &bench.lines[0];
    int fresh = eventfd(0, EFD_CLOEXEC);

    open_bench(&sleepy, 1, 0, 0);
    (void)want(line);
    CHECK_EQUAL(vhu_queue_set_fd(line->queue, VHU_FD_CALL, dup(fresh)), 0);
    CHECK(await(fresh));
    CHECK(!is_readable(fresh));
    CHECK_EQUAL(vhu_queue_set_fd(line->queue, VHU_FD_CALL, -1), 0);
    (void)want(line);
    (void)send(line);
    push_fd(line->kick);
    line->wanted.start = 0;
    (void)want(line);
    CHECK(!is_readable(fresh));
    close_bench();
    close(fresh);
}

static void pipes_serve_as_kick_and_call_even_when_their_other_end_goes(void)
{
    struct line *line = &bench.lines[0], *other = &bench.lines[1];
    int kick[2], call[2];

    open_bench(&sleepy, 2, 0, 0);
    CHECK_EQUAL(pipe2(kick, O_CLOEXEC), 0);
    CHECK_EQUAL(pipe2(call, O_CLOEXEC), 0);
    CHECK_EQUAL(vhu_queue_set_fd(line->queue, VHU_FD_KICK, kick[0]), 0);
    CHECK_EQUAL(vhu_queue_set_fd(line->queue, VHU_FD_CALL, call[1]), 0);
    (void)want(line);
    (void)want(other);
    (void)send(line);
    push_fd(kick[1]);
    CHECK(await(call[0]));
    CHECK(receive(line));
    close(kick[1]);
    close(call[0]);
    exchange(other); /* the worker lives on */
    (void)send(line); /* looked at whenever the worker wakes up: */
    exchange(other);
    exchange(other); /* by now at least one pass saw it */
    line->wanted.start = 0;
    CHECK_EQUAL(want(line).state.used, 2);
    close_bench();
}

/* The peer shares the eventfds' flags and counters, and here fills them up and makes them block. */
static void fds_that_would_block_do_not_hold_the_worker_up(void)
{
    struct line *line = &bench.lines[0], *other = &bench.lines[1];
    const uint64_t full = UINT64_MAX - 1;

    open_bench(&sleepy, 2, 0, 0);
    CHECK_EQUAL(write(line->call, &full, sizeof(full)), sizeof(full));
    CHECK_EQUAL(write(line->kick, &full, sizeof(full)), sizeof(full));
    CHECK_EQUAL(fcntl(line->call, F_SETFL, 0), 0);
    CHECK_EQUAL(fcntl(line->kick, F_SETFL, 0), 0);
    (void)want(line);
    (void)want(other);
    (void)send(line);
    exchange(other);
    exchange(other);
    line->wanted.start = 0;
    CHECK_EQUAL(want(line).state.used, 1);
    close_bench();
}

static void a_ring_without_a_kick_fd_is_polled(void)
{
    struct line *line = &bench.lines[0];

    open_bench(&sleepy, 1, 0, 0);
    CHECK_EQUAL(vhu_queue_set_fd(line->queue, VHU_FD_KICK, -1), 0);
    (void)want(line);
    for (int i = 0; i < 20; i++) {
        (void)send(line);
        CHECK(receive(line));
    }
    close_bench();
}

static void an_fd_that_is_none_is_refused(void)
{
    open_bench(&sleepy, 1, 0, 0);
    CHECK_EQUAL(vhu_queue_set_fd(bench.lines[0].queue, VHU_FD_KICK, 9999), -EBADF);
    CHECK_EQUAL(vhu_queue_set_fd(bench.lines[0].queue, VHU_FD_KICK, -2), -EINVAL);
    CHECK_EQUAL(vhu_queue_set_fd(bench.lines[0].queue, 3, -1), -EINVAL);
    close_bench();
}

static void things_end_in_any_order(void)
{
    open_bench(&polling, 3, 0, 0);
    for (int i = 0; i < 3; i++)
        (void)want(&bench.lines[i]);
    exchange(&bench.lines[1]);
    bench.lines[0].wanted.start = 0;
    (void)want(&bench.lines[0]);
    vhu_queue_destroy(bench.lines[0].queue); /* while the worker serves the others */
    exchange(&bench.lines[2]);
    CHECK_EQUAL(vhu_queue_create(bench.worker, bench.blk, bench.event_fd, &bench.lines[0].queue),
                0);
    vhu_worker_destroy(bench.worker);
    (void)vhu_queue_want(bench.lines[1].queue,
                         &bench.lines[1].wanted); /* never applied, not leaked */
    (void)vhu_queue_want(bench.lines[1].queue, &bench.lines[1].wanted);
    CHECK_EQUAL(vhu_queue_set_fd(bench.lines[1].queue, VHU_FD_CALL, dup(bench.event_fd)), 0);
    close_lines();
    vhu_blk_destroy(bench.blk);
    guest_destroy(&bench.guest);
    close(bench.event_fd);
    CHECK_EQUAL(count_fds(), bench.fds_before);
}

static void *hammer(void *argument)
{
    struct line *line = argument;
    struct vhu_queue_wanted wanted = line->wanted;
    struct vhu_queue_status status;

    for (int i = 0; i < HAMMER; i++) {
        wanted.enabled = i % 2;
        (void)vhu_queue_want(line->queue, &wanted);
        (void)vhu_queue_set_fd(line->queue, VHU_FD_CALL, dup(line->call));
        (void)vhu_queue_set_fd(line->queue, VHU_FD_KICK, dup(line->kick));
        vhu_queue_status(line->queue, &status);
    }
    return NULL;
}

/* Every change of the call fd signals it and every enable looks at the ring: requests keep
 * flowing. */
static void wants_from_many_threads_overtake_each_other_without_harm(void)
{
    for (int packed = 0; packed < 2; packed++) {
        struct line *line = &bench.lines[0];
        pthread_t threads[2];

        open_bench(&polling, 1,
                   packed ? FEATURE(RING_PACKED) | FEATURE(EVENT_IDX) : FEATURE(EVENT_IDX),
                   packed ? WRAP_BIT : 0);
        (void)want(line);
        for (int i = 0; i < 2; i++)
            CHECK_EQUAL(pthread_create(&threads[i], NULL, hammer, line), 0);
        for (int i = 0; i < 200 && !check_failures; i++)
            exchange(line);
        for (int i = 0; i < 2; i++)
            pthread_join(threads[i], NULL);
        line->wanted.start = 0;
        struct vhu_queue_status status = want(line);
        CHECK_EQUAL(status.requests, 200);
        CHECK_EQUAL(status.applied, 1 + 2 * HAMMER + 1);
        CHECK_EQUAL(vhu_mem_pins(bench.guest.mem), 0);
        close_bench();
    }
}

static const struct test tests[] = {
    {"no kick and no call is lost", no_kick_and_no_call_is_lost},
    {"what rested is served whenever it has work", what_rested_is_served_whenever_it_has_work},
    {"what was sent before the start is served without a kick",
     what_was_sent_before_the_start_is_served_without_a_kick},
    {"a stopped ring reports where it goes on", a_stopped_ring_reports_where_it_goes_on},
    {"a new start needs no stop before it", a_new_start_needs_no_stop_before_it},
    {"a running ring follows the memory table", a_running_ring_follows_the_memory_table},
    {"a broken ring says why and harms no other", a_broken_ring_says_why_and_harms_no_other},
    {"a start that cannot be is a broken ring", a_start_that_cannot_be_is_a_broken_ring},
    {"a disabled ring is left alone until it is enabled",
     a_disabled_ring_is_left_alone_until_it_is_enabled},
    {"a new call fd is signalled once", a_new_call_fd_is_signalled_once},
    {"pipes serve as kick and call even when their other end goes",
     pipes_serve_as_kick_and_call_even_when_their_other_end_goes},
    {"fds that would block do not hold the worker up",
     fds_that_would_block_do_not_hold_the_worker_up},
    {"a ring without a kick fd is polled", a_ring_without_a_kick_fd_is_polled},
    {"an fd that is none is refused", an_fd_that_is_none_is_refused},
    {"things end in any order", things_end_in_any_order},
    {"wants from many threads overtake each other without harm",
     wants_from_many_threads_overtake_each_other_without_harm},
};

CHECK_MAIN(tests)
