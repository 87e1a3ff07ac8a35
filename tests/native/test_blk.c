/* SPDX-License-Identifier: Apache-2.0
 *
 * The block device: what each request does to the store, to guest memory, and what the guest is
 * told.
 */
#include "blk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "layout.h"

enum {
    SECTORS = 64,
    OK = 0,
    IOERR = 1,
    UNSUPP = 2,
    NONE = 0xee, /* the status byte was not touched */
    IN = 0,
    OUT = 1,
    FLUSH = 4,
    GET_ID = 8,
    DISCARD = 11,
    ZEROES = 13,
    F_FLUSH = 1 << 9,
};

static const struct vhu_blk_config defaults = {
    .fd = -1,
    .buffered_fd = -1,
    .alignment = 1,
    .sectors = SECTORS,
    .seg_max = 4,
    .max_discard_sectors = 16,
    .max_discard_segments = 2,
    .max_write_zeroes_sectors = 16,
    .max_write_zeroes_segments = 2,
    .serial = "0123456789abcdefghij",
};

static uint8_t arena[1 << 17]; /* header, data and status of the request in hand */

struct request {
    uint32_t type;
    uint64_t sector;
    uint32_t header_bytes;  /* 0: the whole header */
    uint32_t header_piece;  /* bytes of each buffer of the header; 0: all in one */
    uint32_t extra_pieces;  /* of the buffers, for edges of memory regions that they cross */
    uint32_t readable;      /* bytes of data the device may read ... */
    uint32_t writable;      /* ... and write */
    uint32_t piece;         /* bytes of each data buffer; 0: all in one */
    bool status_with_data;  /* the status is the last byte of the last data buffer */
    bool no_status;
};

static uint8_t *const data = arena + 4096;

static void append(struct vhu_chain *chain, uint8_t *from, uint32_t bytes, uint32_t piece,
                   bool writable)
{
    while (bytes > 0) {
        uint32_t length = piece && piece < bytes ? piece : bytes;

        chain->iov[chain->readable + chain->writable] = (struct iovec){from, length};
        *(writable ? &chain->writable : &chain->readable) += 1;
        *(writable ? &chain->writable_bytes : &chain->readable_bytes) += length;
        from += length;
        bytes -= length;
    }
}

/* What a queue does with a request whose store never makes it wait. */
static void run(struct vhu_blk *blk, uint64_t features, const struct vhu_chain *chain,
                uint32_t extra_pieces, struct blk_result *result)
{
    struct blk_request request, copy;
    struct iovec iov[4096];
    struct io_op op;

    vhu_blk_begin(blk, features, chain, extra_pieces, &request);
    vhu_blk_copy(&copy, &request, iov); /* a request goes on from a copy of itself */
    while (vhu_blk_next(&copy, &op))
        vhu_blk_done(&copy, vhu_io_run(&op));
    vhu_blk_finish(&copy, result);
}

/* Serve one request; returns its status. Data that the device reads lies at `data`, and so does
 * what it writes. */
static int serve(struct vhu_blk *blk, uint64_t features, const struct request *request,
                 struct blk_result *result)
{
    static struct iovec iov[4096];
    struct vhu_chain chain = {.iov = iov};
    uint32_t header[4] = {request->type, 0, (uint32_t)request->sector,
                          (uint32_t)(request->sector >> 32)};
    uint32_t header_bytes = request->header_bytes ? request->header_bytes : sizeof(header);
    uint8_t *status = data + request->readable + request->writable;

    memcpy(arena, header, sizeof(header));
    append(&chain, arena, header_bytes, request->header_piece, false);
    append(&chain, data, request->readable, request->piece, false);
    if (request->status_with_data) {
        append(&chain, data, request->writable + 1, 0, true);
    } else {
        append(&chain, data, request->writable, request->piece, true);
        if (!request->no_status)
            append(&chain, status, 1, 0, true);
    }
    uint8_t before = *status;
    *status = NONE;
    run(blk, features, &chain, request->extra_pieces, result);
    int got = *status;
    *status = before;
    return got;
}

static struct vhu_blk *create(struct vhu_blk_config config)
{
    struct vhu_blk *blk = NULL;

    CHECK_EQUAL(vhu_blk_create(&config, &blk), 0);
    return blk;
}

static int image(void)
{
    int fd = memfd_create("image", MFD_CLOEXEC);
    uint8_t sector[SECTOR];

    for (int i = 0; i < SECTORS; i++) {
        memset(sector, i + 1, sizeof(sector));
        CHECK_EQUAL(write(fd, sector, sizeof(sector)), SECTOR);
    }
    return fd;
}

static uint8_t byte_at(int fd, off_t offset)
{
    uint8_t byte = 0xee;

    CHECK_EQUAL(pread(fd, &byte, 1, offset), 1);
    return byte;
}

static const struct row {
    const char *name;
    struct request request;
    int status;
    uint32_t written;
    uint64_t bytes; /* payload moved */
} rows[] = {
    {"read a sector", {IN, 3, .writable = 512}, OK, 513, 512},
    {"read in pieces", {IN, 3, .writable = 1024, .piece = 300}, OK, 1025, 1024},
    {"status behind the data", {IN, 3, .writable = 512, .status_with_data = true}, OK, 513, 512},
    {"header in 16 buffers", {IN, 3, .writable = 512, .header_piece = 1}, OK, 513, 512},
    {"header of 15 bytes", {IN, 3, .header_bytes = 15, .writable = 512}, IOERR, 1, 0},
    {"header of 1 byte", {FLUSH, 0, .header_bytes = 1}, IOERR, 1, 0},
    {"no status", {OUT, 3, .readable = 512, .no_status = true}, NONE, 0, 0},
    {"last sector", {IN, SECTORS - 1, .writable = 512}, OK, 513, 512},
    {"over the end", {IN, SECTORS - 1, .writable = 1024}, IOERR, 1, 0},
    {"at the end", {IN, SECTORS, .writable = 512}, IOERR, 1, 0},
    {"sector * 512 wraps to 0", {IN, 1ULL << 55, .writable = 512}, IOERR, 1, 0},
    {"last sector of all", {OUT, UINT64_MAX, .readable = 512}, IOERR, 1, 0},
    {"1 byte", {IN, 0, .writable = 1}, IOERR, 1, 0},
    {"511 bytes", {IN, 0, .writable = 511}, IOERR, 1, 0},
    {"513 bytes", {OUT, 0, .readable = 513}, IOERR, 1, 0},
    {"read without room", {.type = IN}, IOERR, 1, 0},
    {"read into readable data", {IN, 0, .readable = 512}, IOERR, 1, 0},
    {"write from writable data", {OUT, 0, .writable = 512}, IOERR, 1, 0},
    {"write", {OUT, 0, .readable = 512}, OK, 1, 512},
    {"more than seg_max buffers", {IN, 0, .writable = 2560, .piece = 512}, IOERR, 1, 0},
    {"seg_max buffers", {IN, 0, .writable = 2048, .piece = 512}, OK, 2049, 2048},
    {"seg_max buffers, one across an edge",
     {IN, 0, .writable = 2560, .piece = 512, .extra_pieces = 1}, OK, 2561, 2560},
    {"unknown type", {0xffffffff, 0, .writable = 512}, UNSUPP, 1, 0},
    {"obsolete type 2", {2, 0, .writable = 512}, UNSUPP, 1, 0},
    {"flush", {.type = FLUSH}, OK, 1, 0},
    {"flush, header across an edge", {FLUSH, .header_piece = 8, .extra_pieces = 1}, OK, 1, 0},
    {"flush with data", {FLUSH, 9999, .readable = 512, .writable = 512}, OK, 1, 0},
    {"get id, no room", {.type = GET_ID}, OK, 1, 0},
    {"get id, 1 byte", {GET_ID, 0, .writable = 1}, OK, 2, 0},
    {"get id, 19 bytes", {GET_ID, 0, .writable = 19}, OK, 20, 0},
    {"get id, 20 bytes in pieces", {GET_ID, 0, .writable = 20, .piece = 7}, OK, 21, 0},
    {"get id, 21 bytes", {GET_ID, 0, .writable = 21}, OK, 21, 0},
    {"discard nothing", {.type = DISCARD}, IOERR, 1, 0},
    {"discard, 17 bytes", {DISCARD, 0, .readable = 17}, IOERR, 1, 0},
    {"discard, 3 segments of 2", {DISCARD, 0, .readable = 48}, IOERR, 1, 0},
    {"zeroes, 15 bytes", {ZEROES, 0, .readable = 15}, IOERR, 1, 0},
};

static void every_request_is_answered_exactly(void)
{
    for (int null = 0; null < 2; null++) {
        struct vhu_blk_config config = defaults;

        config.fd = null ? -1 : image();
        struct vhu_blk *blk = create(config);
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
            const struct row *row = &rows[i];
            struct blk_result result;
            int before = check_failures;

            memset(data, 0, 8192);
            CHECK_EQUAL(serve(blk, F_FLUSH, &row->request, &result), row->status);
            CHECK_EQUAL(result.written, row->written);
            CHECK_EQUAL(result.failed, row->status != OK);
            CHECK_EQUAL(result.bytes_read + result.bytes_written, row->bytes);
            if (check_failures > before)
                fprintf(stderr, "    in: %s\n", row->name);
        }
        vhu_blk_destroy(blk);
    }
}

static void data_reaches_the_store_and_comes_back(void)
{
    for (int stable = 0; stable < 2; stable++) {
        struct vhu_blk_config config = defaults;
        struct blk_result result;
        int fd = config.fd = image();
        struct vhu_blk *blk = create(config);
        uint64_t features = stable ? 0 : F_FLUSH;

        for (int i = 0; i < 2048; i++)
            data[i] = (uint8_t)(i * 7);
        struct request out = {OUT, 10, .readable = 2048, .piece = 1000};
        CHECK_EQUAL(serve(blk, features, &out, &result), OK);
        CHECK_EQUAL(byte_at(fd, 10 * SECTOR + 2047), (uint8_t)(2047 * 7));
        CHECK_EQUAL(byte_at(fd, 10 * SECTOR - 1), 10);
        CHECK_EQUAL(byte_at(fd, 14 * SECTOR), 15);
        memset(data, 0, 4096);
        struct request in = {IN, 10, .writable = 2048, .piece = 700};
        CHECK_EQUAL(serve(blk, features, &in, &result), OK);
        for (int i = 0; i < 2048 && !check_failures; i++)
            CHECK_EQUAL(data[i], (uint8_t)(i * 7));
        CHECK_EQUAL(data[2048], 0);
        vhu_blk_destroy(blk);
    }
}

static void a_serial_is_handed_out_and_nothing_behind_it_touched(void)
{
    struct blk_result result;
    struct vhu_blk *blk = create(defaults);
    struct request request = {GET_ID, 0, .writable = 25, .piece = 7};

    memset(data, 0x77, 32);
    CHECK_EQUAL(serve(blk, 0, &request, &result), OK);
    CHECK_EQUAL(memcmp(data, defaults.serial, 20), 0);
    CHECK_EQUAL(data[20], 0x77);
    vhu_blk_destroy(blk);
}

static void more_buffers_than_one_system_call_takes_are_moved(void)
{
    struct vhu_blk_config config = defaults;
    struct blk_result result;

    config.fd = image();
    config.seg_max = 0;
    struct vhu_blk *blk = create(config);
    struct request request = {IN, 0, .writable = SECTORS * SECTOR, .piece = 10};
    CHECK_EQUAL(serve(blk, 0, &request, &result), OK);
    CHECK_EQUAL(result.written, SECTORS * SECTOR + 1);
    CHECK_EQUAL(data[0], 1);
    CHECK_EQUAL(data[SECTORS * SECTOR - 1], SECTORS);
    vhu_blk_destroy(blk);
}

static void segments_are_checked_and_carried_out(void)
{
    const struct {
        uint32_t type;
        uint64_t sector;
        uint32_t sectors, flags;
        int status;
        uint8_t left; /* the first byte of sector 8 afterwards */
    } cases[] = {
        {DISCARD, 8, 8, 0, OK, 0},
        {DISCARD, 8, 8, 1, UNSUPP, 9},
        {DISCARD, 8, 17, 0, IOERR, 9},
        {DISCARD, 8, 0, 0, OK, 9},
        {DISCARD, SECTORS, 1, 0, IOERR, 9},
        {DISCARD, UINT64_MAX, 2, 0, IOERR, 9},
        {DISCARD, 0, UINT32_MAX, 0, IOERR, 9},
        {ZEROES, 8, 8, 0, OK, 0},
        {ZEROES, 8, 8, 1, OK, 0},
        {ZEROES, 8, 8, 2, UNSUPP, 9},
        {ZEROES, SECTORS - 1, 2, 0, IOERR, 9},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vhu_blk_config config = defaults;
        struct blk_result result;
        int fd = config.fd = image();
        struct vhu_blk *blk = create(config);
        struct request request = {cases[i].type, 0, .readable = 16, .piece = 5};

        memcpy(data, &cases[i].sector, 8);
        memcpy(data + 8, &cases[i].sectors, 4);
        memcpy(data + 12, &cases[i].flags, 4);
        CHECK_EQUAL(serve(blk, i % 2 ? F_FLUSH : 0, &request, &result), cases[i].status);
        CHECK_EQUAL(byte_at(fd, 8 * SECTOR), cases[i].left);
        CHECK_EQUAL(byte_at(fd, 8 * SECTOR - 1), 8);
        CHECK_EQUAL(byte_at(fd, 16 * SECTOR), 17);
        vhu_blk_destroy(blk);
    }
}

static void a_read_only_disk_refuses_what_would_change_it(void)
{
    const uint32_t types[] = {OUT, DISCARD, ZEROES};
    struct vhu_blk_config config = defaults;
    struct blk_result result;

    config.read_only = 1;
    int fd = config.fd = image();
    struct vhu_blk *blk = create(config);
    for (int i = 0; i < 3; i++) {
        struct request request = {types[i], 8, .readable = 512};

        CHECK_EQUAL(serve(blk, 0, &request, &result), IOERR);
        CHECK_EQUAL(byte_at(fd, 8 * SECTOR), 9);
    }
    struct request in = {IN, 8, .writable = 512};
    CHECK_EQUAL(serve(blk, 0, &in, &result), OK);
    vhu_blk_destroy(blk);
}

static void a_host_error_is_an_error_in_the_guest(void)
{
    struct vhu_blk_config config = defaults;
    struct request in = {IN, SECTORS - 2, .writable = 1024}, out = {OUT, 0, .readable = 512};
    struct request zero = {ZEROES, 0, .readable = 16};
    struct blk_result result;
    char path[64];
    int fd = image();

    CHECK_EQUAL(ftruncate(fd, (SECTORS - 1) * SECTOR), 0); /* shorter than the disk */
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    config.fd = open(path, O_RDONLY | O_CLOEXEC);
    struct vhu_blk *blk = create(config);
    CHECK_EQUAL(serve(blk, 0, &in, &result), IOERR);
    CHECK_EQUAL(result.written, 512 + 1);
    CHECK_EQUAL(serve(blk, 0, &out, &result), IOERR); /* EBADF */
    CHECK_EQUAL(result.bytes_written, 0);
    memset(data, 0, 16);
    data[8] = 1;
    CHECK_EQUAL(serve(blk, 0, &zero, &result), IOERR);
    vhu_blk_destroy(blk);
    close(fd);
}

static void what_a_direct_fd_cannot_do_goes_through_the_page_cache(void)
{
    struct vhu_blk_config config = defaults;
    struct blk_result result;
    int direct = image(), buffered = image();

    CHECK_EQUAL(ftruncate(direct, 0), 0); /* reading from it fails, and so tells them apart */
    config.fd = direct;
    config.buffered_fd = buffered;
    config.alignment = 4096;
    struct vhu_blk *blk = create(config);
    uint8_t *page = (uint8_t *)(((uintptr_t)data + 4095) & ~(uintptr_t)4095);
    struct iovec iov[3];
    uint64_t header[2] = {IN, 8};
    const struct {
        uint32_t shift, length;
        uint64_t sector;
        int status;
    } cases[] = {{0, 4096, 8, IOERR}, {8, 4096, 8, OK}, {0, 512, 8, OK}, {0, 4096, 9, OK}};

    for (int i = 0; i < 4; i++) {
        uint8_t status = NONE;

        header[1] = cases[i].sector;
        iov[0] = (struct iovec){header, 16};
        iov[1] = (struct iovec){page + cases[i].shift, cases[i].length};
        iov[2] = (struct iovec){&status, 1};
        struct vhu_chain chain = {.readable = 1,
                                  .writable = 2,
                                  .readable_bytes = 16,
                                  .writable_bytes = cases[i].length + 1,
                                  .iov = iov};
        run(blk, 0, &chain, 0, &result);
        CHECK_EQUAL(status, cases[i].status);
    }
    vhu_blk_destroy(blk);
}

static void a_disk_that_cannot_be_is_refused(void)
{
    struct vhu_blk_config config = defaults;
    struct vhu_blk *blk;

    config.sectors = 1ULL << 55;
    config.fd = image();
    CHECK_EQUAL(vhu_blk_create(&config, &blk), -EINVAL);
    CHECK_EQUAL(fcntl(config.fd, F_GETFD), -1); /* taken over all the same */
    config = defaults;
    config.alignment = 0;
    CHECK_EQUAL(vhu_blk_create(&config, &blk), -EINVAL);
    config.alignment = 513;
    CHECK_EQUAL(vhu_blk_create(&config, &blk), -EINVAL);
}

static const struct test tests[] = {
    {"every request is answered exactly", every_request_is_answered_exactly},
    {"data reaches the store and comes back", data_reaches_the_store_and_comes_back},
    {"a serial is handed out and nothing behind it touched",
     a_serial_is_handed_out_and_nothing_behind_it_touched},
    {"more buffers than one system call takes are moved",
     more_buffers_than_one_system_call_takes_are_moved},
    {"segments are checked and carried out", segments_are_checked_and_carried_out},
    {"a read-only disk refuses what would change it",
     a_read_only_disk_refuses_what_would_change_it},
    {"a host error is an error in the guest", a_host_error_is_an_error_in_the_guest},
    {"what a direct fd cannot do goes through the page cache",
     what_a_direct_fd_cannot_do_goes_through_the_page_cache},
    {"a disk that cannot be is refused", a_disk_that_cannot_be_is_refused},
};

CHECK_MAIN(tests)
