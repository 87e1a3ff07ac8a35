/* SPDX-License-Identifier: Apache-2.0
 *
 * A store that takes the long way for every operation, as a direct one on a disk does.
 */
#include "held.h"

#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

enum { SPACE = 1024 }; /* bytes of each request in FAR: header, status, a sector */

/* ---- An engine that holds jobs --------------------------------------------------------------- */

struct held held;

static void held_submit(struct vhu_io_engine *engine, struct io_job *job)
{
    (void)engine;
    pthread_mutex_lock(&held.lock);
    held.jobs[held.count++] = job;
    pthread_cond_broadcast(&held.changed);
    pthread_mutex_unlock(&held.lock);
}

static bool held_flush(struct vhu_io_engine *engine)
{
    (void)engine;
    pthread_mutex_lock(&held.lock);
    bool room = held.refusals == 0;
    if (!room) {
        held.refusals--;
        pthread_cond_broadcast(&held.changed);
    }
    pthread_mutex_unlock(&held.lock);
    return room;
}

static struct io_job *held_reap(struct vhu_io_engine *engine)
{
    uint64_t ignored;

    pthread_mutex_lock(&held.lock);
    struct io_job *first = held.done;
    held.done = NULL;
    if (first)
        CHECK_EQUAL(read(engine->ready_fd, &ignored, sizeof(ignored)), sizeof(ignored));
    pthread_mutex_unlock(&held.lock);
    return first;
}

static void held_destroy(struct vhu_io_engine *engine)
{
    CHECK_EQUAL(held.count, 0);
    close(engine->ready_fd);
}

struct vhu_io_engine *held_engine(void)
{
    held = (struct held){
        .engine = {.kind = VHU_IO_THREADS,
                   .ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                   .submit = held_submit,
                   .flush = held_flush,
                   .reap = held_reap,
                   .destroy = held_destroy},
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .changed = PTHREAD_COND_INITIALIZER,
    };
    return &held.engine;
}

static struct timespec patience(void)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_MS / 1000;
    return until;
}

void await_refusals(int left)
{
    struct timespec until = patience();

    pthread_mutex_lock(&held.lock);
    while (held.refusals > left && pthread_cond_timedwait(&held.changed, &held.lock, &until) == 0)
        ;
    CHECK(held.refusals <= left);
    pthread_mutex_unlock(&held.lock);
}

void await_held(int count)
{
    struct timespec until = patience();

    pthread_mutex_lock(&held.lock);
    while (held.count < count && pthread_cond_timedwait(&held.changed, &held.lock, &until) == 0)
        ;
    CHECK_EQUAL(held.count, count);
    pthread_mutex_unlock(&held.lock);
}

void release(int which, int error)
{
    const uint64_t one = 1;

    pthread_mutex_lock(&held.lock);
    struct io_job *job = held.jobs[which];
    memmove(&held.jobs[which], &held.jobs[which + 1],
            (size_t)(--held.count - which) * sizeof(held.jobs[0]));
    job->result = error ? -error : vhu_io_run(&job->op);
    struct io_job **end = &held.done;
    while (*end)
        end = &(*end)->next;
    job->next = NULL;
    *end = job;
    if (held.done == job)
        CHECK_EQUAL(write(held.engine.ready_fd, &one, sizeof(one)), sizeof(one));
    pthread_mutex_unlock(&held.lock);
}

/* ---- Requests -------------------------------------------------------------------------------- */

struct vhu_blk_config image(void)
{
    int fd = memfd_create("image", MFD_CLOEXEC);
    uint8_t sector[SECTOR];

    for (int i = 0; i < SECTORS; i++) {
        memset(sector, i, sizeof(sector));
        CHECK_EQUAL(write(fd, sector, sizeof(sector)), sizeof(sector));
    }
    return (struct vhu_blk_config){
        .fd = fd, .buffered_fd = -1, .alignment = 1, .sectors = SECTORS};
}

uint64_t place(int number)
{
    return FAR + (uint64_t)number * SPACE;
}

uint8_t *status_at(int number)
{
    return guest_at(&bench.guest, place(number) + 16);
}

uint8_t *data_at(int number)
{
    return guest_at(&bench.guest, place(number) + 512);
}

void add_before(int number, uint32_t type, uint32_t sector, uint32_t before)
{
    const uint32_t header[4] = {type, 0, sector, 0};
    const struct vhu_buffer buffers[] = {{place(number), 16, 0},
                                         {place(number) + 512 - before, SECTOR, type == IN},
                                         {place(number) + 16, 1, 1}};
    const struct vhu_buffer flush[] = {{place(number), 16, 0}, {place(number) + 16, 1, 1}};
    uint16_t id;

    memcpy(guest_at(&bench.guest, place(number)), header, sizeof(header));
    *status_at(number) = NONE;
    if (type == FLUSH)
        CHECK_EQUAL(vhu_driver_add(line->driver, flush, 2, false, &id), 0);
    else
        CHECK_EQUAL(vhu_driver_add(line->driver, buffers, 3, false, &id), 0);
    if (vhu_driver_publish(line->driver))
        push_fd(line->kick);
}

void add(int number, uint32_t type, uint32_t sector)
{
    add_before(number, type, sector, 0);
}

int receive(void)
{
    uint32_t written;
    uint16_t id;

    for (;;) {
        int rc = vhu_driver_pop(line->driver, &id, &written);
        if (rc != 0)
            return rc == 1 ? id : -1;
        if (!vhu_driver_call_enable(line->driver) && !await(line->call))
            return -1;
    }
}

bool nothing_was_used(void)
{
    uint32_t written;
    uint16_t id;

    return vhu_driver_pop(line->driver, &id, &written) == 0;
}

void open_slow_with(struct vhu_io_engine *engine, uint32_t poll_us, uint64_t features, uint32_t num)
{
    struct vhu_blk_config store = image();

    open_bench_with(engine, poll_us, &store, features | F_FLUSH, num);
    vhu_blk_set_slow(bench.blk);
    (void)want(line);
}

void open_slow(uint64_t features, uint32_t num)
{
    open_slow_with(held_engine(), POLL_US, features, num);
}
