// Ports of DPDK's virtio-user that send to each other through a back-end, and check all that comes.
//
// Usage: verify EAL-ARGUMENTS -- [NAME=NUMBER ...]
//   Every queue of every port sends frames to the next port, or to itself where there is only one port,
//   all at the same time, and never more than the receiver has buffers for: none may be lost.
//   frames: that each queue sends in a round        rounds: how often; the ports start anew in between
//   queues: pairs of each port                      size: of their rings
//   mtu: of the ports                               ipv6: 1 for IPv6
//   offload0, offload1: whether that port uses checksum offload and segmentation, both ways
//   grow: pools of memory that are added and taken away while frames are on their way, in each round
//   leave: 1: after a round, wait until the back-end has gone and another one has come
//   buffers, room: in the pool of memory that frames come from, and the bytes of each
// Says "exchanging" when frames flow, and "leave" and "left" where it waits for another back-end. Its last line
// are figures. It exits with 0 when all is as it should be and 1 with a reason otherwise.

#include "frames.h"
#include "ports.h"

#include <inttypes.h>
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_memory.h>
#include <stdio.h>

enum {
    BURST = 32,
    GREETINGS_A_SECOND = 50,
    POOL_CACHE = 64,
    GROWN_BUFFERS = 2047, // about 5 MB
};

static struct {
    uint64_t frames, lost, received, bytes, grown, shrunk, queue_frames[MAX_QUEUES];
} figures;

static struct rte_mempool *pool;
static struct stream streams[MAX_PORTS * MAX_QUEUES];
static int ports, stream_count;

static void streams_init(void)
{
    for (int port = 0; port < ports; port++)
        for (uint32_t queue = 0; queue < options.queues; queue++) {
            int to = (port + 1) % ports;
            streams[stream_count++] = (struct stream){
                .from = port,
                .to = to,
                .queue = (int)queue,
                .ipv6 = options.ipv6,
                .segmented = port_offloads(port),
                .summed = port_sums(port, 0),
                .whole = port_offloads(to),
                .unsummed = port_offloads(to),
                .longest = port_offloads(port) ? LARGEST : options.mtu + 14,
            };
        }
}

// Send up to a burst as long as the receiver has room for it all; return how many frames.
static uint32_t send_some(struct stream *stream, struct rte_mempool *from, uint64_t most)
{
    struct rte_mbuf *frames[BURST];
    uint16_t count = 0;
    uint32_t room = options.size / options.queues;
    while (count < BURST && stream->sent < most &&
           stream->buffers + stream_next_buffers(stream) <= room) {
        frames[count] = stream_next(stream, from);
        if (frames[count] == NULL)
            fail("out of buffers");
        count++;
    }
    uint16_t port = (uint16_t)stream->from, queue = (uint16_t)stream->queue, done = 0;
    uint16_t ready = rte_eth_tx_prepare(port, queue, frames, count);
    if (ready != count)
        fail("frame %u of a burst cannot be sent: %s", ready, rte_strerror(rte_errno));
    for (uint64_t end = deadline(); done < count;) {
        done += rte_eth_tx_burst(port, queue, frames + done, count - done);
        if (rte_get_timer_cycles() > end)
            fail("the back-end took no frame in %d seconds", PATIENCE_SECONDS);
    }
    return count;
}

// Check what has come; return how many frames.
static uint32_t receive(uint16_t port, uint16_t queue)
{
    struct rte_mbuf *frames[BURST];
    uint16_t count = rte_eth_rx_burst(port, queue, frames, BURST);
    for (uint16_t i = 0; i < count; i++) {
        if (!stream_greeted(streams, stream_count, frames[i])) {
            stream_check(stream_of(streams, stream_count, port, frames[i]), frames[i]);
            figures.queue_frames[queue]++;
        }
        rte_pktmbuf_free(frames[i]);
    }
    return count;
}

static uint32_t receive_all(void)
{
    uint32_t count = 0;
    for (uint16_t port = 0; port < ports; port++)
        for (uint16_t queue = 0; queue < options.queues; queue++)
            count += receive(port, queue);
    return count;
}

static uint32_t greet_again(void)
{
    uint32_t missing = 0;
    for (struct stream *stream = streams; stream < streams + stream_count; stream++) {
        if (stream->greeted)
            continue;
        missing++;
        struct rte_mbuf *frame = stream_greeting(stream, pool);
        if (frame == NULL)
            fail("out of buffers");
        if (rte_eth_tx_burst((uint16_t)stream->from, (uint16_t)stream->queue, &frame, 1) != 1)
            rte_pktmbuf_free(frame);
    }
    return missing;
}

// Greet until every stream gets through: rings come to life one after the other, and nobody waits for
// them. A switch learns by it, too, where everybody lives, so that no later frame has to go to all.
static void greet(void)
{
    for (struct stream *stream = streams; stream < streams + stream_count; stream++)
        stream->greeted = false;
    uint64_t end = deadline();
    for (uint32_t missing; (missing = greet_again()) > 0;) {
        for (uint64_t next = rte_get_timer_cycles() + rte_get_timer_hz() / GREETINGS_A_SECOND;
             rte_get_timer_cycles() < next;)
            receive_all();
        if (rte_get_timer_cycles() > end)
            fail("%u of %d ways do not open in %d seconds", missing, stream_count, PATIENCE_SECONDS);
    }
}

static uint64_t on_their_way(uint64_t most)
{
    uint64_t count = 0;
    for (struct stream *stream = streams; stream < streams + stream_count; stream++)
        count += most - stream->seen;
    return count;
}

// Have memory added or taken away while frames are on their way. The driver disables its rings meanwhile, and
// what comes for a port whose receive ring is disabled is lost: that much, and nothing else.
static void after_memory_changed(void)
{
    greet();
    while (receive_all() > 0)
        continue;
    for (struct stream *stream = streams; stream < streams + stream_count; stream++)
        stream_skip(stream);
}

static void send_bursts(struct rte_mempool *from, uint64_t most)
{
    for (struct stream *stream = streams; stream < streams + stream_count; stream++)
        send_some(stream, from, most);
}

// Add memory, send frames that lie in it, and take it away again.
static void grow(uint64_t most, uint32_t number)
{
    char name[32];
    snprintf(name, sizeof(name), "grown%u", number);
    send_bursts(pool, most);
    struct rte_mempool *grown = rte_pktmbuf_pool_create(name, GROWN_BUFFERS, 0, 0,
                                                        RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
    if (grown == NULL)
        fail("no memory to grow by: %s", rte_strerror(rte_errno));
    after_memory_changed();
    send_bursts(grown, most);
    // The driver frees a frame when its slot is needed again: all slots have to come by.
    uint64_t until = RTE_MIN(most, streams[0].sent + 2 * options.size);
    for (uint64_t end = deadline(); streams[0].sent < until || !rte_mempool_full(grown);) {
        send_bursts(pool, most);
        receive_all();
        if (rte_get_timer_cycles() > end)
            fail("nothing goes on with more memory");
    }
    rte_mempool_free(grown);
    after_memory_changed();
}

static void say(const char *word)
{
    puts(word);
    fflush(stdout);
}

// Go on until every stream has come to frame `most`.
static void exchange(uint64_t most, uint32_t growths)
{
    uint32_t grown = 0;
    for (uint64_t end = deadline(); on_their_way(most) > 0;) {
        uint32_t moved = 0;
        for (struct stream *stream = streams; stream < streams + stream_count; stream++)
            moved += send_some(stream, pool, most);
        if (grown < growths && streams[0].sent > most - options.frames / 2)
            grow(most, grown++);
        moved += receive_all();
        if (moved > 0)
            end = deadline();
        else if (rte_get_timer_cycles() > end)
            fail("%" PRIu64 " frames did not come in %d seconds", on_their_way(most),
                 PATIENCE_SECONDS);
    }
}

static void run_round(uint32_t round)
{
    uint64_t before = (uint64_t)options.frames * round;
    greet();
    // A flow comes back by the queue that sends it. Until a device has seen both ways it may come by any, and
    // two queues have no order.
    exchange(before + 1, 0);
    say("exchanging");
    exchange(before + options.frames, options.grow);
}

static void wait_for_another_backend(void)
{
    say("leave");
    for (uint16_t port = 0; port < ports; port++)
        port_wait_for_link(port, false);
    say("left");
    for (uint16_t port = 0; port < ports; port++)
        port_wait_for_link(port, true);
}

static void start_anew(uint32_t round)
{
    for (uint16_t port = 0; port < ports; port++)
        check("stop", rte_eth_dev_stop(port));
    for (uint16_t port = 0; port < ports; port++)
        port_start(port, round, pool);
    for (struct stream *stream = streams; stream < streams + stream_count; stream++)
        stream->summed = port_sums(stream->from, round);
}

static void count_memory(enum rte_mem_event event, const void *address, size_t length, void *argument)
{
    (void)address, (void)length, (void)argument;
    if (event == RTE_MEM_EVENT_ALLOC)
        figures.grown++;
    else
        figures.shrunk++;
}

static void print_figures(void)
{
    for (struct stream *stream = streams; stream < streams + stream_count; stream++) {
        figures.frames += stream->sent;
        figures.lost += stream->lost;
        figures.received += stream->received;
        figures.bytes += stream->seen_bytes;
    }
    printf("{\"frames\": %" PRIu64 ", \"lost\": %" PRIu64 ", \"received\": %" PRIu64 ", \"bytes\": %" PRIu64
           ", \"grown\": %" PRIu64 ", \"shrunk\": %" PRIu64 ", \"queues\": [",
           figures.frames, figures.lost, figures.received, figures.bytes, figures.grown, figures.shrunk);
    for (uint32_t queue = 0; queue < options.queues; queue++)
        printf("%s%" PRIu64, queue ? ", " : "", figures.queue_frames[queue]);
    puts("]}");
}

int main(int argc, char **argv)
{
    int used = rte_eal_init(argc, argv);
    if (used < 0)
        fail("DPDK does not start: %s", rte_strerror(rte_errno));
    read_options(argc - used - 1, argv + used + 1);
    ports = rte_eth_dev_count_avail();
    if (ports < 1 || ports > MAX_PORTS)
        fail("there are %d ports, 1 or 2 are expected", ports);
    pool = rte_pktmbuf_pool_create("pool", options.buffers, POOL_CACHE, 0,
                                   (uint16_t)(options.room + RTE_PKTMBUF_HEADROOM), SOCKET_ID_ANY);
    if (pool == NULL)
        fail("no memory for buffers: %s", rte_strerror(rte_errno));
    streams_init();
    for (uint16_t port = 0; port < ports; port++)
        port_start(port, 0, pool);
    // Without huge pages memory is one piece for good, and there is nobody to tell.
    (void)rte_mem_event_callback_register("count", count_memory, NULL);
    for (uint32_t round = 0; round < options.rounds; round++) {
        if (round > 0 && options.leave)
            wait_for_another_backend();
        else if (round > 0)
            start_anew(round);
        run_round(round);
    }
    print_figures();
    for (uint16_t port = 0; port < ports; port++) {
        check("stop", rte_eth_dev_stop(port));
        check("close", rte_eth_dev_close(port));
    }
    rte_eal_cleanup();
    return 0;
}
