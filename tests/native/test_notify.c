/* SPDX-License-Identifier: Apache-2.0
 *
 * Notify pages: a store is a kick, none is lost, and a page that was taken away is not touched any more.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"
#include "check.h"

enum { PAGE = 4096, ROUNDS = 300 };

static const struct vhu_worker_config sleepy = {.poll_us = 0, .nap_us = 50},
                                      polling = {.poll_us = 50};

static uint32_t *map_page(void)
{
    return mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

/* Put a request into the ring that needs nothing of the store; returns whether the device wants a kick. */
static bool send(struct line *line)
{
    const struct vhu_buffer status = {line->buffers, 1, 1};
    uint16_t id;

    CHECK_EQUAL(vhu_driver_add(line->driver, &status, 1, false, &id), 0);
    return vhu_driver_publish(line->driver);
}

static bool receive(struct line *line)
{
    uint32_t written;
    uint16_t id;

    for (;;) {
        int rc = vhu_driver_pop(line->driver, &id, &written);
        if (rc != 0)
            return rc == 1;
        if (!vhu_driver_call_enable(line->driver) && !await(line->call))
            return false;
    }
}

/* Kick as virtio-pci does: with the ring's number, of 16 or 32 bits. */
static void store_kick(uint32_t *page, uint32_t number, bool wide)
{
    if (wide)
        store_release(page, number);
    else
        store_release((uint16_t *)page, (uint16_t)number);
}

static void no_kick_by_page_is_lost(void)
{
    const struct vhu_worker_config *configs[] = {&sleepy, &polling};
    uint32_t *pages[2] = {map_page(), map_page()};

    for (int i = 0; i < 2; i++) {
        for (int features = 0; features < 4; features++) {
            uint64_t bits = (features & 1 ? FEATURE(RING_PACKED) : 0) |
                            (features & 2 ? FEATURE(EVENT_IDX) : 0);

            open_bench(configs[i], 2, bits, features & 1 ? WRAP_BIT : 65530);
            for (uint32_t line = 0; line < 2; line++) {
                bench.lines[line].wanted.notify = pages[line];
                (void)want(&bench.lines[line]);
            }
            for (uint32_t round = 0; round < ROUNDS && !check_failures; round++) {
                uint32_t which = round % 3 == 0;

                if (send(&bench.lines[which]))
                    store_kick(pages[which], which, round % 2);
                CHECK(receive(&bench.lines[which]));
            }
            for (int line = 0; line < 2; line++) {
                CHECK_EQUAL(status_of(&bench.lines[line]).kicks, 0);
                CHECK(i != 0 || status_of(&bench.lines[line]).page_kicks > 0);
            }
            close_bench();
        }
    }
    munmap(pages[0], PAGE);
    munmap(pages[1], PAGE);
}

/* A device whose driver has only just gone to sleep is found, too. */
static void a_kick_after_a_long_time_is_found(void)
{
    struct line *line = &bench.lines[0];
    uint32_t *page = map_page();

    open_bench(&sleepy, 1, 0, 0);
    line->wanted.notify = page;
    (void)want(line);
    usleep(20000); /* more than 64 short naps */
    if (send(line))
        store_kick(page, 0, false);
    CHECK(receive(line));
    close_bench();
    munmap(page, PAGE);
}

static void a_ring_without_a_kick_fd_is_kicked_by_its_page_alone(void)
{
    struct line *line = &bench.lines[0];
    uint32_t *page = map_page();

    open_bench(&sleepy, 1, 0, 0);
    line->wanted.notify = page;
    CHECK_EQUAL(vhu_queue_set_fd(line->queue, VHU_FD_KICK, -1), 0);
    (void)want(line);
    for (int round = 0; round < 50 && !check_failures; round++) {
        if (send(line))
            store_kick(page, 0, false);
        CHECK(receive(line));
    }
    close_bench();
    munmap(page, PAGE);
}

/* Around every switch kicks come either way; a page that is gone is not touched. */
static void pages_come_and_go_under_load(void)
{
    struct line *line = &bench.lines[0];

    open_bench(&sleepy, 1, FEATURE(EVENT_IDX), 0);
    (void)want(line);
    for (int round = 0; round < ROUNDS && !check_failures; round++) {
        uint32_t *page = map_page();

        if (send(line))
            push_fd(line->kick);
        line->wanted.notify = page;
        (void)want(line);
        CHECK_EQUAL((uint16_t)load_acquire(page), UINT16_MAX);
        CHECK(receive(line));
        if (send(line))
            store_kick(page, 0, false);
        line->wanted.notify = NULL;
        (void)want(line);
        munmap(page, PAGE);
        push_fd(line->kick); /* the store may have gone nowhere */
        CHECK(receive(line));
    }
    close_bench();
}

static void the_page_of_a_ring_that_is_not_served_is_left_alone(void)
{
    struct line *line = &bench.lines[0], *other = &bench.lines[1];
    uint32_t *page = map_page();

    open_bench(&sleepy, 2, 0, 0);
    other->wanted.notify = map_page();
    (void)want(other); /* the worker looks at pages */
    line->wanted.notify = page;
    (void)want(line);
    line->wanted.enabled = false;
    (void)want(line);
    store_kick(page, 0, true);
    (void)send(line);
    for (int round = 0; round < 20; round++) {
        if (send(other))
            store_kick(other->wanted.notify, 1, false);
        CHECK(receive(other));
    }
    CHECK_EQUAL(load_acquire(page), 0);
    CHECK_EQUAL(status_of(line).requests, 0);
    line->wanted.enabled = true;
    (void)want(line);
    CHECK(receive(line));
    line->wanted.start = 0;
    (void)want(line);
    store_kick(page, 5, true);
    for (int round = 0; round < 20; round++) {
        if (send(other))
            store_kick(other->wanted.notify, 1, false);
        CHECK(receive(other));
    }
    CHECK_EQUAL(load_acquire(page), 5);
    munmap(page, PAGE);
    page = other->wanted.notify;
    close_bench();
    munmap(page, PAGE);
}

static const struct test tests[] = {
    {"no kick by a notify page is lost", no_kick_by_page_is_lost},
    {"a kick after a long time is found", a_kick_after_a_long_time_is_found},
    {"a ring without a kick fd is kicked by its page alone",
     a_ring_without_a_kick_fd_is_kicked_by_its_page_alone},
    {"notify pages come and go under load", pages_come_and_go_under_load},
    {"the page of a ring that is not served is left alone",
     the_page_of_a_ring_that_is_not_served_is_left_alone},
};

CHECK_MAIN(tests)
