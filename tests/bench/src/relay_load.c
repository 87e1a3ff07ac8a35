/* SPDX-License-Identifier: Apache-2.0
 *
 * relay_load CPU CPU SECONDS - what it costs the engine's relay to pass kicks on.
 *
 * The relay has the first processor. The second one's thread kicks an eventfd back to back, or each time
 * when the kick before has arrived; it goes to a doorbell in memory or to another eventfd. Processor time
 * is that of the whole process without that of the thread which kicks. Prints JSON: for each way, ns of
 * processor time for a kick, and how many kicks one look passed on.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "load.h"
#include "vhu.h"

enum { PAGE = 4096, BATCH = 256, SILENT = 0xffffffff, PATIENCE_MS = 5000 };

struct way {
    const char *name;
    bool doorbell; /* else an eventfd is signalled */
    bool one_by_one;
};

static const struct way WAYS[] = {{"doorbell", true, false},
                                  {"eventfd", false, false},
                                  {"doorbell, one by one", true, true},
                                  {"eventfd, one by one", false, true}};

struct relay {
    struct vhu_relay *native;
    struct vhu_route *route;
    _Atomic uint32_t *doorbell;
    int kick, target;
};

static void pin(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set) < 0)
        die("pin to the processor");
}

static uint64_t cpu_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t relay_ns(void)
{
    return cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns(CLOCK_THREAD_CPUTIME_ID);
}

static int make_eventfd(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (fd < 0)
        die("make an eventfd");
    return fd;
}

static void *make_page(void)
{
    int fd = memfd_create("doorbell", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, PAGE) < 0)
        die("make a page");
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        die("map a page");
    close(fd);
    return page;
}

static void open_relay(struct relay *relay, const struct way *way)
{
    struct vhu_target target = {.width = 2, .value = 0};

    relay->kick = make_eventfd();
    relay->target = make_eventfd();
    relay->doorbell = make_page();
    int given = dup(relay->target);
    if (given < 0)
        die("duplicate an eventfd");
    if (way->doorbell) {
        target.address = relay->doorbell;
        close(given);
    } else {
        target.fds = &given;
        target.fd_count = 1;
    }
    errno = -vhu_relay_create(&relay->native);
    if (errno)
        die("create a relay");
    errno = -vhu_relay_add(relay->native, dup(relay->kick), &target, &relay->route);
    if (errno)
        die("add a route");
}

static void close_relay(struct relay *relay)
{
    vhu_relay_destroy(relay->native);
    munmap(relay->doorbell, PAGE);
    close(relay->kick);
    close(relay->target);
}

static void kick(const struct relay *relay)
{
    if (eventfd_write(relay->kick, 1) < 0)
        die("kick");
}

/* Forget what has arrived, so that the next kick shows. */
static void arm(const struct relay *relay)
{
    eventfd_t ignored;

    atomic_store(relay->doorbell, SILENT);
    if (eventfd_read(relay->target, &ignored) < 0 && errno != EAGAIN)
        die("read an eventfd");
}

static void await(const struct relay *relay, const struct way *way)
{
    struct pollfd signal = {.fd = relay->target, .events = POLLIN};
    uint64_t end = now_ns() + PATIENCE_MS * 1000000ull;

    if (way->doorbell) {
        while (atomic_load(relay->doorbell) == SILENT && now_ns() < end)
            ;
    } else if (poll(&signal, 1, PATIENCE_MS) != 1) {
        end = 0;
    }
    if (now_ns() >= end) {
        fprintf(stderr, "a kick did not arrive\n");
        exit(1);
    }
}

static uint64_t kick_for(const struct relay *relay, const struct way *way, double seconds)
{
    uint64_t kicks = 0, end = now_ns() + (uint64_t)(seconds * 1e9);

    while (now_ns() < end) {
        for (int i = 0; i < BATCH; i++, kicks++) {
            if (way->one_by_one)
                arm(relay);
            kick(relay);
            if (way->one_by_one)
                await(relay, way);
        }
    }
    return kicks;
}

/* Kick one way for a while, and see in the end that a kick still arrives. */
static void measure(const struct way *way, int relay_cpu, int cpu, double seconds, bool last)
{
    struct relay relay;

    pin(relay_cpu); /* the relay's thread inherits it */
    open_relay(&relay, way);
    pin(cpu);
    uint64_t before = relay_ns();
    uint64_t kicks = kick_for(&relay, way, seconds);
    uint64_t used = relay_ns() - before, signals = vhu_route_signals(relay.route);

    usleep(1000);
    arm(&relay);
    kick(&relay);
    await(&relay, way);
    printf("\"%s\": {\"cpu_ns\": %.1f, \"kicks\": %lu, \"looks\": %lu}%s", way->name,
           (double)used / (double)kicks, (unsigned long)kicks, (unsigned long)signals,
           last ? "" : ", ");
    close_relay(&relay);
}

int main(int argc, char **argv)
{
    const int ways = sizeof(WAYS) / sizeof(WAYS[0]);

    if (argc != 4) {
        fprintf(stderr, "usage: relay_load CPU CPU SECONDS\n");
        return 2;
    }
    printf("{");
    for (int i = 0; i < ways; i++)
        measure(&WAYS[i], atoi(argv[1]), atoi(argv[2]), atof(argv[3]), i + 1 == ways);
    printf("}\n");
    return 0;
}
