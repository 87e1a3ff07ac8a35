/* SPDX-License-Identifier: Apache-2.0
 *
 * A network driver that keeps account of what the device may write: frames, receive buffers and commands, from
 * flawless to nonsense, in chains of any shape.
 */
#ifndef NET_DRIVER_H
#define NET_DRIVER_H

#include "switch_ports.h"

/* Send what the input says. */
void net_driver_send(struct switch_ports *s, struct port *port);
/* Offer receive buffers. */
void net_driver_offer(struct switch_ports *s, struct port *port);
/* Give a command. */
void net_driver_command(struct switch_ports *s, struct port *port);

#endif
