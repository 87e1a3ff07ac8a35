/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames into the kernel, by a TAP: straight out of the sender's buffers, by whichever thread has them.
 */
#include <errno.h>
#include <sys/uio.h>

#include "net.h"
#include "net_offload.h"
#include "net_tap.h"
#include "slice.h"

enum {
    PIECES_MAX = 1024, /* of a system call: UIO_MAXIOV */
    PAGE = 4096,
};

struct tap_writer {
    struct vhu_queue *queue;
    struct vhu_net_counters *counters;
    uint64_t frames, bytes, segments;
};

/* What became of a frame. */
enum outcome {
    WRITTEN,
    REFUSED,     /* this one, whatever may be with the next */
    NONE_PASSES, /* nor would the next */
};

void vhu_tap_touch(const struct iovec *iov, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const volatile uint8_t *bytes = iov[i].iov_base;

        for (size_t offset = 0; offset < iov[i].iov_len; offset += PAGE)
            (void)bytes[offset];
        (void)bytes[iov[i].iov_len - 1];
    }
}

static enum outcome refuse(struct tap_writer *writer, enum vhu_net_drop reason, enum outcome outcome)
{
    count_more(&writer->counters->drops[reason], 1);
    return outcome;
}

static enum outcome failed(struct tap_writer *writer)
{
    switch (errno) {
    case EINVAL: /* the kernel found its offload to be no good */
        return refuse(writer, VHU_NET_DROP_OFFLOAD, REFUSED);
    case EMSGSIZE:
        return refuse(writer, VHU_NET_DROP_TOO_LARGE, REFUSED);
    case EFAULT:
        return refuse(writer, VHU_NET_DROP_NO_BUFFER, REFUSED);
    default: /* full, down, or gone */
        return refuse(writer, VHU_NET_DROP_NO_BUFFER, NONE_PASSES);
    }
}

/* A frame in more pieces than a system call takes: copy it. */
static uint32_t gather(struct tap *tap, const struct net_frame *frame, struct iovec *ret)
{
    const struct slice slice = {frame->iov, frame->count, frame->bytes};

    slice_peek(&slice, tap->out, frame->bytes);
    *ret = (struct iovec){tap->out, frame->bytes};
    return 1;
}

static enum outcome write_frame(struct tap_writer *writer, const struct net_frame *frame)
{
    int fd = writer->queue->fd[VHU_FD_KICK];
    struct net_header header = frame->header;
    struct iovec iov[PIECES_MAX]; /* no initializer: mostly two of them are used */
    uint32_t count = frame->count;

    iov[0] = (struct iovec){&header, sizeof(header)};
    if (count < PIECES_MAX)
        memcpy(iov + 1, frame->iov, count * sizeof(*iov));
    else
        count = gather(writer->queue->tap, frame, iov + 1);
    ssize_t bytes = writev(fd, iov, (int)count + 1);
    if (bytes < 0 && errno == EFAULT) {
        vhu_tap_touch(iov + 1, count);
        bytes = writev(fd, iov, (int)count + 1);
    }
    if (bytes < 0)
        return failed(writer);
    writer->frames++;
    writer->bytes += frame->bytes;
    return WRITTEN;
}

/* Cut a frame, or compute its checksum. */
static enum outcome write_segments(struct tap_writer *writer, const struct net_frame *frame)
{
    struct net_segments segments; /* large, and filled by its function */
    struct net_frame segment;

    if (!vhu_segments_begin(&segments, frame, writer->queue->tap->features))
        return refuse(writer, VHU_NET_DROP_OFFLOAD, REFUSED);
    while (vhu_segments_next(&segments, &segment)) {
        enum outcome outcome = write_frame(writer, &segment);

        if (outcome != WRITTEN)
            return outcome;
        writer->segments += frame->header.gso_type != NET_GSO_NONE;
    }
    if (segments_are_left(&segments))
        return refuse(writer, VHU_NET_DROP_OFFLOAD, REFUSED);
    return WRITTEN;
}

static enum outcome write_any(struct tap_writer *writer, const struct net_frame *frame)
{
    if (net_receiver_takes(&frame->header, writer->queue->tap->features))
        return write_frame(writer, frame);
    return write_segments(writer, frame);
}

void vhu_tap_receive(struct net_port *port, uint32_t pair, struct net_frame *const *frames,
                     uint32_t count)
{
    struct net_endpoint *endpoint = &port->receiver[pair];
    struct tap_writer writer = {.queue = endpoint->queue, .counters = &endpoint->counters};

    for (uint32_t i = 0; i < count; i++) {
        if (write_any(&writer, frames[i]) == NONE_PASSES) {
            count_more(&writer.counters->drops[VHU_NET_DROP_NO_BUFFER], count - i - 1);
            break;
        }
    }
    count_more(&writer.counters->frames, writer.frames);
    count_more(&writer.counters->bytes, writer.bytes);
    count_more(&writer.counters->segments, writer.segments);
}
