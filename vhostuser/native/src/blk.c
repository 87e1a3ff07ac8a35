/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk: what all its requests share.
 */
#include "blk.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "atomic.h"

/* Whether it holds its data in memory: reading and writing then never wait for a medium. */
static bool is_memory(int fd)
{
    struct statfs filesystem;

    if (fstatfs(fd, &filesystem) < 0)
        return false;
    return filesystem.f_type == TMPFS_MAGIC || filesystem.f_type == RAMFS_MAGIC ||
           filesystem.f_type == HUGETLBFS_MAGIC;
}

static enum blk_speed find_speed(const struct vhu_blk_config *config)
{
    struct stat status;

    if (config->fd < 0)
        return BLK_SPEED_NULL;
    if (fstat(config->fd, &status) == 0 && S_ISREG(status.st_mode) && is_memory(config->fd))
        return BLK_SPEED_INLINE;
    return config->buffered_fd < 0 ? BLK_SPEED_NOWAIT : BLK_SPEED_SLOW;
}

static void close_fds(const struct vhu_blk_config *config)
{
    if (config->fd >= 0)
        close(config->fd);
    if (config->buffered_fd >= 0)
        close(config->buffered_fd);
}

int vhu_blk_create(const struct vhu_blk_config *config, struct vhu_blk **ret)
{
    struct vhu_blk *blk = NULL;
    int rc = 0;

    if (config->sectors > INT64_MAX / SECTOR || config->alignment == 0 ||
        (config->alignment & (config->alignment - 1)) != 0)
        rc = -EINVAL;
    else if (!(blk = malloc(sizeof(*blk))))
        rc = -ENOMEM;
    if (rc < 0) {
        close_fds(config);
        return rc;
    }
    *blk = (struct vhu_blk){
        .config = *config,
        .sectors = config->sectors,
        .speed = find_speed(config),
        .writeback = true,
    };
    *ret = blk;
    return 0;
}

void vhu_blk_destroy(struct vhu_blk *blk)
{
    if (!blk)
        return;
    close_fds(&blk->config);
    free(blk);
}

int vhu_blk_resize(struct vhu_blk *blk, uint64_t sectors)
{
    if (sectors > INT64_MAX / SECTOR)
        return -EINVAL;
    store_relaxed(&blk->sectors, sectors);
    return 0;
}

void vhu_blk_set_writeback(struct vhu_blk *blk, bool writeback)
{
    store_relaxed(&blk->writeback, (uint8_t)writeback);
}

enum blk_speed vhu_blk_speed(const struct vhu_blk *blk)
{
    return (enum blk_speed)load_relaxed(&blk->speed);
}

void vhu_blk_set_slow(struct vhu_blk *blk)
{
    store_relaxed(&blk->speed, BLK_SPEED_SLOW);
}

static bool has_two_ways(const struct vhu_blk *blk, const struct io_op *op)
{
    return blk->config.buffered_fd >= 0 && op->kind == IO_WRITE;
}

static bool is_cached(const struct vhu_blk *blk, const struct io_op *op)
{
    return op->fd == blk->config.buffered_fd;
}

/* Either side counts itself first and then looks at the other: one of them sees that it is not alone. */
void vhu_blk_announce(struct vhu_blk *blk, struct io_op *op)
{
    if (!has_two_ways(blk, op))
        return;
    if (!is_cached(blk, op)) {
        __atomic_fetch_add(&blk->direct_writes, 1, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&blk->cached_writes, __ATOMIC_SEQ_CST) == 0)
            return;
        __atomic_fetch_sub(&blk->direct_writes, 1, __ATOMIC_SEQ_CST);
        op->fd = blk->config.buffered_fd;
    }
    __atomic_fetch_add(&blk->cached_writes, 1, __ATOMIC_SEQ_CST);
}

bool vhu_blk_may_start(const struct vhu_blk *blk, const struct io_op *op)
{
    return !has_two_ways(blk, op) || !is_cached(blk, op) ||
           __atomic_load_n(&blk->direct_writes, __ATOMIC_SEQ_CST) == 0;
}

void vhu_blk_ended(struct vhu_blk *blk, const struct io_op *op)
{
    if (has_two_ways(blk, op))
        __atomic_fetch_sub(is_cached(blk, op) ? &blk->cached_writes : &blk->direct_writes, 1,
                           __ATOMIC_SEQ_CST);
}
