/* SPDX-License-Identifier: Apache-2.0
 *
 * Threads of the engine. Interrupts are SIGURG, which is ignored unless somebody handles it, so that a
 * stray one harms nobody.
 */
#include "thread.h"

#include <signal.h>

#include "sigbus.h"

static void wake(int number)
{
    (void)number;
}

static void prepare_interrupts(void)
{
    struct sigaction action = {.sa_handler = wake}, before; /* no SA_RESTART */

    if (sigaction(SIGURG, NULL, &before) == 0 && before.sa_handler == SIG_DFL)
        (void)sigaction(SIGURG, &action, NULL);
}

/* Other signals are the business of the process's own threads. */
int vhu_thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *argument)
{
    sigset_t all, before;

    prepare_interrupts();
    vhu_sigbus_mask(&all);
    sigdelset(&all, SIGURG);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(thread, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc == 0)
        pthread_setname_np(*thread, name);
    return -rc;
}

void vhu_thread_interrupt(pthread_t thread)
{
    (void)pthread_kill(thread, SIGURG);
}
