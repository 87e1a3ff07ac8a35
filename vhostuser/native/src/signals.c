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
#include <sys/epoll.h>
#include <sys/uio.h>
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

void vhu_signal_send(int fd)
{
    const uint64_t one = 1;

    if (fd == NO_FD || !vhu_signal_has_room(fd))
        return;
    if (write(fd, &one, sizeof(one)) < 0)
        return;
}

void vhu_signal_send_often(int fd, struct signal_room *room)
{
    const uint64_t one = 1;

    if (room->full && !vhu_signal_has_room(fd))
        return;
    room->full = write(fd, &one, sizeof(one)) < 0;
    if (++room->sent % LOOK_EVERY == 0)
        room->full |= !vhu_signal_has_room(fd);
}

enum signal_drained vhu_signal_drain(int fd, uint32_t events)
{
    uint8_t bytes[512];
    struct iovec iov = {bytes, sizeof(bytes)};
    ssize_t got = -1;

    errno = EIO;
    if (events & EPOLLIN) {
        /* Ask not to wait each time, where the kernel can do that for this kind of file. */
        got = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);
        if (got < 0 && (errno == EOPNOTSUPP || errno == EINVAL))
            got = read(fd, bytes, sizeof(bytes));
    }
    if (got > 0)
        return DRAINED_SIGNAL;
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return DRAINED_NOTHING;
    return DRAINED_END;
}
