/* SPDX-License-Identifier: Apache-2.0
 *
 * A queue of a TAP device: a file that frames are read from and written to, each with a system call.
 */
#ifndef VHU_NET_TAP_H
#define VHU_NET_TAP_H

#include "net_frame.h"
#include "worker.h"

enum {
    TAP_FRAME = NET_HEADER_SIZE + FRAME_MAX, /* the longest, with its header */
    TAP_IN = 256 * 1024,                     /* for a batch of frames: less than a processor's cache holds */
};

struct tap {
    uint64_t features;  /* GUEST_* offloads that the kernel takes */
    uint32_t next_look; /* the thread's own: in which of its passes to look for frames again */
    uint32_t pause;     /* how many passes that was put off for */
    uint32_t failures;  /* reads in a row that failed */
    uint32_t expected;  /* bytes of the next frame, by those before it */
    uint8_t out[TAP_FRAME]; /* a frame in one piece; under the endpoint's lock */
    uint8_t in[TAP_IN];     /* frames from the kernel; the thread's own */
};

/* What came of a look at the file. */
enum tap_read {
    TAP_GOT,
    TAP_EMPTY,
    TAP_FAILED, /* a frame is lost */
    TAP_ENDED,  /* the device is */
};

/* net_tap.c, called by the thread that reads */

/* A read returned -1: what that means, and count it. */
enum tap_read vhu_tap_failed(struct vhu_queue *queue);
/* Check the header that the kernel wrote before a frame, and note what the frame is; `start`: both, at least to the
 * end of the addresses. False: it is dropped. */
bool vhu_tap_note(struct vhu_queue *queue, uint8_t *start, size_t bytes, struct net_frame *ret);

/* net_tap_direct.c */

/* The port to whose buffers frames can be read straight, or NULL. */
struct net_port *vhu_tap_only_receiver(const struct vhu_queue *queue);
/* Read frames into its buffers. `ret`: how many reads there were. False: it cannot be done for now. */
bool vhu_tap_read_direct(struct vhu_queue *queue, struct net_port *to, enum tap_read *end,
                         uint32_t *ret);

/* net_tap_write.c */

/* A system call met guest memory that is not there, as its file was truncated. It does not tell our handler; a look
 * at each page does, and has it put other memory there. */
void vhu_tap_touch(const struct iovec *iov, uint32_t count);

#endif
