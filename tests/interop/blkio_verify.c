// Writes a pattern to a vhost-user disk through libblkio, reads it back and checks every byte.
//
// Usage: blkio_verify SOCKET MODE QUEUES BYTES
//   MODE verify: fill BYTES of the disk, flush, read all of it back over another queue, then write
//                zeroes over one block and discard another, checking that their neighbours stay.
//   MODE null:   the same requests to a store that keeps nothing: only their status is checked.
//   MODE read:   read BYTES of a disk opened read-only and check that they hold the pattern.
//   MODE refuse: the disk says that it is read-only, so that starting it for writing fails.
// Prints one line of figures, exits 0 when all is as it should be and 1 with a reason otherwise.

#define _GNU_SOURCE
#include <blkio.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>

enum {
    MAX_QUEUES = 16,
    DEPTH = 32,
    SECTOR = 512,
    SLOT_BYTES = 128 * 1024,
    PATIENCE_SECONDS = 30,
};

// Sizes that requests cycle through: less than a page, odd numbers of sectors, many pages.
static const size_t SIZES[] = {512, 4096, 1536, 65536, 131072, 8704, 32768};

struct client {
    struct blkio *blkio;
    struct blkioq *queues[MAX_QUEUES];
    int queue_count;
    struct blkio_mem_region memory; // DEPTH slots of SLOT_BYTES
    uint64_t bytes;
};

enum direction { WRITE, READ };

struct slot {
    uint64_t start;
    size_t length;
};

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("blkio_verify: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static void check(const char *what, int result)
{
    if (result < 0)
        fail("%s: %s (%s)", what, strerror(-result), blkio_get_error_msg());
}

// The 64-bit word that belongs at a byte offset of the disk: neighbours share no byte by chance.
static uint64_t pattern(uint64_t offset)
{
    uint64_t word = offset + 0x9e3779b97f4a7c15u;
    word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
    word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
    return word ^ (word >> 31);
}

static void fill(char *buffer, uint64_t start, size_t length)
{
    for (size_t i = 0; i < length; i += sizeof(uint64_t)) {
        uint64_t word = pattern(start + i);
        memcpy(buffer + i, &word, sizeof(word));
    }
}

static void compare(const char *buffer, uint64_t start, size_t length)
{
    for (size_t i = 0; i < length; i += sizeof(uint64_t)) {
        uint64_t word, wanted = pattern(start + i);
        memcpy(&word, buffer + i, sizeof(word));
        if (word != wanted)
            fail("byte %llu of the disk holds %016llx, it should be %016llx",
                 (unsigned long long)(start + i), (unsigned long long)word,
                 (unsigned long long)wanted);
    }
}

static char *slot_buffer(const struct client *client, int slot)
{
    return (char *)client->memory.addr + (size_t)slot * SLOT_BYTES;
}

static int complete(struct blkioq *queue, struct blkio_completion *completions, int most)
{
    struct timespec timeout = {.tv_sec = PATIENCE_SECONDS};
    int count = blkioq_do_io(queue, completions, 1, most, &timeout);
    if (count == -ETIME)
        fail("no completion within %d seconds", PATIENCE_SECONDS);
    check("blkioq_do_io", count);
    return count;
}

// Submit one request; every other one as a vector of three buffers.
static void submit(struct client *client, struct blkioq *queue, enum direction direction, int slot,
                   const struct slot *request)
{
    char *buffer = slot_buffer(client, slot);
    void *tag = (void *)(uintptr_t)slot;
    static struct iovec vectors[DEPTH][3];
    size_t third = request->length / 3 / SECTOR * SECTOR;
    if (slot % 2 == 1 && third > 0) {
        struct iovec *v = vectors[slot];
        v[0] = (struct iovec){.iov_base = buffer, .iov_len = third};
        v[1] = (struct iovec){.iov_base = buffer + third, .iov_len = third};
        v[2] = (struct iovec){.iov_base = buffer + 2 * third,
                              .iov_len = request->length - 2 * third};
        if (direction == WRITE)
            blkioq_writev(queue, request->start, v, 3, tag, 0);
        else
            blkioq_readv(queue, request->start, v, 3, tag, 0);
    } else if (direction == WRITE) {
        blkioq_write(queue, request->start, buffer, request->length, tag, 0);
    } else {
        blkioq_read(queue, request->start, buffer, request->length, tag, 0);
    }
}

// Write or read [from, to) over one queue with up to DEPTH requests under way.
// Returns the number of requests.
static unsigned long transfer(struct client *client, int queue_index, enum direction direction,
                              uint64_t from, uint64_t to, bool verify)
{
    struct blkioq *queue = client->queues[queue_index];
    struct slot slots[DEPTH];
    int idle[DEPTH], idle_count = DEPTH;
    unsigned long requests = 0;
    for (int i = 0; i < DEPTH; i++)
        idle[i] = i;
    while (from < to || idle_count < DEPTH) {
        while (from < to && idle_count > 0) {
            int slot = idle[--idle_count];
            size_t length = SIZES[requests++ % (sizeof(SIZES) / sizeof(SIZES[0]))];
            if (length > to - from)
                length = to - from;
            slots[slot] = (struct slot){.start = from, .length = length};
            if (direction == WRITE)
                fill(slot_buffer(client, slot), from, length);
            else
                memset(slot_buffer(client, slot), 0xee, SLOT_BYTES);
            submit(client, queue, direction, slot, &slots[slot]);
            from += length;
        }
        struct blkio_completion completions[DEPTH];
        int count = complete(queue, completions, DEPTH);
        for (int i = 0; i < count; i++) {
            int slot = (int)(uintptr_t)completions[i].user_data;
            check(direction == WRITE ? "write" : "read", completions[i].ret);
            if (direction == READ && verify)
                compare(slot_buffer(client, slot), slots[slot].start, slots[slot].length);
            idle[idle_count++] = slot;
        }
    }
    return requests;
}

static int one(struct blkioq *queue)
{
    struct blkio_completion completion;
    complete(queue, &completion, 1);
    return completion.ret;
}

static void expect_zeroes(struct client *client, struct blkioq *queue, uint64_t start)
{
    char *buffer = slot_buffer(client, 0);
    memset(buffer, 0xee, SLOT_BYTES);
    blkioq_read(queue, start, buffer, SLOT_BYTES, NULL, 0);
    check("read of zeroes", one(queue));
    for (size_t i = 0; i < SLOT_BYTES; i++)
        if (buffer[i])
            fail("byte %llu of the disk should be zero", (unsigned long long)(start + i));
}

// Zero one block and discard another: what surrounds them must not change.
static void punch(struct client *client, bool verify)
{
    struct blkioq *queue = client->queues[0];
    const uint64_t zeroed = 4 * SLOT_BYTES, discarded = 8 * SLOT_BYTES;
    blkioq_write_zeroes(queue, zeroed, SLOT_BYTES, NULL, 0);
    check("write zeroes", one(queue));
    blkioq_discard(queue, discarded, SLOT_BYTES, NULL, 0);
    check("discard", one(queue));
    if (!verify)
        return;
    expect_zeroes(client, queue, zeroed);
    transfer(client, 0, READ, 0, zeroed, true);
    transfer(client, 0, READ, zeroed + SLOT_BYTES, discarded, true);
    transfer(client, 0, READ, discarded + SLOT_BYTES, client->bytes, true);
    // What was punched gets its pattern back, so that a later run can read everything.
    transfer(client, 0, WRITE, zeroed, zeroed + SLOT_BYTES, true);
    transfer(client, 0, WRITE, discarded, discarded + SLOT_BYTES, true);
}

static void client_init(struct client *client, const char *path, int queues, uint64_t bytes,
                        bool read_only)
{
    int most;
    check("create", blkio_create("virtio-blk-vhost-user", &client->blkio));
    check("path", blkio_set_str(client->blkio, "path", path));
    check("read-only", blkio_set_bool(client->blkio, "read-only", read_only));
    check("connect", blkio_connect(client->blkio));
    check("max-queues", blkio_get_int(client->blkio, "max-queues", &most));
    if (queues < 1 || queues > most || queues > MAX_QUEUES)
        fail("the disk has %d queues, %d were asked for", most, queues);
    check("num-queues", blkio_set_int(client->blkio, "num-queues", queues));
    client->queue_count = queues;
    client->bytes = bytes;
}

static void client_start(struct client *client)
{
    uint64_t capacity;
    check("start", blkio_start(client->blkio));
    check("capacity", blkio_get_uint64(client->blkio, "capacity", &capacity));
    if (capacity < client->bytes || client->bytes < 16 * SLOT_BYTES)
        fail("cannot test %llu bytes of a disk of %llu", (unsigned long long)client->bytes,
             (unsigned long long)capacity);
    check("alloc", blkio_alloc_mem_region(client->blkio, &client->memory, DEPTH * SLOT_BYTES));
    check("map", blkio_map_mem_region(client->blkio, &client->memory));
    for (int i = 0; i < client->queue_count; i++)
        client->queues[i] = blkio_get_queue(client->blkio, i);
}

static void client_deinit(struct client *client)
{
    blkio_unmap_mem_region(client->blkio, &client->memory);
    blkio_free_mem_region(client->blkio, &client->memory);
    blkio_destroy(&client->blkio);
}

// Each queue writes a share of the disk; each share is read back over the next queue.
static unsigned long all(struct client *client, enum direction direction, bool verify)
{
    unsigned long requests = 0;
    uint64_t share = client->bytes / client->queue_count / SECTOR * SECTOR;
    for (int i = 0; i < client->queue_count; i++) {
        bool last = i == client->queue_count - 1;
        int queue = direction == WRITE ? i : (i + 1) % client->queue_count;
        requests += transfer(client, queue, direction, i * share,
                             last ? client->bytes : (i + 1) * share, verify);
    }
    return requests;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        fail("usage: blkio_verify SOCKET verify|null|read|refuse QUEUES BYTES");
    const char *mode = argv[2];
    struct client client = {0};
    unsigned long writes = 0, reads = 0;
    client_init(&client, argv[1], atoi(argv[3]), strtoull(argv[4], NULL, 0),
                !strcmp(mode, "read"));
    if (!strcmp(mode, "refuse")) {
        if (blkio_start(client.blkio) != -EROFS)
            fail("the disk does not say that it is read-only");
        blkio_destroy(&client.blkio);
        printf("refused\n");
        return 0;
    }
    client_start(&client);
    if (!strcmp(mode, "read")) {
        reads = all(&client, READ, true);
    } else {
        bool verify = !strcmp(mode, "verify");
        writes = all(&client, WRITE, verify);
        for (int i = 0; i < client.queue_count; i++) {
            blkioq_flush(client.queues[i], NULL, 0);
            check("flush", one(client.queues[i]));
        }
        reads = all(&client, READ, verify);
        punch(&client, verify);
    }
    client_deinit(&client);
    printf("writes=%lu reads=%lu queues=%s bytes=%s\n", writes, reads, argv[3], argv[4]);
    return 0;
}
