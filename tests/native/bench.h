/* SPDX-License-Identifier: Apache-2.0
 *
 * A worker with queues, each with the driver of its ring, for tests.
 */
#ifndef BENCH_H
#define BENCH_H

#include "guest.h"

struct vhu_io_engine;

enum { NUM = 16, PATIENCE_MS = 20000, QUEUES_MAX = 4 };

/* One queue with the driver of its ring. */
struct line {
    struct vhu_queue *queue;
    struct vhu_driver *driver;
    struct vhu_queue_wanted wanted;
    int kick, call, err;
    uint64_t buffers; /* GPA */
};

struct bench {
    struct guest guest;
    struct vhu_blk *blk; /* NULL: a switch is served */
    struct vhu_net *net;
    struct vhu_worker *worker;
    int event_fd;
    int fds_before;
    struct line lines[QUEUES_MAX];
    int count;
};

extern struct bench bench;

int count_fds(void);
/* Wait until `fd` is readable and empty it. False: that took too long. */
bool await(int fd);
bool is_readable(int fd);
void push_fd(int fd);

struct vhu_queue_status status_of(struct line *line);
struct vhu_queue_status await_applied(struct line *line, uint64_t number);
struct vhu_queue_status want(struct line *line);
struct vhu_queue_status await_actual(struct line *line, enum vhu_queue_actual actual);

/* A worker with `count` queues of `num` descriptors on the null store. */
void open_bench(const struct vhu_worker_config *config, int count, uint64_t features,
                uint16_t position);
/* One queue of `num` descriptors on `store`, its worker's jobs carried out by `io`, taken over. */
void open_bench_with(struct vhu_io_engine *io, uint32_t poll_us, const struct vhu_blk_config *store,
                     uint64_t features, uint32_t num);
/* A worker with the rings of `ports` network ports, line 2 * port receives, the next one sends: one that is an
 * echo, or a switch of several. */
void open_net_bench(const struct vhu_worker_config *config, int ports, uint64_t features,
                    uint16_t position);
/* A worker and a switch without ports. */
void open_switch(const struct vhu_worker_config *config, const struct vhu_net_config *net);
/* A line for ring `ring` of a port, in place `index` of the guest's memory; not among the bench's lines. */
void open_port_line(struct line *line, int index, struct vhu_worker *worker, uint32_t port,
                    uint32_t ring, uint64_t features, uint16_t position);
void close_line(struct line *line);
/* The first half of closing: queues and their drivers. */
void close_lines(void);
/* Checks that nothing was leaked. */
void close_bench(void);

#endif
