/* SPDX-License-Identifier: Apache-2.0
 *
 * The Internet checksum (RFC 1071). Sums are of 16-bit words as the processor reads them: one's complement gives
 * the same bytes in either order, so only numbers that are not in memory need to be swapped.
 */
#ifndef VHU_NET_CHECKSUM_H
#define VHU_NET_CHECKSUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* The sum of `length` bytes, not folded; sums of up to 4 GiB in all can be added up. The bytes may be a guest's, who
 * changes them meanwhile. */
uint64_t vhu_checksum_sum(const void *bytes, size_t length);
/* The same of what is in these pieces, without the first `skip` bytes, which they must have. */
uint64_t vhu_checksum_sum_pieces(const struct iovec *iov, uint32_t count, uint64_t skip);

static inline uint16_t checksum_fold(uint64_t sum)
{
    while (sum > UINT16_MAX)
        sum = (sum & UINT16_MAX) + (sum >> 16);
    return (uint16_t)sum;
}

/* What is stored for a sum. Never 0, which says of a UDP datagram that it has no checksum; all ones are the same
 * number for everybody else. */
static inline uint16_t checksum_finish(uint64_t sum)
{
    uint16_t complement = (uint16_t)~checksum_fold(sum);

    return complement ? complement : UINT16_MAX;
}

#endif
