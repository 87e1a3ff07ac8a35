/* SPDX-License-Identifier: Apache-2.0
 *
 * load.h - what the load generators share: their options, the clock, where to aim, and the figures.
 */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

enum { MOST_DISKS = 16 };

struct load_options {
    const char *sockets[MOST_DISKS];
    int disks;
    int depth;      /* requests in flight on each disk */
    double seconds; /* of measuring ... */
    double warm;    /* ... after so many of running in */
    double linger;  /* seconds to stay connected, idle, after the figures are out */
    uint32_t bytes; /* of a request */
    int regions;    /* of memory, over which the buffers are spread */
    bool write;
    bool poll;     /* else sleep until the back-end calls */
    bool packed;   /* ring_load only */
    bool indirect; /* ring_load only */
};

/* Ends the program where the options make no sense. */
void load_parse(int argc, char **argv, struct load_options *ret);

/* `what` could not be done; errno says why. */
_Noreturn void die(const char *what);

static inline uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* xorshift64: where to read next. */
static inline uint64_t load_random(void)
{
    static uint64_t state = 88172645463325252u;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* The measuring time and what was counted in it. */
struct load_figures {
    uint64_t begin, end; /* ns; requests that end in between count */
    bool counting, over;
    uint64_t done, errors;
    struct rusage at_begin, at_end;
};

void load_begin(struct load_figures *figures, const struct load_options *options);
/* Once a batch of completions. False: the time is over, start nothing new. */
bool load_tick(struct load_figures *figures, uint64_t now);
/* One request ended at `now` that had begun at `start`. */
void load_count(struct load_figures *figures, uint64_t start, uint64_t now, bool failed);
/* The same for many whose latency nobody asks for; of them `errors` failed. */
void load_add(struct load_figures *figures, uint64_t count, uint64_t errors);
/* What was counted, in numbers. */
struct load_summary {
    double rate, p50_us, p99_us, client_cpu;
    uint64_t requests, errors;
};

void load_sum_up(const struct load_figures *figures, struct load_summary *ret);
/* The same as one line of JSON on standard output; returns the exit status: 1 where requests failed or none ended. */
int load_print(const struct load_figures *figures);

#endif
