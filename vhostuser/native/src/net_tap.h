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

#endif
