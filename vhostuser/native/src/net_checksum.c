/* SPDX-License-Identifier: Apache-2.0 */
#include "net_checksum.h"

#include <string.h>

typedef uint64_t words __attribute__((vector_size(16)));

/* 32-bit words are added up in lanes of 64 bits, so that no carry is lost or looked for. Every processor of ours has
 * vectors of this size: twice as fast as an add with carry. */
static uint64_t sum_blocks(const uint8_t *bytes, size_t blocks)
{
    const words low_half = {UINT32_MAX, UINT32_MAX};
    words low[2] = {{0}}, high[2] = {{0}};

    for (; blocks > 0; blocks--, bytes += 2 * sizeof(words)) {
        words first, second;

        memcpy(&first, bytes, sizeof(first));
        memcpy(&second, bytes + sizeof(first), sizeof(second));
        low[0] += first & low_half;
        high[0] += first >> 32;
        low[1] += second & low_half;
        high[1] += second >> 32;
    }
    words all = low[0] + low[1] + high[0] + high[1];
    return all[0] + all[1];
}

uint64_t vhu_checksum_sum(const void *bytes, size_t length)
{
    size_t blocks = length / (2 * sizeof(words));
    const uint8_t *rest = (const uint8_t *)bytes + blocks * 2 * sizeof(words);
    uint64_t sum = sum_blocks(bytes, blocks);
    uint32_t word = 0;

    length %= 2 * sizeof(words);
    for (; length >= sizeof(word); length -= sizeof(word), rest += sizeof(word)) {
        memcpy(&word, rest, sizeof(word));
        sum += word;
    }
    word = 0;
    memcpy(&word, rest, length);
    return sum + word;
}

uint64_t vhu_checksum_sum_pieces(const struct iovec *iov, uint32_t count, uint64_t skip)
{
    uint64_t sum = 0;
    bool odd = false;

    for (; count > 0 && skip >= iov->iov_len; count--, iov++)
        skip -= iov->iov_len;
    for (; count > 0; count--, iov++, skip = 0) {
        size_t length = iov->iov_len - skip;
        uint64_t piece = vhu_checksum_sum((const uint8_t *)iov->iov_base + skip, length);

        /* where it begins in the middle of a word, its words have their bytes the wrong way round */
        sum += odd ? __builtin_bswap16(checksum_fold(piece)) : piece;
        odd ^= length & 1;
    }
    return sum;
}
