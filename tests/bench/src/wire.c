/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages on a UNIX stream socket, at most one file descriptor with each. The two ends trust each
 * other: both belong to the benchmarks.
 */
#include "wire.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

union control {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr aligned;
};

static ssize_t receive(int socket, void *to, size_t length, int *fd)
{
    union control control;
    struct iovec iov = {to, length};
    struct msghdr header = {.msg_iov = &iov,
                            .msg_iovlen = 1,
                            .msg_control = fd ? control.bytes : NULL,
                            .msg_controllen = fd ? sizeof(control) : 0};
    ssize_t got = recvmsg(socket, &header, MSG_WAITALL | MSG_CMSG_CLOEXEC);

    for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            memcpy(fd, CMSG_DATA(c), sizeof(*fd));
    }
    return got;
}

int wire_receive(int socket, struct wire_message *message, int *fd)
{
    *fd = -1;
    ssize_t got = receive(socket, message, WIRE_HEADER, fd);

    if (got == 0 || (got < 0 && errno == ECONNRESET))
        return 0;
    if (got != WIRE_HEADER || message->size > LARGEST_PAYLOAD)
        die("read a message");
    if (message->size > 0 &&
        receive(socket, message->bytes, message->size, NULL) != (ssize_t)message->size)
        die("read a payload");
    return 1;
}

void wire_send(int socket, const struct wire_message *message, int fd)
{
    union control control = {0};
    struct iovec iov = {(void *)message, WIRE_HEADER + message->size};
    struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};

    if (fd >= 0) {
        header.msg_control = control.bytes;
        header.msg_controllen = sizeof(control);
        control.aligned.cmsg_level = SOL_SOCKET;
        control.aligned.cmsg_type = SCM_RIGHTS;
        control.aligned.cmsg_len = CMSG_LEN(sizeof(fd));
        memcpy(CMSG_DATA(&control.aligned), &fd, sizeof(fd));
    }
    if (sendmsg(socket, &header, MSG_NOSIGNAL) != (ssize_t)iov.iov_len)
        die("send a message");
}
