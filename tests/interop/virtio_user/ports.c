// See ports.h.

#include "ports.h"
#include "frames.h"

#include <rte_cycles.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <stdlib.h>
#include <string.h>

struct options options = {
    .frames = 4000,
    .rounds = 1,
    .queues = 1,
    .size = 256,
    .mtu = 1500,
    .buffers = 4095,
    .room = 2048,
};

static struct {
    const char *name;
    uint32_t *value;
} const NAMES[] = {
    {"frames", &options.frames},     {"rounds", &options.rounds},     {"queues", &options.queues},
    {"size", &options.size},         {"mtu", &options.mtu},           {"ipv6", &options.ipv6},
    {"offload0", &options.offload0}, {"offload1", &options.offload1}, {"grow", &options.grow},
    {"leave", &options.leave},       {"buffers", &options.buffers},
    {"room", &options.room},
};

static uint32_t *option(const char *word, size_t length)
{
    for (size_t i = 0; i < RTE_DIM(NAMES); i++)
        if (strlen(NAMES[i].name) == length && strncmp(word, NAMES[i].name, length) == 0)
            return NAMES[i].value;
    fail("there is no option '%s'", word);
}

void read_options(int count, char **words)
{
    for (int i = 0; i < count; i++) {
        size_t length = strcspn(words[i], "=");
        *option(words[i], length) = (uint32_t)strtoul(words[i] + length + 1, NULL, 10);
    }
    if (options.queues < 1 || options.queues > MAX_QUEUES)
        fail("a port has 1 to %d queues", MAX_QUEUES);
}

void check(const char *what, int result)
{
    if (result < 0)
        fail("%s: %s", what, rte_strerror(-result));
}

uint64_t deadline(void)
{
    return rte_get_timer_cycles() + PATIENCE_SECONDS * rte_get_timer_hz();
}

bool port_offloads(int port)
{
    return port == 0 ? options.offload0 : options.offload1;
}

bool port_sums(int port, uint32_t round)
{
    return port_offloads(port) || round % 2 == 1;
}

void port_start(uint16_t port, uint32_t round, struct rte_mempool *pool)
{
    struct rte_eth_conf configuration = {
        .rxmode.mtu = options.mtu,
        .txmode.offloads = RTE_ETH_TX_OFFLOAD_MULTI_SEGS,
        .intr_conf.lsc = options.leave,
    };
    if (options.mtu > RTE_ETHER_MTU)
        configuration.rxmode.offloads |= RTE_ETH_RX_OFFLOAD_SCATTER;
    if (port_offloads(port)) {
        configuration.rxmode.offloads |= RTE_ETH_RX_OFFLOAD_TCP_CKSUM | RTE_ETH_RX_OFFLOAD_TCP_LRO;
        configuration.txmode.offloads |= RTE_ETH_TX_OFFLOAD_TCP_TSO;
    }
    if (port_sums(port, round))
        configuration.txmode.offloads |= RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
    uint16_t queues = (uint16_t)options.queues, size = (uint16_t)options.size;
    check("configure", rte_eth_dev_configure(port, queues, queues, &configuration));
    for (uint16_t queue = 0; queue < queues; queue++) {
        check("receive queue", rte_eth_rx_queue_setup(port, queue, size, 0, NULL, pool));
        check("send queue", rte_eth_tx_queue_setup(port, queue, size, 0, NULL));
    }
    check("start", rte_eth_dev_start(port));
}

void port_wait_for_link(uint16_t port, bool up)
{
    struct rte_eth_link link;
    for (uint64_t end = deadline();; rte_delay_us_sleep(1000)) {
        check("link", rte_eth_link_get_nowait(port, &link));
        if (link.link_status == up)
            return;
        if (rte_get_timer_cycles() > end)
            fail("the link of port %u is not %s", port, up ? "up" : "down");
    }
}
