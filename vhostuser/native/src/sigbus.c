/* SPDX-License-Identifier: Apache-2.0
 *
 * The SIGBUS handler and its table of guarded ranges, one of each for the process. The handler uses
 * nothing but atomics and system calls; it never jumps, because locks may be held where it strikes.
 */
#include "sigbus.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { GUARDS_PER_BLOCK = 256 };

/* A place in the table. Who touches a range keeps it mapped and guarded meanwhile. So a place that
 * changes while the handler reads it is never the one it looks for; the version tells. */
struct guard {
    uint32_t version; /* odd: being changed */
    uint32_t faulted;
    uintptr_t start;
    size_t size; /* 0: free */
    size_t page;
};

/* Blocks are added and never freed: the handler walks them at any time. */
struct block {
    struct block *next;
    struct guard guards[GUARDS_PER_BLOCK];
};

uint32_t vhu_sigbus_faults;

static struct block first_block;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of changes; not for the handler */

/* Who handled SIGBUS before us, and who put itself in front of us afterwards. That one may fall
 * back on us, as Python's faulthandler does when it gives up: see `handle_first`. */
static struct sigaction before_us, after_us;
static bool installed, have_after_us;

/* ---- The handler ----------------------------------------------------------------------------- */

static bool holds(const struct guard *guard, uintptr_t address)
{
    uint32_t version = load_acquire(&guard->version);
    uintptr_t start = load_relaxed(&guard->start);
    size_t size = load_relaxed(&guard->size);

    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return version % 2 == 0 && version == load_relaxed(&guard->version) && address - start < size;
}

/* Put empty memory there. Another thread may do the same at once, which does no harm. The bare
 * system call: mmap itself may be more than that, as under a sanitizer. */
static bool replace(uintptr_t start, size_t size)
{
    long rc = syscall(SYS_mmap, start, size, PROT_READ | PROT_WRITE,
                      MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0L);

    return rc != -1 && madvise((void *)start, size, MADV_DONTFORK) == 0;
}

static bool recover_guard(struct guard *guard, uintptr_t address)
{
    /* A host that promises no more memory than it has may refuse all of it, but grant a page. */
    bool known = load_acquire(&guard->faulted);
    uintptr_t page = guard->start + (address - guard->start) / guard->page * guard->page;
    if ((known || !replace(guard->start, guard->size)) && !replace(page, guard->page))
        return false;
    if (!known) {
        store_release(&guard->faulted, 1);
        __atomic_fetch_add(&vhu_sigbus_faults, 1, __ATOMIC_RELEASE);
    }
    return true;
}

/* Returns whether the access can be repeated. A doorbell may lie in a region: both guards learn of it. */
static bool recover(uintptr_t address)
{
    bool recovered = false;

    for (struct block *block = &first_block; block; block = load_acquire(&block->next)) {
        for (size_t i = 0; i < GUARDS_PER_BLOCK; i++) {
            if (holds(&block->guards[i], address))
                recovered |= recover_guard(&block->guards[i], address);
        }
    }
    return recovered;
}

/* Nobody wants it: end the process as if we had not been there. */
static void give_up(int number, const siginfo_t *info)
{
    struct sigaction standard = {.sa_handler = SIG_DFL};

    sigaction(number, &standard, NULL);
    if (info->si_code <= 0 || info->si_code == BUS_MCEERR_AO)
        raise(number); /* an access faults once more by itself, a signal that was sent does not */
}

static void call(const struct sigaction *action, int number, siginfo_t *info, void *context)
{
    if (action->sa_flags & SA_SIGINFO)
        action->sa_sigaction(number, info, context);
    else if (action->sa_handler == SIG_DFL || (action->sa_handler == SIG_IGN && info->si_code > 0))
        give_up(number, info);
    else if (action->sa_handler != SIG_IGN)
        action->sa_handler(number);
}

static void set_handler(void (*handler)(int, siginfo_t *, void *))
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    sigemptyset(&action.sa_mask);
    (void)sigaction(SIGBUS, &action, NULL);
}

static bool is_set(void (*handler)(int, siginfo_t *, void *))
{
    struct sigaction now;

    sigaction(SIGBUS, NULL, &now);
    return now.sa_flags & SA_SIGINFO && now.sa_sigaction == handler;
}

static bool is_recovered(const siginfo_t *info)
{
    bool access = info->si_code > 0 && info->si_code != BUS_MCEERR_AO;

    return access && recover((uintptr_t)info->si_addr);
}

/* In place while, and after, who came after us deals with a signal. */
static void handle_last(int number, siginfo_t *info, void *context)
{
    int saved = errno;

    if (!is_recovered(info))
        call(&before_us, number, info, context);
    errno = saved;
}

/* First in line. Who came after us took us for its predecessor: when it restores us, it is done
 * with the signal, and only who came before us is left. To call it again would never end. */
static void handle_first(int number, siginfo_t *info, void *context)
{
    int saved = errno;

    if (is_recovered(info)) {
        errno = saved;
        return;
    }
    if (!have_after_us) {
        call(&before_us, number, info, context);
    } else {
        set_handler(handle_last);
        call(&after_us, number, info, context);
        if (is_set(handle_last))
            set_handler(handle_first); /* it went well */
        else if (is_set(handle_first))
            set_handler(handle_last);
    }
    errno = saved;
}

/* ---- Other code ------------------------------------------------------------------------------ */

static void install(void)
{
    struct sigaction now;

    sigaction(SIGBUS, NULL, &now);
    if (now.sa_flags & SA_SIGINFO &&
        (now.sa_sigaction == handle_first || now.sa_sigaction == handle_last))
        return;
    have_after_us = installed && (now.sa_flags & SA_SIGINFO ||
                                  (now.sa_handler != SIG_DFL && now.sa_handler != SIG_IGN));
    if (have_after_us)
        after_us = now;
    else
        before_us = now;
    installed = true;
    set_handler(handle_first);
}

void vhu_sigbus_install(void)
{
    pthread_mutex_lock(&lock);
    install();
    pthread_mutex_unlock(&lock);
}

void vhu_sigbus_mask(sigset_t *ret)
{
    sigfillset(ret);
    sigdelset(ret, SIGBUS);
    sigdelset(ret, SIGSEGV);
    sigdelset(ret, SIGFPE);
    sigdelset(ret, SIGILL);
}

/* A free place, or NULL. */
static struct guard *find_free(void)
{
    struct block *last = NULL;

    for (struct block *block = &first_block; block; block = block->next) {
        for (size_t i = 0; i < GUARDS_PER_BLOCK; i++) {
            if (block->guards[i].size == 0)
                return &block->guards[i];
        }
        last = block;
    }
    struct block *more = calloc(1, sizeof(*more));
    if (!more)
        return NULL;
    store_release(&last->next, more);
    return &more->guards[0];
}

static void set_range(struct guard *guard, uintptr_t start, size_t size, size_t page)
{
    store_relaxed(&guard->version, guard->version + 1);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    store_relaxed(&guard->start, start);
    store_relaxed(&guard->size, size);
    store_relaxed(&guard->page, page);
    store_relaxed(&guard->faulted, 0);
    store_release(&guard->version, guard->version + 1);
}

struct guard *vhu_guard_create(void *start, size_t size, size_t page)
{
    pthread_mutex_lock(&lock);
    install();
    struct guard *guard = find_free();
    if (guard)
        set_range(guard, (uintptr_t)start, size, page);
    pthread_mutex_unlock(&lock);
    return guard;
}

void vhu_guard_destroy(struct guard *guard)
{
    if (!guard)
        return;
    pthread_mutex_lock(&lock);
    set_range(guard, 0, 0, 0);
    pthread_mutex_unlock(&lock);
}

bool vhu_guard_faulted(const struct guard *guard)
{
    return load_acquire(&guard->faulted) != 0;
}
