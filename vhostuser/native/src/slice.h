/* SPDX-License-Identifier: Apache-2.0
 *
 * A list of guest buffers that is consumed from its front.
 */
#ifndef VHU_SLICE_H
#define VHU_SLICE_H

#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

struct slice {
    struct iovec *iov;
    uint32_t count;
    uint64_t bytes;
};

static inline void slice_skip(struct slice *slice, uint64_t bytes)
{
    slice->bytes -= bytes;
    while (slice->count > 0 && bytes >= slice->iov->iov_len) {
        bytes -= slice->iov->iov_len;
        slice->iov++;
        slice->count--;
    }
    if (bytes > 0) {
        slice->iov->iov_base = (uint8_t *)slice->iov->iov_base + bytes;
        slice->iov->iov_len -= bytes;
    }
}

/* Take `bytes`, which the slice must have, off its front into `copy`. The barrier keeps the
 * compiler from going back to the guest's bytes. */
static inline void slice_take(struct slice *slice, void *copy, uint64_t bytes)
{
    uint8_t *to = copy;

    while (bytes > 0) {
        uint64_t piece = slice->iov->iov_len < bytes ? slice->iov->iov_len : bytes;

        memcpy(to, slice->iov->iov_base, piece);
        slice_skip(slice, piece);
        to += piece;
        bytes -= piece;
    }
    __asm__ volatile("" : : "r"(copy) : "memory");
}

/* As slice_take, but what was copied stays in the slice. */
static inline void slice_peek(const struct slice *slice, void *copy, uint64_t bytes)
{
    const struct iovec *iov = slice->iov;
    uint8_t *to = copy;

    for (; bytes > 0; iov++) {
        uint64_t piece = iov->iov_len < bytes ? iov->iov_len : bytes;

        memcpy(to, iov->iov_base, piece);
        to += piece;
        bytes -= piece;
    }
    __asm__ volatile("" : : "r"(copy) : "memory");
}

/* Copy `bytes`, which both must have, off the front of `from` into the front of `to`. A guest may have them
 * overlap. */
static inline void slice_copy(struct slice *to, struct slice *from, uint64_t bytes)
{
    while (bytes > 0) {
        uint64_t piece = from->iov->iov_len < bytes ? from->iov->iov_len : bytes;

        if (to->iov->iov_len < piece)
            piece = to->iov->iov_len;
        memmove(to->iov->iov_base, from->iov->iov_base, piece);
        slice_skip(to, piece);
        slice_skip(from, piece);
        bytes -= piece;
    }
}

/* Where byte number `offset`, which the slice must have, is. */
static inline uint8_t *slice_at(const struct slice *slice, uint64_t offset)
{
    const struct iovec *iov = slice->iov;

    for (; offset >= iov->iov_len; iov++)
        offset -= iov->iov_len;
    return (uint8_t *)iov->iov_base + offset;
}

#endif
