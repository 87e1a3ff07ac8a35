/* SPDX-License-Identifier: Apache-2.0
 *
 * A peer that makes its call fd block, and fills it between a worker's look and its write: the ports beside it go
 * on, although nobody stops anything. The race is made certain by a poll() that always says "ready".
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
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

/* The peer's own fd of a kick that it takes back just before the worker takes it, or -1. */
static int taken_back = -1;

static bool is_same_file(int left, int right)
{
    struct stat one, other;

    return fstat(left, &one) == 0 && fstat(right, &other) == 0 && one.st_ino == other.st_ino;
}

/* As Linux before 6.5 is, which cannot be asked not to wait by this. */
ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    char ignored[16];

    (void)iov;
    (void)count;
    (void)offset;
    (void)flags;
    if (taken_back >= 0 && is_same_file(fd, taken_back)) {
        (void)!read(taken_back, ignored, sizeof(ignored));
        (void)fcntl(taken_back, F_SETFL, fcntl(taken_back, F_GETFL) & ~O_NONBLOCK);
    }
    errno = EOPNOTSUPP;
    return -1;
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

/* A pipe or a socket, of which the peer has both ends and the flags. */
static void a_kick_may_be_taken_back(void)
{
    for (int sockets = 0; sockets < 2; sockets++) {
        int ends[2];

        CHECK_EQUAL(sockets ? socketpair(AF_UNIX, SOCK_STREAM, 0, ends) : pipe(ends), 0);
        taken_back = ends[0];
        open_ports(false);
        CHECK_EQUAL(vhu_queue_set_fd(sends[HOSTILE].queue, VHU_FD_KICK, dup(ends[0])), 0);
        (void)want(&sends[HOSTILE]);
        for (int i = 0; i < 4 && !check_failures; i++) {
            CHECK_EQUAL(write(ends[1], "1", 1), 1);
            exchange(4);
        }
        close_ports();
        taken_back = -1;
        close(ends[0]);
        close(ends[1]);
    }
}

static const struct test tests[] = {
    {"a kick may be taken back", a_kick_may_be_taken_back},
    {"the others go on", the_others_go_on},
    {"it does not help to try again and again", it_does_not_help_to_try_again_and_again},
};

CHECK_MAIN(tests)
