/* SPDX-License-Identifier: Apache-2.0
 *
 * A peer that makes its call fd block, and fills it between a worker's look and its write: the ports beside it go
 * on, although nobody stops anything. The race is made certain by a poll() that always says "ready".
 */
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "check.h"
#include "net_frame.h"

enum { PORTS = 3, HOSTILE = 2, HEADER = 12, FRAME = 60, FRAMES = 300, PAUSE_US = 100, TRIES = 200000 };

static struct line receives[PORTS], sends[PORTS];
static struct vhu_worker *workers[2];

int poll(struct pollfd *fds, nfds_t count, int timeout)
{
    (void)timeout;
    for (nfds_t i = 0; i < count; i++)
        fds[i].revents = POLLIN | POLLOUT;
    return (int)count;
}

static void open_ports(bool shared)
{
    const struct vhu_worker_config sleepy = {.poll_us = 0};
    const struct vhu_net_config net = {.ports = PORTS, .shared = shared};

    open_switch(&sleepy, &net);
    workers[0] = workers[1] = bench.worker;
    if (shared)
        CHECK_EQUAL(vhu_worker_create(&sleepy, &workers[1]), 0);
    for (uint32_t port = 0, number; port < PORTS; port++) {
        const struct vhu_net_port_config config = {.pairs = 1, .mac = {2, 0, 0, 0, 0, (uint8_t)port}};

        CHECK_EQUAL(vhu_net_port_add(bench.net, &config, &number), 0);
        open_port_line(&receives[port], 2 * (int)port, workers[port % 2], number, 0,
                       1ull << NET_F_VERSION_1, 0);
        open_port_line(&sends[port], 2 * (int)port + 1, workers[port % 2], number, 1,
                       1ull << NET_F_VERSION_1, 0);
        (void)want(&receives[port]);
        (void)want(&sends[port]);
    }
}

static void close_ports(void)
{
    for (uint32_t port = 0; port < PORTS; port++) {
        struct line *lines[] = {&receives[port], &sends[port]};

        for (int i = 0; i < 2; i++) {
            lines[i]->wanted.start = 0;
            (void)want(lines[i]);
            close_line(lines[i]);
        }
    }
    if (workers[1] != bench.worker)
        vhu_worker_destroy(workers[1]);
    close_bench();
}

static void add(struct line *line, uint32_t slot, bool writable)
{
    const struct vhu_buffer buffer = {line->buffers + slot * 4096ull, HEADER + FRAME, writable};
    uint16_t id;

    CHECK_EQUAL(vhu_driver_add(line->driver, &buffer, 1, false, &id), 0);
    if (vhu_driver_publish(line->driver))
        push_fd(line->kick);
}

static bool comes(struct line *line)
{
    uint32_t written;
    uint16_t id;

    for (int i = 0; i < TRIES; i++) {
        if (vhu_driver_pop(line->driver, &id, &written) == 1)
            return true;
        usleep(PAUSE_US);
    }
    return false;
}

/* Broadcasts, which go to the hostile port, too. */
static void exchange(uint32_t frames)
{
    for (uint32_t i = 0; i < frames && !check_failures; i++) {
        uint8_t *bytes = guest_at(&bench.guest, sends[i % 2].buffers);

        memset(bytes, 0, HEADER + FRAME);
        memset(bytes + HEADER, 0xff, 6);
        bytes[HEADER + 6] = 2;
        bytes[HEADER + 11] = (uint8_t)(i % 2);
        add(&receives[(i + 1) % 2], 0, true);
        add(&receives[HOSTILE], i % NUM, true);
        add(&sends[i % 2], 0, false);
        CHECK(comes(&receives[(i + 1) % 2]));
        CHECK(comes(&sends[i % 2]));
        CHECK(comes(&receives[HOSTILE]));
    }
}

/* Whatever call fd the peer has, its next signal waits for ever. */
static void make_it_block(void)
{
    const uint64_t most = UINT64_MAX - 1;
    uint64_t ignored;
    int call = receives[HOSTILE].call;

    CHECK_EQUAL(fcntl(call, F_SETFL, fcntl(call, F_GETFL) | O_NONBLOCK), 0);
    (void)!read(call, &ignored, sizeof(ignored));
    CHECK_EQUAL(write(call, &most, sizeof(most)), sizeof(most));
    CHECK_EQUAL(fcntl(call, F_SETFL, fcntl(call, F_GETFL) & ~O_NONBLOCK), 0);
}

static void the_others_go_on(void)
{
    for (int shared = 0; shared < 2; shared++) {
        open_ports(shared);
        exchange(4);
        make_it_block();
        exchange(FRAMES);
        close_ports();
    }
}

/* With another call fd each time, too, the others have nearly all of the time for themselves. */
static void it_does_not_help_to_try_again_and_again(void)
{
    open_ports(false);
    for (int i = 0; i < FRAMES && !check_failures; i++) {
        CHECK_EQUAL(vhu_queue_set_fd(receives[HOSTILE].queue, VHU_FD_CALL, dup(receives[HOSTILE].call)), 0);
        make_it_block();
        (void)want(&sends[0]);
        exchange(1);
    }
    CHECK(status_of(&receives[HOSTILE]).calls < FRAMES / 2); /* after the first one, none for a while */
    close_ports();
}

static const struct test tests[] = {
    {"the others go on", the_others_go_on},
    {"it does not help to try again and again", it_does_not_help_to_try_again_and_again},
};

CHECK_MAIN(tests)
