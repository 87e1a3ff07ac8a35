/* SPDX-License-Identifier: Apache-2.0
 *
 * pingpong CPU CPU - how long a cache line takes from one processor to the other and back.
 *
 * Virtual machines of two processors were seen to change between a state in which that takes about
 * 100 ns and one of about 400, every few seconds, and with it every figure of two threads that share
 * memory. A run counts only when this said the same before and after it.
 *
 * Prints one number: nanoseconds of the best of three rounds.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "load.h"

enum { TURNS = 5000, ROUNDS = 3, SETTLE_US = 3000 };

static _Atomic int line __attribute__((aligned(128)));
static atomic_int stop;

static void pin(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set) < 0)
        die("pin to the processor");
}

static void *answer(void *cpu)
{
    pin(*(int *)cpu);
    while (!atomic_load_explicit(&stop, memory_order_relaxed))
        if (atomic_load_explicit(&line, memory_order_acquire) == 1)
            atomic_store_explicit(&line, 2, memory_order_release);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    double best = 1e9;

    if (argc != 3) {
        fprintf(stderr, "usage: pingpong CPU CPU\n");
        return 2;
    }
    int here = atoi(argv[1]), there = atoi(argv[2]);
    pin(here);
    if (pthread_create(&thread, NULL, answer, &there) != 0)
        die("start a thread");
    usleep(SETTLE_US);
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t start = now_ns();

        for (int i = 0; i < TURNS; i++) {
            atomic_store_explicit(&line, 1, memory_order_release);
            while (atomic_load_explicit(&line, memory_order_acquire) != 2)
                ;
        }
        double turn = (double)(now_ns() - start) / TURNS;
        best = turn < best ? turn : best;
    }
    atomic_store(&stop, 1);
    pthread_join(thread, NULL);
    printf("%.1f\n", best);
    return 0;
}
