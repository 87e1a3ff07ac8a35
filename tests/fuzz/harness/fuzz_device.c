/* SPDX-License-Identifier: Apache-2.0
 *
 * Invariant: whatever a driver writes, and whenever, the device side of a ring touches no byte
 * outside guest memory, writes only into the used ring (or the second halves of packed descriptors)
 * and the device's event area, hands out only chains that lie in guest memory and are not in flight
 * already, and keeps a position from which it could start again.
 *
 * An input is a place for a ring and then a list of steps: what the driver writes, and calls.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hostile_atomic.h"
#include "hostile_driver.h"
#include "ring.h"
#include "states.h"
#include "trace.h"

enum {
    IOV_LIMIT = 1024 + 512, /* of every ring up to 1024 */
    STEPS_MAX = 256,
    EPILOGUE = 4,
    CALLS = 24,
    RESET_BELOW = 0xe0, /* few steps are spent on a ring that is broken */
};

enum call {
    CALL_POP,
    CALL_PUSH,
    CALL_PUBLISH,
    CALL_KICK_ENABLE,
    CALL_KICK_DISABLE,
    CALL_MOVE,
    CALL_FIND,
};

struct fuzz {
    struct input in;
    struct ringplace place;
    struct hostile_driver driver;
    struct vhu_ring *ring;
    struct iovec *iov;    /* exactly IOV_LIMIT entries: one more is caught */
    uint32_t iov_count;   /* of the chain that was popped last */
    struct vhu_chain *chains; /* in flight, oldest first */
    uint32_t flying;
    uint32_t flying_slots;
    bool *is_flying; /* by id */
    bool broken;
    bool abandoned; /* chains were popped that will never be pushed */
};

extern int LLVMFuzzerInitialize(int *count, char ***arguments);
extern int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static struct fuzz fuzz;

static void count_call(struct fuzz *f, enum call call, uint64_t argument)
{
    if (!f->broken)
        states_count(call, argument);
}

/* The call changed something besides memory. */
static void note_change(enum call call, uint64_t argument)
{
    states_changed(call, &argument, sizeof(argument));
}

static bool same_state(const struct vhu_ring_state *a, const struct vhu_ring_state *b)
{
    return a->avail == b->avail && a->used == b->used && a->avail_wrap == b->avail_wrap &&
           a->used_wrap == b->used_wrap;
}

static void check_chain(struct fuzz *f, const struct vhu_chain *chain)
{
    uint64_t bytes[2] = {0, 0};
    uint32_t count = chain->readable + chain->writable;

    HOLDS(chain->iov == f->iov && count <= IOV_LIMIT);
    HOLDS(chain->id < f->place.num && !f->is_flying[chain->id]);
    HOLDS(chain->slots >= 1 && chain->slots <= f->place.num - f->flying_slots);
    for (uint32_t i = 0; i < count; i++) {
        struct iovec *iov = &chain->iov[i];

        HOLDS(iov->iov_len > 0);
        HOLDS(arena_region(f->place.arena, f->place.which, iov->iov_base, iov->iov_len) >= 0);
        bytes[i >= chain->readable] += iov->iov_len;
    }
    HOLDS(bytes[0] == chain->readable_bytes && bytes[1] == chain->writable_bytes);
}

static bool call_pop(struct fuzz *f)
{
    struct vhu_ring_state before, after;
    struct vhu_chain chain = {0};
    uint64_t value;

    count_call(f, CALL_POP, 0);
    vhu_ring_state(f->ring, &before);
    f->iov_count = 0;
    int rc = vhu_ring_pop(f->ring, f->iov, &chain);
    vhu_ring_state(f->ring, &after);
    HOLDS(rc == 1 || rc == 0 || rc == -EPROTO);
    HOLDS((rc == -EPROTO) == (vhu_ring_fault(f->ring, &value) != VHU_FAULT_NONE));
    HOLDS(rc == 1 || same_state(&before, &after));
    HOLDS(!f->broken || rc == -EPROTO);
    trace_call('p', f->place.arena, f->ring, 0, rc);
    if (rc == 1) {
        check_chain(f, &chain);
        trace_chain(f->place.arena, f->place.which, &chain);
        f->is_flying[chain.id] = true;
        f->flying_slots += chain.slots;
        f->chains[f->flying++] = chain;
        f->iov_count = chain.readable + chain.writable;
    }
    if (rc != 0)
        note_change(CALL_POP, chain.id);
    f->broken = rc == -EPROTO;
    return rc == 1;
}

/* Give back the chain at `place` of those in flight. */
static void push_at(struct fuzz *f, uint32_t place, uint32_t written)
{
    struct vhu_chain chain = f->chains[place];

    count_call(f, CALL_PUSH, (uint64_t)written << 16 | chain.id);
    int rc = vhu_ring_push(f->ring, &chain, written);
    HOLDS(rc == 0);
    trace_call('u', f->place.arena, f->ring, (uint64_t)written << 16 | chain.id, rc);
    f->is_flying[chain.id] = false;
    f->flying_slots -= chain.slots;
    f->flying--;
    memmove(&f->chains[place], &f->chains[place + 1], (f->flying - place) * sizeof(chain));
    note_change(CALL_PUSH, (uint64_t)written << 16 | chain.id);
}

static void call_push(struct fuzz *f)
{
    uint8_t which = take_u8(&f->in);
    uint32_t written = which & 0x80 ? take_u32(&f->in) : which & 0x40 ? 512 : 0;
    bool in_order = f->place.config.features >> 35 & 1;

    if (f->flying > 0) {
        push_at(f, in_order ? 0 : which % f->flying, written);
        return;
    }
    /* our own bug, which must not become the guest's */
    struct vhu_chain chain = {.id = take_u16(&f->in)};
    int rc = vhu_ring_push(f->ring, &chain, written);
    HOLDS(rc == -EINVAL);
    trace_call('u', f->place.arena, f->ring, (uint64_t)written << 16 | chain.id, rc);
}

static void call_publish(struct fuzz *f)
{
    struct vhu_ring_state before, after;

    count_call(f, CALL_PUBLISH, 0);
    vhu_ring_state(f->ring, &before);
    bool call = vhu_ring_publish(f->ring);
    vhu_ring_state(f->ring, &after);
    HOLDS(before.avail == after.avail && before.avail_wrap == after.avail_wrap);
    trace_call('b', f->place.arena, f->ring, 0, call);
    if (!same_state(&before, &after))
        note_change(CALL_PUBLISH, call);
}

static void call_kick_enable(struct fuzz *f)
{
    count_call(f, CALL_KICK_ENABLE, 0);
    bool again = vhu_ring_kick_enable(f->ring);
    HOLDS(!f->broken || !again);
    trace_call('k', f->place.arena, f->ring, 0, again);
    note_change(CALL_KICK_ENABLE, again);
}

static void call_kick_disable(struct fuzz *f)
{
    count_call(f, CALL_KICK_DISABLE, 0);
    vhu_ring_kick_disable(f->ring);
    trace_call('d', f->place.arena, f->ring, 0, 0);
    note_change(CALL_KICK_DISABLE, 0);
}

/* The memory table changes: the same in other mappings, or with one region less. */
static void call_move(struct fuzz *f)
{
    struct ringplace *place = &f->place;

    if (!ringplace_enter(place, take_u8(&f->in) % SNAPSHOTS))
        return;
    race_left = 0; /* it strikes where the ring was */
    count_call(f, CALL_MOVE, (uint64_t)place->which);
    int rc = vhu_ring_move(f->ring, place->arena->mem[place->which], place->config.desc,
                           place->config.driver, place->config.device);
    HOLDS(rc == 0);
    trace_call('m', place->arena, f->ring, (uint64_t)place->which, rc);
    note_change(CALL_MOVE, (uint64_t)place->which);
}

/* Nothing of what is in flight comes back. */
static void abandon(struct fuzz *f)
{
    for (uint32_t i = 0; i < f->flying; i++)
        f->is_flying[f->chains[i].id] = false;
    f->abandoned |= f->flying > 0;
    f->flying = f->flying_slots = 0;
}

/* Stop the ring and start it where it was. That must work, unless chains were abandoned and the
 * driver went on as if they were not: then it may be further ahead than its ring is long. */
static void call_restart(struct fuzz *f)
{
    struct ringplace *place = &f->place;
    struct vhu_ring_state *state = &place->config.state;
    struct vhu_ring *stopped = f->ring;

    call_publish(f);
    abandon(f);
    vhu_ring_state(stopped, state);
    int rc = vhu_ring_create(place->arena->mem[place->which], &place->config, &f->ring);
    HOLDS(rc == 0 || f->abandoned);
    vhu_ring_destroy(stopped);
    if (rc < 0) {
        state->avail = state->used;
        rc = vhu_ring_create(place->arena->mem[place->which], &place->config, &f->ring);
        HOLDS(rc == 0);
    }
    f->broken = false;
    trace_call('r', place->arena, f->ring, 0, rc);
    note_change(CALL_MOVE, UINT64_MAX);
}

/* Look into guest memory for where a ring begins, as a start does. It may be nowhere. */
static void call_find(struct fuzz *f)
{
    struct vhu_ring_config config = f->place.config;
    struct vhu_ring *ring = NULL;

    config.state = (struct vhu_ring_state){0};
    count_call(f, CALL_FIND, 0);
    vhu_ring_find_position(&config, false);
    int rc = vhu_ring_create(f->place.arena->mem[f->place.which], &config, &ring);
    HOLDS(rc == 0 || rc == -EINVAL);
    vhu_ring_destroy(ring);
}

/* What a worker does when it is woken. */
static void call_serve(struct fuzz *f)
{
    uint8_t batch = take_u8(&f->in) % 16 + 1;

    vhu_ring_kick_disable(f->ring);
    trace_call('d', f->place.arena, f->ring, 0, 0);
    while (batch-- > 0 && call_pop(f))
        push_at(f, f->flying - 1, 1);
    call_publish(f);
    call_kick_enable(f);
}

/* The device reads and fills the buffers, which may well lie in its own ring. */
static void step_fill(struct fuzz *f)
{
    struct arena *arena = f->place.arena;
    uint8_t value = take_u8(&f->in);

    for (uint32_t i = 0; i < f->iov_count; i += 1 + i / 2) {
        const volatile uint8_t *hva = f->iov[i].iov_base;
        size_t last = f->iov[i].iov_len - 1;
        int region = arena_region(arena, f->place.which, f->iov[i].iov_base, last + 1);

        if (region < 0)
            return; /* the memory table changed */
        value = (uint8_t)(value + hva[0] + hva[last]);
        uint64_t offset = (uintptr_t)hva - (uintptr_t)arena->hva[f->place.which][region];
        arena_write(arena, arena->places[region].offset + (uint32_t)(offset + last), &value, 1);
    }
}

/* ---- Inputs ---------------------------------------------------------------------------------- */

static void step_pop(struct fuzz *f)
{
    call_pop(f);
}

static void take_step(struct fuzz *f)
{
    /* what a number means stays: kept inputs would mean something else. Replace doubles. */
    static void (*const calls[CALLS])(struct fuzz *) = {
        step_pop,  call_push,    call_publish, call_kick_enable, call_kick_disable, call_serve,
        call_move, call_restart, step_fill,    call_find,        step_pop,          call_push,
        step_pop,  call_serve,   call_publish, call_kick_enable, step_pop,          call_push,
        step_pop,  call_serve,   call_publish, call_restart,     step_fill,         call_serve,
    };
    uint8_t step = take_u8(&f->in);

    if (f->broken && step < RESET_BELOW) {
        call_restart(f);
        hostile_driver_begin(&f->driver, &f->in, &f->place, &f->place.config.state);
    }
    step %= 2 * CALLS;
    if (step < CALLS)
        calls[step](f);
    else
        hostile_driver_step(&f->driver, (uint8_t)(step - CALLS));
}

/* What the engine may have written. */
static void check_memory(const struct fuzz *f)
{
    const struct ringplace *place = &f->place;
    const struct extent split[] = {{place->offset[2], place->size[2], 0}};
    const struct extent packed[] = {
        {place->offset[2], place->size[2], 0},
        {place->offset[0], place->size[0], 8},
    };

    if (place->packed)
        arena_check(place->arena, packed, 2);
    else
        arena_check(place->arena, split, 1);
}

int LLVMFuzzerInitialize(int *count, char ***arguments)
{
    (void)count;
    (void)arguments;
    fuzz.iov = calloc(IOV_LIMIT, sizeof(*fuzz.iov));
    fuzz.chains = calloc(RING_NUM_MAX, sizeof(*fuzz.chains));
    fuzz.is_flying = calloc(RING_NUM_MAX, sizeof(*fuzz.is_flying));
    HOLDS(fuzz.iov && fuzz.chains && fuzz.is_flying);
    arenas();
    states_open();
    trace_open();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct fuzz *f = &fuzz;

    f->in = (struct input){bytes, size};
    f->broken = false;
    f->iov_count = 0;
    if (!ringplace_take(&f->in, &f->place))
        return 0;
    struct vhu_mem *mem = f->place.arena->mem[f->place.which];
    int rc = vhu_ring_create(mem, &f->place.config, &f->ring);
    HOLDS(rc == 0 || rc == -EINVAL);
    trace_input(bytes, size, f->place.arena, &f->place.config, f->place.gpa, rc);
    if (rc < 0)
        return 0;
    f->abandoned = f->place.config.state.avail != f->place.config.state.used;
    HOLDS(vhu_ring_iov_limit(f->ring) == IOV_LIMIT);
    hostile_driver_begin(&f->driver, &f->in, &f->place, &f->place.config.state);
    for (int i = 0; f->in.left > 0 && i < STEPS_MAX; i++)
        take_step(f);
    for (int i = 0; i < EPILOGUE && call_pop(f); i++)
        push_at(f, 0, 1);
    call_publish(f);
    check_memory(f);
    abandon(f);
    vhu_ring_destroy(f->ring);
    for (int which = 0; which < SNAPSHOTS; which++)
        HOLDS(vhu_mem_pins(f->place.arena->mem[which]) == 0);
    trace_end();
    return 0;
}
