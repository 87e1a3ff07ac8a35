/* SPDX-License-Identifier: Apache-2.0
 *
 * A queue: one ring of a device on one worker. Other threads say what they want in its mailbox; the
 * worker's thread applies that, serves the ring, and publishes what is. Both are levels.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "sigbus.h"
#include "worker.h"

/* ---- Other threads --------------------------------------------------------------------------- */

int vhu_queue_create_for(struct vhu_worker *worker, const struct queue_device *device, int event_fd,
                         struct vhu_queue **ret)
{
    struct vhu_queue *queue = calloc(1, sizeof(*queue));

    if (!queue)
        return -ENOMEM;
    queue->worker = worker;
    queue->device = device;
    queue->event_fd = event_fd;
    for (int which = 0; which < QUEUE_FDS; which++)
        queue->fd[which] = queue->mailbox.fd[which] = NO_FD;
    *ret = queue;
    return 0;
}

int vhu_queue_create(struct vhu_worker *worker, struct vhu_blk *blk, int event_fd,
                     struct vhu_queue **ret)
{
    int rc = vhu_queue_create_for(worker, &vhu_blk_device, event_fd, ret);

    if (rc < 0)
        return rc;
    (*ret)->blk = blk;
    vhu_worker_attach(worker, *ret);
    return 0;
}

void vhu_queue_destroy(struct vhu_queue *queue)
{
    if (queue)
        vhu_worker_detach(queue->worker, queue);
}

uint64_t vhu_queue_want(struct vhu_queue *queue, const struct vhu_queue_wanted *wanted)
{
    struct mailbox *mailbox = &queue->mailbox;
    struct vhu_mem *overtaken = NULL;

    if (wanted->mem)
        vhu_mem_ref(wanted->mem);
    pthread_mutex_lock(&queue->worker->lock);
    if (mailbox->wanted_changed)
        overtaken = mailbox->wanted.mem;
    mailbox->wanted = *wanted;
    mailbox->wanted_changed = true;
    uint64_t number = ++mailbox->number;
    vhu_worker_wake(queue->worker);
    pthread_mutex_unlock(&queue->worker->lock);
    vhu_mem_unref(overtaken);
    return number;
}

int vhu_queue_set_fd(struct vhu_queue *queue, enum vhu_queue_fd which, int fd)
{
    struct mailbox *mailbox = &queue->mailbox;

    if ((unsigned)which >= QUEUE_FDS || fd < NO_FD)
        return -EINVAL;
    int rc = fd == NO_FD ? 0 : vhu_signal_adopt(fd);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&queue->worker->lock);
    int overtaken = mailbox->fd[which];
    mailbox->fd[which] = fd;
    mailbox->fd_changed[which] = true;
    vhu_worker_wake(queue->worker);
    pthread_mutex_unlock(&queue->worker->lock);
    vhu_signal_close(overtaken);
    return 0;
}

void vhu_queue_interrupt(struct vhu_queue *queue)
{
    pthread_mutex_lock(&queue->worker->lock);
    vhu_worker_interrupt(queue->worker);
    pthread_mutex_unlock(&queue->worker->lock);
}

void vhu_queue_look(struct vhu_queue *queue)
{
    pthread_mutex_lock(&queue->worker->lock);
    vhu_worker_wake(queue->worker);
    pthread_mutex_unlock(&queue->worker->lock);
}

void vhu_queue_status(struct vhu_queue *queue, struct vhu_queue_status *ret)
{
    pthread_mutex_lock(&queue->worker->lock);
    *ret = queue->status;
    pthread_mutex_unlock(&queue->worker->lock);
    ret->requests = load_relaxed(&queue->counters.requests);
    ret->errors = load_relaxed(&queue->counters.errors);
    ret->bytes_read = load_relaxed(&queue->counters.bytes_read);
    ret->bytes_written = load_relaxed(&queue->counters.bytes_written);
    ret->kicks = load_relaxed(&queue->counters.kicks);
    ret->page_kicks = load_relaxed(&queue->counters.page_kicks);
    ret->calls = load_relaxed(&queue->counters.calls);
    ret->calls_suppressed = load_relaxed(&queue->counters.calls_suppressed);
    ret->waits = load_relaxed(&queue->counters.waits);
}

/* ---- The worker's thread --------------------------------------------------------------------- */

static void publish_status(struct vhu_queue *queue)
{
    if (queue->device->changed)
        queue->device->changed(queue);
    pthread_mutex_lock(&queue->worker->lock);
    queue->status = queue->actual;
    pthread_mutex_unlock(&queue->worker->lock);
    (void)vhu_signal_send(queue->event_fd);
}

static void release_memory(struct vhu_queue *queue)
{
    if (queue->slots)
        munmap(queue->slots, queue->memory_size);
    queue->slots = queue->unused = NULL;
    queue->iov = NULL;
}

static void drop_ring(struct vhu_queue *queue)
{
    vhu_ring_destroy(queue->ring);
    queue->ring = NULL;
    release_memory(queue);
    vhu_queue_watch(queue);
}

/* The ring broke a rule: leave it alone from now on, and with it the memory. Where that was lost,
 * the ring's bytes are not the driver's any more, and what they say is no news. */
static void break_queue(struct vhu_queue *queue, const struct vhu_mem *mem, enum vhu_fault fault,
                        uint64_t value)
{
    uint64_t gpa;

    if (mem && vhu_mem_faulted(mem, &gpa)) {
        fault = VHU_FAULT_MEMORY;
        value = gpa;
    }
    if (queue->ring)
        vhu_ring_state(queue->ring, &queue->actual.state);
    drop_ring(queue);
    queue->settling = false;
    queue->actual.actual = VHU_QUEUE_BROKEN;
    queue->actual.fault = fault;
    queue->actual.fault_value = value;
    vhu_queue_signal(queue, VHU_FD_ERR);
}

/* The memory that a ring's requests need, so that none of them needs any later. It comes from the
 * system and goes back there: most of it is never touched, and a heap would keep what was. */
static bool allocate(struct vhu_queue *queue)
{
    size_t slots_size = queue->device->slots * sizeof(*queue->slots);
    size_t iov_count = (size_t)vhu_ring_iov_limit(queue->ring) + queue->device->spare_iov;
    size_t size = slots_size + iov_count * sizeof(*queue->iov);
    uint8_t *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        return false;
    queue->slots = (struct slot *)memory;
    queue->iov = (struct iovec *)(memory + slots_size);
    queue->memory_size = size;
    queue->oldest = NULL;
    queue->youngest = &queue->oldest;
    queue->slots_used = 0;
    queue->misses = queue->write_pause = queue->debt = 0;
    queue->next_pause = 1;
    return true;
}

static void start_ring(struct vhu_queue *queue, const struct vhu_queue_wanted *wanted)
{
    struct vhu_ring_config config = wanted->config;

    if (wanted->mem)
        vhu_ring_find_position(&config, queue->device->in_order);
    queue->actual.state = config.state;
    queue->actual.fault = VHU_FAULT_NONE;
    queue->actual.fault_value = 0;
    queue->in_order = has_feature(wanted->config.features, VIRTIO_F_IN_ORDER);
    if (!wanted->mem || vhu_ring_create(wanted->mem, &config, &queue->ring) < 0 ||
        !allocate(queue)) {
        break_queue(queue, wanted->mem, VHU_FAULT_RING_ADDRESS, wanted->start);
        return;
    }
    queue->ring->reads_only = queue->device->reads_only;
    queue->actual.actual = VHU_QUEUE_RUNNING;
}

static void stop_ring(struct vhu_queue *queue, enum vhu_queue_stop how)
{
    if (queue->ring) {
        /* Leave the driver's view as a fresh ring has it; where the front-end is gone, its memory is
         * not touched again. */
        if (how == VHU_STOP_DRAIN)
            (void)vhu_ring_kick_enable(queue->ring);
        vhu_ring_state(queue->ring, &queue->actual.state);
    }
    drop_ring(queue);
    queue->actual.actual = VHU_QUEUE_STOPPED;
}

static void move_ring(struct vhu_queue *queue, const struct vhu_queue_wanted *wanted)
{
    const struct vhu_ring_config *config = &wanted->config;

    if (!wanted->mem ||
        vhu_ring_move(queue->ring, wanted->mem, config->desc, config->driver, config->device) < 0)
        break_queue(queue, wanted->mem, VHU_FAULT_RING_ADDRESS, wanted->start);
}

static void apply_wanted(struct vhu_queue *queue, const struct vhu_queue_wanted *wanted)
{
    bool anew = wanted->start != queue->current.start;
    bool was_active = queue_is_active(queue) && !anew;
    bool other_page = wanted->notify && wanted->notify != queue->current.notify;

    if (anew) {
        if (queue->current.start)
            stop_ring(queue, wanted->how);
        if (wanted->start)
            start_ring(queue, wanted);
    } else if (queue->ring) {
        move_ring(queue, wanted);
    }
    queue->current = *wanted;
    if (other_page)
        vhu_queue_arm_page(queue);
    if (queue_is_active(queue) && !was_active) {
        vhu_ring_kick_disable(queue->ring);
        queue->since_renewal = 0;
    }
    vhu_queue_watch(queue);
    uint64_t gpa;
    if (queue->ring && vhu_sigbus_count() > 0 && vhu_mem_faulted(queue->ring->mem, &gpa))
        break_queue(queue, NULL, VHU_FAULT_MEMORY, gpa); /* lost before the ring came to it */
}

static void apply_fd(struct vhu_queue *queue, enum vhu_queue_fd which, int fd)
{
    int old = queue->fd[which];

    if (which == VHU_FD_KICK)
        vhu_queue_unwatch(queue);
    vhu_signal_close(old);
    queue->fd[which] = fd;
    if (which == VHU_FD_KICK) {
        queue->kick_dead = false;
        vhu_queue_watch(queue);
    }
    if (which == VHU_FD_CALL)
        queue->call_room.full = true;
    if (which == VHU_FD_CALL && queue->ring)
        vhu_queue_signal(queue, which); /* a call that went to the old one just now may be lost */
}

/* Empty the mailbox: in one look, so that what is wanted comes with the fds that were set before. What
 * is wanted stays in it while something is in flight. */
static struct mailbox take_mail(struct vhu_queue *queue)
{
    struct mailbox *mailbox = &queue->mailbox;

    pthread_mutex_lock(&queue->worker->lock);
    struct mailbox mail = *mailbox;
    for (int which = 0; which < QUEUE_FDS; which++) {
        mailbox->fd_changed[which] = false;
        mailbox->fd[which] = NO_FD;
    }
    if (queue->in_flight == 0)
        mailbox->wanted_changed = false;
    pthread_mutex_unlock(&queue->worker->lock);
    return mail;
}

/* Something is wanted, but requests are in flight: they are given back first, and use no memory then
 * that goes. */
static void begin_settling(struct vhu_queue *queue, const struct vhu_queue_wanted *wanted)
{
    bool leaving = wanted->start != queue->current.start;

    queue->settling = true;
    queue->abandoning |= leaving && wanted->how == VHU_STOP_ABANDON;
    if (leaving && queue->actual.actual == VHU_QUEUE_RUNNING) {
        queue->actual.actual = VHU_QUEUE_STOPPING;
        publish_status(queue);
    }
}

/* As vhu_queue_apply, and what it does after requests were settled: the ring is nobody else's meanwhile. */
static void apply(struct vhu_queue *queue)
{
    struct mailbox mail = take_mail(queue);

    for (int which = 0; which < QUEUE_FDS; which++) {
        if (mail.fd_changed[which])
            apply_fd(queue, (enum vhu_queue_fd)which, mail.fd[which]);
    }
    if (!mail.wanted_changed)
        return;
    if (queue->in_flight > 0) {
        begin_settling(queue, &mail.wanted);
        return;
    }
    queue->settling = queue->abandoning = false;
    apply_wanted(queue, &mail.wanted);
    vhu_mem_unref(mail.wanted.mem); /* the ring has its own reference */
    queue->current.mem = NULL;
    queue->actual.applied = mail.number;
    publish_status(queue);
}

void vhu_queue_settle(struct vhu_queue *queue)
{
    if (queue->unpublished)
        vhu_queue_publish(queue);
    if (!queue->settling || queue->in_flight > 0)
        return;
    queue->settling = false;
    if (queue->ring && queue->ring->fault) {
        break_queue(queue, queue->ring->mem, queue->ring->fault, queue->ring->fault_value);
        publish_status(queue);
    }
    apply(queue); /* what waited for this moment */
}

void vhu_queue_apply(struct vhu_queue *queue)
{
    queue_lock(queue);
    apply(queue);
    if (queue->ring && queue->ring->fault && !queue->settling)
        vhu_queue_broke(queue); /* another thread found that out */
    queue_unlock(queue);
}

void vhu_queue_broke(struct vhu_queue *queue)
{
    queue->settling = true;
    vhu_queue_settle(queue);
}

void vhu_queue_check_memory(struct vhu_queue *queue)
{
    uint64_t gpa;

    queue_lock(queue);
    if (queue->ring && !queue->ring->fault && vhu_mem_faulted(queue->ring->mem, &gpa)) {
        (void)ring_break(queue->ring, VHU_FAULT_MEMORY, gpa);
        vhu_queue_broke(queue);
    }
    queue_unlock(queue);
}

void vhu_queue_ignore(struct vhu_queue *queue)
{
    (void)queue;
}

void vhu_queue_release(struct vhu_queue *queue)
{
    queue->device->released(queue);
    for (int which = 0; which < QUEUE_FDS; which++) {
        vhu_signal_close(queue->fd[which]);
        vhu_signal_close(queue->mailbox.fd[which]);
    }
    if (queue->mailbox.wanted_changed)
        vhu_mem_unref(queue->mailbox.wanted.mem);
    vhu_ring_destroy(queue->ring);
    release_memory(queue);
    free(queue);
}
