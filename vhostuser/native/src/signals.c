/* SPDX-License-Identifier: Apache-2.0
 *
 * Signals to and from a peer. It shares the files' flags and may have cleared O_NONBLOCK, so that a full
 * one is not even tried. One that the peer fills just then holds us until an interrupt: there is no
 * write to an eventfd that never waits.
 */
#include "signals.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { LOOK_EVERY = 64 /* signals between two looks at whether there is room for one */ };

int vhu_signal_adopt(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) >= 0)
        return 0;
    int rc = -errno;
    close(fd);
    return rc;
}

void vhu_signal_close(int fd)
{
    if (fd != NO_FD)
        close(fd);
}

bool vhu_signal_has_room(int fd)
{
    struct pollfd ready = {.fd = fd, .events = POLLOUT};

    return poll(&ready, 1, 0) == 1 && ready.revents & POLLOUT;
}

/* Only a write that waits is interrupted. */
bool vhu_signal_send(int fd)
{
    const uint64_t one = 1;

    if (fd == NO_FD || !vhu_signal_has_room(fd))
        return true;
    return write(fd, &one, sizeof(one)) >= 0 || errno != EINTR;
}

bool vhu_signal_send_often(int fd, struct signal_room *room)
{
    const uint64_t one = 1;

    if (room->full && !vhu_signal_has_room(fd))
        return true;
    room->full = write(fd, &one, sizeof(one)) < 0;
    bool held_up = room->full && errno == EINTR;
    if (++room->sent % LOOK_EVERY == 0)
        room->full |= !vhu_signal_has_room(fd);
    return !held_up;
}

/* ---- Guards ------------------------------------------------------------------------------------ */

/* A timer that interrupts its thread again and again: once might be just before the write that waits. */
static _Thread_local struct {
    timer_t timer;
    bool exists;
    bool armed;
} guard;

static bool make_timer(void)
{
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGURG};

    event._sigev_un._tid = gettid();
    guard.exists = guard.exists || timer_create(CLOCK_MONOTONIC, &event, &guard.timer) == 0;
    return guard.exists;
}

static void set_timer(long ms)
{
    struct timespec interval = {.tv_nsec = ms * 1000000};
    const struct itimerspec times = {interval, interval};

    (void)timer_settime(guard.timer, 0, &times, NULL);
}

void vhu_signal_guard(void)
{
    if (guard.armed || !make_timer())
        return;
    guard.armed = true;
    set_timer(GUARD_MS);
}

void vhu_signal_unguard(void)
{
    if (!guard.armed)
        return;
    guard.armed = false;
    set_timer(0);
}

void vhu_signal_release_guard(void)
{
    if (guard.exists)
        (void)timer_delete(guard.timer);
    guard.exists = guard.armed = false;
}

/* ---- Taking ------------------------------------------------------------------------------------ */

/* Read where the kernel cannot be asked not to wait by preadv2: of pipes and sockets before Linux 6.5. */
static ssize_t read_at_once(int fd, void *bytes, size_t size, bool shared)
{
    ssize_t got = recv(fd, bytes, size, MSG_DONTWAIT);

    if (got >= 0 || errno != ENOTSOCK)
        return got;
    if (shared)
        vhu_signal_guard();
    got = read(fd, bytes, size);
    if (got < 0 && errno == EINTR && shared)
        errno = EIO; /* the peer took its signal back to have us wait: nor is its next one believed */
    return got;
}

enum signal_drained vhu_signal_drain(int fd, uint32_t events, bool shared)
{
    uint8_t bytes[512];
    struct iovec iov = {bytes, sizeof(bytes)};
    ssize_t got = -1;

    errno = EIO;
    if (events & EPOLLIN) {
        /* Ask not to wait each time, where the kernel can do that for this kind of file. */
        got = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);
        if (got < 0 && (errno == EOPNOTSUPP || errno == EINVAL))
            got = read_at_once(fd, bytes, sizeof(bytes), shared);
    }
    if (got > 0)
        return DRAINED_SIGNAL;
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return DRAINED_NOTHING;
    return DRAINED_END;
}
