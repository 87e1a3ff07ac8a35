/* SPDX-License-Identifier: Apache-2.0
 *
 * Driver side against device side: whatever the order of operations, every chain arrives as it was
 * sent and comes back once. And a device that answers nonsense is refused.
 */
#include <errno.h>
#include <stdlib.h>

#include "check.h"
#include "guest.h"

enum { TABLE_ENTRIES = 6, STEPS = 8000, BUFFERS_MAX = 8 };

struct sent {
    bool pending, returned;
    uint32_t count, written;
    struct vhu_buffer buffers[BUFFERS_MAX];
};

struct pair {
    struct guest guest;
    struct vhu_driver *driver;
    struct vhu_ring *ring;
    struct iovec iov[40000];
    uint32_t num;
    uint64_t random;
    struct sent sent[256];
    uint16_t order[256]; /* ids on their way to the device */
    uint32_t sent_total, popped_total, popped[256], popped_count, returned_total;
};

static struct pair pair;

static uint32_t dice(uint32_t sides)
{
    pair.random = pair.random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(pair.random >> 33) % sides;
}

static void open_pair(uint64_t features, uint32_t num, uint16_t position)
{
    memset(&pair, 0, sizeof(pair));
    pair.random = 42;
    pair.num = num;
    guest_create(&pair.guest);
    struct vhu_driver_config config = {
        .ring = guest_ring(&pair.guest, features, num, position),
        .indirect_entries = features & FEATURE(INDIRECT_DESC) ? TABLE_ENTRIES : 0,
        .indirect_address = TABLES,
        .indirect = guest_at(&pair.guest, TABLES),
    };
    CHECK_EQUAL(vhu_driver_create(&config, &pair.driver), 0);
    CHECK_EQUAL(vhu_ring_create(pair.guest.mem, &config.ring, &pair.ring), 0);
}

static void close_pair(void)
{
    vhu_ring_destroy(pair.ring);
    vhu_driver_destroy(pair.driver);
    guest_destroy(&pair.guest);
}

static void send(bool with_tables)
{
    struct sent sent = {.count = 1 + dice(BUFFERS_MAX - 1), .pending = true};
    uint32_t readable = dice(sent.count + 1);
    bool indirect = with_tables && dice(2);
    uint16_t id;

    for (uint32_t i = 0; i < sent.count; i++)
        sent.buffers[i] = (struct vhu_buffer){FAR + dice(4096), 1 + dice(1000), i >= readable};
    int rc = vhu_driver_add(pair.driver, sent.buffers, sent.count, indirect, &id);
    if (rc == -ENOSPC || (rc == -EINVAL && sent.count > (indirect ? TABLE_ENTRIES : pair.num)))
        return;
    CHECK_EQUAL(rc, 0);
    CHECK(!pair.sent[id].pending);
    pair.sent[id] = sent;
    pair.order[pair.sent_total++ % 256] = id;
}

static void device_pop(void)
{
    struct vhu_chain chain;

    if (vhu_ring_pop(pair.ring, pair.iov, &chain) != 1)
        return;
    const struct sent *sent = &pair.sent[chain.id];
    CHECK_EQUAL(chain.id, pair.order[pair.popped_total++ % 256]);
    CHECK_EQUAL(chain.readable + chain.writable, sent->count);
    for (uint32_t i = 0; i < sent->count; i++) {
        CHECK(chain.iov[i].iov_base == guest_at(&pair.guest, sent->buffers[i].address));
        CHECK_EQUAL(chain.iov[i].iov_len, sent->buffers[i].length);
        CHECK_EQUAL(i >= chain.readable, sent->buffers[i].writable);
    }
    pair.popped[pair.popped_count++] = chain.id;
}

static void device_push(bool in_order)
{
    if (!pair.popped_count)
        return;
    uint32_t index = in_order ? 0 : dice(pair.popped_count);
    struct vhu_chain chain = {.id = (uint16_t)pair.popped[index]};
    struct sent *sent = &pair.sent[chain.id];

    pair.popped_count--;
    memmove(&pair.popped[index], &pair.popped[index + 1],
            (pair.popped_count - index) * sizeof(pair.popped[0]));
    sent->returned = true;
    sent->written = dice(5000);
    CHECK_EQUAL(vhu_ring_push(pair.ring, &chain, sent->written), 0);
}

static void driver_pop(void)
{
    uint32_t written;
    uint16_t id;
    int rc = vhu_driver_pop(pair.driver, &id, &written);

    CHECK(rc >= 0);
    if (rc != 1)
        return;
    CHECK(pair.sent[id].pending && pair.sent[id].returned);
    CHECK_EQUAL(written, pair.sent[id].written);
    pair.sent[id].pending = false;
    pair.returned_total++;
}

static void exercise(uint64_t features, uint32_t num, uint16_t position)
{
    open_pair(features, num, position);
    for (int step = 0; step < STEPS && !check_failures; step++) {
        switch (dice(8)) {
        case 0: send(features & FEATURE(INDIRECT_DESC)); break;
        case 1: (void)vhu_driver_publish(pair.driver); break;
        case 2: device_pop(); break;
        case 3: device_push(dice(2)); break;
        case 4: (void)vhu_ring_publish(pair.ring); break;
        case 5: driver_pop(); break;
        case 6:
            dice(2) ? (void)vhu_ring_kick_enable(pair.ring) : vhu_ring_kick_disable(pair.ring);
            break;
        default:
            dice(2) ? (void)vhu_driver_call_enable(pair.driver)
                    : vhu_driver_call_disable(pair.driver);
        }
    }
    CHECK(pair.returned_total > 20);
    struct vhu_ring_state driver, device;
    (void)vhu_driver_publish(pair.driver);
    for (uint32_t i = 0; i < num; i++)
        device_pop();
    vhu_driver_state(pair.driver, &driver);
    vhu_ring_state(pair.ring, &device);
    CHECK_EQUAL(driver.avail, device.avail);
    CHECK_EQUAL(driver.avail_wrap, device.avail_wrap);
    close_pair();
}

static void every_chain_arrives_and_comes_back_once(void)
{
    const uint32_t sizes[] = {1, 2, 3, 8, 100, 256};
    const uint16_t positions[] = {0, 65533, WRAP_BIT};
    uint64_t any = FEATURE(INDIRECT_DESC) | FEATURE(EVENT_IDX);

    for (int packed = 0; packed < 2; packed++) {
        uint64_t layout = packed ? FEATURE(RING_PACKED) : 0;

        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            if (!packed && (sizes[i] & (sizes[i] - 1)))
                continue;
            for (size_t j = 0; j < 3; j++) {
                uint16_t position = positions[j];

                if (packed && position == 65533)
                    position = (uint16_t)((sizes[i] - 1) | WRAP_BIT);
                exercise(layout, sizes[i], position);
                exercise(layout | any, sizes[i], position);
            }
        }
    }
}

/* Both sides suppress and ask as a real pair does: no sleeper may be forgotten. */
static void a_side_that_asked_and_saw_nothing_is_woken(void)
{
    for (int features = 0; features < 4; features++) {
        uint64_t bits =
            (features & 1 ? FEATURE(RING_PACKED) : 0) | (features & 2 ? FEATURE(EVENT_IDX) : 0);
        struct vhu_chain chain;
        uint32_t written;
        uint16_t id;

        open_pair(bits, 4, features & 1 ? (uint16_t)(2 | WRAP_BIT) : 65534);
        struct vhu_buffer buffer = {FAR, 1, 1};
        for (int round = 0; round < 40; round++) {
            bool sleepy = round % 3 != 0;

            if (!sleepy)
                vhu_ring_kick_disable(pair.ring);
            else
                CHECK(!vhu_ring_kick_enable(pair.ring));
            CHECK_EQUAL(vhu_driver_add(pair.driver, &buffer, 1, false, &id), 0);
            CHECK_EQUAL(vhu_driver_publish(pair.driver), sleepy);
            CHECK_EQUAL(vhu_ring_pop(pair.ring, pair.iov, &chain), 1);
            if (sleepy)
                vhu_driver_call_disable(pair.driver);
            else
                CHECK(!vhu_driver_call_enable(pair.driver));
            CHECK_EQUAL(vhu_ring_push(pair.ring, &chain, 1), 0);
            CHECK_EQUAL(vhu_ring_publish(pair.ring), !sleepy);
            CHECK(vhu_driver_call_enable(pair.driver));
            CHECK_EQUAL(vhu_driver_pop(pair.driver, &id, &written), 1);
        }
        close_pair();
    }
}

static void a_device_that_returns_what_it_has_not_is_refused(void)
{
    for (int packed = 0; packed < 2; packed++) {
        for (int kind = 0; kind < 3; kind++) {
            struct vhu_buffer buffer = {FAR, 1, 1};
            uint32_t written;
            uint16_t id;

            open_pair(packed ? FEATURE(RING_PACKED) : 0, 4, packed ? WRAP_BIT : 0);
            CHECK_EQUAL(vhu_driver_add(pair.driver, &buffer, 1, false, &id), 0);
            (void)vhu_driver_publish(pair.driver);
            struct vhu_ring_config config = guest_ring(&pair.guest, 0, 4, 0);
            uint16_t wrong = kind == 0 ? 4 : kind == 1 ? 3 : 0;
            if (packed) {
                struct desc *desc = config.desc;

                if (kind == 2) /* twice: the second slot is no chain's */
                    desc[1].packed =
                        (typeof(desc->packed)){.id = wrong, .flags = DESC_AVAIL | DESC_USED};
                desc[0].packed =
                    (typeof(desc->packed)){.id = wrong, .flags = DESC_AVAIL | DESC_USED};
            } else {
                struct split_used *used = config.device;

                used->ring[0].id = used->ring[1].id = wrong;
                used->idx = kind == 2 ? 2 : 1;
            }
            if (packed && kind == 2)
                CHECK_EQUAL(vhu_driver_pop(pair.driver, &id, &written), 1);
            CHECK_EQUAL(vhu_driver_pop(pair.driver, &id, &written), -EPROTO);
            CHECK_EQUAL(vhu_driver_pop(pair.driver, &id, &written), -EPROTO);
            close_pair();
        }
    }
}

/* VIRTIO 1.2 §2.8.8 has the write flag say whether the length counts; QEMU's devices leave it out. */
static void a_packed_length_counts_without_its_flag_where_the_device_could_write(void)
{
    for (int writable = 0; writable < 2; writable++) {
        struct vhu_buffer buffer = {FAR, 8, writable};
        uint32_t written;
        uint16_t id;

        open_pair(FEATURE(RING_PACKED), 4, WRAP_BIT);
        CHECK_EQUAL(vhu_driver_add(pair.driver, &buffer, 1, false, &id), 0);
        CHECK(vhu_driver_publish(pair.driver));
        struct desc *desc = guest_ring(&pair.guest, 0, 4, 0).desc;
        desc[0].packed =
            (typeof(desc->packed)){.id = id, .length = 5, .flags = DESC_AVAIL | DESC_USED};
        CHECK_EQUAL(vhu_driver_pop(pair.driver, &id, &written), 1);
        CHECK_EQUAL(written, writable ? 5 : 0);
        close_pair();
    }
}

static void a_chain_that_can_never_fit_is_refused(void)
{
    struct vhu_buffer buffers[5] = {
        {FAR, 1, 0}, {FAR, 1, 1}, {FAR, 1, 1}, {FAR, 1, 1}, {FAR, 1, 1}};
    struct vhu_buffer wrong[2] = {{FAR, 1, 1}, {FAR, 1, 0}};
    uint16_t id;

    open_pair(0, 4, 0);
    CHECK_EQUAL(vhu_driver_add(pair.driver, buffers, 0, false, &id), -EINVAL);
    CHECK_EQUAL(vhu_driver_add(pair.driver, buffers, 5, false, &id), -EINVAL);
    CHECK_EQUAL(vhu_driver_add(pair.driver, buffers, 1, true, &id), -EINVAL);
    CHECK_EQUAL(vhu_driver_add(pair.driver, wrong, 2, false, &id), -EINVAL);
    CHECK_EQUAL(vhu_driver_add(pair.driver, buffers, 3, false, &id), 0);
    CHECK_EQUAL(vhu_driver_add(pair.driver, buffers, 2, false, &id), -ENOSPC);
    CHECK_EQUAL(vhu_driver_add(pair.driver, buffers, 1, false, &id), 0);
    close_pair();
}

static const struct test tests[] = {
    {"every chain arrives and comes back once", every_chain_arrives_and_comes_back_once},
    {"a side that asked and saw nothing is woken", a_side_that_asked_and_saw_nothing_is_woken},
    {"a device that returns what it has not is refused",
     a_device_that_returns_what_it_has_not_is_refused},
    {"a packed length counts without its flag where the device could write",
     a_packed_length_counts_without_its_flag_where_the_device_could_write},
    {"a chain that can never fit is refused", a_chain_that_can_never_fit_is_refused},
};

CHECK_MAIN(tests)
