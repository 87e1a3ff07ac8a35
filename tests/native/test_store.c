/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests and the host behind the store: its errors, its delays, and what it has no room for. The
 * last test uses what carries out jobs in production.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "check.h"
#include "held.h"

/* ---- The host, in place of the C library's functions ----------------------------------------- */

enum cache { CACHE_HIT, CACHE_PART, CACHE_MISS, CACHE_UNKNOWN };

enum { PART = 100 }; /* bytes */

static bool host_says_again;     /* to reads; few file systems say it to one who may wait */
static bool host_holds_writes;   /* until told otherwise */
static uint64_t host_write_ns;   /* how long a write takes at least */
static uint32_t host_cache;     /* enum cache: what it has, or that it cannot tell */
static uint32_t host_cache_looks;

static ssize_t refuse(int error)
{
    errno = error;
    return -1;
}

ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    if (offset < 0) /* kicks are read so, too */
        return syscall(SYS_preadv2, fd, iov, count, offset, 0L, flags);
    if (load_acquire(&host_says_again))
        return refuse(EAGAIN);
    if (flags & RWF_NOWAIT) {
        store_release(&host_cache_looks, host_cache_looks + 1);
        switch (load_acquire(&host_cache)) {
        case CACHE_HIT:
            break;
        case CACHE_PART:
            store_release(&host_cache, CACHE_MISS);
            return syscall(SYS_pread64, fd, iov->iov_base, PART, offset);
        case CACHE_MISS:
            return refuse(EAGAIN);
        case CACHE_UNKNOWN:
            return refuse(EOPNOTSUPP);
        }
    }
    return syscall(SYS_preadv2, fd, iov, count, offset, 0L, flags & ~RWF_NOWAIT);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    uint64_t start = now_ns();

    while (load_acquire(&host_holds_writes) || now_ns() - start < load_acquire(&host_write_ns))
        sched_yield();
    return syscall(SYS_pwrite64, fd, data, size, offset);
}

/* A file on a file system that can tell whether it would have to wait, which is in memory. */
static void open_cached(enum cache cache)
{
    struct vhu_blk_config store = image();

    store_release(&host_cache, cache);
    store_release(&host_cache_looks, 0);
    open_bench_with(held_engine(), POLL_US, &store, F_FLUSH, NUM);
    bench.blk->speed = BLK_SPEED_NOWAIT;
}

/* A request that takes the long way. */
static void make_held(uint32_t type, uint32_t sector)
{
    add(0, type, sector);
    await_held(1);
    release(0, 0);
    CHECK(receive() >= 0);
    CHECK_EQUAL(*status_at(0), OK);
}

static void make_at_once(uint32_t type, uint32_t sector)
{
    uint64_t waits = status_of(line).waits;

    add(0, type, sector);
    CHECK(receive() >= 0);
    CHECK_EQUAL(*status_at(0), OK);
    CHECK_EQUAL(status_of(line).waits, waits);
}

/* ---- Tests ----------------------------------------------------------------------------------- */

static void a_host_error_is_an_io_error_and_others_go_on(void)
{
    open_slow(0, NUM);
    add(0, OUT, 1);
    add(1, OUT, 2);
    await_held(2);
    release(0, ENOSPC);
    CHECK(receive() >= 0);
    release(0, 0);
    CHECK(receive() >= 0);
    CHECK_EQUAL(*status_at(0), IOERR);
    CHECK_EQUAL(*status_at(1), OK);
    CHECK_EQUAL(status_of(line).errors, 1);
    close_bench();
}

static void an_operation_that_was_interrupted_is_tried_again(void)
{
    open_slow(0, NUM);
    add(0, IN, 9);
    await_held(1);
    release(0, EINTR);
    await_held(1);
    release(0, EAGAIN);
    await_held(1);
    release(0, 0);
    CHECK(receive() >= 0);
    CHECK_EQUAL(*status_at(0), OK);
    CHECK_EQUAL(data_at(0)[0], 9);
    close_bench();
}

static void what_the_host_has_no_room_for_is_started_soon(void)
{
    const int often = 20;

    open_slow_with(held_engine(), 0, 0, NUM);
    held.refusals = often;
    add(0, IN, 5);
    await_refusals(often - 1);
    add(1, IN, 6);
    await_refusals(often / 2);
    await_held(1); /* the other stays in the ring */
    await_refusals(0);
    await_held(2);
    release(0, 0);
    release(0, 0);
    CHECK(receive() >= 0);
    CHECK(receive() >= 0);
    CHECK_EQUAL(*status_at(0), OK);
    CHECK_EQUAL(*status_at(1), OK);
    close_bench();
}

static void a_worker_ends_also_when_the_host_had_no_room(void)
{
    open_slow(0, NUM);
    held.refusals = 20;
    add(0, OUT, 5);
    await_refusals(19);
    CHECK_EQUAL(vhu_worker_stop(bench.worker, 1), (uint64_t)-ETIMEDOUT);
    await_refusals(0);
    await_held(1);
    release(0, 0);
    CHECK_EQUAL(vhu_worker_stop(bench.worker, PATIENCE_MS), 0);
    CHECK_EQUAL(*status_at(0), OK);
    close_bench();
}

/* Put a read of sector 3 into the ring whose data takes one buffer more than can be kept. */
static void add_pieces(void)
{
    static struct vhu_buffer buffers[SLOT_IOV + 3];
    const uint32_t header[4] = {IN, 0, 3, 0};
    uint16_t id;

    for (int i = 0; i <= SLOT_IOV; i++)
        buffers[1 + i] = (struct vhu_buffer){place(1) + (uint64_t)i * SECTOR, SECTOR, 1};
    buffers[0] = (struct vhu_buffer){place(0), 16, 0};
    buffers[SLOT_IOV + 2] = (struct vhu_buffer){place(0) + 16, 1, 1};
    memcpy(guest_at(&bench.guest, place(0)), header, sizeof(header));
    *status_at(0) = NONE;
    CHECK_EQUAL(vhu_driver_add(line->driver, buffers, SLOT_IOV + 3, false, &id), 0);
    if (vhu_driver_publish(line->driver))
        push_fd(line->kick);
}

static void buffers_in_too_many_pieces_are_served_at_once(void)
{
    open_slow(0, RING);
    add_pieces();
    CHECK(receive() >= 0);
    CHECK_EQUAL(*status_at(0), OK);
    CHECK_EQUAL(((uint8_t *)guest_at(&bench.guest, place(1)))[SLOT_IOV * SECTOR], 3 + SLOT_IOV);
    CHECK_EQUAL(status_of(line).waits, 0);
    close_bench();
}

static void buffers_in_too_many_pieces_are_not_kept_for_a_host_that_says_again(void)
{
    open_slow(0, RING);
    store_release(&host_says_again, true);
    add_pieces();
    CHECK(receive() >= 0);
    store_release(&host_says_again, false);
    CHECK_EQUAL(*status_at(0), IOERR);
    CHECK_EQUAL(status_of(line).waits, 0);
    close_bench();
}

static void what_the_page_cache_has_is_read_at_once(void)
{
    open_cached(CACHE_HIT);
    (void)want(line);
    make_at_once(IN, 5);
    CHECK_EQUAL(data_at(0)[0], 5);
    CHECK_EQUAL(data_at(0)[SECTOR - 1], 5);
    CHECK_EQUAL(load_acquire(&host_cache_looks), 1);
    close_bench();
}

static void what_the_page_cache_lacks_is_read_by_the_store(void)
{
    open_cached(CACHE_PART);
    (void)want(line);
    add(0, IN, 9);
    await_held(1);
    CHECK_EQUAL(held.jobs[0]->op.offset, 9 * SECTOR + PART);
    CHECK_EQUAL(held.jobs[0]->op.flags, 0);
    release(0, 0);
    CHECK(receive() >= 0);
    CHECK_EQUAL(*status_at(0), OK);
    for (int i = 0; i < SECTOR; i++)
        CHECK_EQUAL(data_at(0)[i], 9);
    close_bench();
}

/* As many misses in a row as serve.c says, and so seldom from then on. */
static void a_page_cache_that_misses_is_seldom_asked_until_it_hits(void)
{
    open_cached(CACHE_MISS);
    (void)want(line);
    for (int i = 0; i < 16; i++)
        make_held(IN, 5);
    CHECK_EQUAL(load_acquire(&host_cache_looks), 16);
    for (int i = 16; i < 64; i++)
        make_held(IN, 5);
    CHECK_EQUAL(load_acquire(&host_cache_looks), 17);
    store_release(&host_cache, CACHE_HIT);
    for (int i = 65; i < 127; i++)
        make_held(IN, 5);
    make_at_once(IN, 6);
    make_at_once(IN, 7);
    CHECK_EQUAL(load_acquire(&host_cache_looks), 19);
    close_bench();
}

static void a_file_system_that_cannot_tell_is_not_asked_again(void)
{
    open_cached(CACHE_UNKNOWN);
    (void)want(line);
    for (int i = 0; i < 3; i++)
        make_held(IN, 5);
    make_held(OUT, 5);
    CHECK_EQUAL(load_acquire(&host_cache_looks), 1);
    close_bench();
}

static void after_a_write_that_had_to_wait_the_next_ones_take_the_long_way(void)
{
    open_cached(CACHE_HIT);
    (void)want(line);
    store_release(&host_write_ns, 2000000); /* ten times what a quick one takes */
    make_at_once(OUT, 5);
    make_held(OUT, 5);
    make_at_once(OUT, 5);
    make_held(OUT, 5);
    make_held(OUT, 5);
    make_at_once(OUT, 5);
    store_release(&host_write_ns, 0);
    close_bench();
}

static void a_write_that_must_be_stable_takes_the_long_way(void)
{
    open_cached(CACHE_HIT);
    vhu_blk_set_writeback(bench.blk, false);
    (void)want(line);
    add(0, OUT, 5);
    await_held(1);
    CHECK_EQUAL(held.jobs[0]->op.flags, RWF_DSYNC);
    release(0, 0);
    CHECK(receive() >= 0);
    close_bench();
}

static void what_is_done_does_not_wait_for_a_write_behind_it(void)
{
    open_cached(CACHE_HIT);
    store_release(&host_holds_writes, true);
    add(0, UNKNOWN, 0); /* needs nothing of the store */
    add(1, OUT, 5);
    (void)want(line);
    CHECK(receive() >= 0);
    CHECK_EQUAL(*status_at(0), UNSUPP);
    CHECK_EQUAL(*status_at(1), NONE);
    store_release(&host_holds_writes, false);
    CHECK(receive() >= 0);
    CHECK_EQUAL(*status_at(1), OK);
    close_bench();
}

static void a_disk_changes_size_and_write_cache_while_it_is_used(void)
{
    open_slow(0, NUM);
    CHECK_EQUAL(vhu_blk_resize(bench.blk, 100), 0);
    CHECK_EQUAL(vhu_blk_resize(bench.blk, UINT64_MAX), (uint64_t)-EINVAL);
    add(0, IN, 99);
    add(1, IN, 100);
    await_held(1);
    release(0, 0);
    CHECK(receive() >= 0);
    CHECK(receive() >= 0);
    CHECK_EQUAL(*status_at(0), OK);
    CHECK_EQUAL(*status_at(1), IOERR);

    add(0, OUT, 1);
    await_held(1);
    CHECK_EQUAL(held.jobs[0]->op.flags, 0);
    release(0, 0);
    CHECK(receive() >= 0);
    vhu_blk_set_writeback(bench.blk, false);
    add(0, OUT, 1);
    await_held(1);
    CHECK_EQUAL(held.jobs[0]->op.flags, RWF_DSYNC);
    release(0, 0);
    CHECK(receive() >= 0);
    close_bench();
}

/* Many requests with their contents checked, on what carries out jobs in production. */
static void churn(struct vhu_io_engine *engine, uint64_t features)
{
    uint8_t expected[64];

    open_slow_with(engine, POLL_US, features, NUM);
    for (int i = 0; i < 64; i++)
        expected[i] = (uint8_t)i;
    for (int round = 0; round < 200; round++) {
        int first = round * 5 % 60;

        for (int number = 0; number < 4; number++) {
            uint32_t sector = (uint32_t)(first + number);
            bool write = (round + number) % 3 == 0;

            if (write)
                memset(data_at(number), expected[sector] = (uint8_t)(round + number), SECTOR);
            add(number, write ? OUT : IN, sector);
        }
        add(4, FLUSH, 0);
        for (int number = 0; number < 5; number++)
            CHECK(receive() >= 0);
        for (int number = 0; number < 5; number++)
            CHECK_EQUAL(*status_at(number), OK);
        for (int number = 0; number < 4; number++)
            CHECK_EQUAL(data_at(number)[SECTOR - 1], expected[first + number]);
    }
    CHECK(status_of(line).waits >= 1000);
    close_bench();
}

static void every_engine_moves_the_right_bytes(void)
{
    const uint64_t layouts[] = {0, FEATURE(RING_PACKED) | FEATURE(EVENT_IDX), FEATURE(IN_ORDER)};
    struct vhu_io_engine *engine;

    for (int i = 0; i < 3; i++) {
        CHECK_EQUAL(vhu_pool_create(&engine), 0);
        churn(engine, layouts[i]);
        if (vhu_uring_create(&engine) == 0)
            churn(engine, layouts[i]);
    }
}

static int count_held(enum io_kind kind, int fd)
{
    int count = 0;

    pthread_mutex_lock(&held.lock);
    for (int i = 0; i < held.count; i++)
        count += held.jobs[i]->op.kind == kind && held.jobs[i]->op.fd == fd;
    pthread_mutex_unlock(&held.lock);
    return count;
}

static void a_direct_disk_is_never_written_both_ways_at_once(void)
{
    struct vhu_blk_config store = image();

    store.buffered_fd = dup(store.fd);
    store.alignment = SECTOR;
    open_bench_with(held_engine(), POLL_US, &store, F_FLUSH, NUM);
    vhu_blk_set_slow(bench.blk);
    (void)want(line);
    add(0, OUT, 0);
    add_before(1, OUT, 1, 8);
    add(2, OUT, 2);
    add(3, IN, 3); /* when this is held, all are */
    await_held(2);
    CHECK_EQUAL(count_held(IO_WRITE, store.fd), 1);
    release(0, EINTR); /* tried again, through the cache as the others want it */
    await_held(4);
    CHECK_EQUAL(count_held(IO_WRITE, store.buffered_fd), 3);
    for (int number = 0; number < 4; number++) {
        release(0, 0);
        CHECK(receive() >= 0);
    }
    for (int number = 0; number < 4; number++)
        CHECK_EQUAL(*status_at(number), OK);
    add(4, OUT, 4);
    await_held(1);
    CHECK_EQUAL(count_held(IO_WRITE, store.fd), 1);
    add_before(5, OUT, 5, 8);
    add(6, IN, 6);
    await_held(2);
    CHECK_EQUAL(vhu_worker_stop(bench.worker, 1), (uint64_t)-ETIMEDOUT);
    release(0, 0);
    await_held(2); /* a worker that ends does not leave it behind */
    release(0, 0);
    release(0, 0);
    CHECK_EQUAL(vhu_worker_stop(bench.worker, PATIENCE_MS), 0);
    CHECK_EQUAL(*status_at(5), OK);
    for (int number = 4; number < 7; number++)
        CHECK(receive() >= 0);
    close_bench();
}

static const struct test tests[] = {
    {"a host error is an I/O error, and others go on", a_host_error_is_an_io_error_and_others_go_on},
    {"an operation that was interrupted is tried again",
     an_operation_that_was_interrupted_is_tried_again},
    {"what the host has no room for is started soon", what_the_host_has_no_room_for_is_started_soon},
    {"a worker ends also when the host had no room", a_worker_ends_also_when_the_host_had_no_room},
    {"buffers in too many pieces are served at once", buffers_in_too_many_pieces_are_served_at_once},
    {"buffers in too many pieces are not kept for a host that says again",
     buffers_in_too_many_pieces_are_not_kept_for_a_host_that_says_again},
    {"what the page cache has is read at once", what_the_page_cache_has_is_read_at_once},
    {"what the page cache lacks is read by the store", what_the_page_cache_lacks_is_read_by_the_store},
    {"a page cache that misses is seldom asked until it hits",
     a_page_cache_that_misses_is_seldom_asked_until_it_hits},
    {"a file system that cannot tell is not asked again",
     a_file_system_that_cannot_tell_is_not_asked_again},
    {"after a write that had to wait the next ones take the long way",
     after_a_write_that_had_to_wait_the_next_ones_take_the_long_way},
    {"a write that must be stable takes the long way",
     a_write_that_must_be_stable_takes_the_long_way},
    {"what is done does not wait for a write behind it",
     what_is_done_does_not_wait_for_a_write_behind_it},
    {"a disk changes size and write cache while it is used",
     a_disk_changes_size_and_write_cache_while_it_is_used},
    {"every engine moves the right bytes", every_engine_moves_the_right_bytes},
    {"a direct disk is never written both ways at once",
     a_direct_disk_is_never_written_both_ways_at_once},
};

CHECK_MAIN(tests)
