/* SPDX-License-Identifier: Apache-2.0
 *
 * Relays: no signal is lost, what a route used is let go of, and nothing that a peer does with its fds
 * keeps the thread busy or waiting.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "atomic.h"
#include "bench.h"
#include "check.h"

enum { PAGE = 4096, MANY = 2000, PAUSE_US = 1000, TRIES = PATIENCE_MS * 1000 / PAUSE_US };

static struct vhu_relay *relay;
static int fds_before;

static void open_relay(void)
{
    fds_before = count_fds();
    CHECK_EQUAL(vhu_relay_create(&relay), 0);
}

static void close_relay(void)
{
    vhu_relay_destroy(relay);
    CHECK_EQUAL(count_fds(), fds_before);
}

static int counter(void)
{
    return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

/* A route to fds, of which duplicates are handed over. */
static struct vhu_route *add_route(int source, const int *targets, uint32_t count)
{
    struct vhu_route *route = NULL;
    int copies[4];

    for (uint32_t i = 0; i < count; i++)
        copies[i] = dup(targets[i]);
    const struct vhu_target target = {.fds = copies, .fd_count = count};
    CHECK_EQUAL(vhu_relay_add(relay, dup(source), &target, &route), 0);
    return route;
}

static void await_signals(const struct vhu_route *route, uint64_t count)
{
    for (int i = 0; i < TRIES && vhu_route_signals(route) < count; i++)
        usleep(PAUSE_US);
    CHECK_EQUAL(vhu_route_signals(route), count);
}

static void *register_page(void)
{
    return mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static uint32_t await_store(uint32_t *word, uint32_t before)
{
    for (int i = 0; i < TRIES && load_acquire(word) == before; i++)
        usleep(PAUSE_US);
    return load_acquire(word);
}

static void each_signal_reaches_every_target(void)
{
    int source = counter(), targets[3] = {counter(), counter(), counter()};

    open_relay();
    struct vhu_route *route = add_route(source, targets, 3);
    for (int i = 1; i <= MANY && !check_failures; i++) {
        push_fd(source);
        for (int j = 0; j < 3; j++)
            CHECK(await(targets[j]));
        await_signals(route, (uint64_t)i);
    }
    close_relay();
    for (int j = 0; j < 3; j++)
        close(targets[j]);
    close(source);
}

static void a_store_has_the_width_of_the_register(void)
{
    uint32_t *word = register_page();
    int source = counter();

    for (uint32_t width = 2; width <= 4; width += 2) {
        const struct vhu_target target = {.address = word + 2, .width = width, .value = 0x50007};
        struct vhu_route *route;

        open_relay();
        memset(word, 0xff, PAGE);
        CHECK_EQUAL(vhu_relay_add(relay, dup(source), &target, &route), 0);
        push_fd(source);
        CHECK_EQUAL(await_store(word + 2, UINT32_MAX), width == 2 ? 0xffff0007 : 0x50007);
        CHECK_EQUAL(word[1] & word[3], UINT32_MAX);
        close_relay();
    }
    munmap(word, PAGE);
    close(source);
}

static void signals_of_pipes_and_sockets_are_one_until_they_are_looked_at(void)
{
    int target = counter();
    uint8_t bytes[3000] = {0};

    for (int kind = 0; kind < 2; kind++) {
        int ends[2];

        if (kind == 0)
            CHECK_EQUAL(pipe2(ends, O_CLOEXEC), 0);
        else
            CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        open_relay();
        struct vhu_route *route = add_route(ends[0], &target, 1);
        for (uint64_t i = 1; i <= 20; i++) {
            CHECK_EQUAL(write(ends[1], bytes, sizeof(bytes)), sizeof(bytes));
            CHECK(await(target));
            for (int j = 0; j < TRIES && is_readable(ends[0]); j++)
                usleep(PAUSE_US);
            CHECK(!is_readable(ends[0]));
        }
        CHECK(vhu_route_signals(route) >= 20);
        close_relay();
        close(ends[0]);
        close(ends[1]);
    }
    close(target);
}

static void a_ring_signals_the_target_once(void)
{
    int source = counter(), target = counter();

    open_relay();
    struct vhu_route *route = add_route(source, &target, 1);
    for (int i = 0; i < 100; i++) {
        vhu_route_ring(route);
        CHECK(await(target));
    }
    CHECK_EQUAL(vhu_route_signals(route), 0);
    close_relay();
    CHECK(!is_readable(target));
    close(source);
    close(target);
}

static void another_target_takes_over_and_the_old_one_is_closed(void)
{
    int source = counter(), first[2], second = counter();

    CHECK_EQUAL(pipe2(first, O_CLOEXEC | O_NONBLOCK), 0);
    open_relay();
    struct vhu_route *route = add_route(source, &first[1], 1);
    close(first[1]);
    fds_before--;
    push_fd(source);
    CHECK(await(first[0]));
    int copy = dup(second);
    CHECK_EQUAL(vhu_route_retarget(route, &(struct vhu_target){.fds = &copy, .fd_count = 1}), 0);
    uint8_t byte;
    CHECK_EQUAL(read(first[0], &byte, 1), 0); /* its writer is gone */
    push_fd(source);
    CHECK(await(second));
    CHECK_EQUAL(vhu_route_retarget(route, &(struct vhu_target){.fds = NULL}), 0);
    push_fd(source);
    await_signals(route, 3);
    CHECK(!is_readable(second));
    close_relay();
    close(source);
    close(first[0]);
    close(second);
}

static void what_is_no_target_and_no_source_is_refused_and_closed(void)
{
    uint32_t *word = register_page();
    int file = memfd_create("file", MFD_CLOEXEC), source = counter();
    const struct vhu_target bad[] = {
        {.address = word, .width = 1},
        {.address = word, .width = 8},
        {.address = (uint8_t *)word + 1, .width = 2},
        {.address = (uint8_t *)word + 2, .width = 4},
        {.fds = NULL, .fd_count = 1025},
    };
    struct vhu_route *route;

    open_relay();
    for (int i = 0; i < 4; i++)
        CHECK_EQUAL(vhu_relay_add(relay, dup(source), &bad[i], &route), -EINVAL);
    int many[1025];
    for (int i = 0; i < 1025; i++)
        many[i] = -1;
    CHECK_EQUAL(vhu_relay_add(relay, dup(source),
                              &(struct vhu_target){.fds = many, .fd_count = 1025}, &route),
                -EINVAL);
    int closed[3] = {counter(), -1, counter()};
    CHECK_EQUAL(vhu_relay_add(relay, dup(source),
                              &(struct vhu_target){.fds = closed, .fd_count = 3}, &route),
                -EBADF);
    CHECK_EQUAL(vhu_relay_add(relay, dup(file), &(struct vhu_target){.fds = NULL}, &route), -EPERM);
    CHECK_EQUAL(vhu_relay_add(relay, -1, &(struct vhu_target){.fds = NULL}, &route), -EBADF);
    close_relay();
    close(file);
    close(source);
    munmap(word, PAGE);
}

static void a_source_that_ends_or_cannot_be_emptied_keeps_nobody_busy(void)
{
    int target = counter(), ends[2], endless = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    const uint64_t most = UINT64_MAX - 1;

    CHECK_EQUAL(pipe2(ends, O_CLOEXEC), 0);
    open_relay();
    struct vhu_route *pipe_route = add_route(ends[0], &target, 1);
    struct vhu_route *endless_route = add_route(endless, &target, 1);
    push_fd(ends[1]);
    close(ends[1]);
    fds_before--;
    await_signals(pipe_route, 1);
    CHECK_EQUAL(write(endless, &most, sizeof(most)), sizeof(most));
    await_signals(endless_route, 1);
    for (int i = 0; i < 100; i++) { /* round trips, during which it would be seen again */
        while (is_readable(target))
            CHECK(await(target));
        vhu_route_ring(pipe_route);
        CHECK(await(target));
    }
    CHECK_EQUAL(vhu_route_signals(pipe_route), 1);
    CHECK_EQUAL(vhu_route_signals(endless_route), 1);
    vhu_route_remove(pipe_route);
    close_relay();
    close(ends[0]);
    close(endless);
    close(target);
}

static void a_full_or_broken_target_does_not_hold_up_others(void)
{
    int source = counter(), full = counter(), broken[2], last = counter();
    const uint64_t most = UINT64_MAX - 1;

    CHECK_EQUAL(write(full, &most, sizeof(most)), sizeof(most));
    CHECK_EQUAL(pipe2(broken, O_CLOEXEC), 0);
    open_relay();
    struct vhu_route *route = add_route(source, (const int[]){full, broken[1], last}, 3);
    CHECK_EQUAL(fcntl(full, F_SETFL, fcntl(full, F_GETFL) & ~O_NONBLOCK), 0);
    close(broken[0]);
    close(broken[1]);
    fds_before -= 2;
    for (uint64_t i = 1; i <= 200; i++) {
        push_fd(source);
        CHECK(await(last));
        await_signals(route, i);
    }
    close_relay();
    close(source);
    close(full);
    close(last);
}

/* The thread waits in a write to a pipe that is full and blocks: the look for room comes only now and then. */
static void a_thread_that_is_held_up_is_got_out_by_who_wants_something(void)
{
    int source = counter(), held[2], target = counter(), other = counter();
    uint8_t bytes[PAGE] = {0};

    CHECK_EQUAL(pipe2(held, O_CLOEXEC), 0);
    open_relay();
    struct vhu_route *route = add_route(source, &held[1], 1);
    push_fd(source);
    CHECK(await(held[0]));
    CHECK_EQUAL(fcntl(held[1], F_SETPIPE_SZ, PAGE), PAGE);
    CHECK_EQUAL(fcntl(held[1], F_SETFL, 0), 0);
    CHECK_EQUAL(write(held[1], bytes, sizeof(bytes)), sizeof(bytes));
    push_fd(source);
    await_signals(route, 2);
    vhu_route_ring(route); /* does not wait */
    struct vhu_route *second = add_route(other, &target, 1);
    vhu_route_remove(route);
    push_fd(other);
    CHECK(await(target));
    vhu_route_remove(second);
    close_relay();
    close(source);
    close(other);
    close(target);
    close(held[0]);
    close(held[1]);
}

static void a_register_whose_file_was_truncated_swallows_stores(void)
{
    int file = memfd_create("registers", MFD_CLOEXEC), source = counter();
    struct vhu_route *route;

    CHECK_EQUAL(ftruncate(file, PAGE), 0);
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    open_relay();
    const struct vhu_target target = {.address = page, .width = 4, .value = 3};
    CHECK_EQUAL(vhu_relay_add(relay, dup(source), &target, &route), 0);
    CHECK_EQUAL(ftruncate(file, 0), 0);
    push_fd(source);
    await_signals(route, 1);
    vhu_route_remove(route); /* it has stored */
    CHECK_EQUAL(*(uint32_t *)page, 3);
    close_relay();
    munmap(page, PAGE);
    close(file);
    close(source);
}

/* The page has two guards then; whoever asks for the region's learns of it. */
static void a_register_in_a_region_that_was_truncated_is_lost_for_both(void)
{
    int file = memfd_create("registers", MFD_CLOEXEC), source = counter();
    struct vhu_region *region;
    struct vhu_route *route;
    struct vhu_mem *mem;
    uint64_t gpa = 0;

    CHECK_EQUAL(ftruncate(file, 2 * PAGE), 0);
    CHECK_EQUAL(vhu_region_map(file, PAGE, PAGE, 2 * PAGE, 0, &region), 0);
    CHECK_EQUAL(vhu_mem_create(&region, 1, &mem), 0);
    uint8_t *page = vhu_region_hva(region);
    open_relay();
    const struct vhu_target target = {.address = page + PAGE, .width = 2, .value = 3};
    CHECK_EQUAL(vhu_relay_add(relay, dup(source), &target, &route), 0);
    CHECK(!vhu_mem_faulted(mem, &gpa));
    CHECK_EQUAL(ftruncate(file, 0), 0);
    push_fd(source);
    await_signals(route, 1);
    vhu_route_remove(route); /* it has stored */
    CHECK_EQUAL(*(uint16_t *)(page + PAGE), 3);
    CHECK(vhu_mem_faulted(mem, &gpa));
    CHECK_EQUAL(gpa, PAGE);
    close_relay();
    vhu_mem_unref(mem);
    vhu_region_unref(region);
    close(file);
    close(source);
}

static void *kick_again_and_again(void *argument)
{
    const int *source = argument;

    for (int i = 0; i < MANY; i++)
        push_fd(*source);
    return NULL;
}

/* What was removed is used by nobody: its register is unmapped at once. */
static void routes_come_and_go_under_load(void)
{
    int source = counter(), target = counter();
    pthread_t kicker;

    open_relay();
    struct vhu_route *steady = add_route(source, &target, 1);
    CHECK_EQUAL(pthread_create(&kicker, NULL, kick_again_and_again, &source), 0);
    for (int i = 0; i < MANY / 10; i++) {
        void *page = register_page();
        struct vhu_route *route;
        int own = dup(target);

        CHECK_EQUAL(vhu_relay_add(relay, dup(source),
                                  &(struct vhu_target){.address = page, .width = 2}, &route),
                    0);
        vhu_route_ring(route);
        if (i % 2)
            CHECK_EQUAL(
                vhu_route_retarget(route, &(struct vhu_target){.fds = &own, .fd_count = 1}), 0);
        else
            close(own);
        vhu_route_remove(route);
        munmap(page, PAGE);
    }
    pthread_join(kicker, NULL);
    push_fd(source);
    CHECK(await(target));
    CHECK(vhu_route_signals(steady) > 0);
    close_relay();
    close(source);
    close(target);
}

static const struct test tests[] = {
    {"each signal reaches every target", each_signal_reaches_every_target},
    {"a store has the width of the register", a_store_has_the_width_of_the_register},
    {"what waits in a pipe or socket is taken out whole",
     signals_of_pipes_and_sockets_are_one_until_they_are_looked_at},
    {"a ring signals the target once", a_ring_signals_the_target_once},
    {"another target takes over, and the old one is closed",
     another_target_takes_over_and_the_old_one_is_closed},
    {"what is no target or no source is refused, and closed",
     what_is_no_target_and_no_source_is_refused_and_closed},
    {"a source that ends or cannot be emptied keeps nobody busy",
     a_source_that_ends_or_cannot_be_emptied_keeps_nobody_busy},
    {"a full or broken target does not hold up others",
     a_full_or_broken_target_does_not_hold_up_others},
    {"a thread that is held up is got out by who wants something",
     a_thread_that_is_held_up_is_got_out_by_who_wants_something},
    {"a register whose file was truncated swallows stores",
     a_register_whose_file_was_truncated_swallows_stores},
    {"a register in a region that was truncated is lost for both",
     a_register_in_a_region_that_was_truncated_is_lost_for_both},
    {"routes come and go under load", routes_come_and_go_under_load},
};

CHECK_MAIN(tests)
