/* SPDX-License-Identifier: Apache-2.0
 *
 * net_ring_load TRAFFIC BYTES [OPTION...] SOCKET... - frames through a switch from rings of our own: chained and
 * indirect descriptors, frames over several buffers, frames to be segmented, many ports and queue pairs.
 *
 * The first --ports sockets have traffic, the others are connected and idle. It says "ready" when all rings run, goes
 * on at a line on its standard input, prints figures, and leaves at the next line.
 */
#include <getopt.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "frames.h"
#include "load.h"
#include "net_port.h"

enum {
    BURST = 32,
    LOST_NS = 1000 * 1000 * 1000,
    LEARN_NS = 2 * 1000 * 1000,
};

struct load {
    enum traffic traffic;
    int count, busy; /* ports, and those of them that have traffic */
    struct port_options options;
    struct load_options times;
    uint32_t pace; /* frames a second, 0: as many as there can be */
    bool sleep;
    struct port *ports;
};

static const struct option OPTIONS[] = {
    {"ports", required_argument, NULL, 'n'},   {"pairs", required_argument, NULL, 'q'},
    {"shape", required_argument, NULL, 's'},   {"buffer", required_argument, NULL, 'b'},
    {"segment", required_argument, NULL, 'g'}, {"warm", required_argument, NULL, 'w'},
    {"seconds", required_argument, NULL, 't'}, {"pace", required_argument, NULL, 'r'},
    {"packed", no_argument, NULL, 'p'},        {"sleep", no_argument, NULL, 'S'},
    {NULL, 0, NULL, 0},
};

static enum shape shape_named(const char *name)
{
    static const char *const names[SHAPES] = {"plain", "chained", "indirect"};

    for (int i = 0; i < SHAPES; i++) {
        if (strcmp(name, names[i]) == 0)
            return (enum shape)i;
    }
    fprintf(stderr, "descriptors are plain, chained or indirect\n");
    exit(2);
}

static void parse_one(int option, struct load *ret)
{
    uint32_t number = optarg ? (uint32_t)atoi(optarg) : 0;

    switch (option) {
    case 'n':
        ret->busy = (int)number;
        break;
    case 'q':
        ret->options.pairs = number;
        break;
    case 's':
        ret->options.shape = shape_named(optarg);
        break;
    case 'b':
        ret->options.buffer = number;
        break;
    case 'g':
        ret->options.segment = number;
        break;
    case 'w':
        ret->times.warm = atof(optarg);
        break;
    case 't':
        ret->times.seconds = atof(optarg);
        break;
    case 'r':
        ret->pace = number;
        break;
    case 'p':
        ret->options.packed = true;
        break;
    case 'S':
        ret->sleep = true;
        break;
    default:
        exit(2);
    }
}

static char **parse(int argc, char **argv, struct load *ret)
{
    int option;

    *ret = (struct load){.busy = 2, .options = {.pairs = 1}, .times = {.warm = 0.2, .seconds = 0.5}};
    while ((option = getopt_long(argc, argv, "", OPTIONS, NULL)) != -1)
        parse_one(option, ret);
    ret->count = argc - optind - 2;
    if (ret->count < 1) {
        fprintf(stderr, "usage: net_ring_load TRAFFIC BYTES [OPTION...] SOCKET...\n");
        exit(2);
    }
    ret->traffic = traffic_named(argv[optind]);
    ret->options.bytes = (uint32_t)atoi(argv[optind + 1]);
    bool paired = ret->traffic == ONE_WAY || ret->traffic == BOTH_WAYS;
    if (ret->busy < 1 || ret->busy > ret->count || (paired && ret->busy % 2 != 0) ||
        ret->options.pairs < 1 || ret->options.pairs > MOST_PAIRS || ret->options.bytes < 60 ||
        ret->options.bytes > 65549 || (ret->sleep && ret->traffic != ROUND_TRIP) ||
        (ret->pace && ret->traffic != ROUND_TRIP) || ret->times.seconds <= 0) {
        fprintf(stderr, "--ports: as many as there are sockets, an even number for traffic from one to the "
                        "next; a frame has 60 to 65549 bytes; only round trips have --sleep and --pace\n");
        exit(2);
    }
    return argv + optind + 2;
}

static void drain(const struct load *load, uint64_t ns)
{
    uint64_t end = now_ns() + ns, ignored = 0;

    do {
        for (int i = 0; i < load->count; i++) {
            for (uint32_t pair = 0; pair < load->options.pairs; pair++)
                receiver_receive(&load->ports[i].receivers[pair], &ignored);
        }
    } while (now_ns() < end);
}

static void open_ports(struct load *load, char **paths)
{
    load->ports = calloc((size_t)load->count, sizeof(*load->ports));
    if (!load->ports)
        die("allocate");
    for (int i = 0; i < load->count; i++)
        port_open(&load->ports[i], i, paths[i], &load->options);
    for (int i = 0; load->traffic != SOURCE && i < load->count; i++) {
        port_say_hello(&load->ports[i]);
        drain(load, LEARN_NS);
    }
}

static uint32_t pass(const struct load *load, uint64_t *errors)
{
    uint32_t sent = 0, arrived = 0;

    for (int i = 0; i < load->busy; i++) {
        for (uint32_t pair = 0; pair < load->options.pairs; pair++) {
            if (traffic_sends(load->traffic, i))
                sent += sender_send(&load->ports[i].senders[pair], BURST);
        }
    }
    for (int i = 0; i < load->busy; i++) {
        for (uint32_t pair = 0; pair < load->options.pairs; pair++) {
            if (traffic_receives(load->traffic, i))
                arrived += receiver_receive(&load->ports[i].receivers[pair], errors);
        }
    }
    return load->traffic == SINK ? sent : arrived;
}

static void run_bursts(const struct load *load, struct load_figures *figures)
{
    do {
        uint64_t errors = 0;
        uint32_t count = pass(load, &errors);

        load_add(figures, count, errors);
    } while (load_tick(figures, now_ns()));
}

/* Sleep until the back-end calls; false: it does not. */
static bool wait_for_call(const struct ring_ends *ring)
{
    struct pollfd fd = {.fd = ring->call, .events = POLLIN};
    eventfd_t signals;

    if (vhu_driver_call_enable(ring->driver))
        return true;
    if (poll(&fd, 1, LOST_NS / 1000 / 1000) != 1)
        return false;
    eventfd_read(ring->call, &signals);
    return true;
}

/* Send a frame and wait for it. Returns how long that took; 0: it is lost, or wrong. */
static uint64_t go_round(const struct load *load)
{
    struct receiver *receiver = &load->ports[load->busy - 1].receivers[0];
    struct sender *sender = &load->ports[0].senders[0];
    uint64_t errors = 0, start = now_ns();

    if (sender_send(sender, 1) == 0)
        return 0;
    while (receiver_receive(receiver, &errors) == 0) {
        if (load->sleep ? !wait_for_call(&receiver->ring) : now_ns() - start > LOST_NS)
            return 0;
    }
    return errors ? 0 : now_ns() - start;
}

static void wait_until(uint64_t time)
{
    const struct timespec at = {(time_t)(time / 1000000000u), (long)(time % 1000000000u)};

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) != 0)
        ;
}

static void run_round_trips(const struct load *load, struct load_figures *figures)
{
    uint64_t next = now_ns(), now;

    do {
        if (load->pace) {
            next += 1000000000u / load->pace;
            if (next > now_ns())
                wait_until(next);
        }
        uint64_t took = go_round(load);
        now = now_ns();
        load_count(figures, now - took, now, took == 0);
    } while (load_tick(figures, now));
}

static void wait_for_word(void)
{
    if (getchar() == EOF)
        exit(1);
}

int main(int argc, char **argv)
{
    struct load_figures figures;
    struct load load;
    char **paths = parse(argc, argv, &load);

    prctl(PR_SET_TIMERSLACK, 1);
    open_ports(&load, paths);
    puts("{\"ready\": 1}");
    fflush(stdout);
    wait_for_word();
    load_begin(&figures, &load.times);
    if (load.traffic == ROUND_TRIP)
        run_round_trips(&load, &figures);
    else
        run_bursts(&load, &figures);
    int status = load_print(&figures);
    wait_for_word();
    return status;
}
