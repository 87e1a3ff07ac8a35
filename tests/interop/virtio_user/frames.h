// The frames of a stream: TCP, each byte of it known from its place in the stream.
//
// A stream goes from one queue of one port to another port. Frame n of it has a length that both ends know,
// and carries the stream's next bytes. So the receiving end checks order, lengths, every byte and every
// checksum, also where a frame was cut into segments on its way.

#ifndef FRAMES_H
#define FRAMES_H

#include <rte_mbuf.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    HEADERS4 = 14 + 20 + 20, // Ethernet, IPv4, TCP
    HEADERS6 = 14 + 40 + 20,
    SHORTEST = 60,
    LARGEST = 65535 + 14,
    MSS = 1400,
};

struct stream {
    int from, to; // ports
    int queue;    // of the port that sends
    bool ipv6;
    bool segmented;   // the sender lets its device cut frames
    bool whole;       // the receiver takes frames that are larger than its MTU
    bool summed;      // the sender lets its device compute checksums
    bool unsummed;    // the receiver takes frames whose checksum was left out
    uint32_t longest; // frame, with its headers
    uint64_t sent, sent_bytes; // frames, and bytes of payload
    uint64_t seen, seen_bytes; // frames that have come completely, and bytes that have come
    uint32_t seen_of_frame;    // bytes that have come of the next one
    uint64_t received;         // frames as they came
    uint64_t lost;             // frames
    bool greeted;              // whether its greeting has come
    uint32_t buffers;          // that frames on their way may need at the receiver
};

// The frame that is sent next, from `pool`; NULL when the pool is empty. It counts as sent.
struct rte_mbuf *stream_next(struct stream *stream, struct rte_mempool *pool);

// How many receive buffers it may take.
uint32_t stream_next_buffers(const struct stream *stream);

// Which of `count` streams a frame that came to `port` belongs to. Ends the program when it is of none.
struct stream *stream_of(struct stream *streams, int count, int port, const struct rte_mbuf *frame);

// Check a frame. Ends the program when anything is not as it was sent.
void stream_check(struct stream *stream, const struct rte_mbuf *frame);

// Take what is still on its way as lost.
void stream_skip(struct stream *stream);

// A broadcast that tells a switch where the sender's address lives. The second notes that one has come, and
// returns whether the frame is one.
struct rte_mbuf *stream_greeting(const struct stream *stream, struct rte_mempool *pool);
bool stream_greeted(struct stream *streams, int count, const struct rte_mbuf *frame);

// The address of a port.
void port_address(int port, uint8_t *ret);

__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...);

#endif
