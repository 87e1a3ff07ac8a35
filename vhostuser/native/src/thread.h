/* SPDX-License-Identifier: Apache-2.0
 *
 * Threads of the engine: how they start, and how one is got out of a system call.
 */
#ifndef VHU_THREAD_H
#define VHU_THREAD_H

#include <pthread.h>

/* Start a thread that takes no signals but its own faults and vhu_thread_interrupt. 0 or a negative errno. */
int vhu_thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *argument);
/* End a system call that a thread waits in, if any: one that comes too early is lost. */
void vhu_thread_interrupt(pthread_t thread);

#endif
