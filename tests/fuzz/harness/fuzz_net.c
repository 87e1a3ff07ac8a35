/* SPDX-License-Identifier: Apache-2.0
 *
 * Invariant: whatever drivers write into their rings, frames and commands, and whenever, a switch touches no byte
 * outside guest memory, writes only what it was given to write, keeps no chain, comes to an end with every ring, and
 * counts each frame once: as handed on, or as dropped for one reason. Nobody has more addresses than he may have.
 *
 * An input is a switch of two to four ports, each with three rings in a guest memory (its own, or another's, too),
 * then steps. A driver either keeps account of what may be written, or (`wild`) writes anything anywhere and changes
 * what is being read. States are counted as looks at a ring; they are not compared.
 */
#include "hostile_atomic.h"
#include "net_driver.h"
#include "states.h"

enum { STEPS_MOST = 400 };
enum step {
    STEP_SEND = 0,
    STEP_OFFER = 1,
    STEP_SERVE = 2,
    STEP_COMMAND = 3,
    STEP_WANT = 4,
    STEP_CLOCK = 5,
    STEP_LINK = 6,
    STEP_ANNOUNCE = 7,
    STEP_RESET = 8,
    STEP_SERVE_ALL = 9,
    STEP_HOSTILE = 10, /* and all others */
};

extern int LLVMFuzzerInitialize(int *count, char ***arguments);
extern int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* As the port's own worker does it, when it finds that somebody asked for it. */
static void announce(struct switch_ports *s, struct port *port)
{
    struct net_port *own = net_port_at(s->net, port->number);
    struct port_ring *ring = &port->rings[SENDS];

    vhu_net_port_announce(s->net, port->number, (const uint8_t *)&own->mac);
    HOLDS(own->announced == own->mac);
    vhu_net_announce(ring->queue);
    HOLDS(own->announced == 0);
    port->announced++;
    switch_attend(s);
}

static void serve_port(struct switch_ports *s, struct port *port)
{
    switch_serve(s, &port->rings[SENDS]);
    switch_serve(s, &port->rings[COMMANDS]);
    if (s->net->config.mode == VHU_NET_SOURCE)
        switch_serve(s, &port->rings[RECEIVES]);
}

static void step_hostile(struct switch_ports *s, struct port *port, uint8_t which)
{
    struct port_ring *ring = &port->rings[take_u8(s->in) % RINGS];

    if (s->wild && ring->place.num > 0)
        hostile_driver_step(&ring->driver, which);
    else
        net_driver_send(s, port);
}

static void take_step(struct switch_ports *s)
{
    uint8_t what = take_u8(s->in);
    struct port *port = &s->ports[(what >> 4 & 3u) % s->count];

    switch (what & 15) {
    case STEP_SEND:
        net_driver_send(s, port);
        break;
    case STEP_OFFER:
        net_driver_offer(s, port);
        break;
    case STEP_SERVE:
        serve_port(s, port);
        break;
    case STEP_COMMAND:
        net_driver_command(s, port);
        break;
    case STEP_WANT:
        switch_want(s, &port->rings[what >> 6 ? what >> 6 & 1u : COMMANDS], take_u8(s->in));
        break;
    case STEP_CLOCK:
        s->worker.now_s += what >> 6;
        break;
    case STEP_LINK:
        vhu_net_port_set_link(s->net, port->number, what >> 6);
        break;
    case STEP_ANNOUNCE:
        announce(s, port);
        break;
    case STEP_RESET:
        vhu_net_port_reset(s->net, port->number);
        break;
    case STEP_SERVE_ALL:
        for (uint32_t i = 0; i < s->count; i++)
            serve_port(s, &s->ports[i]);
        break;
    default:
        step_hostile(s, port, what >> 6 | (uint8_t)(what & 15) << 2);
    }
}

int LLVMFuzzerInitialize(int *count, char ***arguments)
{
    (void)count;
    (void)arguments;
    arenas();
    states_open();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct switch_ports ports;
    struct switch_ports *s = &ports;
    struct input in = {bytes, size};
    uint8_t manners = take_u8(&in);

    switch_begin(s, &in);
    s->wild = manners & 1;
    for (uint32_t steps = 0; in.left > 0 && steps < STEPS_MOST; steps++)
        take_step(s);
    for (uint32_t i = 0; i < s->count; i++)
        serve_port(s, &s->ports[i]);
    switch_check(s);
    switch_end(s);
    return 0;
}
