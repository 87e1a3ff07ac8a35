/* SPDX-License-Identifier: Apache-2.0
 *
 * ideal_net switch|echo|sink|source BYTES SOCKET... - what no switch can beat: it gives descriptors back, as many
 * of the receiver as of the sender, without a look at a frame, a copy, or a table of addresses.
 *
 * Ports are switched in pairs: the first with the second, and so on. A frame without a buffer stays where it is.
 */
#include <string.h>

#include "back_end.h"
#include "load.h"

enum { HEADER_BYTES = 12, RECEIVE = 0, SEND = 1, PASS_FRAMES = 64 };

#define F_MRG_RXBUF BIT(15)

enum role { SWITCH, ECHO, SINK, SOURCE, ROLES };

static const char *const NAMES[ROLES] = {"switch", "echo", "sink", "source"};

static enum role role;
static uint32_t written; /* bytes of a receive buffer */

static bool is_running(const struct served *port)
{
    return port->rings[RECEIVE].running && port->rings[SEND].running;
}

static void forward(struct served *from, struct served *to)
{
    uint32_t room = ring_ready(&to->rings[RECEIVE], PASS_FRAMES);

    ring_flip(&to->rings[RECEIVE], ring_flip(&from->rings[SEND], room, 0), written);
}

static void serve(struct served *port, struct served *other)
{
    if (!is_running(port) || !is_running(other))
        return;
    if (role == SWITCH || role == ECHO) {
        forward(port, other);
        return;
    }
    ring_flip(&port->rings[SEND], PASS_FRAMES, 0);
    if (role == SOURCE)
        ring_flip(&port->rings[RECEIVE], PASS_FRAMES, written);
}

static void pass(struct served *ports, int count)
{
    for (int i = 0; i < count; i++)
        serve(&ports[i], &ports[role == SWITCH ? i ^ 1 : i]);
}

int main(int argc, char **argv)
{
    const struct back_end ports = {
        .features = F_PROTOCOL_FEATURES | F_VERSION_1 | F_RING_PACKED | F_INDIRECT | F_MRG_RXBUF,
        .protocol_features = P_MQ | P_REPLY_ACK | P_CONFIGURE_MEM_SLOTS,
        .rings = 2,
        .pass = pass,
    };

    while (argc > 3 && role < ROLES && strcmp(argv[1], NAMES[role]) != 0)
        role++;
    if (argc < 4 || role == ROLES || (role == SWITCH && argc % 2 == 0)) {
        fprintf(stderr, "usage: ideal_net switch|echo|sink|source BYTES SOCKET...\n"
                        "a switch has an even number of ports\n");
        return 2;
    }
    written = HEADER_BYTES + (uint32_t)atoi(argv[2]);
    back_end_run(&ports, argv + 3, argc - 3);
}
