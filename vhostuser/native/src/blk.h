/* SPDX-License-Identifier: Apache-2.0
 *
 * The block device as a queue sees it: one popped chain in, what came of it out.
 */
#ifndef VHU_BLK_H
#define VHU_BLK_H

#include "vhu.h"

struct blk_result {
    uint32_t written; /* bytes written into the chain, its status included */
    bool failed;      /* the guest got a status other than OK, or none for want of a place */
    uint64_t bytes_read;
    uint64_t bytes_written;
};

/* Carry out the request in `chain`, whose iov is used up. `features` are those of the ring,
 * `extra_pieces` the iov entries beyond one for each buffer. Blocks as long as the store does. */
void vhu_blk_serve(struct vhu_blk *blk, uint64_t features, const struct vhu_chain *chain,
                   uint32_t extra_pieces, struct blk_result *ret);

/* True: a request takes long enough that its completion is worth its own publish. */
bool vhu_blk_is_slow(const struct vhu_blk *blk);

#endif
