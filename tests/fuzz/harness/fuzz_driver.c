/* SPDX-License-Identifier: Apache-2.0
 *
 * Invariant: whatever a device writes, and whenever, the driver side of a ring touches no byte
 * outside its areas and tables, gives back only chains that it was given, each once, and has the
 * room that its books say. As long as the device is the engine's own and nobody else writes, that
 * device pops what was added, in order, and no notification that somebody waits for is missing.
 *
 * An input is a place for a ring, its tables, and then a list of steps.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hostile_atomic.h"
#include "ringplace.h"
#include "states.h"

enum { IOV_LIMIT = 1024 + 512, STEPS_MAX = 256, BUFFERS_MAX = 64 };

enum call {
    CALL_ADD,
    CALL_PUBLISH,
    CALL_POP,
    CALL_ENABLE,
    CALL_DISABLE,
    CALL_DEVICE_POP,
    CALL_DEVICE_PUSH,
    CALL_DEVICE_PUBLISH,
    CALL_DEVICE_ENABLE,
    CALL_DEVICE_DISABLE,
};

struct added {
    uint32_t slots; /* 0: not in flight */
    uint64_t bytes;
};

struct fuzz {
    struct input in;
    struct ringplace place;
    struct extent tables;
    uint16_t table_entries;
    struct vhu_driver *driver;
    struct vhu_ring *device;
    struct added *added; /* by id */
    uint32_t free_slots;
    bool broken;         /* the driver */
    bool honest;         /* nobody but the two has written */
    uint16_t *order;     /* ids as they were added, RING_NUM_MAX of them */
    uint16_t first, last;
    struct iovec *iov;
    struct vhu_chain *popped; /* by the device, not yet pushed */
    uint32_t popped_count;
    uint32_t unpublished_added;
    uint32_t unpublished;     /* pushed chains */
    uint32_t unseen;          /* published ones that the driver has not taken */
    bool driver_waits, device_waits;
};

extern int LLVMFuzzerInitialize(int *count, char ***arguments);
extern int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static struct fuzz fuzz;

static void note_change(enum call call, uint64_t argument)
{
    states_changed(call, &argument, sizeof(argument));
}

/* ---- The driver's calls ---------------------------------------------------------------------- */

static uint32_t take_buffers(struct fuzz *f, struct vhu_buffer *buffers, bool *ordered,
                             uint64_t *bytes)
{
    uint8_t shape = take_u8(&f->in);
    uint32_t count = shape % 8, writable_from = take_u8(&f->in) % 8;

    if (shape >= 0xf0)
        count = take_u8(&f->in) % (BUFFERS_MAX + 1);
    for (uint32_t i = 0; i < count; i++) {
        struct desc desc = take_buffer(&f->in, &f->place, &buffers[i].length);

        buffers[i].address = desc.address;
        buffers[i].writable = i >= writable_from;
        if (arena_offset(f->place.arena, desc.address, buffers[i].length) < 0)
            f->honest = false; /* the device will break the ring, as it should */
        *bytes += buffers[i].length;
    }
    *ordered = shape % 16 != 15 || count < 2;
    if (!*ordered) {
        buffers[0].writable = 1;
        buffers[count - 1].writable = 0;
    }
    return count;
}

static void call_add(struct fuzz *f)
{
    struct vhu_buffer buffers[BUFFERS_MAX];
    bool indirect = take_u8(&f->in) & 1, ordered;
    uint64_t bytes = 0;
    uint32_t count = take_buffers(f, buffers, &ordered, &bytes);
    uint32_t slots = indirect ? 1 : count, longest = indirect ? f->table_entries : f->place.num;
    uint16_t id = 0;

    states_count(CALL_ADD, (uint64_t)count << 32 | bytes << 1 | indirect);
    int rc = vhu_driver_add(f->driver, buffers, count, indirect, &id);
    if (count == 0 || count > longest || !ordered) {
        HOLDS(rc == -EINVAL);
        return;
    }
    HOLDS((rc == -ENOSPC) == (slots > f->free_slots));
    if (rc == -ENOSPC)
        return;
    HOLDS(rc == 0 && id < f->place.num && f->added[id].slots == 0);
    f->added[id] = (struct added){slots, bytes};
    f->free_slots -= slots;
    f->unpublished_added++;
    f->order[f->last++ % RING_NUM_MAX] = id;
    note_change(CALL_ADD, (uint64_t)count << 32 | bytes << 1 | indirect);
}

static void call_publish(struct fuzz *f)
{
    struct vhu_ring_state before, after;

    states_count(CALL_PUBLISH, 0);
    vhu_driver_state(f->driver, &before);
    bool kick = vhu_driver_publish(f->driver);
    vhu_driver_state(f->driver, &after);
    HOLDS(before.used == after.used && before.used_wrap == after.used_wrap);
    note_change(CALL_PUBLISH, kick);
    if (f->honest)
        HOLDS(kick || !f->device_waits || f->unpublished_added == 0);
    f->device_waits &= !kick;
    f->unpublished_added = 0;
}

static void call_pop(struct fuzz *f)
{
    uint16_t id = 0;
    uint32_t written = 0;

    if (!f->broken)
        states_count(CALL_POP, 0);
    int rc = vhu_driver_pop(f->driver, &id, &written);
    HOLDS(rc == 1 || rc == 0 || rc == -EPROTO);
    HOLDS(!f->broken || rc == -EPROTO);
    f->broken = rc == -EPROTO;
    if (f->honest)
        HOLDS(rc == (f->unseen > 0));
    if (rc == 1) {
        HOLDS(id < f->place.num && f->added[id].slots > 0);
        f->free_slots += f->added[id].slots;
        f->added[id].slots = 0;
        f->unseen -= f->unseen > 0;
        if (f->honest)
            HOLDS(written == (id ^ 0x5a5a));
    }
    if (rc != 0)
        note_change(CALL_POP, id);
}

static void call_enable(struct fuzz *f)
{
    states_count(CALL_ENABLE, 0);
    bool there = vhu_driver_call_enable(f->driver);
    if (f->honest)
        HOLDS(there == (f->unseen > 0));
    f->driver_waits = !there;
    note_change(CALL_ENABLE, there);
}

static void call_disable(struct fuzz *f)
{
    states_count(CALL_DISABLE, 0);
    vhu_driver_call_disable(f->driver);
    f->driver_waits = false;
    note_change(CALL_DISABLE, 0);
}

/* ---- The device's calls ---------------------------------------------------------------------- */

static void device_pop(struct fuzz *f)
{
    struct vhu_chain chain;

    states_count(CALL_DEVICE_POP, 0);
    int rc = vhu_ring_pop(f->device, f->iov, &chain);
    HOLDS(!f->honest || rc >= 0);
    f->device_waits &= rc != 1;
    if (rc != 1)
        return;
    note_change(CALL_DEVICE_POP, chain.id);
    f->popped[f->popped_count++] = chain;
    if (!f->honest)
        return;
    HOLDS(f->first != f->last && chain.id == f->order[f->first++ % RING_NUM_MAX]);
    HOLDS(chain.readable_bytes + chain.writable_bytes == f->added[chain.id].bytes);
}

static void device_push(struct fuzz *f)
{
    uint8_t which = take_u8(&f->in);

    if (f->popped_count == 0)
        return;
    uint32_t at = which % f->popped_count;
    struct vhu_chain chain = f->popped[at];
    states_count(CALL_DEVICE_PUSH, chain.id);
    HOLDS(vhu_ring_push(f->device, &chain, chain.id ^ 0x5a5a) == 0);
    f->popped_count--;
    memmove(&f->popped[at], &f->popped[at + 1], (f->popped_count - at) * sizeof(chain));
    f->unpublished++;
    note_change(CALL_DEVICE_PUSH, chain.id);
}

static void device_publish(struct fuzz *f)
{
    states_count(CALL_DEVICE_PUBLISH, 0);
    bool call = vhu_ring_publish(f->device);
    if (f->honest)
        HOLDS(call || !f->driver_waits || f->unpublished == 0);
    f->driver_waits &= !call;
    f->unseen += f->unpublished;
    f->unpublished = 0;
    note_change(CALL_DEVICE_PUBLISH, call);
}

static void device_enable(struct fuzz *f)
{
    states_count(CALL_DEVICE_ENABLE, 0);
    f->device_waits = !vhu_ring_kick_enable(f->device);
    note_change(CALL_DEVICE_ENABLE, f->device_waits);
}

static void device_disable(struct fuzz *f)
{
    states_count(CALL_DEVICE_DISABLE, 0);
    vhu_ring_kick_disable(f->device);
    f->device_waits = false;
    note_change(CALL_DEVICE_DISABLE, 0);
}

static void serve(struct fuzz *f)
{
    device_pop(f);
    device_push(f);
    device_publish(f);
    call_pop(f);
}

/* ---- What a hostile device writes ------------------------------------------------------------ */

/* A used entry where the driver looks next; split: and an index some entries further. */
static void forge_used(struct fuzz *f)
{
    const struct ringplace *place = &f->place;
    struct vhu_ring_state state;
    uint8_t kind = take_u8(&f->in);
    uint16_t id = take_u16(&f->in);

    f->honest = false;
    vhu_driver_state(f->driver, &state);
    if (kind & 0x80)
        id = (uint16_t)(id % (place->num + 1));
    if (place->packed) {
        struct desc desc = {.packed = {take_u8(&f->in), id, packed_used_flags(state.used_wrap)}};

        desc.packed.flags |= (uint16_t)(kind << 8 & 0x7f00) | (kind & 7);
        ringplace_write(place, place->gpa[0] + 16ULL * state.used + 8, &desc.word, 8);
        return;
    }
    struct split_used_entry entry = {id | (kind & 0x40 ? 0xffff0000u : 0), take_u8(&f->in)};
    uint64_t at = place->gpa[2] + 4 + 8ULL * (state.used & (place->num - 1));
    ringplace_write(place, at, &entry, sizeof(entry));
    ringplace_write_u16(place, place->gpa[2] + 2, (uint16_t)(state.used + (kind & 7)));
}

static void forge_bytes(struct fuzz *f)
{
    uint64_t address = take_address(&f->in, &f->place);
    uint8_t size = take_u8(&f->in) % 8 + 1;
    uint64_t value = take(&f->in, size);

    f->honest = false;
    ringplace_write(&f->place, address, &value, size);
}

static void race(struct fuzz *f)
{
    uint8_t loads = take_u8(&f->in), shift = take_u8(&f->in);

    f->honest = false;
    arena_race(f->place.arena, 0, loads % 32, take_u16(&f->in) * (1ULL << shift % 49));
}

/* ---- Inputs ---------------------------------------------------------------------------------- */

static void take_step(struct fuzz *f)
{
    static void (*const steps[])(struct fuzz *) = {
        call_add,       call_add,      call_add,       call_add,    call_publish, call_publish,
        call_pop,       call_pop,      call_enable,    call_disable, device_pop,  device_pop,
        device_push,    device_push,   device_publish, device_enable, device_disable, serve,
        serve,          serve,         forge_used,     forge_bytes, race,
    };

    steps[take_u8(&f->in) % (sizeof(steps) / sizeof(steps[0]))](f);
}

/* Tables for indirect chains, where the input wants them and memory has room. */
static void take_tables(struct fuzz *f, struct vhu_driver_config *config)
{
    const struct ringplace *place = &f->place;
    uint8_t entries = take_u8(&f->in) % 9, region = take_u8(&f->in);
    const struct place *there = &place->arena->places[region % place->arena->count];
    uint32_t size = place->num * entries * (uint32_t)sizeof(struct desc);

    f->table_entries = 0;
    f->tables = (struct extent){0};
    if (size == 0 || size > there->size)
        return;
    uint32_t start = region & 0x80 ? there->size - size : 0;
    config->indirect_entries = entries;
    config->indirect_address = there->gpa + start;
    config->indirect = vhu_mem_gpa_to_hva(place->arena->mem[0], there->gpa + start, size);
    HOLDS(config->indirect);
    f->tables = (struct extent){there->offset + start, size, 0};
    f->table_entries = entries;
}

/* Whether tables and ring share no byte: a driver that lays them over each other fools itself. */
static bool is_sane(const struct fuzz *f)
{
    const struct ringplace *place = &f->place;
    struct extent extents[4] = {f->tables};

    for (int i = 0; i < 3; i++)
        extents[i + 1] = (struct extent){place->offset[i], place->size[i], 0};
    for (int i = 0; i < 4; i++) {
        for (int j = i + 1; j < 4; j++) {
            if (extents[i].offset < extents[j].offset + extents[j].size &&
                extents[j].offset < extents[i].offset + extents[i].size)
                return false;
        }
    }
    return true;
}

int LLVMFuzzerInitialize(int *count, char ***arguments)
{
    (void)count;
    (void)arguments;
    fuzz.iov = calloc(IOV_LIMIT, sizeof(*fuzz.iov));
    fuzz.added = calloc(RING_NUM_MAX, sizeof(*fuzz.added));
    fuzz.order = calloc(RING_NUM_MAX, sizeof(*fuzz.order));
    fuzz.popped = calloc(RING_NUM_MAX, sizeof(*fuzz.popped));
    HOLDS(fuzz.iov && fuzz.added && fuzz.order && fuzz.popped);
    arenas();
    states_open();
    return 0;
}

static void play(struct fuzz *f)
{
    const struct ringplace *place = &f->place;

    f->free_slots = place->num;
    f->broken = f->driver_waits = f->device_waits = false;
    f->honest = is_sane(f);
    f->first = f->last = 0;
    f->popped_count = f->unpublished_added = f->unpublished = f->unseen = 0;
    memset(f->added, 0, place->num * sizeof(*f->added));
    for (int i = 0; f->in.left > 0 && i < STEPS_MAX; i++)
        take_step(f);
    for (int i = 0; i < 4; i++)
        serve(f);
    const struct extent extents[] = {
        {place->offset[0], place->size[0], 0},
        {place->offset[1], place->size[1], 0},
        {place->offset[2], place->size[2], 0},
        f->tables,
    };
    arena_check(place->arena, extents, 4);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct fuzz *f = &fuzz;

    f->in = (struct input){bytes, size};
    if (!ringplace_take(&f->in, &f->place))
        return 0;
    struct vhu_driver_config config = {.ring = f->place.config};
    take_tables(f, &config);
    int rc = vhu_driver_create(&config, &f->driver);
    HOLDS(rc == 0 || rc == -EINVAL);
    if (rc < 0)
        return 0;
    struct vhu_mem *mem = f->place.arena->mem[0];
    HOLDS(vhu_ring_create(mem, &f->place.config, &f->device) == 0);
    play(f);
    vhu_ring_destroy(f->device);
    vhu_driver_destroy(f->driver);
    return 0;
}
