/* SPDX-License-Identifier: Apache-2.0
 *
 * A peer that makes its call fd block, and fills it between the worker's look and its write: the
 * worker can be got out of there. The race is made certain by a poll() that always says "ready".
 */
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "check.h"
#include "guest.h"

enum { NUM = 16, PAUSE_US = 1000, PATIENCE_MS = 20000, TRIES = PATIENCE_MS * 1000 / PAUSE_US };

static struct guest guest;
static struct vhu_blk *blk;
static struct vhu_worker *worker;
static struct vhu_driver *driver;
static struct vhu_queue *queue;
static struct vhu_queue_wanted wanted;
static int event_fd, call_fd;

int poll(struct pollfd *fds, nfds_t count, int timeout)
{
    (void)timeout;
    for (nfds_t i = 0; i < count; i++)
        fds[i].revents = POLLIN | POLLOUT;
    return (int)count;
}

static struct vhu_queue_status status(void)
{
    struct vhu_queue_status now;

    vhu_queue_status(queue, &now);
    return now;
}

static bool is_applied(uint64_t number, bool interrupt)
{
    for (int i = 0; i < TRIES && status().applied < number; i++) {
        if (interrupt)
            vhu_queue_interrupt(queue);
        usleep(PAUSE_US);
    }
    return status().applied >= number;
}

/* Have the worker serve a request and wait for ever in the call that follows. */
static void hold_up(void)
{
    const struct vhu_worker_config sleepy = {.poll_us = 0};
    const struct vhu_blk_config store = {.fd = -1, .buffered_fd = -1, .alignment = 1};
    const struct vhu_buffer status_byte = {FAR, 1, 1};
    struct vhu_driver_config config;
    uint16_t id;

    guest_create(&guest);
    memset(&config, 0, sizeof(config));
    config.ring = guest_ring(&guest, 0, NUM, 0);
    event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    const uint64_t most = UINT64_MAX - 1;
    CHECK_EQUAL(write(call_fd, &most, sizeof(most)), sizeof(most));
    CHECK_EQUAL(vhu_blk_create(&store, &blk), 0);
    CHECK_EQUAL(vhu_worker_create(&sleepy, &worker), 0);
    CHECK_EQUAL(vhu_queue_create(worker, blk, event_fd, &queue), 0);
    CHECK_EQUAL(vhu_driver_create(&config, &driver), 0);
    CHECK_EQUAL(vhu_driver_add(driver, &status_byte, 1, false, &id), 0);
    vhu_driver_publish(driver);
    CHECK_EQUAL(vhu_queue_set_fd(queue, VHU_FD_CALL, dup(call_fd)), 0);
    wanted = (struct vhu_queue_wanted){
        .start = 0, .enabled = true, .mem = guest.mem, .config = config.ring};
    CHECK(is_applied(vhu_queue_want(queue, &wanted), false));
    CHECK_EQUAL(fcntl(call_fd, F_SETFL, fcntl(call_fd, F_GETFL) & ~O_NONBLOCK), 0);
    wanted.start = 1;
    CHECK(is_applied(vhu_queue_want(queue, &wanted), false));
    for (int i = 0; i < TRIES && status().calls == 0; i++)
        usleep(PAUSE_US);
    CHECK_EQUAL(status().calls, 1);
}

static void let_go(void)
{
    CHECK_EQUAL(vhu_worker_stop(worker, PATIENCE_MS), 0);
    vhu_queue_destroy(queue);
    vhu_worker_destroy(worker);
    vhu_driver_destroy(driver);
    vhu_blk_destroy(blk);
    guest_destroy(&guest);
    close(event_fd);
    close(call_fd);
}

static void a_ring_can_be_stopped(void)
{
    hold_up();
    wanted.start = 0;
    CHECK(is_applied(vhu_queue_want(queue, &wanted), true));
    CHECK_EQUAL(status().actual, VHU_QUEUE_STOPPED);
    let_go();
}

static void a_worker_can_be_stopped(void)
{
    hold_up();
    let_go();
}

static const struct test tests[] = {
    {"a ring whose worker is held up can be stopped", a_ring_can_be_stopped},
    {"a worker that is held up can be stopped", a_worker_can_be_stopped},
};

CHECK_MAIN(tests)
