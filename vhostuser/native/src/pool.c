/* SPDX-License-Identifier: Apache-2.0
 *
 * Jobs by threads that wait in system calls: for hosts that refuse io_uring.
 */
#include "io.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "atomic.h"
#include "sigbus.h"

enum { THREADS = 4 };

struct jobs {
    struct io_job *first;
    struct io_job **end;
};

struct pool {
    struct vhu_io_engine engine;
    pthread_t threads[THREADS];
    uint32_t thread_count;
    uint32_t done_count; /* jobs in `done`; a hint without the lock */

    /* under the lock */
    pthread_mutex_t lock;
    pthread_cond_t work;
    bool stopping;
    struct jobs waiting;
    struct jobs done;
};

static struct pool *pool_of(struct vhu_io_engine *engine)
{
    return (struct pool *)engine;
}

static void clear(struct jobs *jobs)
{
    jobs->first = NULL;
    jobs->end = &jobs->first;
}

static void append(struct jobs *jobs, struct io_job *job)
{
    job->next = NULL;
    *jobs->end = job;
    jobs->end = &job->next;
}

static struct io_job *take(struct jobs *jobs)
{
    struct io_job *job = jobs->first;

    jobs->first = job->next;
    if (!jobs->first)
        jobs->end = &jobs->first;
    return job;
}

static void *work(void *argument)
{
    struct pool *pool = argument;
    const uint64_t one = 1;

    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->waiting.first && !pool->stopping)
            pthread_cond_wait(&pool->work, &pool->lock);
        if (!pool->waiting.first)
            break;
        struct io_job *job = take(&pool->waiting);
        pthread_mutex_unlock(&pool->lock);
        job->result = vhu_io_run(&job->op);
        pthread_mutex_lock(&pool->lock);
        append(&pool->done, job);
        store_release(&pool->done_count, pool->done_count + 1);
        if (pool->done_count == 1 && write(pool->engine.ready_fd, &one, sizeof(one)) < 0)
            continue; /* it is readable already */
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

static void submit(struct vhu_io_engine *engine, struct io_job *job)
{
    struct pool *pool = pool_of(engine);

    pthread_mutex_lock(&pool->lock);
    append(&pool->waiting, job);
    pthread_cond_signal(&pool->work);
    pthread_mutex_unlock(&pool->lock);
}

static bool flush(struct vhu_io_engine *engine)
{
    (void)engine;
    return true; /* jobs start as they come */
}

static struct io_job *reap(struct vhu_io_engine *engine)
{
    struct pool *pool = pool_of(engine);
    uint64_t count;

    if (load_acquire(&pool->done_count) == 0)
        return NULL;
    pthread_mutex_lock(&pool->lock);
    struct io_job *first = pool->done.first;
    clear(&pool->done);
    store_relaxed(&pool->done_count, 0);
    if (read(engine->ready_fd, &count, sizeof(count)) < 0)
        count = 0; /* nothing was signalled: that is what reading shall bring about */
    pthread_mutex_unlock(&pool->lock);
    return first;
}

static void destroy(struct vhu_io_engine *engine)
{
    struct pool *pool = pool_of(engine);

    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < pool->thread_count; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    if (engine->ready_fd >= 0)
        close(engine->ready_fd);
    free(pool);
}

/* Signals are the business of the process's own threads. */
static int start_threads(struct pool *pool)
{
    sigset_t all, before;
    int rc = 0;

    vhu_sigbus_mask(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (rc == 0 && pool->thread_count < THREADS) {
        rc = pthread_create(&pool->threads[pool->thread_count], NULL, work, pool);
        if (rc == 0)
            pthread_setname_np(pool->threads[pool->thread_count++], "vhu-io");
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pool->thread_count > 0 ? 0 : -rc; /* one is enough */
}

int vhu_pool_create(struct vhu_io_engine **ret)
{
    struct pool *pool = calloc(1, sizeof(*pool));

    if (!pool)
        return -ENOMEM;
    pool->engine = (struct vhu_io_engine){
        .kind = VHU_IO_THREADS,
        .ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
        .submit = submit,
        .flush = flush,
        .reap = reap,
        .destroy = destroy,
    };
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    clear(&pool->waiting);
    clear(&pool->done);
    int rc = pool->engine.ready_fd < 0 ? -errno : start_threads(pool);
    if (rc < 0) {
        destroy(&pool->engine);
        return rc;
    }
    *ret = &pool->engine;
    return 0;
}
