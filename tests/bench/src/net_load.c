/* SPDX-License-Identifier: Apache-2.0
 *
 * net_load EAL-ARGUMENTS -- TRAFFIC BYTES WARM SECONDS - frames through DPDK's virtio_user ports, as fast as one
 * processor can.
 *
 * The frames were built before: a send takes a buffer in which one lies. It says "ready" when the ports
 * run, goes on at a line on its standard input, prints figures as ring_load does, and leaves.
 */
#include <string.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>

#include "frames.h"
#include "load.h"

enum {
    BURST = 32,
    RING = 1024,
    MOST_DPDK_PORTS = 2,
    BUFFERS = 4095, /* of a pool; a power of two less one */
    CACHE = 256,
    LARGEST = 1518,
    BURSTS_A_LOOK = 8, /* at the clock */
    LOST_NS = 1000 * 1000 * 1000,
    LEARN_NS = 50 * 1000 * 1000,
};

struct load {
    enum traffic traffic;
    uint32_t bytes;
    int ports;
    struct rte_mempool *sends[MOST_DPDK_PORTS]; /* frames from each port, and where its neighbour receives */
    struct load_options options;
};

/* A time stamp counter in nanoseconds since `now_ns` began: it takes a third of that one's time. */
static struct {
    uint64_t ns, ticks, scale;
} epoch;

enum { SCALE_BITS = 24 };

static void start_clock(void)
{
    epoch.scale = (1000000000ull << SCALE_BITS) / rte_get_tsc_hz();
    epoch.ns = now_ns();
    epoch.ticks = rte_rdtsc();
}

static inline uint64_t ticks_ns(void)
{
    return epoch.ns + ((rte_rdtsc() - epoch.ticks) * epoch.scale >> SCALE_BITS);
}

static _Noreturn void give_up(const char *what)
{
    fprintf(stderr, "DPDK cannot %s\n", what);
    exit(1);
}

static void fill(struct rte_mempool *pool, void *frame, void *object, unsigned int index)
{
    struct rte_mbuf *buffer = object;

    (void)pool, (void)index;
    memcpy((char *)buffer->buf_addr + RTE_PKTMBUF_HEADROOM, frame, LARGEST);
}

static void make_pool(struct load *load, int port)
{
    uint8_t frame[LARGEST] = {0};
    char name[16];

    frame_write(frame, load->bytes, port);
    snprintf(name, sizeof(name), "frames%d", port);
    load->sends[port] = rte_pktmbuf_pool_create(name, BUFFERS, CACHE, 0, RTE_MBUF_DEFAULT_BUF_SIZE,
                                                (int)rte_socket_id());
    if (!load->sends[port])
        give_up("allocate its buffers");
    rte_mempool_obj_iter(load->sends[port], fill, frame);
}

static void start_port(const struct load *load, int port)
{
    struct rte_eth_conf nothing = {0};
    uint16_t id = (uint16_t)port;

    if (rte_eth_dev_configure(id, 1, 1, &nothing) < 0 ||
        rte_eth_rx_queue_setup(id, 0, RING, 0, NULL, load->sends[port ^ 1]) < 0 ||
        rte_eth_tx_queue_setup(id, 0, RING, 0, NULL) < 0 || rte_eth_dev_start(id) < 0)
        give_up("start a port");
    rte_eth_promiscuous_enable(id);
}

static inline uint32_t send_burst(const struct load *load, int port)
{
    struct rte_mbuf *burst[BURST];

    if (rte_pktmbuf_alloc_bulk(load->sends[port], burst, BURST) < 0)
        return 0;
    for (int i = 0; i < BURST; i++)
        burst[i]->data_len = burst[i]->pkt_len = load->bytes;
    uint32_t sent = rte_eth_tx_burst((uint16_t)port, 0, burst, BURST);
    if (sent < BURST)
        rte_pktmbuf_free_bulk(burst + sent, BURST - sent);
    return sent;
}

/* Frames that came; those of another length are errors. */
static inline uint32_t receive_burst(const struct load *load, int port, uint64_t *errors)
{
    struct rte_mbuf *burst[BURST];
    uint32_t got = rte_eth_rx_burst((uint16_t)port, 0, burst, BURST);

    for (uint32_t i = 0; i < got; i++)
        *errors += burst[i]->pkt_len != load->bytes;
    if (got > 0)
        rte_pktmbuf_free_bulk(burst, got);
    return got;
}

static void drain(const struct load *load, uint64_t ns)
{
    uint64_t end = ticks_ns() + ns, ignored = 0;

    while (ticks_ns() < end) {
        for (int port = 0; port < load->ports; port++)
            receive_burst(load, port, &ignored);
    }
}

/* Let a switch learn where everybody lives. */
static void say_hello(const struct load *load)
{
    for (int port = 0; port < load->ports; port++) {
        struct rte_mbuf *buffer = rte_pktmbuf_alloc(load->sends[port]);

        if (!buffer)
            give_up("allocate a buffer");
        buffer->data_len = buffer->pkt_len = load->bytes;
        frame_write_broadcast(rte_pktmbuf_mtod(buffer, uint8_t *), load->bytes, port);
        uint64_t end = ticks_ns() + LOST_NS;
        while (rte_eth_tx_burst((uint16_t)port, 0, &buffer, 1) == 0) {
            if (ticks_ns() > end)
                give_up("send a frame: nobody takes it");
        }
        drain(load, LEARN_NS);
    }
    /* the buffer that was spoilt is back, unless it was the ring's */
    for (int port = 0; port < load->ports; port++) {
        uint8_t frame[LARGEST] = {0};

        frame_write(frame, load->bytes, port);
        rte_mempool_obj_iter(load->sends[port], fill, frame);
    }
}

/* One pass over all ports. Returns frames that arrived; of a sink, that were taken. */
static inline uint32_t pass(const struct load *load, uint64_t *errors)
{
    uint32_t arrived = 0, taken = 0;

    for (int port = 0; port < load->ports; port++) {
        if (traffic_sends(load->traffic, port))
            taken += send_burst(load, port);
    }
    for (int port = 0; port < load->ports; port++) {
        if (traffic_receives(load->traffic, port))
            arrived += receive_burst(load, port, errors);
    }
    return load->traffic == SINK ? taken : arrived;
}

static void run_bursts(const struct load *load, struct load_figures *figures)
{
    do {
        uint64_t count = 0, errors = 0;

        for (int i = 0; i < BURSTS_A_LOOK; i++)
            count += pass(load, &errors);
        load_add(figures, count, errors);
    } while (load_tick(figures, ticks_ns()));
}

/* Send one frame and wait for it. False: it is lost. */
static bool go_round(const struct load *load, int back, uint64_t *start, uint64_t *end)
{
    struct rte_mbuf *buffer = rte_pktmbuf_alloc(load->sends[0]), *came;

    if (!buffer)
        give_up("allocate a buffer");
    buffer->data_len = buffer->pkt_len = load->bytes;
    *start = ticks_ns();
    while (rte_eth_tx_burst(0, 0, &buffer, 1) == 0) {
        if (ticks_ns() - *start > LOST_NS)
            give_up("send a frame: nobody takes it");
    }
    for (;;) {
        uint32_t got = rte_eth_rx_burst((uint16_t)back, 0, &came, 1);

        *end = ticks_ns();
        if (got == 1)
            break;
        if (*end - *start > LOST_NS)
            return false;
    }
    bool right = came->pkt_len == load->bytes;
    rte_pktmbuf_free(came);
    return right;
}

static void run_round_trips(const struct load *load, struct load_figures *figures)
{
    uint64_t start, end;
    bool right;

    do {
        right = go_round(load, load->ports - 1, &start, &end);
        load_count(figures, start, end, !right);
    } while (load_tick(figures, ticks_ns()));
}

static void wait_for_word(void)
{
    puts("{\"ready\": 1}");
    fflush(stdout);
    if (getchar() == EOF)
        exit(1);
}

static void parse(int argc, char **argv, struct load *ret)
{
    if (argc != 5) {
        fprintf(stderr, "usage: net_load EAL-ARGUMENTS -- TRAFFIC BYTES WARM SECONDS\n");
        exit(2);
    }
    *ret = (struct load){
        .traffic = traffic_named(argv[1]),
        .bytes = (uint32_t)atoi(argv[2]),
        .ports = rte_eth_dev_count_avail(),
        .options = {.warm = atof(argv[3]), .seconds = atof(argv[4])},
    };
    if (ret->bytes < 60 || ret->bytes > LARGEST || ret->ports < 1 || ret->ports > MOST_DPDK_PORTS ||
        ret->options.seconds <= 0) {
        fprintf(stderr, "frames have 60 to %d bytes, and there are at most %d ports\n", LARGEST,
                MOST_DPDK_PORTS);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    struct load_figures figures;
    struct load load;
    int used = rte_eal_init(argc, argv);

    if (used < 0)
        give_up("start");
    start_clock();
    parse(argc - used, argv + used, &load);
    for (int port = 0; port < MOST_DPDK_PORTS; port++)
        make_pool(&load, port);
    for (int port = 0; port < load.ports; port++)
        start_port(&load, port);
    if (load.traffic != SOURCE)
        say_hello(&load);
    wait_for_word();
    load_begin(&figures, &load.options);
    if (load.traffic == ROUND_TRIP)
        run_round_trips(&load, &figures);
    else
        run_bursts(&load, &figures);
    int status = load_print(&figures);
    for (int port = 0; port < load.ports; port++) {
        rte_eth_dev_stop((uint16_t)port);
        rte_eth_dev_close((uint16_t)port);
    }
    rte_eal_cleanup();
    return status;
}
