/* SPDX-License-Identifier: Apache-2.0
 *
 * wire.h - as much of the vhost-user protocol as the benchmarks' two ends speak.
 */
#ifndef WIRE_H
#define WIRE_H

#include <stddef.h>
#include <stdint.h>

enum wire_request {
    GET_FEATURES = 1,
    SET_FEATURES = 2,
    SET_OWNER = 3,
    SET_MEM_TABLE = 5,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    GET_VRING_BASE = 11,
    SET_VRING_KICK = 12,
    SET_VRING_CALL = 13,
    SET_VRING_ERR = 14,
    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16,
    GET_QUEUE_NUM = 17,
    SET_VRING_ENABLE = 18,
    GET_CONFIG = 24,
    GET_MAX_MEM_SLOTS = 36,
    ADD_MEM_REG = 37,
};

enum {
    FLAG_VERSION = 1,
    FLAG_REPLY = 4,
    FLAG_NEED_REPLY = 8,
    PACKED_BASE = 0x8000, /* first position of a packed ring: offset 0, wrap counter 1 */
    BLK_CONFIG_SIZE = 60,
    CONFIG_HEADER = 12,
    LARGEST_PAYLOAD = 512,
};

#define BIT(number) (1ull << (number))
#define F_EVENT_IDX BIT(29)
#define F_PROTOCOL_FEATURES BIT(30)
#define F_VERSION_1 BIT(32)
#define F_RING_PACKED BIT(34)
#define F_INDIRECT BIT(28)
#define P_MQ BIT(0)
#define P_REPLY_ACK BIT(3)
#define P_CONFIG BIT(9)
#define P_CONFIGURE_MEM_SLOTS BIT(15)

struct wire_region {
    uint64_t gpa, size, uva, offset;
} __attribute__((packed));

struct wire_message {
    uint32_t request, flags, size;
    union {
        uint64_t u64;
        struct {
            uint32_t index, num;
        } state;
        struct {
            uint32_t index, flags;
            uint64_t desc, used, avail, log;
        } addr;
        struct {
            uint64_t padding;
            struct wire_region region;
        } added;
        struct {
            uint32_t count, padding;
            struct wire_region region[8];
        } table;
        struct {
            uint32_t offset, size, flags;
            uint8_t data[BLK_CONFIG_SIZE];
        } config;
        uint8_t bytes[LARGEST_PAYLOAD];
    };
} __attribute__((packed));

enum { WIRE_HEADER = offsetof(struct wire_message, u64) };

/* 1: a message, and in `fd` what came with it (the receiver's) or -1; 0: the peer left. */
int wire_receive(int socket, struct wire_message *message, int *fd);
void wire_send(int socket, const struct wire_message *message, int fd);

#endif
