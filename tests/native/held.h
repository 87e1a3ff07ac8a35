/* SPDX-License-Identifier: Apache-2.0
 *
 * A store that takes the long way for every operation, for tests: its engine holds jobs until the
 * test lets them go.
 */
#ifndef HELD_H
#define HELD_H

#include <pthread.h>

#include "bench.h"
#include "worker.h"

enum {
    SECTORS = 4096, /* each filled with its number's last byte */
    RING = 1024,
    HELD_MAX = 512,
    POLL_US = 20,
    IN = 0,
    OUT = 1,
    FLUSH = 4,
    UNKNOWN = 99,
    OK = 0,
    IOERR = 1,
    UNSUPP = 2,
    NONE = 0xee, /* the status byte was not touched */
    F_FLUSH = 1 << 9,
};

struct held {
    struct vhu_io_engine engine;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct io_job *jobs[HELD_MAX]; /* in the order they came */
    int count;
    int refusals; /* how often the host has no room yet */
    struct io_job *done;
};

extern struct held held;

/* The queue of a bench with one. */
static struct line *const line = &bench.lines[0];

struct vhu_io_engine *held_engine(void);
/* Wait until the host has refused jobs so often that it will `left` times more. */
void await_refusals(int left);
/* Wait until `count` jobs are held. */
void await_held(int count);
/* Carry out the held job number `which`, or let it fail with `error`. */
void release(int which, int error);

struct vhu_blk_config image(void);
void open_slow_with(struct vhu_io_engine *engine, uint32_t poll_us, uint64_t features, uint32_t num);
void open_slow(uint64_t features, uint32_t num);

/* Where request `number` has its header, its status and its data. */
uint64_t place(int number);
uint8_t *status_at(int number);
uint8_t *data_at(int number);
/* Put request `number`, of one sector, into the ring. */
void add(int number, uint32_t type, uint32_t sector);
/* The same, its data `before` bytes before their usual place. */
void add_before(int number, uint32_t type, uint32_t sector, uint32_t before);
/* Wait for the next used chain; returns its first descriptor's or buffer's id, -1 for none. */
int receive(void);
bool nothing_was_used(void);

#endif
