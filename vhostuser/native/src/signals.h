/* SPDX-License-Identifier: Apache-2.0
 *
 * Signals to and from a peer: eventfds, pipes or sockets whose other end, and whose flags, the peer has,
 * too. None of these functions may wait, whatever the peer does with them.
 */
#ifndef VHU_SIGNALS_H
#define VHU_SIGNALS_H

#include <stdbool.h>
#include <stdint.h>

enum {
    NO_FD = -1,
    GUARD_MS = 20,
};

/* Make an fd that arrived non-blocking. On failure it is closed. 0 or a negative errno. */
int vhu_signal_adopt(int fd);
void vhu_signal_close(int fd);

/* Whether an fd takes a signal now. */
bool vhu_signal_has_room(int fd);
/* Signal an fd, if it is one. One that is full carries a signal already; one that is closed has nobody who
 * could miss it. The caller's thread blocks SIGPIPE. False: the peer had this thread wait, until an interrupt. */
bool vhu_signal_send(int fd);

/* What is known of the room in an fd that is signalled often. */
struct signal_room {
    bool full;     /* there was none at the last look, or there was no look yet */
    uint32_t sent; /* signals so far */
};

/* The same with a look for room only now and then, and after a signal that found none: a driver that is
 * about to sleep for this very signal does not, if it comes soon enough. One that lets its fd fill up,
 * and made it block, holds this thread until somebody interrupts it. */
bool vhu_signal_send_often(int fd, struct signal_room *room);

/* From now on until vhu_signal_unguard, interrupt this thread every GUARD_MS: for one that serves several peers,
 * of whom one must not hold it up for the others. It is one of vhu_thread_start. */
void vhu_signal_guard(void);
void vhu_signal_unguard(void);
/* This thread is about to end. */
void vhu_signal_release_guard(void);

enum signal_drained {
    DRAINED_NOTHING, /* somebody else took it */
    DRAINED_SIGNAL,
    DRAINED_END,     /* nobody can write to it any more */
};

/* Take the signals out of an fd that epoll has reported with `events`: a buffer full of them. `shared`: this thread
 * serves several peers, see vhu_signal_guard. */
enum signal_drained vhu_signal_drain(int fd, uint32_t events, bool shared);

#endif
